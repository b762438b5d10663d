"""The report of a systematics-aware training: complete, escaped, and quiet about what it was not given."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neyman.errors import InputError
from neyman.plots import sannt_report, sannt_sections, style

SIGNALS = ("ggH", "qqH")


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


def make_sannt(signals: Any = ("signal",), after: float = 0.4) -> dict[str, Any]:
    """The plain data of a training with two members."""

    def uncertainty(total: float) -> dict[str, Any]:
        own = {name: {"total": total, "statistical": 0.3} for name in signals}
        return {"total": len(signals) * total, "statistical": 0.3 * len(signals), "signals": own}

    def process(contents: Any, **variations: float) -> dict[str, Any]:
        contents = np.array(contents)
        return {
            "edges": [0.0, 0.5, 1.0],
            "nominal": contents.tolist(),
            "variance": (0.05 * contents).tolist(),
            "variations": {
                name: {"up": (contents * (1 + size)).tolist(), "down": (contents * (1 - size)).tolist()}
                for name, size in variations.items()
            },
        }

    def stage(total: float, background: float) -> dict[str, Any]:
        own = {name: process([1.0, 4.0]) for name in signals}
        return {
            "uncertainty": uncertainty(total),
            "members": [uncertainty(total), uncertainty(1.1 * total)],
            "impacts": {name: {"jes": -0.2 * total, "lumi": 0.01} for name in signals},
            "histograms": {"SR": own | {"top": process([100.0, background], jes=0.1)}},
            "histories": [
                {"steps": [10, 20], "training": [[0.6, 0.5], [0.4, 0.3]], "validation": [[0.6, 0.5], [0.5, 0.4]],
                 "best_step": [20, 20]}
            ],
        }  # fmt: skip

    return {
        "signals": list(signals),
        "processes": [*signals, "top"],
        "parameters": ["jes", "lumi"],
        "warnings": ["the loss <rose>"],
        "pretrained": stage(0.5, 10.0),
        "trained": stage(after, 5.0),
    }


def make_fit(total: float, signals: Any = ("signal",), **changes: Any) -> dict[str, Any]:
    """A fit in which all methods agree."""

    def every(value: Any) -> dict[str, Any]:
        return dict.fromkeys(signals, value)

    impacts = [
        {"name": "jes", "up": 0.1, "down": -0.2},
        {"name": "staterror_SR[0]", "up": 0.03, "down": -0.03},
        {"name": "staterror_SR[1]", "up": 0.04, "down": None},
    ]
    fit = {
        "fisher": every(total),
        "hesse": every(total),
        "minos": every([-total, total]),
        "pyhf": every(total),
        "statistical": every(0.3),
        "impacts": every(impacts),
        "valid": True,
    }
    return fit | changes


def make_results(signals: Any = ("signal",), after: float = 0.4) -> dict[str, Any]:
    """Everything that a report may be given, through JSON."""
    observed = {
        "values": {"r": 1.234, "jes": -0.5, "norm": 0.9},
        "errors": {"r": 0.41, "jes": 0.8, "norm": 0.05},
        "minos": {"r": [-0.39, 0.43]},
        "pulls": {"jes": -0.5},
        "constraints": {"jes": 0.8},
        "impacts": [{"name": "jes", "up": 0.1, "down": -0.1}, {"name": "norm", "up": 0.02, "down": -0.02}],
        "goodness_of_fit": {"statistic": 7.3, "ndof": 8, "p_value": 0.503},
        "counts": {"SR": [103, 8], "control": [50]},
        "valid": True,
        "messages": [],
    }
    results = {
        "sannt": make_sannt(signals, after),
        "fits": {"pretrained": make_fit(0.5, signals), "trained": make_fit(after, signals)},
        "observed": observed,
        "warnings": ["few events of top"],
        "treatment": [
            {"channel": "SR", "sample": "top", "parameter": "jes", "what": "symmetrised", "size": 0.02,
             "detail": "jesUp, jesDown"},
            {"channel": "SR", "sample": "top", "parameter": "lumi", "what": "norm pruned", "size": 0.0004,
             "detail": "factors 1.0004 and 0.9996"},
        ],
        "closure of the yields": [{"name": "top", "passed": True, "reason": "halves agree within 1%"}],
        "steps": {"train": 12.34},
        "events": {"top": {"training": 40000, "held_out": 20001, "expected": 1234.56}},
    }  # fmt: skip
    loaded: dict[str, Any] = json.loads(json.dumps(results))
    return loaded


def make_config() -> dict[str, Any]:
    return {
        "measurement": {"name": "demo", "title": "H → ττ & more", "seed": 7},
        "bins": {"min_effective": 1000.0},
        "settings": {"steps": 500, "decay": None, "layers": [64, 64], "schedule": {"warmup": 10}},
        "processes": {"signal": "Higgs boson", "top": ""},
        "strengths": {"signal": "r"},
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One report for the tests that only read it."""
    folder = tmp_path_factory.mktemp("sannt") / "report"
    sannt_report.write(folder, make_config(), make_results())
    return folder, (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a report whose figures are made but stay empty files, and returns its text."""
    monkeypatch.setattr(style, "save", lambda _, path: path.touch())

    def write(results: dict[str, Any], config: dict[str, Any] | None = None) -> str:
        sannt_report.write(tmp_path / "report", make_config() if config is None else config, results)
        return (tmp_path / "report" / "index.html").read_text(encoding="utf-8")

    return write


def test_page_is_whole_and_needs_nothing_else(written: tuple[Path, str]) -> None:
    folder, text = written
    outline = Outline(text)
    assert outline.open == []
    assert outline.sections == [
        "uncertainty", "histograms", "impacts", "training", "observed", "events", "closure", "treatment",
        "reproduce",
    ]  # fmt: skip
    figures = {"uncertainty", "ensemble", "histograms", "impacts", "training", "pulls"}
    assert {p.name for p in (folder / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in figures for suffix in ("png", "pdf")
    }
    for link in outline.links:
        assert link.startswith(("#", "data:image/png;base64,")) or (folder / link).is_file()
    assert sorted(p.name for p in folder.iterdir()) == ["figures", "index.html"]


def test_numbers_of_the_results_are_on_the_page(written: tuple[Path, str]) -> None:
    _, text = written
    for expected in (
        "H → ττ &amp; more",
        "+0.500 −0.500",
        "+0.400 −0.400",
        "−20.0%",
        "SANNT reduces the expected uncertainty by 20.0%, from 0.500 (CENNT) to 0.400.",
        "from 0.300 to 0.300, the rest (in quadrature) from 0.400 to 0.265.",
        "All methods agree within 1%.",
        "1.23 +0.43 −0.39",
        "p = 0.5 (7.3 / 8)",
        "the loss &lt;rose&gt;",
        "few events of top",
        "Higgs boson",
        "40,000",
        "20,001",
        "1,234.6",
        "statistics of the simulation",
        "0.0500",  # the staterror parameters in quadrature
        "normalisation pruned",
        "factors 1.0004 and 0.9996",
        "Halves agree within 1%",
        "neyman sannt sannt.toml",
        "seed 7",
        "12.3 s",
        "steps</th><td>500",
        "64, 64",
        "warmup = 10",
    ):
        assert expected in text, expected
    assert "<rose>" not in text


def test_scarce_bins_are_marked(written: tuple[Path, str]) -> None:
    _, text = written
    # (Σw)² / Σw² of the background: 10 / 0.05 before and 5 / 0.05 after, below the 1000 of the configuration.
    assert '<span class="bad">200</span>' in text
    assert '<span class="bad">100</span>' in text


def test_bare_training_is_enough(page: Any) -> None:
    found = make_sannt()
    for key in ("pretrained", "trained"):
        found[key]["members"] = found[key]["histories"] = []
        found[key]["impacts"] = {}
    text = page({"sannt": found | {"warnings": []}}, {})
    assert Outline(text).sections == [
        "uncertainty",
        "histograms",
        "impacts",
        "training",
        "events",
        "reproduce",
    ]
    for expected in (
        "Systematics-aware training",
        "± 0.400",
        "by Fisher information",
        "The histograms were not fitted",
        "There are no nuisance parameters",
        "No training histories were kept",
    ):
        assert expected in text, expected
    assert "Read with care" not in text
    assert "seed" not in text.partition("How to reproduce")[2].partition("Configuration")[0]


def test_missing_optional_parts_leave_no_gap(page: Any) -> None:
    results = make_results()
    for fit in results["fits"].values():
        for key in ("pyhf", "impacts", "minos", "valid", "statistical"):
            del fit[key]
    results["observed"] = {"values": {"r": 1.2}, "errors": {"r": 0.4}, "minos": {}, "goodness_of_fit": None}
    results["treatment"] = []
    del results["closure of the yields"]
    text = page(results)
    assert "pyhf</th>" not in text.partition("package")[0]
    assert "by HESSE" in text
    assert "from the Fisher information, in the order" in text
    assert "1.20 ± 0.40" in text
    assert "Nothing was smoothed" in text
    results["observed"] = None
    assert "observed" not in Outline(page(results)).sections


def test_worse_and_equal_trainings_are_called_so(page: Any) -> None:
    text = page(make_results(after=0.55))
    assert "SANNT increases the expected uncertainty by 10.0%, from 0.500 (CENNT) to 0.550." in text
    assert 'class="warning"><strong>SANNT increases' in text
    same = make_results(after=0.501)
    same["sannt"]["trained"] = same["sannt"]["pretrained"]
    text = page(same)
    assert "stays the same within 0.5%" in text
    assert "the networks are CENNT&#x27;s" in text


def test_methods_that_differ_are_named(page: Any) -> None:
    results = make_results()
    results["fits"]["trained"] |= {
        "hesse": {"signal": 0.42},
        "minos": {"signal": [-0.38, 0.47]},
        "pyhf": {"signal": 0.40},
    }
    text = page(results)
    assert "Where methods differ by more than 1%:" in text
    assert "SANNT: HESSE is 5.0% above the Fisher information. Variations are asymmetric" in text
    assert "SANNT: MINOS gives +0.470 −0.380 where HESSE gives ± 0.420." in text
    assert "SANNT: HESSE is 5.0% above the curvature that pyhf finds" in text
    assert "CENNT: " not in text.partition("Where methods differ")[2].partition("</ul>")[0]


def test_several_signals_have_a_verdict_and_figures_each(page: Any, tmp_path: Path) -> None:
    results = make_results(SIGNALS)
    results["fits"]["trained"]["hesse"] = {"ggH": 0.4, "qqH": 0.45}
    text = page(results, {"strengths": {"ggH": "r", "qqH": "r_qqH"}})
    assert "SANNT reduces the expected uncertainty of ggH by 20.0%" in text
    assert "SANNT reduces the expected uncertainty of qqH by 20.0%" in text
    assert "0.500 → 0.400" in text
    assert "SANNT, qqH: HESSE is 12.5% above the Fisher information." in text
    names = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert {f"{kind}_{s}.pdf" for kind in ("uncertainty", "ensemble", "impacts") for s in SIGNALS} <= names


def test_regions_and_invalid_fits(page: Any) -> None:
    results = make_results()
    results["fits"] = {
        "pretrained": make_fit(0.45, fisher={}, pyhf={}),
        "trained": make_fit(0.36, fisher={}, pyhf={}, valid=False, minos={"signal": [None, 0.36]}),
    }
    results["observed_cennt"] = results["observed"] | {"values": {"r": 1.5}, "messages": ["<edm> is large"]}
    results["regions"] = {
        "SR": {"processes": {"top": {"events": 60001, "expected": 1234.5}}, "data": 111},
        "control": {"processes": {"signal": {"events": 5, "expected": 0.5}}},
    }
    text = page(results)
    assert "from 0.450 (CENNT) to 0.360" in text  # HESSE, as MINOS found no lower end of SANNT
    assert "NOT VALID" in text
    assert "1.50 +0.43 −0.39" in text
    assert "CENNT: &lt;edm&gt; is large" in text
    assert "1,234.5" in text
    assert "fits of the workspace" in text


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"top": 0.123456, "fakes": {"ratio": 1.5}}, ("0.1235", "ratio 1.5")),
        ([{"process": "top", "ok": False, "ratio": -0.5}, {"process": "w"}], ("FAILED", "−0.5", "–")),
    ],
)
def test_closure_of_any_form(found: Any, expected: tuple[str, ...]) -> None:
    text = sannt_sections.closure(found)
    for words in expected:
        assert words in text


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.44, "0.440"), (0.0123456, "0.0123"), (0.000044, "0.0000"), (12.345, "12.3"), (None, "–")],
)
def test_numbers_have_three_digits(value: float | None, words: str) -> None:
    assert sannt_sections.number(value) == words


def test_results_without_a_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the results have no sannt"):
        sannt_report.write(tmp_path / "report", {}, {})
    with pytest.raises(InputError, match="the training has no trained"):
        sannt_report.write(tmp_path / "report", {}, {"sannt": {"signals": [], "pretrained": {}}})
    assert not (tmp_path / "report" / "index.html").exists()
