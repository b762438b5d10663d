"""TableProcessor: what it writes against plain numpy, and every way in which a user's function can go wrong."""

from __future__ import annotations

import awkward as ak
import hist
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from neyman.errors import ConfigError, InputError
from neyman.events import EventTable, RegionSpec, Variation, process_files
from neyman.events.processing.checkpoint import Checkpointer
from neyman.events.processing.chunk import ENTRY_BITS

HEAD = """\
import awkward as ak
import numpy as np

def build(events, shifts):
    i = ak.local_index(events, axis=0)
"""
SIGNAL = {"signal": RegionSpec(columns=("a",))}
NOMINAL = (Variation("nominal"),)


def records(column, mask=":"):
    return HEAD + f'    return {{"signal": ak.zip({{"entry_index": i, "a": {column}}})[{mask}]}}\n'


@pytest.fixture
def run(nano, processor, tmp_path):
    """Process one small file with the text of a function."""

    def go(source, chunk_size=400, file=None, **changes):
        made = processor(source, **({"regions": SIGNAL, "variations": NOMINAL} | changes))
        return process_files({"data": file or nano(tmp_path / "a.root", 1000)}, made, chunk_size=chunk_size)

    return go


def test_tables_and_histograms_are_what_numpy_gives(nano, processor, tmp_path):
    path = nano(tmp_path / "a.root", 1000)
    result = process_files({"data": path}, processor(), chunk_size=300)["data"]
    tree = ak.Array(_arrays(path))
    weight = ak.to_numpy(tree.genWeight).astype(np.float64)
    pt = ak.to_numpy(ak.fill_none(ak.firsts(tree.Tau_pt), 0.0))
    n_jets = ak.to_numpy(ak.num(tree.Jet_pt[tree.Jet_pt > 30]))

    assert result["n_events"] == 1000
    assert result["sumw"] == pytest.approx(weight.sum(), rel=1e-12)
    assert set(result) == {"n_events", "sumw", "selected", "histograms", "files"}
    for variation, scale in (("nominal", 1.0), ("tes_up", np.float32(1.1))):
        mask = pt * scale > 25
        table = _read(tmp_path, "signal", variation)
        np.testing.assert_allclose(table.column("tau_pt"), pt[mask] * scale, rtol=1e-6)
        np.testing.assert_array_equal(table.column("n_jets"), n_jets[mask])
        np.testing.assert_array_equal(table.column("met"), ak.to_numpy(tree.MET_pt)[mask])
        np.testing.assert_array_equal(table.weight, weight[mask])
        np.testing.assert_array_equal(np.diff(table.column("entry")), np.diff(np.flatnonzero(mask)))
        counts = result["selected"]["signal"][variation]
        assert counts["n"] == mask.sum()
        assert counts["sumw"] == pytest.approx(weight[mask].sum(), rel=1e-12)
        expected = hist.Hist.new.Var([0, 1, 2, 3]).Weight().fill(n_jets[~mask], weight=weight[~mask])
        filled = result["histograms"]["control"][{"variation": variation}]
        np.testing.assert_allclose(filled.values(flow=True), expected.values(flow=True), rtol=1e-12)
        np.testing.assert_allclose(filled.variances(flow=True), expected.variances(flow=True), rtol=1e-12)
    assert list(result["histograms"]["control"].axes[0]) == ["nominal", "tes_up"]
    assert result["files"]["control"] == {"nominal": [], "tes_up": []}
    files = result["files"]["signal"]["nominal"]
    assert [f.rsplit("-", 2)[1:] for f in files] == [
        ["0", "250.parquet"], ["250", "500.parquet"], ["500", "750.parquet"], ["750", "1000.parquet"]
    ]  # fmt: skip
    schema = pq.read_schema(tmp_path / "out" / files[0])
    assert {n: str(schema.field(n).type) for n in schema.names} == {
        "tau_pt": "float", "met": "float", "n_jets": "float", "jet_charge": "float",
        "weight": "double", "entry": "int64",
    }  # fmt: skip


