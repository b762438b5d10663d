"""The figures of the checks show the numbers that they were given, and the verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neyman.diagnostics.calibration import calibration_curve
from neyman.diagnostics.closure import check_closure, closure, closure_slices
from neyman.diagnostics.expected_coverage import expected_coverage
from neyman.diagnostics.spread import ensemble_spread
from neyman.diagnostics.support import support
from neyman.diagnostics.two_sample import TwoSample
from neyman.diagnostics.weights import ratio_weights
from neyman.errors import InputError
from neyman.networks.calibration import Calibration
from neyman.plots import trust, weights

RED = "#bd1f01"


def results(scale: float) -> dict[str, Any]:
    """One result of every check of two Gaussians, exact for `scale` 1."""
    rng = np.random.default_rng(1)
    p, q = rng.normal(size=(2, 6000, 2)) + np.array([0.5, 0.0]) * np.array([1.0, -1.0])[:, None, None]
    w, l_p, l_q = np.where(rng.random(6000) < 0.05, -1.0, 1.0), scale * p[:, 0], scale * q[:, 0]
    slices = closure_slices("p", ["x", "y"], (p, w), (q, w), l_q, by=("y", p[:, 1], q[:, 1]), slices=3)
    grid = np.linspace(-2.0, 2.0, 41)
    truth = rng.integers(0, 41, 300)
    likelihood = -2.0 * scale**3 * (rng.normal(grid[truth], 0.5)[:, None] - grid) ** 2
    members = (
        l_q + 0.7 * (scale - 1.0) * rng.normal(size=(4, 1)) * q[:, 0] + 1e-3 * rng.normal(size=(4, 6000))
    )
    share = np.linspace(0.0, 1.0, 11)
    auc = 0.5 + 0.4 * (scale - 1.0)
    return {
        "closure_check": check_closure(closure("p", ["x", "y"], (p, w), (q, w), l_q) + slices),
        "closure_slices": slices,
        "calibration_curve": calibration_curve(l_p, w, l_q, w),
        "two_sample": TwoSample(
            "two-sample test", scale == 1.0, "", auc, 0.005, share, share + (auc - 0.5) * share * (1.0 - share),
            np.linspace(-1.0, 1.0, 11), *(np.full(10, value) for value in (0.1, 0.01, 0.1, 0.01)), 0.01,
        ),
        "ratio_weights": ratio_weights(w, 1.2 * (scale - 1.0) + l_q),
        "ensemble_spread": ensemble_spread(members, w),
        "support": support(["x", "y"], (p * scale**2, w), (q, w), l_p * scale**3, l_q),
        "expected_coverage": expected_coverage(likelihood, truth, seed=1),
    }  # fmt: skip


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """Checks that pass."""
    return results(1.0)


@pytest.fixture(scope="module")
def bad() -> dict[str, Any]:
    """Checks that fail."""
    return results(1.5)


@pytest.fixture(scope="module")
def drawn(bad: dict[str, Any]) -> dict[str, Any]:
    """Their figures."""
    return {name: draw(name, result) for name, result in bad.items()}


def draw(name: str, result: Any) -> Any:
    return getattr(trust if hasattr(trust, name) else weights, name)(result)


def contents(figure: Any) -> list[Any]:
    """All texts, lines, and outlines of a figure."""
    found: list[Any] = [texts(figure)]
    for axes in figure.axes:
        found += [line.get_xydata().tolist() for line in axes.lines]
        found += [patch.get_path().vertices.tolist() for patch in axes.patches]
        found += [path.vertices.tolist() for group in axes.collections for path in group.get_paths()]
    return found


def texts(figure: Any) -> str:
    return "\n".join(
        text.get_text()
        for axes in figure.axes
        for text in [axes.title, axes._left_title, axes._right_title, *axes.texts]
    )


NAMES = (
    "closure_check", "calibration_curve", "two_sample", "ratio_weights", "ensemble_spread", "support",
    "expected_coverage",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_says_its_verdict(
    name: str, good: dict[str, Any], bad: dict[str, Any], drawn: dict[str, Any]
) -> None:
    assert good[name].passed, good[name].reason
    assert not bad[name].passed, bad[name].reason
    for figure, word, colour in ((draw(name, good[name]), "passed", "#1b1f24"), (drawn[name], "FAILED", RED)):
        titles = [axes._right_title for axes in figure.axes if word in axes._right_title.get_text()]
        assert [title.get_color() for title in titles] == [colour]


@pytest.mark.parametrize("name", [*NAMES, "closure_slices"])
def test_records_and_dictionaries_give_the_same_picture(
    name: str, bad: dict[str, Any], drawn: dict[str, Any]
) -> None:
    result = bad[name]
    data = [one.to_dict() for one in result] if name == "closure_slices" else result.to_dict()
    np.testing.assert_equal(contents(draw(name, data)), contents(drawn[name]))


@pytest.mark.parametrize("name", [*NAMES, "closure_slices"])
def test_no_label_leaves_the_page_or_covers_another(name: str, drawn: dict[str, Any]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn[name]
    renderer = FigureCanvasAgg(figure).get_renderer()
    page = figure.bbox
    boxes = []
    for axes in figure.axes:
        shown = [axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label]
        for text in [*shown, *axes.texts]:
            if text.get_text().strip() and text.get_visible():
                box = text.get_window_extent(renderer)
                assert page.x0 - 1 <= box.x0, text
                assert box.x1 <= page.x1 + 1, text
                assert page.y0 - 1 <= box.y0, text
                assert box.y1 <= page.y1 + 1, text
                boxes.append((box, text))
        if legend := axes.get_legend():
            boxes.append((legend.get_window_extent(renderer), "legend"))
    for i, (a, first) in enumerate(boxes):
        for b, second in boxes[i + 1 :]:
            assert not a.padded(-1).overlaps(b.padded(-1)), (first, second)


def test_calibration_points(bad: dict[str, Any], drawn: dict[str, Any]) -> None:
    result = bad["calibration_curve"]
    main, low = drawn["calibration_curve"].axes
    points = main.containers[0].lines[0].get_xydata()
    assert points[:, 0] == pytest.approx(result.predicted)
    assert points[:, 1] == pytest.approx(result.observed)
    assert low.containers[0].lines[0].get_ydata() == pytest.approx(result.observed - result.predicted)


def test_closure_rows_are_ordered_and_marked(bad: dict[str, Any], drawn: dict[str, Any]) -> None:
    result = bad["closure_check"]
    (axes,) = drawn["closure_check"].axes
    rows = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert len(rows) == len(result.closures) == 8
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels[0] == "x"
    red = [line.get_color() == RED for line in rows]
    failing = [
        p < 1e-3 and c.deviation > 0.05 for c, p in zip(result.closures, result.corrected, strict=True)
    ]
    assert sum(red) == sum(failing) > 0
    assert red == sorted(red, reverse=True)


def test_closure_check_marks_what_is_missing() -> None:
    rng, one = np.random.default_rng(2), np.ones(2000)
    a, b = rng.normal(8.0, 1.0, (2000, 1)), rng.normal(0.0, 1.0, (2000, 1))
    figure = trust.closure_check(check_closure(closure("p", ["x"], (a, one), (b, one), np.zeros(2000))))
    assert "% missing" in texts(figure)


def test_many_closures_show_the_worst_forty() -> None:
    rng, one = np.random.default_rng(3), np.ones(500)
    a, b = rng.normal(size=(2, 500, 50))
    names = [f"f{i}" for i in range(50)]
    (axes,) = trust.closure_check(check_closure(closure("p", names, (a, one), (b, one), np.zeros(500)))).axes
    assert len(axes.get_yticklabels()) == 40


def test_slices_are_a_grid(drawn: dict[str, Any]) -> None:
    figure = drawn["closure_slices"]
    assert len(figure.axes) == 6
    assert "y > " in figure.axes[-1]._left_title.get_text()
    assert figure.axes[0]._left_title.get_color() == RED  # x is wrong in every slice
    assert figure.axes[1]._left_title.get_color() != RED


def test_slices_of_several_processes_are_refused() -> None:
    with pytest.raises(InputError, match="a figure of slices shows one process"):
        trust.closure_slices([])


def test_calibration_maps() -> None:
    rng, one = np.random.default_rng(4), np.ones(2000)
    p, q = rng.normal(0.65, 1.3, 2000), rng.normal(-0.65, 1.3, 2000)
    maps = {name: Calibration.fit(name, p, one, q, one) for name in ("isotonic", "platt")}
    (axes,) = trust.calibration_map(maps).axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["isotonic", "platt"]
    line = next(line for line in axes.lines if line.get_label() == "platt")
    x, y = line.get_xydata().T
    assert y == pytest.approx(maps["platt"](x) - x)
    isotonic = next(line for line in axes.lines if line.get_label() == "isotonic")
    assert np.isnan(isotonic.get_ydata()).any()  # dotted beyond the last point
    with pytest.raises(InputError, match="there are no calibrations to draw"):
        trust.calibration_map({})


def test_spread_and_statistical_error(bad: dict[str, Any], drawn: dict[str, Any]) -> None:
    result = bad["ensemble_spread"]
    main, _ = drawn["ensemble_spread"].axes
    heights = [patch.get_data().values for patch in main.patches]
    assert heights[0] == pytest.approx(result.statistical)
    assert heights[1] == pytest.approx(result.spread)


def test_support_shows_the_worst_feature_first(bad: dict[str, Any], drawn: dict[str, Any]) -> None:
    _, right = drawn["support"].axes
    outside = bad["support"].below + bad["support"].above
    names = [tick.get_text() for tick in right.get_yticklabels()]
    assert names == (["x", "y"] if outside[0] >= outside[1] else ["y", "x"])


def test_coverage_curve(bad: dict[str, Any], drawn: dict[str, Any]) -> None:
    result = bad["expected_coverage"]
    (axes,) = drawn["expected_coverage"].axes
    assert axes.lines[-1].get_ydata() == pytest.approx(result.coverage)
    assert "overconfident" in texts(axes.figure)
