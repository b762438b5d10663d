"""EventTable: the same events from every kind of input, checks of what comes in, and what it can do."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from neyman.errors import ConfigError, InputError
from neyman.events import EventTable

N = 2000


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(2)
    return {
        "pt": rng.exponential(30.0, N),
        "eta": rng.normal(size=N).astype(np.float32),
        "n_jets": rng.integers(0, 4, N).astype(np.int32),
        "tag": rng.random(N) < 0.5,
        "w": rng.normal(1.0, 0.4, N),
        "entry": np.arange(N) * 7,
    }


WANTED = {"features": ("pt", "n_jets", "tag"), "weight": "w * 2", "extra": ("entry",)}
CUT = "abs(eta) < 1 and n_jets > 0"


def same(a, b):
    assert a.features == b.features
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.weight, b.weight)
    assert set(a.extra) == set(b.extra)
    for name in a.extra:
        np.testing.assert_array_equal(a.extra[name], b.extra[name])


def test_every_input_gives_the_same_table(columns, tmp_path, monkeypatch):
    monkeypatch.setattr("neyman.events.columns.STEP", 300)
    halves = [{k: v[part] for k, v in columns.items()} for part in (slice(0, 700), slice(700, N))]
    for i, half in enumerate(halves):
        with uproot.recreate(tmp_path / f"tree{i}.root") as file:
            file.mktree("T", {k: v.dtype for k, v in half.items()}).extend(half)
        with uproot.recreate(tmp_path / f"ntuple{i}.root") as file:
            file.mkrntuple("T", half)
        pq.write_table(pa.table(half), tmp_path / f"part{i}.parquet")

    table = EventTable.from_arrays(columns, **WANTED, cut=CUT)
    mask = (abs(columns["eta"]) < 1) & (columns["n_jets"] > 0)
    assert len(table) == mask.sum() < N
    assert (table.x.dtype, table.weight.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(table.x[:, 0], columns["pt"][mask].astype(np.float32))
    np.testing.assert_array_equal(table.x[:, 2], columns["tag"][mask])
    np.testing.assert_array_equal(table.weight, 2 * columns["w"][mask])
    np.testing.assert_array_equal(table.extra["entry"], columns["entry"][mask])

    same(table, EventTable.from_awkward(ak.Array(columns)[mask], **WANTED))
    same(table, EventTable.from_root(str(tmp_path / "tree*.root"), **WANTED, cut=CUT, tree="T"))
    ntuples = [tmp_path / "ntuple0.root", str(tmp_path / "ntuple1.root")]
    same(table, EventTable.from_root(ntuples, **WANTED, cut=CUT, tree="T"))
    for files in (tmp_path, tmp_path / "part?.parquet", sorted(tmp_path.glob("*.parquet"))):
        same(table, EventTable.from_parquet(files, **WANTED, cut=CUT))


def test_entry_stop_counts_entries_of_each_file(columns, tmp_path, monkeypatch):
    monkeypatch.setattr("neyman.events.columns.STEP", 40)
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("T", {k: v.dtype for k, v in columns.items()}).extend(columns)
    table = EventTable.from_root([tmp_path / "a.root"] * 2, features=("pt",), tree="T", entry_stop=100)
    np.testing.assert_array_equal(table.x[:, 0], np.tile(columns["pt"][:100].astype("f4"), 2))
    np.testing.assert_array_equal(table.weight, 1.0)


def test_column_select_scaled(columns):
    table = EventTable.from_arrays(columns, **WANTED)
    np.testing.assert_array_equal(table.column("pt"), table.x[:, 0])
    np.testing.assert_array_equal(table.column("weight"), table.weight)
    np.testing.assert_array_equal(table.column("entry"), columns["entry"])
    mask = table.column("pt") > 30
    part = table.select(mask)
    same(part, table.select(np.flatnonzero(mask)))
    assert len(part) == mask.sum()
    assert len(table.select(np.zeros(N, dtype=bool))) == 0
    np.testing.assert_array_equal(table.scaled(-3.0).weight, -3.0 * table.weight)
    same(EventTable.concat([part, table.select(~mask)]), table.select(np.argsort(~mask, kind="stable")))


def test_with_features_promotes_extra_columns(columns):
    table = EventTable.from_arrays(columns, **WANTED)
    other = table.with_features(("entry", "pt"))
    assert other.features == ("entry", "pt")
    assert not other.extra
    np.testing.assert_array_equal(other.x, np.stack([columns["entry"], columns["pt"]], axis=1).astype("f4"))


def test_split_follows_the_event_not_its_place(columns):
    table = EventTable.from_arrays(columns, **WANTED)
    a, b = table.split(0.3, seed=4)
    assert len(a) + len(b) == N
    assert abs(len(a) - 0.3 * N) < 4 * np.sqrt(N * 0.3 * 0.7)
    shuffled = EventTable.concat([table, table]).select(np.random.default_rng(0).permutation(2 * N))
    c, d = shuffled.split(0.3, seed=4)
    assert set(c.extra["entry"]) == set(a.extra["entry"])
    assert set(c.extra["entry"]).isdisjoint(d.extra["entry"])
    other, _ = table.split(0.3, seed=5)
    common = len(set(other.extra["entry"]) & set(a.extra["entry"]))
    assert abs(common - 0.09 * N) < 5 * np.sqrt(0.09 * N)


def test_parquet_round_trip(columns, tmp_path):
    table = EventTable.from_arrays(columns, **WANTED)
    path = tmp_path / "new" / "table.parquet"
    table.to_parquet(path)
    same(table, EventTable.from_parquet(path, features=table.features, weight="weight", extra=("entry",)))
    assert [field.type for field in pq.read_schema(path)] == [pa.float32()] * 3 + [pa.float64(), pa.int64()]
    assert list(path.parent.iterdir()) == [path]


def test_events_that_are_not_finite_are_named(columns, tmp_path):
    bad = columns | {"pt": columns["pt"].copy()}
    bad["pt"][[50, 1500]] = np.nan, np.inf
    with uproot.recreate(tmp_path / "good.root") as file:
        file.mktree("T", {k: v.dtype for k, v in columns.items()}).extend(columns)
    with uproot.recreate(tmp_path / "bad.root") as file:
        file.mktree("T", {k: v.dtype for k, v in bad.items()}).extend(bad)
    message = r"feature pt is nan in event 50; not finite in 2 of 2000 events\n  where: \S*bad.root"
    with pytest.raises(InputError, match=message):
        EventTable.from_root(str(tmp_path / "*.root"), features=("eta", "pt"), tree="T")
    message = r"feature pt is inf in event 1500; not finite in 1 of 1"
    with pytest.raises(InputError, match=message):
        EventTable.from_arrays(bad, features=("pt",), cut="pt > 0")
    assert len(EventTable.from_arrays(bad, features=("pt",), cut="0 < pt < 1e9")) == N - 2
    with pytest.raises(InputError, match=r"weight 1 / \(n_jets > 5\) is inf in event 0; not finite in 2000"):
        EventTable.from_arrays(columns, features=("eta",), weight="1 / (n_jets > 5)")
    with pytest.raises(InputError, match=r"feature big is inf in event 0"):
        EventTable.from_arrays({"big": np.array([1e300])}, features=("big",))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"features": ("Pt",)}, InputError, r"no column 'Pt'[\s\S]*expected: pt"),
        ({"features": ("pt",), "extra": ("entri",)}, InputError, r"no column 'entri'[\s\S]*entry"),
        ({"features": ("pt",), "weight": "wt + 1"}, InputError, r"no column 'wt'"),
        ({"features": ("pt",), "cut": "njets > 1"}, InputError, r"no column 'njets'[\s\S]*n_jets"),
        (
            {"features": ("pt",), "cut": "pt > 1e9"},
            InputError,
            "no event passes the cut 'pt > 1e9'; 2000 before",
        ),
        ({"features": ("pt",), "cut": "n_jets"}, ConfigError, r"cut gives int32, not true or false"),
        ({"features": ("pt",), "cut": "pt >"}, ConfigError, "not an expression"),
        ({"features": ("pt",), "weight": "-1"}, InputError, r"sum to -2000; 2000 of 2000 are negative"),
        ({"features": ("pt",), "weight": "w - w"}, InputError, r"sum to 0; 0 of 2000"),
        ({"features": ()}, ConfigError, "no features"),
        ({"features": "pt"}, ConfigError, "lists of names"),
        ({"features": ("pt", "pt")}, ConfigError, "two meanings"),
        ({"features": ("pt",), "extra": ("pt",)}, ConfigError, "two meanings"),
    ],
)
def test_errors_of_the_choice(columns, options, kind, message):
    with pytest.raises(kind, match=message):
        EventTable.from_arrays(columns, **options)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (ak.Array([[1.0, 2.0], []]), r"a is not one number per event but var \* float64"),
        (ak.Array(["x", "y"]), r"a is not one number per event but string"),
        (ak.Array([{"pt": 1.0}, {"pt": 2.0}]), r"not one number per event but \{pt: float64\}"),
        (np.ones((2, 3)), r"not one number per event but 3 \* float64"),
        (np.array([1, 2], dtype=complex), "but complex128"),
        (ak.Array([1.0, None]), r"a has no value in 1 of 2 events[\s\S]*first in event 1[\s\S]*fill_none"),
        (np.ma.array([1.0, 2.0], mask=[True, False]), r"a has no value in 1 of 2 events[\s\S]*event 0"),
    ],
)
def test_columns_that_are_no_numbers(column, message):
    with pytest.raises(InputError, match=message):
        EventTable.from_awkward(ak.Array({"a": column, "b": [1.0, 2.0]}), features=("b", "a"))


def test_an_option_type_without_gaps_is_a_number():
    array = ak.Array({"a": ak.mask(ak.Array([1.0, 2.0]), [True, True])})
    np.testing.assert_array_equal(EventTable.from_awkward(array, features=("a",)).x, [[1.0], [2.0]])


def test_types_are_named_when_read_from_files(tmp_path):
    jagged = ak.Array([[1.0, 2.0], [3.0]])
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("T", {"pt": "var * float64"}).extend({"pt": jagged})
        file.mkrntuple("R", {"pt": jagged})
    for tree in "TR":
        with pytest.raises(
            InputError, match=r"pt is not one number per event but var \* float64[\s\S]*a.root"
        ):
            EventTable.from_root(tmp_path / "a.root", features=("pt",), tree=tree)
    pq.write_table(pa.table({"s": ["x"], "n": pa.array([None], pa.float32())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"s is not one number per event but string[\s\S]*a.parquet"):
        EventTable.from_parquet(tmp_path / "a.parquet", features=("s",))
    with pytest.raises(
        InputError, match=r"n has no value in 1 of 1 events[\s\S]*a.parquet, first in event 0"
    ):
        EventTable.from_parquet(tmp_path / "a.parquet", features=("n",))


def test_files_that_are_not_there_or_not_what_they_should_be(tmp_path, columns):
    root, parquet = tmp_path / "events.root", tmp_path / "events.parquet"
    with uproot.recreate(root) as file:
        file.mktree("Events", {k: v.dtype for k, v in columns.items()}).extend(columns)
        file.mkrntuple("Other", columns)
        file["note"] = "text"
    pq.write_table(pa.table(columns), parquet)
    (tmp_path / "empty.root").touch()
    cut_off = tmp_path / "cut_off.root"
    cut_off.write_bytes(root.read_bytes()[:2000])
    with uproot.open(root) as file:
        basket = int(file["Events"]["pt"].member("fBasketSeek")[0])
    damaged = bytearray(root.read_bytes())
    damaged[basket + 100 : basket + 1000] = bytes(900)
    (tmp_path / "damaged.root").write_bytes(bytes(damaged))

    def read_root(path, tree="Events"):
        return EventTable.from_root(path, features=("pt", "eta"), tree=tree)

    with pytest.raises(InputError, match=r"event.root does not exist[\s\S]*events.root"):
        read_root(tmp_path / "event.root")
    with pytest.raises(InputError, match=r"missing or empty"):
        read_root(tmp_path / "nowhere" / "event.root")
    with pytest.raises(InputError, match=r"no file matches\n  where: \S*\*.rot"):
        read_root(str(tmp_path / "*.rot"))
    with pytest.raises(InputError, match="no files are given"):
        read_root([])
    with pytest.raises(InputError, match=r"no tree 'Evnts'[\s\S]*expected: Events, Other"):
        read_root(root, "Evnts")
    with pytest.raises(InputError, match=r"no tree 'note'"):
        read_root(root, "note")
    with pytest.raises(InputError, match=r"cannot open tree 'Events'[\s\S]*cut_off.root[\s\S]*complete"):
        read_root(cut_off)
    for path in (parquet, tmp_path / "empty.root"):
        with pytest.raises(InputError, match=r"not a readable ROOT file[\s\S]*from_parquet"):
            read_root(path)
    with pytest.raises(InputError, match=r"cannot read branch 'pt'[\s\S]*entries 0 to 2000"):
        read_root(tmp_path / "damaged.root")

    with pytest.raises(InputError, match=r"events.parqet does not exist[\s\S]*events.parquet"):
        EventTable.from_parquet(tmp_path / "events.parqet", features=("pt",))
    with pytest.raises(InputError, match=r"not a readable Parquet file[\s\S]*from_root"):
        EventTable.from_parquet(root, features=("pt",))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no file matches"):
        EventTable.from_parquet(tmp_path / "none", features=("pt",))


def test_direct_construction_is_checked():
    x, w = np.zeros((3, 2)), np.ones(3)
    with pytest.raises(InputError, match=r"shapes disagree: x \(3, 2\), weight \(2,\)"):
        EventTable(("a", "b"), x, w[:2])
    with pytest.raises(InputError, match=r"shapes disagree[\s\S]*x \(n_events, 1\)"):
        EventTable(("a",), x, w)
    with pytest.raises(InputError, match=r"e \(2,\)"):
        EventTable(("a", "b"), x, w, {"e": w[:2]})
    with pytest.raises(InputError, match="weight is nan in event 1"):
        EventTable(("a", "b"), x, np.array([1.0, np.nan, 1.0]))
    with pytest.raises(InputError, match="feature b is nan in event 2"):
        EventTable(("a", "b"), np.array([[0, 0], [0, 0], [0, np.nan]]), w)
    assert len(EventTable(("a", "b"), x[:0], w[:0])) == 0


def test_errors_of_the_methods(columns):
    table = EventTable.from_arrays(columns, **WANTED)
    with pytest.raises(InputError, match=r"no column 'entri'[\s\S]*entry"):
        table.column("entri")
    with pytest.raises(InputError, match=r"mask is bool of shape \(3,\)"):
        table.select([True, False, True])
    with pytest.raises(InputError, match="mask is float64"):
        table.select(table.weight)
    with pytest.raises(InputError, match="different columns"):
        EventTable.concat([table, table.with_features(("pt",))])
    with pytest.raises(InputError, match="no tables"):
        EventTable.concat([])
    with pytest.raises(ConfigError, match=r"fraction is 1\.0"):
        table.split(1.0, seed=1)
    with pytest.raises(InputError, match=r"column 'pt' is float32[\s\S]*integer ids"):
        table.split(0.5, seed=1, by="pt")
    with pytest.raises(InputError, match="columns have different lengths"):
        EventTable.from_arrays({"a": [1.0], "b": [1.0, 2.0]}, features=("a", "b"))
    with pytest.raises(InputError, match="there are no events"):
        EventTable.from_arrays({"a": []}, features=("a",))


def test_open_data_selection(shared_data):
    """The check of the data's documentation: opposite sign, isolated, low transverse mass."""
    files = [shared_data / f"cms_open_data_htautau/Run2012{run}_TauPlusXSkim.root" for run in "BC"]
    cut = "q_1 * q_2 < 0 and iso_1 < 0.1 and mt_1 < 30"
    table = EventTable.from_root(files, features=("m_vis", "pt_1", "njets"), cut=cut, extra=("run",))
    assert len(table) == 7527


def test_fair_universe_weights(shared_data):
    path = shared_data / "fair_universe/fair2023_htautau_ztautau_48300.parquet"
    names = pq.read_schema(path).names
    label = next(name for name in names if "label" in name.lower())
    table = EventTable.from_parquet(
        path, features=("PRI_had_pt", "DER_mass_vis"), weight="weight", cut=f"{label} == 1"
    )
    assert len(table) == 33_988
    assert 2 < table.weight.mean() < 4