def _arrays(path):
    import uproot

    with uproot.open(path) as file:
        return {name: branch.array() for name, branch in file["Events"].items()}


def _read(folder, region, variation, extra=("entry",), out="out"):
    return EventTable.from_parquet(
        folder / out / "data" / region / variation,
        features=("tau_pt", "met", "n_jets"),
        weight="weight",
        extra=extra,
    )


def test_sampled_shifts_are_uniform_and_used(nano, processor, tmp_path):
    path = nano(tmp_path / "a.root", 4000)
    for folder, chunk_size in (("out", 10_000), ("small", 333)):
        process_files({"data": path}, processor(folder=folder), chunk_size=chunk_size)
    table, small = (_read(tmp_path, "signal", "tes_all", ("entry", "tes"), out) for out in ("out", "small"))
    order, other = (np.lexsort((t.extra["tes"], t.extra["entry"])) for t in (table, small))
    np.testing.assert_array_equal(table.x[order], small.x[other])
    np.testing.assert_array_equal(table.extra["tes"][order], small.extra["tes"][other])

    plain = ak.to_numpy(ak.fill_none(ak.firsts(_arrays(path)["Tau_pt"]), 0.0))
    index = table.extra["entry"] & ((1 << ENTRY_BITS) - 1)
    np.testing.assert_allclose(table.column("tau_pt"), plain[index] * table.extra["tes"], rtol=1e-6)
    # Events that pass at every shift see the draws without a selection.
    always = table.select(plain[index] > 32)
    # The ids contain the UUID of a file just written: other draws in every run, so a flake must be impossible.
    assert stats.kstest((always.extra["tes"] - 0.8) / 0.4, "uniform").pvalue > 1e-7
    ids, replicas = np.unique(always.extra["entry"], return_counts=True)
    assert (replicas == 2).all()
    assert len(np.unique(always.extra["tes"])) > 1.99 * len(ids)
    nominal = _read(tmp_path, "signal", "nominal")
    assert set(nominal.extra["entry"][nominal.column("tau_pt") > 32]) == set(ids)


def test_the_seed_changes_the_draws(nano, processor, tmp_path):
    path = nano(tmp_path / "a.root", 200)
    for seed in (1, 2):
        process_files({"data": path}, processor(folder=str(seed), seed=seed))
    a, b = (_read(tmp_path, "signal", "tes_all", ("entry", "tes"), str(seed)) for seed in (1, 2))
    assert set(a.extra["tes"]).isdisjoint(b.extra["tes"])


def test_entries_are_unique_among_files(nano, processor, tmp_path):
    files = [nano(tmp_path / f"{i}.root", 300, seed=i) for i in range(3)]
    process_files({"data": files}, processor())
    entry = _read(tmp_path, "signal", "nominal").extra["entry"]
    assert len(np.unique(entry)) == len(entry)
    assert len(np.unique(entry >> 28)) == 3


def test_without_gen_weight_events_count_one(run, nano, tmp_path):
    result = run(records("events.MET.pt"), file=nano(tmp_path / "b.root", 500, genWeight=None))["data"]
    assert result["sumw"] == result["selected"]["signal"]["nominal"]["sumw"] == 500


def test_the_functions_own_weight_counts(run):
    source = HEAD + '    return {"signal": ak.zip({"entry_index": i, "a": i, "weight": 0.5 * (1 + i)})}\n'
    result = run(source, chunk_size=1000)["data"]
    assert result["selected"]["signal"]["nominal"]["sumw"] == 0.5 * 500_500


