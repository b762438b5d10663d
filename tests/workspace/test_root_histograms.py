"""`from_root`: names in ROOT files are read as they are meant, or refused with both readings."""

from __future__ import annotations

import hist
import numpy as np
import pytest
import uproot

from neyman.errors import InputError, WorkspaceError
from neyman.naming import Naming
from neyman.workspace import SampleModel, Treatment, from_hists
from neyman.workspace.root_histograms import from_root

MODELS = {"ggH": SampleModel(("mu",)), "tt_had": SampleModel(), "tt": SampleModel()}


def histogram(scale, bins=3):
    h = hist.Hist(hist.axis.Regular(bins, 0, 3, name="m"), storage=hist.storage.Weight())
    h.view()["value"] = scale * np.arange(1.0, bins + 1.0)
    h.view()["variance"] = scale
    return h


def written(tmp_path, names, **others):
    with uproot.recreate(tmp_path / "h.root") as file:
        for i, name in enumerate(names):
            file[name] = histogram(i + 1.0)
        for name, value in others.items():
            file[name] = value
    return tmp_path / "h.root"


def shape(made):
    """Categories by channel and sample."""
    return {c: {s: list(h.axes[0]) for s, h in samples.items()} for c, samples in made.channels.items()}


def test_combine_folders(tmp_path):
    names = ["e/ggH", "e/ggH_jesUp", "e/ggH_jesDown", "e/tt_had", "e/data_obs", "mu/ggH", "mu/data_obs"]
    made = from_root(written(tmp_path, names, tree={"x": np.arange(3)}))
    assert shape(made) == {
        "e": {"ggH": ["nominal", "jesUp", "jesDown"], "tt_had": ["nominal"]},
        "mu": {"ggH": ["nominal"]},
    }
    assert made.observed["mu"].sum().value == 7 * 6
    assert [(n.where, n.detail) for n in made.notes] == [("tree", "it is a ROOT::RNTuple")]
    spec = from_hists(made, MODELS)
    assert spec["channels"][0]["samples"][0]["data"] == [1.0, 2.0, 3.0]
    assert spec["channels"][0]["samples"][0]["modifiers"][1] == {
        "name": "jes",
        "type": "normsys",
        "data": {"hi": 2.0, "lo": 3.0},
    }


def test_combine_without_folders(tmp_path):
    path = written(tmp_path, ["ggH", "ggH_jesUp", "ggH_jesDown", "data_obs"])
    assert shape(from_root(path, "combine_flat")) == {"channel": {"ggH": ["nominal", "jesUp", "jesDown"]}}
    assert list(from_root(path, "combine_flat", channels=["SR"]).observed) == ["SR"]
    assert list(from_root(path, "{sample}", channels={"SR": "any"}).channels) == ["SR"]


def test_data_tell_the_channels_of_trexfitter(tmp_path):
    names = ["SR_1b_ggH", "SR_1b_tt_had", "SR_1b_tt_had_jes_Up", "SR_1b_tt_had_jes_Down", "SR_1b_Data"]
    made = from_root(written(tmp_path, names), "trexfitter", data="Data")
    assert shape(made) == {"SR_1b": {"ggH": ["nominal"], "tt_had": ["nominal", "jes_Up", "jes_Down"]}}
    assert from_hists(made, MODELS)["channels"][0]["samples"][1]["modifiers"][0]["name"] == "jes"


def test_two_readings_are_both_shown(tmp_path):
    path = written(tmp_path, ["SR_1b_ggH"])
    with pytest.raises(
        WorkspaceError,
        match=r"(?s)'SR_1b_ggH' can be read in 2 ways.*h\.root.*channel 'SR', sample '1b_ggH', 'nominal'; or channel "
        r"'SR_1b', sample 'ggH', 'nominal'.*channels=, the samples=",
    ):
        from_root(path, "trexfitter")
    for known in ({"channels": ["SR_1b"]}, {"samples": ["ggH"]}):
        assert shape(from_root(path, "trexfitter", **known)) == {"SR_1b": {"ggH": ["nominal"]}}


def test_two_readings_of_a_variation(tmp_path):
    path = written(tmp_path, ["e/tt", "e/tt_had", "e/tt_had_jesUp"])
    made = from_root(path)
    assert shape(made) == {"e": {"tt": ["nominal"], "tt_had": ["nominal", "jesUp"]}}
    (note,) = made.notes
    assert (note.where, note.what) == ("e/tt_had_jesUp", "ambiguous")
    assert note.detail.startswith(
        "read as channel 'e', sample 'tt_had', 'jesUp'; not as channel 'e', sample 'tt', "
    )
    made = from_root(path, samples=["tt_had"])
    assert shape(made) == {"e": {"tt_had": ["nominal", "jesUp"]}}
    assert [(n.where, n.what) for n in made.notes] == [("e/tt", "not used")]
    report = []
    from_hists(
        made, {"tt_had": SampleModel(("mu",))}, treatment=Treatment(mirror_missing=True), report=report
    )
    assert [r.what for r in report] == ["mirrored"]


