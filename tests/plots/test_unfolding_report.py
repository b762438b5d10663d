"""The report of an unfolding: complete, escaped, and quiet about what it was not given."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neyman.errors import InputError
from neyman.files import jsonable
from neyman.plots import folded_histograms, style, unfolding_report
from neyman.unfolding import ClosureTest, Comparison, Spectrum, StepRecord, Support, Unfolding

EDGES = np.array([0.0, 1.0, 2.0])
VALUES = np.array([1234.5, 100.0])
SHIFT = np.array([20.0, -3.0])


class Outline(HTMLParser):
    """Collects sections, links and whether elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.links += [str(found[key]) for key in ("href", "src") if key in found]
        if name == "section":
            self.sections.append(str(found["id"]))
        if name not in ("meta", "img"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name


def make_spectrum(replicas: bool = True) -> Spectrum:
    sources = {"training": np.diag([4.0, 1.0]), "jes": np.outer(SHIFT, SHIFT)}
    if replicas:
        sources["data"] = np.diag([1600.0, 144.0])
    return Spectrum(("jet $p_T$",), ("GeV",), (EDGES,), VALUES, sources, 0.5 * VALUES)


def make_plane() -> Spectrum:
    edges = (np.array([0.0, 0.5, 1.0]), np.array([20.0, 50.0]))
    return Spectrum(
        ("y", "p"), ("", "GeV"), edges, 1e8 * VALUES, {"data": np.diag([1e16, 1e14])}, VALUES
    ).normalised()


def make_result(members: int = 2, **changes: Any) -> Unfolding:
    push = np.exp(0.2 * np.random.default_rng(1).normal(size=(members, 200)))
    steps = tuple(
        StepRecord(k, level, (0.65,) * members, (True,) * members, (10,) * members, 1.0625, 150.0, 3.0)
        for k in range(3)
        for level in ("detector", "particle")
    )
    own = np.ones((2, 200), dtype=np.float32)
    fields: dict[str, Any] = {
        "weight": np.full(200, 100.0), "members": push, "pull_members": push,
        "passes_truth": np.ones(200, dtype=bool), "passes_reconstruction": np.ones(200, dtype=bool),
        "factor": np.ones(200), "aggregate": "median", "mode": "step", "steps": steps,
        "support": Support({"<m>": 0.0, "y": 0.0345}, 0.0021, 5.25),
        "replicas": {"data": own, "simulation": own}, "systematics": {"jes": own},
    }  # fmt: skip
    return Unfolding(**(fields | changes))


def make_closure(p_value: float) -> ClosureTest:
    found = Comparison(31.25, 2, p_value, np.array([1.5, -2.0]), np.array([0.0123, -0.0456]))
    spectrum = make_spectrum()
    return ClosureTest(make_result(), {"x": spectrum}, {"x": spectrum}, {"x": VALUES}, {"x": found})


def everything() -> dict[str, Any]:
    """All that a report may be given."""
    events = np.array([0.5, 1.5, 1.5])
    return {
        "title": "Jets & more",
        "truths": {"jets": VALUES},
        "priors": {"jets": 1.1 * VALUES},
        "iterations": {"jets": [1.1 * VALUES, make_spectrum(), make_spectrum()]},
        "folded": [folded_histograms(events, events, EDGES, before=np.ones(3), after=np.ones(3), name="m")],
        "closure": make_closure(3e-7),
        "config": {"seed": 7, "loss": "<bce>"},
        "warnings": ["one event <carries> 6%"],
        "seconds": {"unfold": 12.34},
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One report for the tests that only read it."""
    folder = tmp_path_factory.mktemp("unfolding") / "report"
    unfolding_report.write(
        folder, make_result(), {"jets": make_spectrum(), "2D": make_plane()}, **everything()
    )
    return folder, (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a report whose figures are made but stay empty files, and returns its text."""
    monkeypatch.setattr(style, "save", lambda _, path: path.touch())

    def write(result: Any, spectra: Any, **given: Any) -> str:
        unfolding_report.write(tmp_path / "report", result, spectra, **given)
        return (tmp_path / "report" / "index.html").read_text(encoding="utf-8")

    return write


def test_page_is_whole_and_needs_nothing_else(written: tuple[Path, str]) -> None:
    folder, text = written
    outline = Outline(text)
    assert outline.open == []
    assert outline.sections == [
        "spectra", "iterations", "refolding", "closure", "trainings", "weights", "support", "reproduce",
    ]  # fmt: skip
    figures = {
        f"{kind}_{name}" for kind in ("spectrum", "errors", "correlation") for name in ("1_jets", "2_2D")
    }
    figures |= {"iterations_1_jets", "refolding_1_m", "closure", "trainings", "weights"}
    assert {p.name for p in (folder / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in figures for suffix in ("png", "pdf")
    }
    for link in outline.links:
        assert link.startswith(("#", "data:image/png;base64,")) or (folder / link).is_file()
    assert sorted(p.name for p in folder.iterdir()) == ["figures", "index.html"]


def test_numbers_of_the_results_are_on_the_page(written: tuple[Path, str]) -> None:
    _, text = written
    result = make_result()
    for expected in (
        "Jets &amp; more",
        f"{result.unfolded.sum():,.0f}",
        f">{round(result.effective_size)}<",
        "2, median",
        "2 networks a step (combined after every step)",
        "Errors are from 2 replicas of the data, 2 replicas of the simulation and 1 systematic variation.",
        "one event &lt;carries&gt; 6%",
        "3.5% of the data lie outside the range of the simulation in y.",
        '<span class="bad">3.45%</span>',
        "&lt;m&gt;",
        "0.21% of the data have a log-ratio of the first step above 5.25",
        "The closure test of x has a p-value of 3e−07.",
        "31.2 / 2",
        "4.56%",
        "1, detector</th><td>0.65000</td><td>2 of 2</td><td>1.0625</td><td>150</td><td>3</td>",
        "2 of the data, 2 of the simulation",
        "&lt;bce&gt;",
        "12.3 s",
        "Below, its ratio to the truth.",
    ):
        assert expected in text, expected
    assert "<carries>" not in text


def test_every_bin_has_a_row_with_its_errors(written: tuple[Path, str]) -> None:
    _, text = written
    head = '<th scope="col">jet p_T [GeV]</th><th scope="col">events</th><th scope="col">total error</th>'
    assert head + '<th scope="col">data</th><th scope="col">training</th><th scope="col">jes</th>' in text
    # sqrt(1600 + 4 + 400) and sqrt(144 + 1 + 9)
    assert "0–1</th><td>1234</td><td>45</td><td>40</td><td>2.0</td><td>20</td>" in text
    assert "1–2</th><td>100</td><td>12</td><td>12</td><td>1.0</td><td>3.0</td>" in text
    assert "0–0.5; 20–50</th>" in text


def test_small_densities_are_written_with_powers_of_ten() -> None:
    assert unfolding_report._rounded(1.2345e-7, 3.21e-9) == "1.235e−07"
    assert unfolding_report._rounded(3.21e-9, 3.21e-9) == "3.2e−09"
    assert unfolding_report._rounded(12.345, 0.21) == "12.35"


def test_bare_unfolding_is_enough(page: Any) -> None:
    result = make_result(1, replicas={}, systematics={}, support=Support({"m": 0.0}))
    text = page(result, {"jets": make_spectrum(replicas=False)})
    assert Outline(text).sections == ["spectra", "trainings", "weights", "support", "reproduce"]
    for expected in (
        "There are no replicas and no systematic variations.",
        "Without bootstrap replicas the errors of jets know nothing of the fluctuations of the data.",
        "bootstrap replicas</th><td>none",
    ):
        assert expected in text, expected
    assert "log-ratio of the first step" not in text
    assert "networks a step (" not in text
    assert "<h3>" not in text


def test_plain_data_from_a_file_are_enough(page: Any) -> None:
    data = json.loads(json.dumps(jsonable(make_result(support=Support({"m": 0.0})).to_dict())))
    spectra = {"jets": make_spectrum().to_dict()}
    assert "weights" not in Outline(page(data, spectra)).sections
    assert "weights" in Outline(page(data, spectra, weights=make_result().weights())).sections
    text = page(data | {"steps": []}, spectra, closure=make_closure(0.5).to_dict())
    assert "No record of the trainings was kept." in text
    assert "Read with care" not in text


def test_what_is_weak_is_said(page: Any) -> None:
    silent = StepRecord(0, "detector", (0.7,), (False,), (1,), 1.0, 5.0, 1.0)
    weight = np.ones(200)
    weight[0] = 1e4
    text = page(make_result(1, steps=(silent,), weight=weight), {"jets": make_spectrum()})
    assert "The first step at detector level separates nothing." in text
    assert "of the simulated events.</li>" in text


def test_names_without_a_spectrum_are_refused(tmp_path: Path) -> None:
    spectra = {"jets": make_spectrum()}
    with pytest.raises(InputError, match="there are no spectra to report"):
        unfolding_report.write(tmp_path / "report", make_result(), {})
    for key, name in (("truths", "truth"), ("priors", "prior"), ("iterations", "list of iterations")):
        with pytest.raises(
            InputError, match=rf"there is a {name} of 'jet', but no spectrum[\s\S]*nearest: jets"
        ):
            unfolding_report.write(tmp_path / "report", make_result(), spectra, **{key: {"jet": VALUES}})
    assert not (tmp_path / "report").exists()