def test_regions_keep_only_their_variations(run, tmp_path):
    regions = {
        "signal": RegionSpec(columns=("a",), variations=("up",)),
        "shape": RegionSpec(histogram=("a", (0.0, 50.0, 100.0)), variations=("nominal", "up", "sampled")),
    }
    variations = (
        Variation("nominal"), Variation("up", {"s": 2.0}), Variation("down", {"s": 0.5}),
        Variation("sampled", sampled={"s": (0.5, 2.0)}),
    )  # fmt: skip
    source = HEAD + (
        '    r = ak.zip({"entry_index": i, "a": events.MET.pt * shifts.get("s", 1.0)})\n'
        '    return {"signal": r, "shape": r}\n'
    )
    result = run(source, regions=regions, variations=variations)["data"]
    assert set(result["files"]["signal"]) == {"up"}
    assert list(result["histograms"]["shape"].axes[0]) == ["nominal", "up"]
    assert [p.name for p in sorted((tmp_path / "out/data").glob("*/*"))] == ["up"]


def test_chunks_without_selected_events_leave_no_file(run):
    result = run(records("events.MET.pt", "i < 0"))["data"]
    assert result["selected"]["signal"]["nominal"] == {"n": 0, "sumw": 0.0}
    assert result["files"]["signal"]["nominal"] == []


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (
            records("events.Tau.ptt"),
            InputError,
            r"no field 'ptt'[\s\S]*line 6[\s\S]*a.root[\s\S]*expected: pt",
        ),
        (records("events.METT.pt"), InputError, r"no field 'METT'[\s\S]*expected: MET"),
        (records('events["Jet", "ppt"]'), InputError, r"no field 'ppt'[\s\S]*expected: pt"),
        (records("np.linalg.nothing"), ConfigError, r"build failed: AttributeError[\s\S]*line 6"),
        (records("len(5)"), ConfigError, r"build failed: TypeError[\s\S]*processor.py, line 6"),
        (records("open('/nowhere')"), ConfigError, r"build failed: FileNotFoundError"),
        (
            records("ak.mask(events.MET.pt, i != 57)"),
            InputError,
            r"a has no value in 1 of 1000[\s\S]*event 57",
        ),
        (records("ak.firsts(events.Tau.pt)"), InputError, r"a has no value[\s\S]*ak.fill_none"),
        (
            records("ak.where(i == 57, np.nan, 1.0)", "i > 9"),
            InputError,
            r"a is nan in event 57; not finite in 1 of 990[\s\S]*region signal of \S*a.root, entries 0 to 1000",
        ),
        (HEAD + '    return {"signal": ak.Array({"entry_index": i, "a": events.Jet.pt})}', InputError, "var"),
        (HEAD + "    return 3", ConfigError, r"build returns int[\s\S]*dictionary"),
        (HEAD + '    return {"signl": 1}', ConfigError, r"no region 'signal'[\s\S]*signl"),
        (HEAD + '    return {"signal": ak.zip({"a": i})}', ConfigError, r"no column 'entry_index'"),
        (HEAD + '    return {"signal": ak.zip({"entry_index": i, "A": i})}', ConfigError, r"'a'[\s\S]*: A"),
        (HEAD + '    return {"signal": ak.zip({"entry_index": i + 1, "a": i})}', ConfigError, "0 to 999"),
        (HEAD + '    return {"signal": ak.zip({"entry_index": i // 2, "a": i})}', ConfigError, "number the"),
        (HEAD + '    return {"signal": ak.zip({"entry_index": i * 1.0, "a": i})}', ConfigError, "number the"),
        (
            HEAD
            + '    return {"signal": ak.zip({"entry_index": i, "a": i, "weight": ak.where(i == 5, np.inf, 1.0)})}',
            InputError,
            "weight is inf in event 5",
        ),
        (
            "from neyman.errors import InputError\ndef build(events, shifts):\n    raise InputError('mine')",
            InputError,
            "^mine$",
        ),
        ("def biuld(events, shifts):\n    pass", ConfigError, r"no function 'build'[\s\S]*biuld"),
    ],
)
@pytest.mark.parametrize("executor", ["iterative", "threads"])
def test_errors_of_the_function(nano, processor, tmp_path, source, kind, message, executor):
    path = nano(tmp_path / "a.root", 1000)
    made = processor(source, regions=SIGNAL, variations=NOMINAL)
    with pytest.raises(kind, match=message) as caught:
        process_files({"data": path}, made, executor=executor)
    assert not isinstance(caught.value, OSError)
    assert not list(tmp_path.rglob("*.part"))


