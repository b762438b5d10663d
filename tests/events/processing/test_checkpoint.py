"""Checkpointer: finished chunks are not processed again, changed processors are, broken files are made anew."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, partial

import cloudpickle
import hist
import numpy as np
import pytest
from coffea.processor import (
    IterativeExecutor,
    Runner,
    column_accumulator,
    defaultdict_accumulator,
    dict_accumulator,
    list_accumulator,
    set_accumulator,
)
from coffea.processor.executor import WorkItem
from correctionlib import schemav2 as schema

from neyman.errors import ConfigError, NeymanWarning
from neyman.events import process_files
from neyman.events.features import FeatureSpec
from neyman.events.processing import identity as module
from neyman.events.processing.accumulators import decode, encode
from neyman.events.processing.checkpoint import Checkpointer
from neyman.events.processing.corrections import CorrectionWeight
from neyman.events.processing.exact import ExactSum
from neyman.events.processing.histogram import HistProcessor
from neyman.events.processing.identity import identity
from neyman.events.processing.schema import NanoSchema


class Log(list):
    """What was processed; no part of the processor."""

    digest = "log"


SEEN = Log()
CUT = 30.0


def cut(events):
    return events.MET.pt > CUT


@dataclass
class Count:
    """A processor that holds a model."""

    digest_of_model: str = "a"

    def __call__(self, events):
        SEEN.append(events.metadata["entrystart"])
        h = hist.Hist(hist.axis.Regular(5, 0, 100, name="met"), storage=hist.storage.Weight())
        h.fill(events.MET.pt, weight=events.genWeight)
        return {
            "h": h,
            "sum": ExactSum(h),
            "n": int(cut(events).to_numpy().sum()),
            "model": self.digest_of_model,
        }


@pytest.fixture
def run(nano, tmp_path):
    path = nano(tmp_path / "a.root", 1000)
    keep = Checkpointer(tmp_path / "checkpoints")

    def go(processor, **options):
        SEEN.clear()
        options = {"checkpointer": keep, "chunk_size": 250} | options
        return process_files({"data": path}, processor, **options), list(SEEN)

    return go


def test_an_interrupted_run_goes_on(run, monkeypatch):
    def stopped(self, events):
        if events.metadata["entrystart"] == 500:
            raise KeyboardInterrupt
        return call(self, events)

    call = Count.__call__
    monkeypatch.setattr(Count, "digest", "of the model", raising=False)
    monkeypatch.setattr(Count, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(Count())
    monkeypatch.setattr(Count, "__call__", call)
    whole, seen = run(Count())
    assert seen == [500, 750]
    again, seen = run(Count())
    assert seen == []
    assert again["sum"].total() == whole["sum"].total()
    assert again["h"] == whole["h"]
    assert again["model"] == whole["model"]


def test_a_change_of_anything_is_processed_anew(run, monkeypatch):
    run(Count("a"))
    for name, (processor, options, expected) in {
        "model": (Count("b"), {}, 4),
        "chunks": (Count("a"), {"chunk_size": 500}, 2),
        "metadata": (Count("a"), {"metadata": {"data": {"process": "ttbar"}}}, 4),
    }.items():
        assert len(run(processor, **options)[1]) == expected, name
    monkeypatch.setattr(sys.modules[__name__], "CUT", 31.0)
    assert len(run(Count("a"))[1]) == 4
    monkeypatch.setattr(sys.modules[__name__], "cut", lambda events: events.MET.pt < CUT)
    assert len(run(Count("a"))[1]) == 4
    assert len(run(Count("a"))[1]) == 0


def test_a_version_of_ones_own(run, tmp_path):
    run(Count("a"))
    assert len(run(Count("a"), checkpointer=Checkpointer(tmp_path / "checkpoints", version="2"))[1]) == 4


def test_a_broken_file_is_made_anew_with_a_warning(run, tmp_path):
    whole, _ = run(Count("a"))
    files = sorted((tmp_path / "checkpoints").rglob("*.json.gz"))
    assert len(files) == 4
    document = json.loads(gzip.decompress(files[2].read_bytes()))
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].write_bytes(b"")
    files[2].write_bytes(gzip.compress(json.dumps(document | {"version": 99}).encode()))
    files[3].write_bytes(gzip.compress(b'{"version": 1, "output": {"code": "import os"}}'))
    with pytest.warns(NeymanWarning, match="cannot be read and is made anew") as caught:
        again, seen = run(Count("a"))
    assert len([w for w in caught if w.category is NeymanWarning]) == 4
    assert len(seen) == 4
    assert again["sum"].total() == whole["sum"].total()
    assert run(Count("a"))[1] == []
    assert not list((tmp_path / "checkpoints").rglob("*.part"))


def test_in_coffeas_own_runner_and_in_threads(run, nano, tmp_path):
    path = nano(tmp_path / "b.root", 600)
    keep = Checkpointer(tmp_path / "other")
    runner = Runner(
        IterativeExecutor(status=False), schema=NanoSchema, metadata_cache={}, chunksize=200,
        checkpointer=keep, savemetrics=True,
    )  # fmt: skip
    SEEN.clear()
    first, _ = runner({"data": [str(path)]}, Count("a"), treename="Events")
    assert len(SEEN) == 3
    second, _ = runner({"data": [str(path)]}, Count("a"), treename="Events")
    assert len(SEEN) == 3
    assert second["h"] == first["h"]
    run(Count("a"), executor="threads")
    assert run(Count("a"))[1] == []


def test_a_processor_that_changes_while_it_runs_is_reported(run):
    cache: list[int] = []

    def process(events):
        cache.append(len(events))
        return {"n": len(events)}

    with pytest.warns(NeymanWarning, match="will not be found again: the processor, or a variable"):
        run(process)


def test_what_is_kept_comes_back_exactly():
    h = hist.Hist(
        hist.axis.StrCategory([], growth=True, name="v"),
        hist.axis.Regular(3, 0, 1, name="x", label="lab"),
        hist.axis.Integer(0, 3, name="i"),
        hist.axis.Variable([0, 1, 3], name="w", growth=True),
        storage=hist.storage.Weight(),
        name="N",
        label="L",
    )
    empty = h.copy()
    h.fill("a", [0.1, 0.2], [1, 2], [0.5, 4], weight=[1 / 3, 0.1])
    output = {
        "hist": h,
        "empty": empty,
        "plain": hist.Hist(hist.axis.Regular(3, 0, 1), storage=hist.storage.Double()).fill([0.1]),
        "list": [1, 0.1, float("inf"), (1, "a", None), True],
        "set": {"x", "y"},
        "defaultdict": defaultdict(int, {"a": 1}),
        "accumulators": dict_accumulator({"f": defaultdict_accumulator(float, {"q": 1.5})}),
        "more": [list_accumulator([1]), set_accumulator({1, 2})],
        "numpy": [np.float32(1.1), np.int64(3), np.array(["a", "bb"]), np.zeros((0, 3))],
        ("t", 1): b"\x00",
        "processed": {WorkItem("d", "f", "t", 0, 1, b"123", {"x": 1}, frozenset({"a"}))},
    }
    text = json.dumps(encode(output))
    back = decode(json.loads(text))
    assert json.dumps(encode(back)) == text
    assert list(back) == list(output)
    for key in output.keys() - {"numpy"}:
        assert type(back[key]) is type(output[key])
        assert back[key] == output[key]
    for one, other in zip(back["numpy"], output["numpy"], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert (back["hist"].name, back["hist"].label, back["hist"].axes[1].label) == ("N", "L", "lab")
    assert back["hist"] + h == h + h
    column = decode(json.loads(json.dumps(encode(column_accumulator(np.ones(3))))))
    assert (column + column_accumulator(np.ones(2))).value.shape == (5,)
    both = decode(json.loads(json.dumps(encode(ExactSum(h))))) + ExactSum(h)
    assert both.total() == (ExactSum(h) + ExactSum(h)).total()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            {"a": {"b": [object()]}},
            r"output\['a'\]\['b'\]\[0\], a builtins.object, is not kept[\s\S]*ParquetSink",
        ),
        (defaultdict(lambda: 0), "output, a defaultdict of .*lambda"),
        ({"x": np.array([object()])}, "a numpy.ndarray, is not kept"),
    ],
)
def test_what_cannot_be_kept_is_named(output, message):
    with pytest.raises(ConfigError, match=message):
        encode(output)


def test_the_identity_is_the_same_in_every_process_and_changes_with_code_and_content():
    source = (
        "from functools import partial; import numpy as np\n"
        "from neyman.events.processing.identity import identity\n"
        "def helper(x): return x in {'a', 'b', 'c'}\n"
        "class P:\n"
        "    def __init__(self): self.s = {'x', 'y', 'z'}; self.a = np.ones(3); self.me = self\n"
        "    def process(self, events): return [helper(e) for e in events]\n"
        "print(identity(P()), identity(partial(helper, 1)))\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", text], env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed, text in (("1", source), ("2", source), ("3", source.replace("'c'", "'d'")))
    }  # fmt: skip
    assert len(seen) == 2
    assert identity(cloudpickle.loads(cloudpickle.dumps(Count("a")))) == identity(Count("a"))
    values = [1, 1.0, "1", True, None, [1], (1,), {1}, {"a": 1}, {"a": 2}, np.ones(1), np.ones(2), len, cut,
              partial(cut, 1), partial(cut, 2), lambda x: x, lambda x: -x, Count, Count("b")]  # fmt: skip
    assert len({identity(value) for value in values}) == len(values)


def uses_helpers(events):
    return [helpers.SCALE * helpers.cuts.passes(event) for event in events]  # noqa: F821


@pytest.mark.parametrize("kind", ["global", "closure"])
def test_code_of_modules_that_are_named_whole_counts(kind, tmp_path, monkeypatch):
    package = tmp_path / "helpers_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from helpers_of_mine import cuts\nSCALE = 2\n")
    (package / "cuts.py").write_text("MIN = 30\ndef passes(pt): return pt > MIN\ndef other(pt): return pt\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    helpers = importlib.import_module("helpers_of_mine")

    def process(events):
        return [helpers.SCALE * helpers.cuts.passes(event) for event in events]

    if kind == "global":
        monkeypatch.setattr(sys.modules[__name__], "helpers", helpers, raising=False)
        process = uses_helpers
    seen = [identity(process)]
    assert identity(process) == seen[0]
    monkeypatch.setattr(helpers.cuts, "other", lambda pt: -pt)  # is not used
    assert identity(process) == seen[0]
    for place, name, value in (
        (helpers, "SCALE", 3),
        (helpers.cuts, "MIN", 40),
        (helpers.cuts, "passes", lambda pt: pt < 30),
    ):
        monkeypatch.setattr(place, name, value)
        seen.append(identity(process))
    assert len(set(seen)) == 4


def test_code_in_wrappers_and_long_patterns_count():
    def cached(value):
        @cache
        def load():
            return value

        return load

    assert identity(cached(1)) == identity(cached(1)) != identity(cached(2))
    assert identity(re.compile("a" * 300 + "b")) != identity(re.compile("a" * 300 + "c"))


def test_the_code_of_neyman_counts(monkeypatch):
    spec = FeatureSpec({"met": "MET.pt"})
    processor = HistProcessor(features=spec, axes=(hist.axis.Regular(4, 0, 100, name="met"),))

    def of_the_user(events):
        return spec(events)

    before = [identity(given) for given in (processor, spec, of_the_user)]
    monkeypatch.setattr(module, "_source_of_neyman", lambda: b"of tomorrow")
    module._version.cache_clear()
    after = [identity(given) for given in (processor, spec, of_the_user)]
    assert not set(before) & set(after)
    monkeypatch.undo()
    module._version.cache_clear()
    assert identity(processor) == before[0]


def test_every_setting_of_a_correction_counts(tmp_path):
    content = [schema.CategoryItem(key=key, value=value) for key, value in (("a", 1.0), ("b", 2.0))]
    made = [
        schema.Correction(
            name=name, version=1, output=schema.Variable(name="w", type="real"),
            inputs=[schema.Variable(name="x", type="real"), schema.Variable(name="syst", type="string")],
            data=schema.Category(nodetype="category", input="syst", content=content),
        )
        for name in ("sf", "other")
    ]  # fmt: skip
    path = tmp_path / "sf.json"
    path.write_text(schema.CorrectionSet(schema_version=2, corrections=made).model_dump_json())
    base = {"name": "sf", "file": path, "correction": "sf", "inputs": {"x": "met"}}
    base |= {"systematic": "syst", "up": "a", "down": "b"}
    changes = {
        "name": "x",
        "correction": "other",
        "inputs": {"x": "ht"},
        "nominal": None,
        "up": "b",
        "down": "a",
    }
    seen = [identity(CorrectionWeight(**(base | {name: value}))) for name, value in changes.items()]
    assert len({identity(CorrectionWeight(**base)), *seen}) == 1 + len(changes)


def test_content_that_cannot_be_known_is_an_error():
    processor = Count("a")
    processor.lock = threading.Lock()
    with pytest.raises(
        ConfigError, match=r"content of processor.lock is not known: a _thread.lock[\s\S]*digest"
    ):
        identity(processor)
    processor.digest = "by hand"
    assert identity(processor)
