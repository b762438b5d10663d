"""Flat files to events: cuts, new columns, variations, the estimate from data, and regions without common events."""

from __future__ import annotations

import numpy as np
import pytest
from ratio_toy import write
from sannt_toy import ESTIMATES, SAMPLES, data, document, events, make_files

from neyman.analysis.sannt_config import parse_sannt_config
from neyman.analysis.sannt_events import SanntEvents, SelectedEvents, binned
from neyman.errors import ConfigError, InputError, NeymanWarning, WorkspaceError
from neyman.events import EventTable


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files"))


def select(files, folder, **changes):
    folder.mkdir(exist_ok=True)
    config = parse_sannt_config(document(**changes), where="toy.toml")
    summary = SanntEvents.find(config, files).write(folder / "events", lambda done, total: None)
    return SelectedEvents(config, folder / "events", summary)


@pytest.fixture(scope="module")
def selected(files, tmp_path_factory):
    return select(files, tmp_path_factory.mktemp("selected"))


def of(kind):
    return events(kind, 3000, ("sig", "bkg", "top").index(kind))


def test_tables_are_what_the_cuts_select(selected):
    columns = of("bkg")
    kept = (columns["q"] < 0) & (columns["m"] < 1)
    table = selected.table("bkg")
    assert table.features == ("x", "y2")
    assert np.allclose(table.x, np.stack([columns["x"], 0.5 * columns["y"]], axis=1)[kept], atol=1e-6)
    assert np.allclose(table.weight, columns["w"][kept])
    assert selected.summary["SR"]["processes"]["bkg"] == {
        "events": kept.sum(), "expected": pytest.approx(columns["w"][kept].sum())
    }  # fmt: skip


def test_estimate_is_data_minus_simulation_beside_the_region(selected):
    beside = data()
    in_data = (beside["q"] > 0) & (beside["m"] < 1)
    expected = in_data.sum()
    for kind in ("sig", "bkg", "top"):
        columns = of(kind)
        expected = expected - columns["w"][(columns["q"] > 0) & (columns["m"] < 1)].sum()
    table = selected.table("fakes")
    assert table.weight.sum() == pytest.approx(1.1 * expected)
    assert set(np.sign(table.weight)) == {-1.0, 1.0}
    assert (table.weight == 1.1).sum() == in_data.sum()
    assert len(np.unique(table.extra["entry"])) == len(table)


def test_variation_of_columns_moves_cuts_and_features(selected):
    up, down = selected.tables("sig")["scale"]
    columns = of("sig")
    for side, shift, factor in ((up, 0.3, 1.02), (down, -0.3, 0.98)):
        kept = (columns["q"] < 0) & (factor * columns["m"] < 1)
        assert np.allclose(side.column("x"), columns["x"][kept] + shift, atol=1e-6)
        assert np.array_equal(side.extra["entry"], np.flatnonzero(kept))
    assert set(selected.tables("top")) == set(selected.tables("fakes")) == set()


def test_new_columns_follow_a_variation(files, tmp_path):
    shift = {"name": "shift", "columns": {"up": {"y": "y + 1"}, "down": {"y": "y - 1"}}}
    selected = select(files, tmp_path, systematics=[shift])
    up, _ = selected.tables("sig")["shift"]
    assert np.allclose(up.column("y2"), selected.table("sig").column("y2") + 0.5, atol=1e-5)
    # The replaced values are of the nominal columns, all at once; a new column may be replaced itself.
    swap = {"name": "swap", "columns": {"up": {"x": "y2", "y2": "x"}, "down": {"x": "x"}}}
    selected = select(files, tmp_path / "swap", systematics=[swap])
    up, down = selected.tables("sig")["swap"]
    nominal = selected.table("sig")
    assert np.array_equal(up.x, nominal.x[:, ::-1])
    assert np.array_equal(down.x, nominal.x)


def test_variation_of_weights_keeps_the_events(selected):
    table = selected.table("bkg")
    up, down = selected.weights("bkg")["tilt"]
    x = table.column("x").astype(np.float64)
    assert np.allclose(up, table.weight * (1.0 + 0.1 * x), atol=1e-5)
    assert np.allclose(down, table.weight * (1.0 - 0.1 * x), atol=1e-5)
    assert selected.weights("sig") == {}


