"""The figures of intervals, limits and toys show the numbers that they were given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2, norm

from neyman import plots
from neyman.errors import InputError
from neyman.inference.results import (
    ContourLevel,
    ContourResult,
    Coverage,
    FeldmanCousins,
    GoodnessOfFit,
    GroupImpact,
    HypothesisTest,
    MethodCoverage,
    NamedVector,
    Significance,
    ToyFits,
    UpperLimit,
)
from neyman.plots import style

GRID = np.linspace(0.0, 3.0, 13)
BAND = tuple(np.linspace(0.5, 1.5, 5))


def limit(best: Any, *, toys: bool = False, expected: bool = True) -> UpperLimit:
    """CLs is exp(-2 value), expected twice to four times as flat."""
    tests = tuple(
        HypothesisTest(
            poi="mu",
            value=float(x),
            calculator="toys" if toys else "asymptotic",
            test_statistic="qtilde",
            q=1.0,
            q_asimov=1.0,
            clsb=0.1,
            clb=0.5,
            cls=float(np.exp(-2.0 * x)),
            cls_error=0.02 if toys else 0.0,
            expected=tuple(np.exp(-2.0 * x / np.array(BAND))) if expected else None,
        )
        for x in GRID
    )
    observed = 0.5 * np.log(20.0)
    band = tuple(observed * np.array(BAND)) if expected else None
    return UpperLimit("mu", 0.95, "asymptotic", "qtilde", observed, 0.0, band, tests, best)


def contour(best: Any, *, bad: int | None = None) -> ContourResult:
    """Ellipses around the best fit of mu and tes."""
    angles = 2.0 * np.pi * np.arange(24) / 24
    levels = []
    for cl in (0.683, 0.955):
        level = chi2.ppf(cl, 2)
        x = best.values["mu"] + np.sqrt(level) * 0.25 * np.cos(angles)
        y = best.values["tes"] + np.sqrt(level) * 0.4 * np.sin(angles)
        points, valid = np.stack([x, y], axis=1), np.ones(24, dtype=bool)
        if bad is not None:
            points[bad], valid[bad] = np.nan, False
        parameters = np.zeros((24, 4))
        levels.append(ContourLevel(cl, level, points, valid, np.zeros(24, dtype=bool), parameters))
    return ContourResult(("mu", "tes"), tuple(levels), best)


def construction(best: Any, intervals: tuple[tuple[float, float], ...]) -> FeldmanCousins:
    """The data follow a parabola around 1, toys have the critical value 1.2."""
    n = len(GRID)
    return FeldmanCousins(
        "mu", 0.683, GRID, (GRID - 1.0) ** 2 / 0.09, np.full(n, 1.2), np.full(n, 0.1), np.full(n, 0.5),
        np.full(n, 0.01), np.full(n, 100.0), intervals, best,
    )  # fmt: skip


def coverage_of(values: Any) -> Coverage:
    """Estimates of a parameter of 1 with the error 0.5."""
    n = len(values)
    methods = (
        MethodCoverage("profile", 69, 0.69, (0.64, 0.74), None),
        MethodCoverage("hesse", 61, 0.61, (0.56, 0.66), 1.0),
    )
    return Coverage(
        "mu", 1.0, 0.683, methods, 0.0, 0.1, 0.0, 0.1, 1.0, 0.1, n, 0, np.asarray(values), np.full(n, 0.5)
    )


def gof(best: Any, **changes: Any) -> GoodnessOfFit:
    return replace(
        GoodnessOfFit("saturated", 12.0, {"binned": 12.0}, 10, 0.285, None, None, None, best), **changes
    )


def discovery(best: Any, **changes: Any) -> Significance:
    return replace(
        Significance("mu", "asymptotic", 9.0, 0.00135, None, 3.0, 1.0, 2.0, 0.0228, None, None, best),
        **changes,
    )


def lines_of(axes: Any, name: str) -> Any:
    return next(line for line in axes.lines if line.get_label() == name)


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def form(record: Any, kind: str) -> Any:
    return record.to_dict() if kind == "dictionary" else record


KINDS = pytest.mark.parametrize("kind", ["record", "dictionary"])


@KINDS
def test_contours_pass_through_their_points(make: SimpleNamespace, kind: str) -> None:
    best = make.fit()
    result = contour(best)
    (axes,) = plots.contours(form(result, kind)).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("μ", "tes")
    assert legend(axes) == ["68.3%", "95.5%", "best fit"]
    for curve, name in zip(result.levels, ("68.3%", "95.5%"), strict=True):
        drawn = np.stack(lines_of(axes, name).get_data(), axis=1)
        assert np.allclose(drawn[0], drawn[-1])
        distance = np.abs(drawn[:, None] - curve.points).sum(axis=2).min(axis=0)
        assert distance.max() < 1e-9
        radius = ((drawn - [1.0, -0.5]) / [0.25, 0.4]) ** 2  # the spline stays on the ellipse
        assert radius.sum(axis=1) == pytest.approx(curve.level, rel=1e-3)
    assert np.ravel(lines_of(axes, "best fit").get_data()) == pytest.approx([1.0, -0.5])
    assert len(axes.patches) == 2


def test_contours_are_open_where_a_point_failed_and_straight_at_a_bound(make: SimpleNamespace) -> None:
    (axes,) = plots.contours(contour(make.fit(), bad=3).to_dict()).axes
    x = np.asarray(lines_of(axes, "68.3%").get_xdata())
    assert np.isnan(x).sum() == 1
    assert not axes.patches
    result = contour(make.fit())
    cut = tuple(replace(level, at_bound=np.arange(24) < 3) for level in result.levels)
    (axes,) = plots.contours(replace(result, levels=cut)).axes
    assert len(lines_of(axes, "95.5%").get_xdata()) == 25


@KINDS
def test_cls_scan_draws_band_and_limit(make: SimpleNamespace, kind: str) -> None:
    (axes,) = plots.cls_scan(form(limit(make.fit()), kind)).axes
    assert np.allclose(lines_of(axes, "observed").get_data(), (GRID, np.exp(-2.0 * GRID)))
    assert np.allclose(lines_of(axes, "expected").get_ydata(), np.exp(-2.0 * GRID))
    assert legend(axes) == ["observed", "expected", "±1σ", "±2σ"]
    two, one = (collection.get_paths()[0].vertices for collection in axes.collections[:2])
    at_one = {round(y, 6) for x, y in two if x == 1.0}
    assert at_one == {round(np.exp(-2.0 / b), 6) for b in (BAND[0], BAND[4])}
    assert {round(y, 6) for x, y in one if x == 1.0} == {round(np.exp(-2.0 / b), 6) for b in BAND[1:4:2]}
    marks = [line for line in axes.lines if line.get_color() == style.RED]
    assert marks[0].get_ydata() == pytest.approx([0.05, 0.05])
    assert marks[1].get_xdata()[0] == pytest.approx(0.5 * np.log(20.0))
    assert [text.get_text() for text in axes.texts] == ["0.05"]
    assert axes.get_title(loc="right") == "μ < 1.50 at 95% CL, expected 1.50 +0.37 −0.37"


def test_cls_scan_of_toys_without_expectation(make: SimpleNamespace) -> None:
    result = limit(make.fit(), toys=True, expected=False)
    (axes,) = plots.cls_scan(result).axes
    bars = axes.containers[0][2][0].get_segments()
    assert bars[0][1, 1] - bars[0][0, 1] == pytest.approx(0.04)
    assert legend(axes) == ["observed"]
    (axes,) = plots.cls_scan(replace(result, observed=np.nan)).axes
    assert axes.get_title(loc="right") == "μ: limit not reached at 95% CL"
    with pytest.raises(InputError, match=r"without tests on a grid[\s\S]*grid="):
        plots.cls_scan(replace(result, tests=()))


@KINDS
def test_construction_compares_with_the_critical_value(make: SimpleNamespace, kind: str) -> None:
    record = construction(make.fit(), ((0.7, 1.3), (2.5, 2.6)))
    (axes,) = plots.construction(form(record, kind)).axes
    assert np.allclose(lines_of(axes, "observed").get_ydata(), record.observed)
    bars = axes.containers[0]
    assert bars[0].get_ydata() == pytest.approx(record.critical)
    assert bars[2][0].get_segments()[0][:, 1] == pytest.approx([1.1, 1.3])
    assert [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches] == [
        pytest.approx(one) for one in record.intervals
    ]
    assert axes.get_title(loc="right") == "μ in [0.700, 1.300] and [2.500, 2.600] at 68.3% CL"
    assert axes.get_ylim()[1] == pytest.approx(3.9)  # the parabola reaches 44
    levels = [line for line in axes.lines if line.get_color() == style.FAINT]
    assert levels[0].get_ydata()[0] == pytest.approx(chi2.ppf(0.683, 1))
    (axes,) = plots.construction(construction(make.fit(), ())).axes
    assert axes.get_title(loc="right") == "no value is accepted at 68.3% CL"


@KINDS
def test_groups_are_ranked_beside_the_whole_uncertainty(make: SimpleNamespace, kind: str) -> None:
    groups = (
        GroupImpact("small", 0.02, ("tes",), "global_observables"),
        GroupImpact("large", 0.2, ("ttbar_norm", "staterror_control[0]"), "conditional"),
    )
    impacts = replace(make.impacts(make.fit()), groups=groups)
    (axes,) = plots.group_impacts(form(impacts, kind)).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["large", "small"]
    assert [patch.get_width() for patch in axes.patches] == pytest.approx([0.2, 0.02])
    assert [t.get_text() for t in axes.texts] == ["0.20  (2 parameters)", "0.020  (1 parameter)"]
    assert axes.lines[0].get_xdata()[0] == 0.25
    assert legend(axes) == ["uncertainty 0.25", "impact of the group"]
    with pytest.raises(InputError, match="no groups to draw"):
        plots.group_impacts(replace(impacts, groups=()))


def test_impacts_of_zero_have_an_axis_of_the_error(make: SimpleNamespace) -> None:
    impacts = make.impacts(make.fit()).to_dict()
    for one in impacts["impacts"]:
        one["up"], one["down"] = 1e-12, 0.0
    bars = plots.pulls_and_impacts(impacts).axes[0]
    assert bars.get_xlim() == pytest.approx((-3.25e-4, 3.25e-4))


def test_correlation_keeps_the_most_correlated(make: SimpleNamespace) -> None:
    (axes,) = plots.correlation(make.fit(), largest=2).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["μ", "tes"]
    assert axes.get_title(loc="left") == "correlation [%], 2 of 3 parameters"
    (axes,) = plots.correlation(make.fit()).axes
    assert axes.get_title(loc="left") == "correlation [%]"


def test_toy_pulls_are_of_unit_area_beside_the_gaussian() -> None:
    values = 1.0 + 0.5 * np.random.default_rng(1).normal(size=(400, 1))
    fits = ToyFits(
        ("mu",), values, np.full((400, 1), 0.5), np.zeros(400), np.ones(400, dtype=bool),
        NamedVector(("mu",), [1.0]),
    )  # fmt: skip
    (axes,) = plots.toy_pulls(fits, "mu").axes
    density, edges, _ = axes.patches[0].get_data()
    assert (density * np.diff(edges)).sum() == pytest.approx(1.0)
    x, y = lines_of(axes, "unit Gaussian").get_data()
    assert y == pytest.approx(norm.pdf(x))
    pulls = (values[:, 0] - 1.0) / 0.5
    mean, width = f"{pulls.mean():.3f}".replace("-", "−"), f"{pulls.std(ddof=1):.3f}"
    title = axes.get_title(loc="right")
    assert title.startswith(f"mean {mean} ± 0.0")
    assert f"width {width} ± 0.0" in title
    assert axes.get_xlabel() == "pull of μ"
    with pytest.raises(InputError, match="there are 0 pulls of 'mu' to draw"):
        plots.toy_pulls(replace(fits, valid=np.zeros(400, dtype=bool)), "mu")


@KINDS
def test_coverage_beside_its_level(kind: str) -> None:
    result = coverage_of(1.0 + 0.5 * np.random.default_rng(2).normal(size=100))
    left, right = plots.coverage(form(result, kind)).axes
    points, _, (bars,) = left.containers[0]
    assert np.allclose(points.get_data(), ([0.69, 0.61], [0, 1]))
    assert np.allclose([s[:, 0] for s in bars.get_segments()], [[0.64, 0.74], [0.56, 0.66]])
    assert [t.get_text() for t in left.get_yticklabels()] == ["profile", "HESSE"]
    assert [t.get_text() for t in left.texts] == ["69.0%", "61.0%", "68.3%"]
    low, high = left.get_xlim()
    assert low < 0.56
    assert high > 0.74
    assert left.get_xlabel() == "coverage of μ = 1"
    assert right.get_title(loc="right").startswith("mean")


@KINDS
def test_goodness_of_fit_with_and_without_toys(make: SimpleNamespace, kind: str) -> None:
    (axes,) = plots.goodness_of_fit(form(gof(make.fit()), kind)).axes
    x, y = lines_of(axes, "χ² of 10 d.o.f.").get_data()
    assert y == pytest.approx(chi2.pdf(x, 10))
    assert lines_of(axes, "observed").get_xdata()[0] == 12.0
    assert axes.get_title(loc="right") == "p = 0.285"
    sample = np.random.default_rng(4).chisquare(10, 300)
    toys = gof(make.fit(), calculator="toys", toys=sample, n_toys=300, p_value_interval=(0.2, 0.3))
    (axes,) = plots.goodness_of_fit(form(toys, kind)).axes
    density, edges, _ = axes.patches[0].get_data()
    assert (density * np.diff(edges)).sum() == pytest.approx(1.0)
    assert edges[0] <= sample.min()
    assert edges[-1] >= sample.max()
    assert legend(axes) == ["300 toys", "χ² of 10 d.o.f.", "observed"]


def test_goodness_of_fit_needs_a_distribution(make: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="no distribution to draw"):
        plots.goodness_of_fit(gof(make.fit(), ndof=0, p_value=np.nan))
    only_toys = gof(make.fit(), ndof=0, toys=np.array([3.0, 5.0, 8.0]), n_toys=3, p_value=0.1)
    (axes,) = plots.goodness_of_fit(only_toys).axes
    assert legend(axes) == ["3 toys", "observed"]


@KINDS
def test_significance_draws_half_a_chi2(make: SimpleNamespace, kind: str) -> None:
    (axes,) = plots.significance(form(discovery(make.fit()), kind)).axes
    x, y = lines_of(axes, "asymptotic").get_data()
    assert y == pytest.approx(0.5 * chi2.pdf(x, 1))
    assert x[-1] > 9.0
    assert lines_of(axes, "observed").get_xdata()[0] == 9.0
    assert lines_of(axes, "expected, μ = 1").get_xdata()[0] == 4.0
    assert axes.get_yscale() == "log"
    assert axes.get_title(loc="right") == "Z = 3.00, p = 0.0014"


def test_significance_beyond_all_toys(make: SimpleNamespace) -> None:
    sample = np.maximum(np.random.default_rng(5).normal(size=200), 0.0) ** 2
    beyond = discovery(
        make.fit(), q0=30.0, z=np.inf, p_value=0.0, p_value_interval=(0.0, 0.0091), toys=sample, n_toys=200,
        expected_at=None, expected_z=None, expected_p_value=None,
    )  # fmt: skip
    (axes,) = plots.significance(beyond).axes
    assert axes.get_title(loc="right") == "beyond all toys, p < 0.0091"
    assert legend(axes) == ["200 toys", "asymptotic", "observed"]
    density, edges, _ = axes.patches[0].get_data()
    assert (density * np.diff(edges)).sum() == pytest.approx(1.0)
    assert axes.get_ylim()[1] > density.max()
    assert axes.get_xlim()[1] > 30.0


def test_no_text_overlaps_another(make: SimpleNamespace) -> None:
    """Labels, titles, legends, tick labels and notes of every figure."""
    best = make.fit()
    long = replace(
        make.impacts(best),
        groups=tuple(
            GroupImpact(f"a group with a long name {i}", 0.03 * i, ("tes",), "conditional") for i in range(9)
        ),
    )
    toys = np.random.default_rng(6).chisquare(10, 500)
    figures = {
        "contours": plots.contours(contour(best)),
        "cls_scan": plots.cls_scan(limit(best)),
        "construction": plots.construction(construction(best, ((0.7, 1.3), (2.5, 2.6)))),
        "group_impacts": plots.group_impacts(long),
        "coverage": plots.coverage(coverage_of(np.linspace(-1.0, 3.0, 100))),
        "goodness_of_fit": plots.goodness_of_fit(gof(best, toys=toys, n_toys=500)),
        "significance": plots.significance(discovery(best, toys=toys - 5.0, n_toys=500)),
    }
    for name, figure in figures.items():
        width, height = figure.canvas.get_width_height()
        for axes in figure.axes:
            # Boxes of tick labels in a corner touch by the room for descenders.
            boxes = [(text.get_text(), text.get_window_extent().padded(-1.5)) for text in _texts(axes)]
            if axes.get_legend() is not None:
                boxes.append(("legend", axes.get_legend().get_window_extent()))
            for i, (text, box) in enumerate(boxes):
                assert [t for t, other in boxes[i + 1 :] if box.overlaps(other)] == [], f"{name}: {text}"
                assert min(box.x0, box.y0) >= -1.0, f"{name}: {text}"
                assert box.x1 <= width + 1.0, f"{name}: {text}"
                assert box.y1 <= height + 1.0, f"{name}: {text}"


def _texts(axes: Any) -> list[Any]:
    inside = []
    for axis, low, high in ((axes.xaxis, *sorted(axes.get_xlim())), (axes.yaxis, *sorted(axes.get_ylim()))):
        ticks = zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
        inside += [text for text, place in ticks if low <= place <= high]
    titles = [axes._left_title, axes.title, axes._right_title]
    every = [axes.xaxis.label, axes.yaxis.label, *titles, *axes.texts, *inside]
    return [text for text in every if text.get_text() and text.get_visible()]


def test_a_figure_is_written_whole_or_not_at_all(
    make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = plots.cls_scan(limit(make.fit()))
    with pytest.raises(InputError, match=r"cannot be written to 'a.svg'[\s\S]*ends in .png or .pdf"):
        style.save(figure, tmp_path / "a.svg")
    style.save(figure, tmp_path / "a.PDF")
    before = (tmp_path / "a.PDF").read_bytes()

    def stop(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", stop)
    with pytest.raises(InputError, match=r"cannot write a.PDF: No space left on device"):
        style.save(figure, tmp_path / "a.PDF")
    assert (tmp_path / "a.PDF").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.PDF"]