def test_a_folder_for_each_variation_and_sums(tmp_path):
    names = ["e/nom/a", "e/jes_up/a", "e/jes_down/a", "e/nom/b", "e/jes_up/b", "e/jes_down/b"]
    naming = Naming("variation", "nom", "_up", "_down")
    made = from_root(
        written(tmp_path, names),
        "{channel}/{systematic}/{sample}",
        samples={"tt": ["a", "b"]},
        scale={"b": 10.0},
        naming=naming,
    )
    assert shape(made) == {"e": {"tt": ["nom", "jes_up", "jes_down"]}}
    assert made.channels["e"]["tt"]["jes_up", :].values().tolist() == [52.0, 104.0, 156.0]
    assert from_hists(made, {"tt": SampleModel(("mu",))})["channels"][0]["samples"][0]["data"] == [
        41.0,
        82.0,
        123.0,
    ]


def test_what_is_left_out_is_counted(tmp_path):
    path = written(tmp_path, ["a_x", "a_y", "b_y", "c_y", "d_y", "a_x_jesUp", "e_x_jesUp"])
    made = from_root(path, "{sample}_{channel}", channels=["x"])
    assert shape(made) == {"x": {"a": ["nominal", "jesUp"]}}
    assert [n.where for n in made.notes] == ["a_y, b_y, c_y and 1 more", "e_x_jesUp"]
    assert made.notes[1].detail == "no sample that is read has this variation"


def test_bad_files_and_requests(tmp_path):
    with pytest.raises(InputError, match=r"none\.root does not exist"):
        from_root(tmp_path / "none.root")
    (tmp_path / "text.root").write_text("no")
    with pytest.raises(InputError, match=r"text\.root cannot be read as a ROOT file"):
        from_root(tmp_path / "text.root")
    with pytest.raises(InputError, match=r"(?s)h\.root holds no TH1.*it holds ROOT::RNTuple"):
        from_root(written(tmp_path, [], tree={"x": np.arange(3)}))
    path = written(tmp_path, ["e/ggH"], two=histogram(1.0, 4))
    with pytest.raises(WorkspaceError, match=r"(?s)'combin' is no layout.*nearest: combine"):
        from_root(path, "combin")
    with pytest.raises(
        WorkspaceError, match=r"(?s)'\{chanel\}/\{sample\}' is no layout.*perhaps \{channel\}"
    ):
        from_root(path, "{chanel}/{sample}")
    with pytest.raises(WorkspaceError, match=r"(?s)with channels \['el'\].*nearest: e/ggH"):
        from_root(path, channels=["el"], samples=["ggH"])
    with pytest.raises(
        WorkspaceError, match=r"(?s)no histogram of h\.root fits.*e/ggH, two.*samples \['tt', 'data_obs'"
    ):
        from_root(path, samples=["tt"])
    with pytest.raises(WorkspaceError, match=r"(?s)there is no data 'Data'"):
        from_root(path, data="Data")
    path = written(tmp_path, ["e/ggH"], **{"e/ggH_jesUp": histogram(1.0, 4)})
    with pytest.raises(WorkspaceError, match="'jesUp' of ggH in e has other bins than the nominal"):
        from_root(path)


def test_open_data(shared_data):
    path = shared_data / "cms_open_data_htautau" / "histograms.root"
    made = from_root(
        path,
        "{sample}_{channel}",
        channels={"OS": "m_vis", "SS": "m_vis_cr"},
        samples={"H": ["ggH", "qqH"], "W": "W?J"} | {name: name for name in ("ZTT", "ZLL", "TT")},
        data=["dataRunB", "dataRunC"],
    )
    assert list(made.channels["OS"]) == ["H", "W", "ZTT", "ZLL", "TT"]
    assert made.observed["OS"].sum().value == 7292.0
    assert made.channels["SS"]["W"]["nominal", :].sum().value == pytest.approx(276.16, abs=0.01)
    (note,) = made.notes
    assert note.where.endswith("and 657 more")
    with pytest.raises(WorkspaceError, match=r"(?s)2 ways.*sample 'ggH', 'nominal'; or .*sample 'ggH_jphi'"):
        from_root(path, "{sample}_{channel}")
