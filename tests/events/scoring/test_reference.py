"""What travels to workers and what they keep: small pickles, one session a process, digests, inlined weights."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import numpy as np
import pytest

from neyman import Scorer
from neyman.errors import ConfigError, WorkspaceError
from neyman.events.scoring import reference as cache
from neyman.events.scoring import torch as engine
from neyman.networks import MLP, Description, Model, Part


@pytest.fixture
def opened(monkeypatch, forget):
    """The models that were opened."""
    names = []
    original = engine.open_session

    def counted(reference, options):
        names.append(reference.name)
        return original(reference, options)

    monkeypatch.setattr(engine, "open_session", counted)
    forget()
    return names


@pytest.mark.parametrize("n", [1, 2, 3])
def test_pickle_is_small(tmp_path, save, n):
    for k in range(n):
        save(f"a_model_with_a_long_name_{k}", seed=k)
    scorer = Scorer.load(tmp_path, aggregate="truncated_mean_ratio", device="cuda:0", batch_size=1 << 20)
    assert len(pickle.dumps(scorer)) < 1000
    assert len(cloudpickle.dumps(scorer)) < 1000


def test_a_process_opens_a_model_once(tmp_path, save, events, forget, opened):
    save()
    scorer = Scorer.load(tmp_path)
    expected, text = scorer(events), pickle.dumps(scorer)
    forget()
    for _ in range(5):  # coffea unpickles the processor for every chunk
        assert np.array_equal(pickle.loads(text)(events), expected)  # noqa: S301
    assert opened == ["m", "m"]


def test_threads_share_a_session(tmp_path, save, events, forget, opened):
    save(members=10)
    scorer = Scorer.load(tmp_path)
    expected = scorer(events)
    forget()
    barrier = threading.Barrier(4)

    def work(_: int) -> np.ndarray:
        barrier.wait()
        return np.stack([scorer(events) for _ in range(5)])

    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(work, range(4)):
            assert (scores == expected).all()
    assert opened == ["m", "m"]


def test_threads_of_an_executor_use_one_thread_each(tmp_path, save, events, monkeypatch):
    """And whatever is set for an evaluation is as before afterwards."""
    import torch

    save()
    during = []
    original = engine.TorchSession._evaluate

    def counted(self, inputs):
        during.append(torch.get_num_threads())
        return original(self, inputs)

    monkeypatch.setattr(engine.TorchSession, "_evaluate", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        plain, three = Scorer.load(tmp_path), Scorer.load(tmp_path, threads=3)
        with ThreadPoolExecutor(1) as pool:
            after = pool.submit(lambda: [plain(events), torch.get_num_threads()][1]).result()
        for scorer in (plain, three, plain):
            scorer(events)
        assert during == [1, 2, 3, 2]
        assert after == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_worker_begins_anew(tmp_path, save, events):
    save()
    scorer = Scorer.load(tmp_path)
    scorer(events)
    assert not cache.in_forked_process()
    child = os.fork()
    if child == 0:
        fresh = not any(cache._CACHE.entries.values()) and not cache._CACHE.lock._is_owned()
        os._exit(0 if fresh and cache.in_forked_process() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert all(cache._CACHE.entries.values())


FORKED = """
import os, signal, sys
import numpy as np, torch
from neyman import Scorer
torch.set_num_threads(2)
scorer = Scorer.load(sys.argv[1], backend="torch", device="cpu", threads={threads})
x = np.zeros((20_000, 2), dtype=np.float32)
scorer(x)
child = os.fork()
if child == 0:
    signal.alarm(20)
    scorer(x)
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_forked_worker_does_not_wait_for_the_threads_of_its_parent(tmp_path, threads):
    network = MLP((64,))
    description = Description(features=("a", "b"), parts=(Part(network=network, members=1),))
    path = Model([network.build(2, seed=1)], description).save(tmp_path / "m.safetensors")
    code = FORKED.format(threads=threads)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_replaced_model_file_is_noticed(tmp_path, save, events, forget):
    save()
    scorer = Scorer.load(tmp_path)
    save(seed=9)
    forget()
    with pytest.raises(WorkspaceError, match="is not the one that this scorer was made with"):
        scorer(events)


def test_missing_on_a_worker(tmp_path, save, events, forget):
    save()
    scorer = Scorer.load(tmp_path)
    (tmp_path / "m.safetensors").unlink()
    assert len(scorer(events[:0])) == 0  # opened before
    forget()
    with pytest.raises(WorkspaceError, match=r"(?s)'m' does not exist.*inline=True") as raised:
        scorer(events)
    assert not isinstance(raised.value, OSError)
    assert raised.value.__cause__ is None
    forget()
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(WorkspaceError, match="'m' cannot be read: Is a directory"):
        scorer(events)


def test_inlined_weights_need_no_file(tmp_path, save, events, forget):
    save()
    scorer = Scorer.load(tmp_path, inline=True)
    size = (tmp_path / "m.safetensors").stat().st_size
    expected, text = scorer(events), pickle.dumps(scorer)
    assert len(text) - size < 1000
    (tmp_path / "m.safetensors").unlink()
    forget()
    assert np.array_equal(pickle.loads(text)(events), expected)  # noqa: S301


def test_inlined_weights_have_a_limit(tmp_path):
    network = MLP((1500,) * 2)
    description = Description(features=("a",), parts=(Part(network=network, members=1),))
    Model([network.build(1, seed=1)], description).save(tmp_path / "m.safetensors")
    with pytest.raises(
        ConfigError, match=r"(?s)the models have 8\.6 MB.*at most 8 MB inline.*load them by path"
    ):
        Scorer.load(tmp_path, inline=True)


def test_sessions_of_a_long_process_are_bounded(monkeypatch, forget):
    forget()
    monkeypatch.setattr(cache, "_KEPT", {"session": 3, "description": 1})
    for key in (1, 2, 3, 1, 4):
        assert cache.once("session", key, lambda key=key: key * 10) == key * 10
    assert list(cache._CACHE.entries["session"]) == [3, 1, 4]


def test_many_models_stay_open(tmp_path, make, events, forget, opened):
    """More of them, with their descriptions, than the sessions of other scorers are kept."""
    model = make(features=("a",), inputs={"features": {"a": "a"}})
    for k in range(40):
        model.replace(notes={"k": str(k)}).save(tmp_path / f"m{k}.safetensors")
    scorer = Scorer.load(tmp_path)
    for _ in range(2):
        scorer(events)
    assert len(opened) == 40


def test_others_may_read_a_model(tmp_path, save):
    save()
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert (tmp_path / "m.safetensors").stat().st_mode == plain.stat().st_mode