def test_event_numbers_count_from_the_start_of_the_file(run):
    with pytest.raises(InputError, match=r"a is nan in event 657;[\s\S]*entries 500 to 1000"):
        run(records("ak.where(events.event == 657, np.nan, 1.0)"), chunk_size=500)


def test_a_gen_weight_that_is_not_finite_is_named(run, nano, tmp_path):
    weights = np.ones(900, dtype=np.float32)
    weights[611] = np.nan
    path = nano(tmp_path / "b.root", 900, genWeight=weights)
    with pytest.raises(InputError, match=r"genWeight is nan in event 611[\s\S]*b.root, entries 600 to 900"):
        run(records("i"), chunk_size=300, file=path)


def test_a_shift_that_the_function_does_not_know(processor, nano, tmp_path):
    made = processor(variations=(Variation("tse_up", {"tse": 1.1}),))
    with pytest.raises(ConfigError, match=r"shifts 'tse', which the function never reads[\s\S]*tes, jes"):
        process_files({"data": nano(tmp_path / "a.root", 100)}, made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variations": ()}, "nothing to process"),
        ({"regions": {}}, "nothing to process"),
        ({"variations": (Variation("a"), Variation("a"))}, "two variations are named 'a'"),
        ({"regions": {"a/b": RegionSpec(columns=("a",))}}, "region name 'a/b'"),
        (
            {"regions": {"r": RegionSpec(columns=("a",), variations=("nominl",))}},
            r"wants variation 'nominl'[\s\S]*nominal",
        ),
        ({"regions": {"r": RegionSpec(columns=("tes",))}}, "name of a sampled shift"),
    ],
)
def test_errors_of_the_configuration(processor, changes, message):
    with pytest.raises(ConfigError, match=message):
        processor(**changes)


def test_runs_in_a_users_own_runner(nano, processor, tmp_path):
    """coffea gives an empty file as a chunk of no events; process_files leaves it out."""
    import coffea.processor as cp

    from neyman.events.processing.schema import NanoSchema

    files = [str(nano(tmp_path / "a.root", 900)), str(nano(tmp_path / "empty.root", 0))]
    runner = cp.Runner(
        cp.IterativeExecutor(status=False), chunksize=300, schema=NanoSchema, metadata_cache={}
    )
    theirs = runner({"data": files}, processor(folder="theirs"), treename="Events")
    ours = process_files({"data": files}, processor(folder="ours"), chunk_size=300)
    assert theirs == ours
    empty = runner({"data": files[1:]}, processor(), treename="Events")["data"]
    assert (empty["n_events"], empty["sumw"]) == (0, 0.0)
    assert empty["histograms"]["control"].sum(flow=True).value == 0


def test_checkpoints_need_the_tables_that_they_speak_of(nano, processor, tmp_path):
    options = {"checkpointer": Checkpointer(tmp_path / "keep"), "chunk_size": 400}
    files = {"data": nano(tmp_path / "a.root", 1000)}
    first = process_files(files, processor(), **options)
    again = process_files(files, processor(), **options)
    assert again["data"]["files"] == first["data"]["files"]
    process_files(files, processor(seed=4), **options)  # writes others under the same names
    with pytest.raises(InputError, match=r"is not the same any more[\s\S]*remove the checkpoints"):
        process_files(files, processor(), **options)
    for path in (tmp_path / "out").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(InputError, match=r"a table that a worker has written is not there"):
        process_files(files, processor(), **options)
