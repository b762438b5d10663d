"""CMS open data from the files of the portal to the measurement: the skim, its numbers, one configuration for all."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from neyman.analysis.sannt_config import load_sannt_config, parse_sannt_config
from neyman.analysis.sannt_events import SanntEvents
from neyman.errors import InputError
from neyman.events import PythonRef, RegionSpec, TableProcessor, Variation, process_files
from neyman.events.columns import ParquetSource, expand

sys.path.insert(0, str(Path(__file__).parents[1] / "events"))

from outreach import events, select, write
from web_server import serving

pytest.importorskip("coffea")


@pytest.fixture(scope="module")
def example(repository):
    return repository / "examples" / "opendata"


@pytest.fixture(scope="module")
def datasets(example):
    return tomllib.loads((example / "datasets.toml").read_text())


@pytest.fixture(scope="module")
def skim(example):
    spec = importlib.util.spec_from_file_location("opendata_skim", example / "skim.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def skims(shared_data):
    folder = shared_data / "cms_open_data_htautau"
    if not folder.is_dir():
        pytest.skip(f"the skims are not at {folder}")
    return folder


def tables(folder: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of all files of a folder, sorted by the identity of the event."""
    parts = [next(ParquetSource(path).chunks(names))[1] for path in expand(str(folder), ".parquet")]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    order = np.argsort(columns["entry"])
    return {name: values[order] for name, values in columns.items()}


@pytest.mark.parametrize("simulated", [True, False])
def test_selection_equals_the_one_event_by_event(example, skim, tmp_path, simulated):
    branches = events(3000, 5, simulated=simulated)
    expected = select(branches)
    processor = TableProcessor(
        build=PythonRef.parse("skim.py:build", example),
        variations=(Variation("nominal"),),
        regions={"skim": RegionSpec(columns=skim.COLUMNS)},
        folder=tmp_path / "out",
    )
    files = {"d": [write(tmp_path / "a.root", branches), write(tmp_path / "b.root", events(3, 6))]}
    found = process_files(files, processor, chunk_size=1100, metadata={"d": {"weight": 0.25}})["d"]
    first = select(events(3, 6))
    assert found["selected"]["skim"]["nominal"]["n"] == len(expected) + len(first)
    assert len(expected) > 100
    columns = tables(tmp_path / "out", (*skim.COLUMNS, "weight", "entry"))
    assert set(columns["weight"]) == {0.25}
    if not first:
        entries = columns["entry"] - columns["entry"][0]
        assert entries.tolist() == [one["entry"] - expected[0]["entry"] for one in expected]
        for name in skim.COLUMNS:
            values = np.array([one[name] for one in expected], dtype=float)
            np.testing.assert_allclose(columns[name], values, rtol=2e-6, atol=2e-5, err_msg=name)


def test_numbers_of_the_data_sets_are_those_of_the_published_weights(datasets, skims, skim):
    for name, dataset in datasets["datasets"].items():
        with uproot.open(skims / f"{name}Skim.root") as file:
            (weight,) = set(file["Events/weight"].array(library="np"))
            names = file["Events"].keys()
        assert weight == np.float32(skim._weight(dataset, datasets["luminosity"]))
        assert set(names) == {*skim.COLUMNS, "weight"}
        assert dataset["files"] == [f"{name}.root"]
    assert len(list(skims.glob("*Skim.root"))) == len(datasets["datasets"])
    assert [one["record"] for one in datasets["datasets"].values()] == list(range(12351, 12360))
    assert datasets["data"].startswith("root://eospublic.cern.ch//eos/opendata/cms/derived-data/")