def test_variation_from_other_files(files, tmp_path):
    write(files / "louder.parquet", events("bkg", 1500, 77))
    other = {"name": "other", "samples": ["bkg"], "files": {"up": "louder.parquet", "down": ["bkg.parquet"]}}
    selected = select(files, tmp_path, systematics=[other])
    up, down = selected.tables("bkg")["other"]
    columns = events("bkg", 1500, 77)
    assert len(up) == ((columns["q"] < 0) & (columns["m"] < 1)).sum()
    assert np.array_equal(down.x, selected.table("bkg").x)
    assert list(selected.histograms("CR")["bkg"].axes[0]) == ["nominal", "otherUp", "otherDown"]


def test_same_parameter_by_weight_and_by_columns(files, tmp_path):
    """One strength of two samples: each variation holds the other sample as it is."""
    samples = [*SAMPLES, {"name": "sig2", "files": "sig.parquet", "weight": "0.1 * w", "signal": "r"}]
    samples[0] = {**SAMPLES[0], "normsys": {"theory": [1.5, 0.5]}}
    mixed = [
        {"name": "jes", "samples": ["sig"], "columns": {"up": {"x": "x + 1"}, "down": {"x": "x - 1"}}},
        {"name": "jes", "samples": ["sig2"], "weight": {"up": "1.2", "down": "0.8"}},
    ]
    selected = select(files, tmp_path, samples=samples, systematics=mixed)
    table = selected.table("sig_sig2")
    n = len(table) // 2
    assert len(np.unique(table.extra["entry"])) == 2 * n
    up, _ = selected.tables("sig_sig2")["jes"]
    assert np.allclose(up.column("x")[:n], table.column("x")[:n] + 1.0, atol=1e-6)
    assert np.allclose(up.weight, table.weight * np.repeat([1.0, 1.2], n))
    assert set(selected.weights("sig_sig2")) == {"theory"}
    assert np.allclose(selected.weights("sig_sig2")["theory"][1], table.weight * np.repeat([0.5, 1.0], n))


def test_control_region(selected):
    columns, edges = of("top"), np.array([-9.0, 0.0, 1.0, 9.0])
    kept = (columns["q"] < 0) & (columns["m"] > 2)
    h = selected.histograms("CR")["top"]
    assert np.allclose(
        h[{"variation": "nominal"}].values(), np.histogram(columns["y"][kept], edges, weights=columns["w"][kept])[0]
    )  # fmt: skip
    assert np.allclose(
        h[{"variation": "nominal"}].variances(),
        np.histogram(columns["y"][kept], edges, weights=columns["w"][kept] ** 2)[0],
    )
    observed = data()
    kept = (observed["q"] < 0) & (observed["m"] > 2)
    assert np.array_equal(selected.counts("CR"), np.histogram(observed["y"][kept], edges)[0])
    assert list(selected.histograms("CR")["bkg"].axes[0]) == [
        "nominal", "tiltUp", "tiltDown", "scaleUp", "scaleDown"
    ]  # fmt: skip


def test_bins_hold_the_overflow_and_not_the_underflow():
    table = EventTable(
        ("y",), np.array([[-1.0], [0.0], [0.5], [1.0], [7.0]]), np.array([9.0, 1.0, 2.0, 3.0, 4.0])
    )
    contents, variances = binned(table, np.array([0.0, 1.0, 2.0]))
    assert contents.tolist() == [3.0, 7.0]
    assert variances.tolist() == [5.0, 25.0]


def test_root_files_are_the_same(tmp_path, selected):
    make_files(tmp_path / "root", suffix=".root")
    samples = [{**s, "files": str(s["name"]) + ".root"} for s in SAMPLES]
    found = select(tmp_path / "root", tmp_path, samples=samples, data={"files": "data.root"})
    for name in ("sig", "fakes"):
        assert np.allclose(found.table(name).x, selected.table(name).x)
        assert np.allclose(found.table(name).weight, selected.table(name).weight)


def test_no_data(files, tmp_path):
    selected = select(files, tmp_path, data=None, estimates=[])
    assert selected.data() is None
    assert selected.counts("CR") is None
    assert "data" not in selected.summary["SR"]


def test_sample_without_events_in_a_control_region(files, tmp_path):
    samples = [SAMPLES[0], SAMPLES[1], {**SAMPLES[2], "cut": "good and m < 1.5"}]
    selected = select(files, tmp_path, samples=samples)
    assert selected.histograms("CR")["top"].sum().value == 0.0


def test_files_of_a_sample_are_told_apart(tmp_path):
    make_files(tmp_path)
    write(tmp_path / "bkg_b.parquet", events("bkg", 500, 8))
    table = select(tmp_path, tmp_path).table("bkg")
    assert len(np.unique(table.extra["entry"])) == len(table)
    assert (table.extra["entry"] >> 40 == 1).sum() > 0


