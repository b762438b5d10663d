"""The report: complete, self-contained, escaped, and honest about what it was given."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neyman.errors import InputError
from neyman.plots import report, sections, style, words
from neyman.plots.markup import Html, escape, table, tag

Page = tuple[Path, str]


class Outline(HTMLParser):
    """Collects elements, section identifiers and links, and checks that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.links: list[str] = []
        self.elements: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.elements.add(name)
        self.links += [str(found[key]) for key in ("href", "src") if key in found]
        if name == "section":
            self.sections.append(str(found["id"]))
        if name not in ("meta", "img"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> Page:
    """One report for the tests that only read it."""
    folder, history = tmp_path_factory.mktemp("plots") / "report", make.history()
    training = {
        "train htautau": {"histories": [history]},
        "train htautau jes": {"histories": [history, history]},
    }
    report.write(folder, make.config(), make.results(), training)
    return folder, (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but their files stay empty, which is faster."""
    monkeypatch.setattr(style, "save", lambda _, path: path.touch())


def test_page_is_whole_and_needs_nothing_else(written: Page) -> None:
    folder, text = written
    outline = Outline(text)
    assert outline.open == []
    assert outline.sections == [
        "comparison",
        "yields",
        "fits",
        "profiles",
        "impacts",
        "correlation",
        "classifier",
        "closure",
        "simulation",
        "training",
        "workspace",
        "reproduce",
    ]
    assert {f"#{name}" for name in outline.sections} <= set(outline.links)
    figures = {
        "comparison", "profile_mu", "profiles", "impacts", "correlation", "classifier", "closure_htautau",
        "closure_ztautau", "training",
    }  # fmt: skip
    assert {p.name for p in (folder / "figures").iterdir()} == {
        f"{f}.{s}" for f in figures for s in ("png", "pdf")
    }
    assert not outline.elements & {"script", "link", "iframe", "object"}
    for link in outline.links:
        assert link.startswith(("#", "data:image/png;base64,")) or (folder / link).is_file()
    assert "@import" not in text
    assert "url(" not in text
    assert sorted(p.name for p in folder.iterdir()) == ["figures", "index.html"]  # nothing half-written


def test_numbers_of_the_results_are_on_the_page(written: Page) -> None:
    _, text = written
    for expected in (
        "A demonstration",
        "1.20 +0.28 −0.23",  # observed, MINOS
        "+0.28 −0.23",  # expected
        "1 fb⁻¹",
        "0.5600",
        "−57.1%",  # 0.24 relative to 0.56
        "20,200.0",  # total yield
        "+5.0%",
        "123.4567",
        "0.4 times the statistical noise",
        "8% of the uncertainty",
        "A bias below 0.10 cannot be seen",
        "binned.json is a valid pyhf workspace",
        "neyman run analysis.toml",
        "seed 7",
        "Statistics of the simulation: 1 more",
        "htautau",
        "pseudo-experiment",
    ):
        assert expected in text, expected
    assert "Read with care" not in text
    assert "✗" not in text


@pytest.mark.usefixtures("undrawn")
def test_failures_come_first(
    tmp_path: Path, config: dict[str, Any], results: dict[str, Any], make: SimpleNamespace
) -> None:
    results["observed"]["classifier"] = make.fit(
        valid=False, at_bounds=("tes",), messages=("MIGRAD did not converge",), covariance=None
    ).to_dict()
    results["observed"]["unbinned"] |= {"correlation": None, "covariance": None}
    results["comparison"][1]["valid"] = results["impacts"]["impacts"][0]["valid"] = False
    results["profiles"]["observed"]["mu"]["valid"][3] = False
    results["simulation_check"]["value"] = 1.2
    results["validation"].append({"name": "digest of a.parquet", "passed": False, "detail": "changed"})
    report.write(tmp_path, config, results, {})
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    top = text[: text.index("<nav>")]
    for expected in (
        "Read with care",
        "The fit to (b) is not valid.",
        "A fit behind “classifier histogram, 30 bins” is not valid.",
        "does not return the nominal value",
        "The impact of tes rests on a fit that is not valid.",
        "1 of 11 fits of the observed profile of μ are not valid.",
        "Workspace check failed: digest of a.parquet (changed).",
    ):
        assert expected in top, expected
    assert "MIGRAD did not converge" in text
    assert "at bound" in text
    assert "NOT COMPATIBLE" in text
    assert "4.0 times the statistical noise" in text
    assert "1 of 2 checks passed" in text
    assert "The observed fit has no covariance." in text
    assert "No training histories were kept." in text
    assert not (tmp_path / "figures" / "correlation.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_text_of_the_user_is_escaped(tmp_path: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
    attack = '<script>alert("x")</script>'
    config["analysis"]["title"] = attack
    config["samples"][0]["label"] = attack
    config["compare"]["label"] = '"><img src=x onerror=alert(1)>'
    results["comparison"][0]["label"] = attack
    results["observed"]["unbinned"]["messages"] = [attack]
    results["validation"][0]["detail"] = "</style>" + attack
    results["discriminant"]["samples"] = {"htautau": [1.0], "<b>&": [2.0]}
    results["discriminant"]["observed"] = [3.0]
    results["discriminant"]["error"] = [0.1]
    results["closure"] = [
        c | {"process": "../../<i>"} for c in results["closure"] if c["process"] == "htautau"
    ]
    report.write(tmp_path / "out", config, results, {})
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert not outline.elements & {"script", "b", "i"}
    assert not re.search(r"<[^>]*\son\w+=", text)
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text
    assert (tmp_path / "out" / "figures" / "closure_.._.._i_.png").is_file()


def test_a_second_report_replaces_the_first_and_a_failure_leaves_it(
    tmp_path: Path, config: dict[str, Any], results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(text: str) -> Any:
        return lambda *_: [("top", "", tag("p", text))]

    def fail(*_: Any) -> Any:
        raise RuntimeError("stopped in the middle")

    monkeypatch.setattr(report, "_parts", parts("first"))
    report.write(tmp_path, config, results, {})
    (tmp_path / "figures" / "stale.png").touch()
    monkeypatch.setattr(report, "_parts", fail)
    with pytest.raises(RuntimeError, match="stopped in the middle"):
        report.write(tmp_path, config, results, {})
    assert "first" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["figures", "index.html", "stale.png"]
    monkeypatch.setattr(report, "_parts", parts("second"))
    report.write(tmp_path, config, results, {})
    assert "second" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not (tmp_path / "figures" / "stale.png").exists()


def test_closure_of_too_few_events(config: dict[str, Any], results: dict[str, Any]) -> None:
    results["closure"][0]["p_value"] = None
    text = str(sections.closure(config, results))
    assert text.count("too few events") == 1
    assert "of 3 comparisons have a p-value" in text
    for one in results["closure"]:
        one["p_value"] = None
    assert "No comparison has enough events." in str(sections.closure(config, results))


def test_times_are_shown_when_they_are_known(config: dict[str, Any]) -> None:
    assert "12.3 s" in sections.reproduction(config, {"steps": {"events": 12.34}})
    assert "Time of each step" not in sections.reproduction(config, {})


def test_missing_results_are_named(tmp_path: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
    del results["closure"], results["workspace"]
    with pytest.raises(InputError, match="the results have no closure, workspace"):
        report.write(tmp_path / "report", config, results, {})
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("unbinned", "outcome", "relation"),
    [
        (0.24, "beats (a) and (b).", "14.3% smaller than the 0.280 of (b)"),
        (0.30, "beats (a) but not (b).", "7.1% larger than the 0.280 of (b)"),
        (0.2805, "beats (a) but not (b).", "equal within 0.5% to the 0.280 of (b)"),
        (0.70, "beats neither (a) nor (b).", "25.0% larger than the 0.560 of (a)"),
    ],
)
def test_verdict_follows_the_numbers(
    make: SimpleNamespace, unbinned: float, outcome: str, relation: str
) -> None:
    rows = make.rows(unbinned)
    text = sections.verdict(rows, "mu")
    assert f"<strong>(c), the unbinned likelihood, {outcome}</strong>" in text
    assert relation in text
    assert f"Δμ = {unbinned:.3f}" in text
    assert "do not change this" in text


def test_verdict_says_when_simulation_statistics_or_failures_change_it(make: SimpleNamespace) -> None:
    rows = make.rows()
    rows[2]["with_simulation"] = 0.31
    text = sections.verdict(rows, "mu")
    assert "beats (a) and (b).</strong>" in text
    assert (
        "With the statistics of the simulation included: (c), the unbinned likelihood, beats (a) but not (b)."
        in text
    )
    rows[0]["valid"] = False
    assert "At least one of these fits is not valid." in sections.verdict(rows, "mu")
    rows[0]["syst"] = None
    assert "cannot be compared" in sections.verdict(rows, "mu")


def test_markup_escapes_text_and_keeps_elements() -> None:
    assert escape("<a & 'b'>") == "&lt;a &amp; &#x27;b&#x27;&gt;"
    assert tag("p", "x < y", tag("b", "&"), class_="soft", title='"') == (
        '<p class="soft" title="&quot;">x &lt; y<b>&amp;</b></p>'
    )
    assert escape(None) == "–"
    assert not isinstance(Html("a") + "<b>", Html)  # what is glued to markup is text again
    assert table(("name", "value"), [("<mu>", 1.0)]).count("&lt;mu&gt;") == 1


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (1.2345, 0.25, "1.23"),
        (-0.05, 0.35, "−0.05"),
        (123.4, 25.0, "123"),
        (0.123456, None, "0.1235"),
        (None, 0.1, "–"),
        (1.0, 0.00123, "1.0000"),
    ],
)
def test_numbers_are_rounded_to_two_digits_of_the_error(
    value: float | None, error: float | None, shown: str
) -> None:
    assert words.rounded(value, error) == shown


def test_an_interval_without_minos_has_the_hesse_error(make: SimpleNamespace) -> None:
    fit = make.fit(minos={}).to_dict()
    assert words.interval(fit, "mu") == "1.00 ± 0.25"
    assert words.spread(fit, "mu") == "± 0.25"


@pytest.mark.parametrize(("value", "shown"), [(210.0, "+5.0%"), (199.99, "0.0%"), (150.0, "−25.0%")])
def test_changes_are_in_percent(value: float, shown: str) -> None:
    assert words.change(value, 200.0) == shown
    assert words.change(value, 0.0) == "–"


def test_closure_of_the_variations(config: dict[str, Any], results: dict[str, Any]) -> None:
    text = str(sections.closure_systematics(config, results))
    assert "tesUp" in text
    assert "1 of 2" in text
    assert "met: χ² 61.5 / 20, p = 3e-06" in text
    assert 'class="bad"' in text


@pytest.mark.usefixtures("undrawn")
def test_a_failed_check_is_a_warning_and_the_first_row(
    tmp_path: Path, config: dict[str, Any], results: dict[str, Any]
) -> None:
    results["checks"][1] |= {"passed": False, "reason": "12 effective events (at least 100), shift -0.3"}
    report.write(tmp_path, config, results, {})
    text = (tmp_path / "index.html").read_text()
    assert "Check failed: weights, htautau (12 effective events" in text
    table = text[text.index("12 effective events (at least 100), shift −0.3") - 400 :]
    assert table.index("FAILED") < table.index("0 of 30 comparisons")