@pytest.mark.parametrize("name", ["VBF_HToTauTau", "Run2012B_TauPlusX"])
def test_columns_that_follow_from_others_are_those_of_the_published_skims(skim, skims, name):
    with uproot.open(skims / f"{name}Skim.root") as file:
        c = file["Events"].arrays(library="np")
    momenta = [skim._momentum(*(c[f"{field}_{k}"] for field in ("pt", "eta", "phi", "m"))) for k in (1, 2)]
    for found, column in zip(skim._sum(*momenta), ("m_vis", "pt_vis"), strict=True):
        np.testing.assert_allclose(found, c[column], rtol=1e-5, atol=1e-4)
    two = c["njets"] >= 2
    assert set(c["mjj"][~two]) == {np.float32(skim.MISSING)}
    jets = [skim._momentum(*(c[f"j{f}_{k}"][two] for f in ("pt", "eta", "phi", "m"))) for k in (1, 2)]
    for found, column in zip(skim._sum(*jets), ("mjj", "ptjj"), strict=True):
        np.testing.assert_allclose(found, c[column][two], rtol=1e-4, atol=1e-3)


def yields(config, home, tmp_path) -> dict:
    return SanntEvents.find(config, home).write(tmp_path, lambda done, total: None)


def test_one_configuration_for_all(example, skims, skim, tmp_path, monkeypatch):
    """The same events as the published ntuples, as skim.py writes them, and from a web server."""
    config = load_sannt_config(example / "sannt.toml")
    ntuples, skimmed = tmp_path / "ntuples", tmp_path / "skimmed"
    ntuples.mkdir()
    for path in skims.glob("*Skim.root"):
        with uproot.open(path) as file:
            tree = file["Events"]
            columns = tree.arrays(entry_stop=tree.num_entries // 5, library="np")
        with uproot.recreate(ntuples / path.name) as file:
            file["Events"] = columns
        folder = skimmed / path.name.removesuffix("Skim.root") / "skim" / "nominal"
        folder.mkdir(parents=True)
        flat = {n: v.astype(np.float64 if n == "weight" else np.float32) for n, v in columns.items()}
        pq.write_table(pa.table(flat), folder / "part.parquet")
    expected = yields(config, ntuples, tmp_path / "1")
    assert expected["signal"]["data"] > 100
    assert expected["signal"]["processes"]["ggH_qqH"]["expected"] > 10
    assert yields(config, skimmed, tmp_path / "2") == expected
    with serving(ntuples) as server:
        assert yields(config, f"{server.url}/list", tmp_path / "3") == expected
        key = SanntEvents.find(config, f"{server.url}/list").key()
        assert SanntEvents.find(config, f"{server.url}/list").key() == key
        path = ntuples / "TTbarSkim.root"
        path.write_bytes(path.read_bytes() + b"\0")
        assert SanntEvents.find(config, f"{server.url}/list").key() != key
    with pytest.raises(InputError, match=r"no file matches[\s\S]*GluGluToHToTauTau\*"):
        SanntEvents.find(config, example)


def test_from_the_files_of_the_portal_to_selected_events(
    example, datasets, skim, tmp_path, monkeypatch, capsys
):
    files, selected = tmp_path / "files", {}
    files.mkdir()
    for seed, name in enumerate(datasets["datasets"]):
        branches = events(1500, seed, simulated=not name.startswith("Run"))
        write(files / f"{name}.root", branches)
        selected[name] = select(branches)
    arguments = ["skim.py", str(tmp_path / "skims"), "--data", str(files), "--executor", "iterative"]
    monkeypatch.setattr(sys, "argv", arguments)
    skim.main()
    told = capsys.readouterr().out
    skim.main()  # finished chunks are kept
    assert capsys.readouterr().out == told
    for name, kept in selected.items():
        assert re.search(rf"{name}: 1500 events \(.*%.*\), {len(kept)} kept", told)
    # As many simulated events as collisions: nothing is left for the estimate from collisions.
    document = tomllib.loads((example / "sannt.toml").read_text())
    del document["estimates"]
    config = parse_sannt_config(document, where="sannt.toml")
    found = yields(config, tmp_path / "skims", tmp_path / "events")
    data = [one for name in selected if name.startswith("Run") for one in selected[name]]
    for region, low, high in (("signal", 0, 30), ("w_jets", 70, np.inf)):
        passed = [o for o in data if o["q_1"] * o["q_2"] < 0 and o["iso_1"] < 0.1 and low <= o["mt_1"] < high]
        assert found[region]["data"] == len(passed) > 0