def test_key_follows_what_matters(files):
    def key(**changes):
        return SanntEvents.find(parse_sannt_config(document(**changes), where="toy"), files).key()

    assert key() == key(settings={"steps": 1})
    assert key() != key(cuts={"charge": "q < 1"})
    assert key() != key(data={"files": "sig.parquet"})


def test_markers_of_missing_values_are_named(tmp_path):
    make_files(tmp_path)
    columns = of("top")
    columns["y"][::3] = -999.0
    write(tmp_path / "top.parquet", columns)
    with pytest.warns(NeymanWarning, match=r"feature 'y' is -999 in \d\.\d% of the events"):
        select(tmp_path, tmp_path, features=["x", "y"])


SHARED = {"regions": {"CR": {"fit": "binned", "cuts": {"m": "m > 0.9"}, "observable": "y", "edges": [0, 1]}}}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"features": ["x", "zz"]}, InputError, r"(?s)no column 'zz'.*sig\.parquet.*expected: "),
        ({"columns": {"x": "y"}}, ConfigError, r"(?s)the new column 'x' is already in the file.*sig\.parquet"),
        ({"cuts": {"charge": "q"}}, ConfigError, r"(?s)the cut gives int32, not true or false.*where: q"),
        ({"cuts": {"charge": "q <"}}, ConfigError, "not an expression"),
        ({"cuts": {"charge": "p < 0"}}, InputError, r"(?s)no column 'p'.*sig\.parquet"),
        ({"cuts": {"charge": "x > 99"}}, InputError, r"(?s)0 events of 'sig' pass the cuts of region 'SR'.*m < 1"),
        ({"columns": {"y2": "log(y)"}}, InputError, r"(?s)feature y2 is nan in event \d+.*sig\.parquet"),
        (
            {"samples": [{**SAMPLES[0], "weight": "log(x)"}, *SAMPLES[1:]]},
            InputError,
            r"(?s)weight log\(x\) is nan in event \d+.*sig\.parquet",
        ),
        (
            {"samples": [{**SAMPLES[0], "weight": "-1 * w"}, *SAMPLES[1:]]},
            InputError,
            r"events of 'sig' pass the cuts of region 'SR', and their weights sum to -\d+",
        ),
        ({"samples": [{**SAMPLES[0], "files": "no.parquet"}, *SAMPLES[1:]]}, InputError, r"no\.parquet does not exist"),
        ({"samples": [{**SAMPLES[0], "files": "*.csv"}, *SAMPLES[1:]]}, InputError, r"(?s)no file matches.*\*\.csv"),
        ({"data": {"files": "sannt.txt"}}, ConfigError, r"sannt\.txt is of no known kind"),
        (SHARED, WorkspaceError, r"regions 'SR' and 'CR' share \d+ events of sample 'sig'"),
        (
            {"estimates": [{**ESTIMATES[0], "replace": {"m": "m < 0.5"}}]},
            ConfigError,
            r"\d+ events of data are in region 'SR' and in the estimate 'fakes' of region 'SR'",
        ),
        (
            {"systematics": [{"name": "s", "columns": {"up": {"pt": "x"}, "down": {"pt": "x"}}}]},
            InputError,
            r"(?s)no column 'pt'.*sig\.parquet",
        ),
        (
            {"systematics": [{"name": "s", "columns": {"up": {"m": "m + 5"}, "down": {"m": "m"}}}]},
            InputError,
            r"(?s)the events of 'sig' with s up have weights that sum to 0 in region 'SR'.*systematic",
        ),
        (
            {"systematics": [{"name": "s", "weight": {"up": "log(x)", "down": "1"}}]},
            InputError,
            r"weight log\(x\) is nan",
        ),
        (
            {"systematics": [{"name": "s", "columns": {"up": {"x": "log(x)"}, "down": {"x": "x"}}}]},
            InputError,
            r"(?s)feature x is nan.*sig\.parquet \(sUp\)",
        ),
    ],
)  # fmt: skip
def test_errors(files, tmp_path, changes, kind, message):
    (files / "sannt.txt").touch()
    with pytest.raises(kind, match=message):
        select(files, tmp_path, **changes)


def test_weight_may_be_a_condition(files, tmp_path):
    samples = [{**SAMPLES[0], "weight": "q < 0", "scale": 2.0}, *SAMPLES[1:]]
    assert set(select(files, tmp_path, samples=samples).table("sig").weight) == {2.0}
