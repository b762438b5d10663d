"""Figures of an unfolding show the numbers that they were given."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from neyman import plots
from neyman.errors import InputError
from neyman.unfolding import (
    ClosureTest,
    Comparison,
    Spectrum,
    StepRecord,
    Support,
    Unfolding,
    mse_rel,
    sigma_rel,
)

EDGES = np.array([0.0, 1.0, 2.0, 4.0])
VALUES = np.array([1000.0, 800.0, 500.0])
TRUTH = np.array([1010.0, 780.0, 500.0])
PRIOR = np.array([1100.0, 700.0, 450.0])
DATA = np.array([[900.0, -300.0, 0.0], [-300.0, 800.0, 50.0], [0.0, 50.0, 600.0]])
SHIFT = np.array([20.0, -10.0, 5.0])
RED = "#bd1f01"


def make(values: Any = VALUES, edges: Any = (EDGES,), **sources: Any) -> Spectrum:
    """A spectrum with replicas of the data, a training spread and a systematic variation."""
    n = len(values)
    if not sources and n == 3:
        sources = {"data": DATA, "training": 100.0 * np.eye(3), "jes": np.outer(SHIFT, SHIFT)}
    names, units = (("x", "y", "z")[: len(edges)], ("", "GeV", "")[: len(edges)])
    return Spectrum(names, units, edges, np.asarray(values, dtype=float), sources, 0.5 * np.abs(values))


def plane() -> Spectrum:
    """Two slices of three bins."""
    values = np.array([900.0, 300.0, 20.0, 400.0, 100.0, 8.0])
    edges = (np.array([-1.0, 0.0, 1.0]), np.array([20.0, 50.0, 100.0, 1000.0]))
    return make(values, edges, data=np.diag(values))


def steps(levels: Any = ("detector", "particle"), iterations: int = 3, losses: Any = (0.65, 0.66)) -> Any:
    return tuple(
        StepRecord(k, level, losses, tuple(loss < np.log(2.0) for loss in losses), (10,) * len(losses),
                   1.0 + 0.1 / (k + 1), 900.0 - 50.0 * k, 3.0 + k)
        for k in range(iterations)
        for level in levels
    )  # fmt: skip


def make_unfolding(members: int = 2, **changes: Any) -> Unfolding:
    rng = np.random.default_rng(1)
    push = np.exp(0.3 * rng.normal(size=(members, 1000)))
    fields: dict[str, Any] = {
        "weight": np.full(1000, 2.0), "members": push, "pull_members": push,
        "passes_truth": np.arange(1000) < 900, "passes_reconstruction": np.ones(1000, dtype=bool),
        "factor": np.ones(1000), "aggregate": "mean", "mode": "parallel", "steps": steps(),
        "support": Support({"x": 0.0, "y": 0.03}, 0.002, 5.0),
    }  # fmt: skip
    return Unfolding(**(fields | changes))


def make_closure(p_value: float = 0.3) -> ClosureTest:
    difference = np.sqrt(np.array([400.0, 250.0, 100.0]))
    found = Comparison(3.5, 3, p_value, (VALUES - TRUTH) / difference, VALUES / TRUTH - 1.0)
    truth = Spectrum(("x",), ("",), (EDGES,), TRUTH, {}, TRUTH)
    return ClosureTest(make_unfolding(), {"x": make()}, {"x": truth}, {"x": PRIOR}, {"x": found})


def points(axes: Any, k: int = 0) -> Any:
    return axes.containers[k][0].get_ydata()


def bars(axes: Any, k: int = 0) -> Any:
    """Half lengths of the error bars."""
    segments = axes.containers[k][2][0].get_segments()
    return np.array([0.5 * (segment[1, 1] - segment[0, 1]) for segment in segments])


def named(axes: Any) -> dict[str, Any]:
    """Contents of the outlines by their label."""
    return {patch.get_label(): patch.get_data().values for patch in axes.patches}


def legend(owner: Any) -> list[str]:
    return [text.get_text() for text in owner.get_texts()]


TOTAL = np.sqrt(np.diag(DATA) + 100.0 + SHIFT**2)
FIGURES = {
    "spectrum": lambda: plots.unfolded_spectrum(make(), truth=TRUTH, prior=PRIOR),
    "plane": lambda: plots.unfolded_spectrum(plane(), truth=plane().values),
    "errors": lambda: plots.spectrum_errors(make()),
    "errors_plane": lambda: plots.spectrum_errors(plane()),
    "correlation": lambda: plots.spectrum_correlation(make()),
    "correlation_plane": lambda: plots.spectrum_correlation(plane()),
    "iterations": lambda: plots.unfolding_iterations(
        [PRIOR, make([1050.0, 750.0, 480.0]), make()], truth=TRUTH
    ),
    "trainings": lambda: plots.unfolding_trainings(make_unfolding(steps=steps(losses=(0.65, 0.7)))),
    "weights": lambda: plots.unfolding_weights(make_unfolding(3)),
    "folded": lambda: plots.unfolding_folded(folded()),
    "closure": lambda: plots.closure_test(make_closure()),
    "stability": lambda: plots.unfolding_stability(TRUTH, passes(), EDGES, name="x", unit="GeV"),
}


@cache
def drawn(name: str) -> Any:
    """Figures that several tests look at."""
    return FIGURES[name]()


@pytest.mark.parametrize("name", FIGURES)
def test_no_label_leaves_the_page_or_covers_another(name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn(name)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(found.get_window_extent(renderer), "legend") for found in figure.legends]
    page = figure.get_tightbbox(renderer)  # in inches
    assert page.xmin >= -0.01
    assert page.ymin >= -0.01
    assert page.xmax <= figure.get_figwidth() + 0.01
    assert page.ymax <= figure.get_figheight() + 0.01
    for axes in figure.axes:
        assert axes.get_window_extent(renderer).height > 60.0  # the layout has not collapsed
        ends = sorted(axes.get_xlim())
        ticks = [t for t in axes.get_xticklabels() if ends[0] <= t.get_position()[0] <= ends[1]]
        shown = [
            *(axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label),
            *axes.texts,
            *ticks,
        ]
        boxes += [
            (text.get_window_extent(renderer), text)
            for text in shown
            if text.get_text().strip() and text.get_visible()
        ]
        if found := axes.get_legend():
            assert legend(found)
            boxes.append((found.get_window_extent(renderer), "legend"))
    for (a, first), (b, second) in combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (first, second)


# Spectra --------------------------------------------------------------------------------------------------


def test_spectrum_has_total_errors_and_a_ratio_to_the_truth() -> None:
    main, low = drawn("spectrum").axes
    assert points(main) == pytest.approx(VALUES)
    assert bars(main) == pytest.approx(TOTAL)
    lines = named(main)
    assert lines["truth"] == pytest.approx(TRUTH)
    assert lines["prior"] == pytest.approx(PRIOR)
    assert lines["systematics and training"] == pytest.approx(VALUES + np.sqrt(100.0 + SHIFT**2))
    assert points(low) == pytest.approx(VALUES / TRUTH)
    assert bars(low) == pytest.approx(TOTAL / TRUTH)
    assert low.get_ylabel() == "ratio to truth"
    assert low.patches[2].get_data().values == pytest.approx(PRIOR / TRUTH)
    assert main.get_yscale() == "linear"
    assert low.get_xlim() == (0.0, 4.0)
    assert legend(main.get_legend()) == ["unfolded", "systematics and training", "truth", "prior"]


def test_without_a_truth_the_ratio_is_to_the_prior_and_without_both_there_is_none() -> None:
    _, low = plots.unfolded_spectrum(make(), prior=PRIOR).axes
    assert points(low) == pytest.approx(VALUES / PRIOR)
    assert low.get_ylabel() == "ratio to prior"
    (main,) = plots.unfolded_spectrum(make()).axes
    assert main.get_xlabel() == "x"
    assert legend(main.get_legend()) == ["unfolded", "systematics and training"]


@pytest.mark.parametrize(
    ("sources", "name"),
    [({"data": DATA, "training": np.eye(3)}, "training"), ({"data": DATA, "jes": np.eye(3)}, "systematics")],
)
def test_band_is_called_what_it_is(sources: dict[str, Any], name: str) -> None:
    (main,) = plots.unfolded_spectrum(make(**sources)).axes
    assert legend(main.get_legend()) == ["unfolded", name]
    (main,) = plots.unfolded_spectrum(make(data=DATA)).axes
    assert legend(main.get_legend()) == ["unfolded"]


def test_without_replicas_errors_are_those_of_the_fill() -> None:
    (main,) = plots.unfolded_spectrum(make(training=100.0 * np.eye(3))).axes
    assert bars(main) == pytest.approx(np.sqrt(0.5 * VALUES + 100.0))
    (axes,) = plots.spectrum_errors(make(training=100.0 * np.eye(3))).axes
    assert legend(axes.get_legend()) == ["total", "statistics of the fill", "training"]
    assert named(axes)["statistics of the fill"] == pytest.approx(100.0 * np.sqrt(0.5 / VALUES))


def test_records_and_dictionaries_give_the_same_spectrum() -> None:
    truth = replace(make(), values=TRUTH)
    a, b = (
        plots.unfolded_spectrum(s, truth=t) for s, t in ((make(), truth), (make().to_dict(), truth.to_dict()))
    )
    for left, right in zip(a.axes, b.axes, strict=True):
        assert points(left) == pytest.approx(points(right))
        assert bars(left) == pytest.approx(bars(right))


def test_steep_spectra_have_a_logarithmic_axis_down_to_the_smallest_bin() -> None:
    steep = make([4000.0, 300.0, 20.0], data=np.diag([4000.0, 300.0, 20.0]))
    (main,) = plots.unfolded_spectrum(steep).axes
    assert main.get_yscale() == "log"
    low, high = main.get_ylim()
    assert 2.0 < low < 15.0
    assert 4000.0 < high < 20000.0
    density = steep.normalised()
    (main,) = plots.unfolded_spectrum(density).axes
    assert main.get_ylim()[0] < density.values.min()
    assert main.get_ylabel() == "normalised density"


def test_an_empty_bin_is_no_obstacle() -> None:
    values = np.array([1000.0, 20.0, 0.0])
    empty = make(values, data=np.diag(values))
    main, low = plots.unfolded_spectrum(empty, truth=[900.0, 30.0, 0.0]).axes
    assert np.isnan(points(low)[2])
    assert main.get_ylim()[0] > 1.0
    (axes,) = plots.spectrum_errors(empty).axes
    assert named(axes)["total"][2] == 0.0
    (axes,) = plots.spectrum_correlation(empty).axes
    assert axes.images[0].get_array()[2, 2] == 0.0


def test_large_numbers_have_their_power_of_ten_in_the_name_of_the_axis() -> None:
    (main,) = plots.unfolded_spectrum(make(1e6 * VALUES, data=DATA)).axes
    assert main.get_ylabel() == "events in a bin / $10^{9}$"
    assert main.yaxis.get_major_formatter()(5e8, 0) == "0.5"


def test_bins_of_very_different_widths_have_a_logarithmic_axis() -> None:
    edges = np.array([20.0, 30.0, 100.0, 1000.0])
    figure = plots.unfolded_spectrum(make(edges=(edges,)), truth=TRUTH)
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    ticks = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert {"20", "50", "100", "200", "500", "1000"} <= set(ticks)


def test_points_outside_the_ratio_are_marked() -> None:
    _, low = plots.unfolded_spectrum(
        make([1000.0, 800.0, 5000.0], data=DATA), truth=[1000.0, 800.0, 500.0]
    ).axes
    assert low.get_ylim() == pytest.approx((0.65, 2.0))
    marks = [line for line in low.lines if line.get_marker() == "d" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in marks] == [[3.0]]
    assert marks[0].get_color() == RED


def test_a_bad_prior_does_not_hide_the_errors() -> None:
    _, low = plots.unfolded_spectrum(make(), truth=VALUES, prior=VALUES * [1.9, 1.0, 0.9]).axes
    largest = float((TOTAL / VALUES).max())
    assert low.get_ylim()[1] == pytest.approx(1.0 + 1.15 * 3.0 * largest)


def test_two_observables_are_slices_side_by_side() -> None:
    main, low = drawn("plane").axes
    assert points(main) == pytest.approx(plane().values)
    assert [text.get_text() for text in main.texts] == ["−1 to 0", "0 to 1"]
    assert [text.get_text() for text in low.get_xticklabels()] == ["20–50", "50–100", "100–1000"] * 2
    assert low.get_xlabel() == "y [GeV] in slices of x"
    (axes,) = drawn("correlation_plane").axes
    assert "0 to 1" in [text.get_text() for text in axes.texts]


def test_wrong_bins_and_densities_are_refused() -> None:
    with pytest.raises(InputError, match=r"the truth has 2 bins[\s\S]*expected: 3, those of the spectrum"):
        plots.unfolded_spectrum(make(), truth=[1.0, 2.0])
    with pytest.raises(InputError, match=r"the prior is a density, the spectrum is not[\s\S]*normalise both"):
        plots.unfolded_spectrum(make(), prior=make().normalised())
    with pytest.raises(InputError, match="the truth is not a density, the spectrum is one"):
        plots.unfolded_spectrum(make().normalised(), truth=make())


def test_errors_by_source_are_relative() -> None:
    (axes,) = drawn("errors").axes
    lines = named(axes)
    assert lines["total"] == pytest.approx(100.0 * TOTAL / VALUES)
    assert lines["data"] == pytest.approx(100.0 * np.sqrt(np.diag(DATA)) / VALUES)
    assert lines["training"] == pytest.approx(1000.0 / VALUES)
    assert lines["jes"] == pytest.approx(100.0 * np.abs(SHIFT) / VALUES)
    assert legend(axes.get_legend()) == ["total", "data", "training", "jes"]


def test_small_systematics_are_added_up() -> None:
    varied = {f"s{k}": (k + 1.0) ** 2 * np.eye(3) for k in range(9)}
    (axes,) = plots.spectrum_errors(make(data=DATA, **varied)).axes
    assert legend(axes.get_legend()) == ["total", "data", "s8", "s7", "s6", "s5", "s4", "s3", "3 others"]
    assert named(axes)["3 others"] == pytest.approx(100.0 * np.sqrt(1.0 + 4.0 + 9.0) / VALUES)


def test_errors_that_differ_much_have_a_logarithmic_axis() -> None:
    (axes,) = plots.spectrum_errors(make(data=np.diag([100.0, 100.0, 250000.0]))).axes
    assert axes.get_yscale() == "log"


def test_correlation_has_its_numbers_in_percent() -> None:
    (axes,) = drawn("correlation").axes
    expected = make().correlation
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(expected)
    shown = [text.get_text().replace("−", "-") for text in axes.texts]
    assert [int(words) for words in shown] == [round(100.0 * x) for x in expected.reshape(-1)]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2", "4"]


def test_large_correlation_matrices_have_a_scale_instead_of_numbers() -> None:
    values = np.full(40, 100.0)
    figure = plots.spectrum_correlation(make(values, (np.linspace(0.0, 1.0, 41),), data=np.diag(values)))
    axes, scale = figure.axes
    assert not axes.texts
    assert scale.get_ylabel() == "correlation"
    assert len(axes.get_xticks()) <= 24


# How it went ----------------------------------------------------------------------------------------------


def test_iterations_over_the_truth_with_changes_in_units_of_the_error() -> None:
    first = np.array([1050.0, 750.0, 480.0])
    left, right = drawn("iterations").axes
    lines = named(left)
    assert lines["prior"] == pytest.approx(PRIOR / TRUTH)
    assert lines["iteration 1"] == pytest.approx(first / TRUTH)
    assert lines["iteration 2"] == pytest.approx(VALUES / TRUTH)
    assert lines["error"] == pytest.approx((VALUES + TOTAL) / TRUTH)

    def rms(a: Any, b: Any) -> float:
        return float(np.sqrt(np.mean(((a - b) / TOTAL) ** 2)))

    change, distance = (line.get_xydata() for line in right.lines[:2])
    assert change == pytest.approx(np.array([[1, rms(first, PRIOR)], [2, rms(VALUES, first)]]))
    assert distance[:, 1] == pytest.approx([rms(one, TRUTH) for one in (PRIOR, first, VALUES)])
    assert legend(right.get_legend()) == ["change", "distance from the truth"]
    assert left.get_ylabel() == "ratio to truth"


def test_iterations_without_a_truth_are_compared_with_the_last() -> None:
    many = [PRIOR, *(VALUES + (PRIOR - VALUES) * 0.3**k for k in range(1, 10)), make()]
    left, right = plots.unfolding_iterations(many).axes
    assert left.get_ylabel() == "ratio to the last"
    names = legend(left.get_legend())
    assert names == ["error", "prior", "iteration 1", "iteration 2", "iteration 5", "iteration 10"]
    assert right.get_yscale() == "log"
    assert legend(right.get_legend()) == ["change"]


def test_a_single_spectrum_has_no_iterations() -> None:
    with pytest.raises(InputError, match="there are 1 spectra to compare"):
        plots.unfolding_iterations([make()])
    with pytest.raises(InputError, match="the spectrum after 1 iterations has 2 bins"):
        plots.unfolding_iterations([PRIOR, [1.0, 2.0], make()])


def test_trainings_show_every_loss_below_that_of_a_constant() -> None:
    found = make_unfolding(steps=steps(("detector", "particle", "fakes"), 2, (0.65, 0.7)))
    figure = plots.unfolding_trainings(found.to_dict())
    losses, factor, size, largest = figure.axes
    good = [line.get_ydata().tolist() for line in losses.lines if line.get_marker() == "o"]
    assert np.concatenate(good) == pytest.approx([np.log(2.0) - 0.65] * 6)
    silent = [line for line in losses.lines if line.get_marker() == "v"]
    assert [len(line.get_xdata()) for line in silent] == [1] * 6
    assert factor.lines[0].get_xydata() == pytest.approx(np.array([[1, 1.1], [2, 1.05]]))
    assert size.lines[1].get_ydata() == pytest.approx([900.0, 850.0])
    assert largest.lines[2].get_ydata() == pytest.approx([3.0, 4.0])
    assert legend(figure.legends[0]) == [
        "detector level", "particle level", "events without particle level", "separates nothing",
    ]  # fmt: skip
    assert "separates nothing" not in legend(plots.unfolding_trainings(make_unfolding()).legends[0])


def test_losses_are_judged_by_the_right_constant() -> None:
    mlc = StepRecord(0, "detector", (-0.1, 0.02), (True, False), (5, 5), 1.0, 100.0, 2.0)
    with pytest.raises(
        InputError, match=r"loss 0.02 separates nothing[\s\S]*iteration 1, detector[\s\S]*flat=0.0"
    ):
        plots.unfolding_trainings(make_unfolding(steps=(mlc,)))
    losses = plots.unfolding_trainings(make_unfolding(steps=(mlc,)), flat=0.0).axes[0]
    assert losses.lines[0].get_ydata() == pytest.approx([0.1])
    with pytest.raises(InputError, match="there are no trainings to draw"):
        plots.unfolding_trainings(make_unfolding(steps=()))


def test_weights_of_members_and_of_their_combination() -> None:
    found = make_unfolding(3)
    left, right = drawn("weights").axes
    assert len(left.patches) == 4
    edges = left.patches[-1].get_data().edges
    shares = np.histogram(found.push[:900], edges)[0] / 900
    assert left.patches[-1].get_data().values == pytest.approx(shares)
    assert shares.sum() == pytest.approx(1.0)
    assert legend(left.get_legend()) == ["members", "push weight"]
    largest = np.sort(found.unfolded[:900])[::-1]
    assert right.lines[1].get_ydata()[0] == pytest.approx(largest[0] / largest.sum())
    assert right.lines[1].get_ydata()[-1] == pytest.approx(1.0)
    assert right._right_title.get_text() == f"{found.effective_size:,.0f} of 900 effective events"


def test_weights_may_be_columns_and_one_member_needs_no_spread() -> None:
    left, _ = plots.unfolding_weights(make_unfolding(1).weights()).axes
    assert legend(left.get_legend()) == ["push weight"]
    with pytest.raises(InputError, match="there are no weights: weight, push, passes_truth missing"):
        plots.unfolding_weights(make_unfolding().to_dict())


# Tests of it ----------------------------------------------------------------------------------------------


def folded(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "data": [0.5, 0.6, 1.5, 4.0, 9.0], "simulation": [0.1, 0.2, 1.0, 3.0, 1.5],
        "edges": EDGES, "before": [1.0, 1.0, 2.0, 1.0, 0.0], "after": [1.5, 1.0, 1.0, 0.5, 0.0], "unit": "GeV",
    }  # fmt: skip
    arguments |= changes
    return plots.folded_histograms(
        arguments.pop("data"), arguments.pop("simulation"), arguments.pop("edges"), **arguments
    )


def test_folded_histograms_are_filled_with_the_weights() -> None:
    found = folded(weight=[1.0, 1.0, 2.0, 1.0, 1.0])
    assert found["data"] == [2.0, 2.0, 1.0]
    assert found["data_variance"] == [2.0, 4.0, 1.0]
    assert found["before"] == [2.0, 2.0, 1.0]
    assert found["before_variance"] == [2.0, 4.0, 1.0]
    assert found["after"] == [2.5, 1.0, 0.5]
    assert found["after_variance"] == [3.25, 1.0, 0.25]
    assert (found["name"], found["unit"], found["edges"]) == ("x", "GeV", EDGES.tolist())


def test_refolding_shows_data_and_both_simulations() -> None:
    main, low = drawn("folded").axes
    assert points(main) == pytest.approx([2.0, 1.0, 1.0])
    assert bars(main) == pytest.approx(np.sqrt([2.0, 1.0, 1.0]))
    lines = named(main)
    assert lines["simulation, before the unfolding"] == pytest.approx([2.0, 2.0, 1.0])
    assert lines["simulation, after the unfolding"] == pytest.approx([2.5, 1.0, 0.5])
    assert low.patches[-1].get_data().values == pytest.approx([1.25, 1.0, 0.5])
    before, after = 1.0 / 5.0, 0.25 / 5.25 + 0.25 / 1.25
    assert main.texts[0].get_text() == f"χ² of 3 bins: {before:.3g} → {after:.3g}"
    assert low.get_xlabel() == "x [GeV]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": [0.0, 2.0, 1.0]}, "the edges of 'x' do not rise"),
        ({"weight": [1.0]}, r"\(5,\) values have weights of shape \(1,\)[\s\S]*x, data"),
        ({"after": [1.0]}, r"\(5,\) values have weights of shape \(1,\)[\s\S]*x, after"),
    ],
)
def test_wrong_detector_level_histograms_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        folded(**changes)


def test_closure_has_the_errors_of_the_difference() -> None:
    figure = drawn("closure")
    (axes,) = figure.axes
    assert points(axes) == pytest.approx(VALUES / TRUTH)
    # The third pull is 0 and says nothing of its error: that of the spectrum takes its place.
    expected = np.array([20.0, np.sqrt(250.0), TOTAL[2]]) / TRUTH
    assert bars(axes) == pytest.approx(expected)
    assert named(axes)["prior"] == pytest.approx(PRIOR / TRUTH)
    assert axes._left_title.get_text() == "χ² = 3.5 / 3, p = 0.3"
    assert axes._left_title.get_color() != RED
    assert legend(figure.legends[0]) == ["unfolded", "prior"]


def test_failed_closures_are_red_and_observables_side_by_side() -> None:
    data = make_closure(2e-5).to_dict()
    figure = plots.closure_test(dict.fromkeys(("a", "b", "c", "d"), data["x"]))
    assert len(figure.axes) == 4
    assert [axes.get_xlabel() for axes in figure.axes] == ["a", "b", "c", "d"]
    assert figure.axes[0]._left_title.get_text() == "χ² = 3.5 / 3, p = 2e−05"
    assert figure.axes[0]._left_title.get_color() == RED
    with pytest.raises(InputError, match="there is no observable to draw"):
        plots.closure_test({})


def passes() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    return {
        name: TRUTH * (1.0 + size * rng.normal(size=(8, 3))) for name, size in (("one", 0.05), ("many", 0.01))
    }


def test_stability_shows_mean_spread_and_squared_error_of_every_method() -> None:
    given = passes()
    top, middle, low = drawn("stability").axes
    for k, several in enumerate(given.values()):
        assert points(top, k) == pytest.approx(several.mean(axis=0) / TRUTH)
        assert bars(top, k) == pytest.approx(several.std(axis=0) / TRUTH)
        assert middle.patches[k].get_data().values == pytest.approx(100.0 * sigma_rel(several))
        assert low.patches[k].get_data().values == pytest.approx(mse_rel(TRUTH, several))
    assert low.get_xlabel() == "x [GeV]"
    assert legend(top.get_legend()) == ["one (8 passes)", "many (8 passes)"]


@pytest.mark.parametrize(
    ("truth", "given", "edges", "message"),
    [
        (TRUTH, {}, EDGES, "there are no passes to draw"),
        (TRUTH, {"a": [TRUTH, TRUTH]}, EDGES[:3], "3 edges do not fit the 3 bins of the truth"),
        (TRUTH, {"a": [TRUTH]}, EDGES, r"the passes have shape \(1, 3\)"),
        (0.0 * TRUTH, {"a": [TRUTH, TRUTH]}, EDGES, "the truth is 0 in bin 0"),
    ],
)
def test_unfit_passes_are_refused(truth: Any, given: Any, edges: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plots.unfolding_stability(truth, given, edges)
