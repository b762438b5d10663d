"""Figures of a systematics-aware training show the numbers that they were given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neyman import plots
from neyman.errors import InputError
from neyman.plots import style

SIGNAL, BACKGROUND = np.array([1.0, 4.0, 15.0]), np.array([1000.0, 100.0, 10.0])


def process(contents: Any, edges: Any = (0.0, 1 / 3, 2 / 3, 1.0), **variations: Any) -> dict[str, Any]:
    """One process of a channel, with a variance of a tenth of its contents."""
    contents = np.asarray(contents, dtype=float)
    return {
        "edges": list(edges),
        "nominal": contents.tolist(),
        "variance": (0.1 * contents).tolist(),
        "variations": {
            name: {"up": (contents + up).tolist(), "down": (contents - down).tolist()}
            for name, (up, down) in variations.items()
        },
    }


def uncertainty(total: float, statistical: float, names: Any = ("signal",)) -> dict[str, Any]:
    """The same uncertainty for each signal."""
    return {
        "total": len(names) * total,
        "statistical": len(names) * statistical,
        "signals": {name: {"total": total, "statistical": statistical} for name in names},
    }


def history(scale: float, steps: int = 4, members: int = 2) -> dict[str, Any]:
    """A loss that falls from `scale`; the last step is the best one of the held-out events."""
    loss = scale / np.sqrt(np.arange(1.0, steps + 1.0))[:, None] + 0.01 * np.arange(members)
    return {
        "steps": [10 * k for k in range(1, steps + 1)],
        "training": loss.tolist(),
        "validation": (loss + 0.05).tolist(),
        "best_step": [10 * steps] * members,
    }


def make_result(channels: Any = ("SR",), signals: Any = ("signal",), **changes: Any) -> dict[str, Any]:
    """A training with two nuisance parameters; the second stage has half of their effects."""

    def stage(effect: float, total: float) -> dict[str, Any]:
        shift = effect * np.array([30.0, 20.0, 4.0])
        own = {name: process(SIGNAL, norm=(0.1 * SIGNAL, 0.1 * SIGNAL)) for name in signals}
        rest = {
            "fakes": process(
                BACKGROUND, shift=(shift, 0.5 * shift), norm=(0.2 * BACKGROUND, 0.2 * BACKGROUND)
            ),
            "top": process([1.0, 1.0, 1.0]),
        }
        return {
            "uncertainty": uncertainty(total, 0.3, signals),
            "members": [uncertainty(total * f, 0.3, signals) for f in (0.9, 1.0, 1.1)],
            "impacts": {name: {"shift": -0.2 * effect, "norm": 0.1} for name in signals},
            "histograms": {channel: {**rest, **own} for channel in channels},
            "histories": [history(total)],
        }

    return {
        "signals": list(signals),
        "processes": [*signals, "fakes", "top"],
        "parameters": ["shift", "norm"],
        "warnings": [],
        "pretrained": stage(1.0, 0.5),
        "trained": stage(0.5, 0.4),
    } | changes


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_histograms_stack_the_processes_with_the_total_of_the_variations() -> None:
    figure = plots.sannt_histograms(make_result(), labels={"signal": "H", "fakes": "jet → τ"})
    main, other, relative, _, sensitivity, _ = figure.axes
    assert [axes._left_title.get_text() for axes in (main, other)] == [
        "CENNT:  Δr = 0.500 (stat. 0.300)",
        "SANNT:  Δr = 0.400 (stat. 0.300)",
    ]
    top, fakes, signal, total, statistics, systematics, line = (patch.get_data() for patch in main.patches)
    expectation = SIGNAL + BACKGROUND + 1.0
    assert top.values == pytest.approx(np.ones(3))
    assert fakes.values == pytest.approx(BACKGROUND + 1.0)
    assert signal.values == pytest.approx(expectation)
    assert total.values == pytest.approx(expectation)
    assert line.values == pytest.approx(50 * SIGNAL)  # the largest 1-2-5 factor below 1000
    # Half of up minus down is 3/4 of the shift; the other parameter moves both processes together.
    shift, norm = 0.75 * np.array([30.0, 20.0, 4.0]), 0.1 * SIGNAL + 0.2 * BACKGROUND
    error = np.hypot(shift, norm)
    assert systematics.values == pytest.approx(expectation + error)
    assert systematics.baseline == pytest.approx(expectation - error)
    assert statistics.values == pytest.approx(expectation + np.sqrt(0.1 * expectation))
    assert relative.patches[0].get_data().values == pytest.approx(100 * error / expectation)
    assert relative.patches[2].get_data().values == pytest.approx(100 * np.sqrt(0.1 / expectation))
    background = BACKGROUND + 1.0
    noise = np.sqrt(background + shift**2 + (0.2 * BACKGROUND) ** 2)
    assert sensitivity.patches[0].get_data().values == pytest.approx(SIGNAL / noise)
    assert legend(figure) == ["H", "jet → τ", "top", "H × 50", "systematics", "simulation statistics"]
    assert main.get_yscale() == "log"


def test_histograms_of_both_stages_have_the_same_ranges() -> None:
    figure = plots.sannt_histograms(make_result())
    for row in range(3):
        left, right = figure.axes[2 * row : 2 * row + 2]
        assert left.get_ylim() == right.get_ylim()
    assert figure.axes[0].get_ylim()[1] > 1000
    assert figure.axes[0].get_xlim() == (0.0, 1.0)


def test_bins_of_different_widths_are_drawn_equally_wide_and_labelled() -> None:
    result = make_result()
    for one in result["trained"]["histograms"]["SR"].values():
        one["edges"] = [0.0, 0.981, 0.9931, 1.0]
    _, right, *_, lower = plots.sannt_histograms(result).axes
    assert right.get_xlim() == (0.0, 3.0)
    assert [text.get_text() for text in lower.get_xticklabels()] == ["0", "0.98", "0.99", "1"]
    assert "edges" in lower.get_xlabel()


def test_edges_have_as_many_digits_as_tell_them_apart() -> None:
    result = make_result()
    for one in result["trained"]["histograms"]["SR"].values():
        one["edges"] = [0.0, 0.9912, 0.9931, 1.0]
    lower = plots.sannt_histograms(result).axes[-1]
    assert [text.get_text() for text in lower.get_xticklabels()] == ["0", "0.991", "0.993", "1"]


def test_observed_counts_belong_to_the_trained_network() -> None:
    figure = plots.sannt_histograms(make_result(), observed={"SR": [1010, 98, 0], "control": [3]})
    left, right = figure.axes[:2]
    assert not left.containers
    assert right.containers[0][0].get_ydata() == pytest.approx([1010, 98, 0])
    assert legend(figure)[-1] == "observed"


def test_channels_are_side_by_side_with_cennt_above_sannt() -> None:
    channels = [f"SR_{name}" for name in ("ggH", "qqH", "fakes", "top", "zll", "vv", "other")]
    result = make_result(channels, ("ggH", "qqH"))
    figure = plots.sannt_histograms(result, labels={"ggH": "gluon fusion"})
    assert len(figure.axes) == 2 * 3 * 7
    first, last = figure.axes[0], figure.axes[21]
    assert first.bbox.y0 > last.bbox.y1
    titles = [axes.title.get_text() for axes in figure.axes[:7]]
    assert titles == ["gluon fusion", "qqH", "fakes", "top", "zll", "vv", "other"]
    assert len({axes.get_ylim() for axes in figure.axes if axes.get_yscale() == "log"}) == 1
    captions = [half._suptitle.get_text() for half in figure.subfigs]
    assert captions[0] == (
        "CENNT:  Δr of gluon fusion = 0.500 (stat. 0.300),  Δr of qqH = 0.500 (stat. 0.300)"
    )
    labelled = [axes for axes in figure.axes if axes.get_ylabel()]
    assert len(labelled) == 6  # the first column alone


def test_more_than_seven_channels_continue_below() -> None:
    figure = plots.sannt_histograms(make_result([f"SR_{k}" for k in range(9)]))
    assert len(figure.axes) == 2 * 3 * 9
    assert figure.axes[15].bbox.x0 == pytest.approx(figure.axes[0].bbox.x0, abs=2.0)
    assert figure.axes[15].bbox.y1 < figure.axes[10].bbox.y0


def test_one_channel_of_several_can_be_chosen() -> None:
    result = make_result(["SR_ggH", "SR_qqH"], ("ggH", "qqH"))
    figure = plots.sannt_histograms(result, channel="SR_ggH")
    assert len(figure.axes) == 6
    assert figure.axes[0]._left_title.get_text().splitlines() == [
        "CENNT",
        "Δr of ggH = 0.500 (stat. 0.300)",
        "Δr of qqH = 0.500 (stat. 0.300)",
    ]


def test_empty_bins_are_no_obstacle() -> None:
    result = make_result()
    for key in ("pretrained", "trained"):
        for one in result[key]["histograms"]["SR"].values():
            one["nominal"][0] = one["variance"][0] = 0.0
            for sides in one["variations"].values():
                sides["up"][0] = sides["down"][0] = 0.0
    main = plots.sannt_histograms(result).axes[0]
    assert 0.0 < main.get_ylim()[0] < 20.0


def test_histograms_refuse_what_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no channel 'SB'(.|\n)*nearest: SR"):
        plots.sannt_histograms(make_result(), channel="SB")
    with pytest.raises(InputError, match=r"'higgs' has no histogram in 'SR'\n.*CENNT"):
        plots.sannt_histograms(make_result() | {"signals": ["higgs"]})
    with pytest.raises(InputError, match="no signal"):
        plots.sannt_histograms(make_result() | {"signals": []})
    with pytest.raises(InputError, match="2 bins were observed in 'SR'"):
        plots.sannt_histograms(make_result(), observed={"SR": [1, 2]})
    result = make_result()
    result["trained"]["histograms"]["SR"]["top"] = process([1.0, 1.0], (0.0, 0.5, 1.0))
    with pytest.raises(InputError, match="'top' has 2 bins in 'SR'"):
        plots.sannt_histograms(result)
    result["trained"]["histograms"] = {}
    with pytest.raises(InputError, match=r"no histograms to draw\n.*SANNT"):
        plots.sannt_histograms(result)


def test_band_is_the_median_parabola_between_those_of_the_quantiles() -> None:
    totals = np.linspace(0.4, 0.6, 101)
    members = [uncertainty(total, 0.3) for total in totals]
    (axes,) = plots.uncertainty_band({"CENNT": members, "SANNT": [uncertainty(0.35, 0.3)]}).axes
    curves = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 4
    for line, error in zip(curves, (0.5, 0.3, 0.35, 0.3), strict=True):
        r, y = line.get_data()
        assert y == pytest.approx(((r - 1.0) / error) ** 2)
    (band,) = axes.collections
    edge = band.get_paths()[0].vertices
    low, high = np.quantile(totals, (0.158655, 0.841345))
    at = np.isclose(edge[:, 0], axes.lines[0].get_xdata()[0])
    far = (edge[at, 0][0] - 1.0) ** 2
    assert sorted(set(np.round(edge[at, 1], 6))) == pytest.approx([far / high**2, far / low**2], rel=1e-5)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [
        "CENNT: Δr = 0.500  [0.432, 0.568]",
        "SANNT: Δr = 0.350",
        "CENNT, statistical: Δr = 0.300  [0.300, 0.300]",
        "SANNT, statistical: Δr = 0.300",
    ]
    assert {line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2} == {1.0, 4.0}
    assert "median and 68% of 1 to 101 members" in [text.get_text() for text in axes.texts]


def test_band_of_records_and_of_a_chosen_signal() -> None:
    record = SimpleNamespace(to_dict=lambda: uncertainty(0.5, 0.3, ("ggH", "qqH")))
    (axes,) = plots.uncertainty_band({"CENNT": [record]}, signal="qqH").axes
    assert axes.get_xlabel() == "signal strength r of qqH"
    with pytest.raises(InputError, match=r"CENNT has 2 signals(.|\n)*signal='ggH'"):
        plots.uncertainty_band({"CENNT": [record]})
    with pytest.raises(InputError, match=r"no signal 'qqh' in CENNT(.|\n)*nearest: qqH"):
        plots.uncertainty_band({"CENNT": [record]}, signal="qqh")
    with pytest.raises(InputError, match="CENNT has no members"):
        plots.uncertainty_band({"CENNT": []})
    with pytest.raises(InputError, match="no ensemble to draw"):
        plots.uncertainty_band({})


def test_impacts_are_ordered_by_the_first_training() -> None:
    impacts = {"CENNT": {"a": 0.1, "b": -0.3, "c": 0.0}, "SANNT": {"a": -0.2, "b": 0.1, "d": 0.05, "c": None}}
    (axes,) = plots.impact_comparison(impacts, labels={"b": "tau energy scale"}).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["tau energy scale", "a", "d", "c"]
    first, second = axes.containers
    assert [bar.get_width() for bar in first] == pytest.approx([0.3, 0.1, 0.0, 0.0])
    assert [bar.get_width() for bar in second] == pytest.approx([0.1, 0.2, 0.05, 0.0])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["CENNT", "SANNT"]
    assert axes.get_xlim() == pytest.approx((0.0, 0.318))
    assert axes.get_title(loc="right") == ""


def test_impacts_keep_the_first() -> None:
    impacts = {"CENNT": {f"p{k}": float(k) for k in range(25)}}
    (axes,) = plots.impact_comparison(impacts, first=3).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["p24", "p23", "p22"]
    assert axes.get_title(loc="right") == "3 of 25 parameters"
    with pytest.raises(InputError, match="first is 0"):
        plots.impact_comparison(impacts, first=0)
    with pytest.raises(InputError, match="no impacts to draw"):
        plots.impact_comparison({"CENNT": {}})


def test_uncertainties_have_bars_values_and_changes() -> None:
    rows = {
        "CENNT": {"total": 0.5, "statistical": 0.3, "total_interval": [0.45, 0.6]},
        "SANNT": {"total": 0.4, "statistical": 0.32},
        "none": {"total": None, "statistical": None},
    }
    (axes,) = plots.uncertainty_comparison(rows, signal="ggH").axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.5, 0.3, 0.4, 0.32])
    assert [text.get_text() for text in axes.texts] == [
        "0.500 (stat. 0.300)",
        "0.400 (stat. 0.320)   −20.0%",
        "no valid fit",
    ]
    errors = next(c for c in axes.containers if hasattr(c, "has_xerr"))
    (segment,) = errors[2][0].get_segments()
    assert segment[:, 0] == pytest.approx([0.45, 0.6])
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["total", "statistical only", "68% of the members"]
    assert axes.get_xlabel() == "expected Δr of ggH"
    with pytest.raises(InputError, match="no uncertainties to compare"):
        plots.uncertainty_comparison({})


def test_training_has_both_phases_and_what_they_reached() -> None:
    figure = plots.sannt_training(make_result())
    left, right = figure.axes
    assert [axes._left_title.get_text() for axes in (left, right)] == ["CENNT", "SANNT"]
    assert (left.get_ylabel(), right.get_ylabel()) == ("cross-entropy", "expected Δr")
    data = history(0.4)
    medians = [line for line in right.lines if line.get_linewidth() == 2.0]
    assert medians[0].get_ydata() == pytest.approx(np.median(data["training"], axis=1))
    assert medians[1].get_ydata() == pytest.approx(np.median(data["validation"], axis=1))
    (dots,) = (line for line in right.lines if line.get_marker() == "o")
    assert np.allclose(dots.get_data(), ([40, 40], data["validation"][-1]))
    flat = [line.get_ydata()[0] for line in right.lines if list(line.get_xdata()) == [0, 1]]
    assert flat == pytest.approx([0.5, 0.4])
    low, high = right.get_ylim()
    assert low < 0.2
    assert high > 0.5
    assert legend(figure) == [
        "training, median", "held out, median", "kept state", "reached by CENNT", "reached by SANNT",
    ]  # fmt: skip


def test_folds_that_stop_at_different_steps_share_a_median_where_half_are_left() -> None:
    result = make_result()
    result["trained"]["histories"] = [history(0.4, 4, 1), history(0.4, 6, 1), history(0.4, 6, 1)]
    result["pretrained"]["histories"] = []
    (axes,) = plots.sannt_training(result | {"signals": ["ggH", "qqH"]}).axes
    median = next(line for line in axes.lines if line.get_linewidth() == 2.0)
    assert median.get_xdata() == pytest.approx([10, 20, 30, 40, 50, 60])
    assert axes.get_ylabel() == "loss: sum of expected Δr"
    result["trained"]["histories"] = [history(0.4, 4, 2), history(0.4, 6, 1)]
    median = next(li for li in plots.sannt_training(result).axes[0].lines if li.get_linewidth() == 2.0)
    assert median.get_xdata() == pytest.approx([10, 20, 30, 40])


def test_training_without_numbers_or_histories() -> None:
    result = make_result()
    one = history(0.5, 2, 1)
    one["training"], one["validation"] = [[None], [None]], [[None], [None]]
    result["pretrained"]["histories"] = [one]
    result["trained"]["histories"] = []
    assert len(plots.sannt_training(result).axes) == 1
    result["pretrained"]["histories"] = []
    with pytest.raises(InputError, match="no trainings to draw"):
        plots.sannt_training(result)


def test_bin_functions_have_a_curve_a_bin() -> None:
    y, edges = np.linspace(0.0, 1.0, 9), [0.0, 0.5, 1.0]
    values = np.array([0.25 - y, y - 0.75])
    values[0, y > 0.5], values[1, y < 0.5] = 0.0, 0.0
    curve = {"y": y.tolist(), "values": values.tolist(), "edges": edges}
    figure = plots.bin_functions({"linear": curve, "other": curve, "third": curve})
    assert [axes._left_title.get_text() for axes in figure.axes] == ["linear", "other", "third"]
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, True, True]
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 9]
    assert len(curves) == 2
    drawn = curves[0].get_ydata()
    assert drawn[:5] == pytest.approx(values[0, :5])  # the zero at 0.25 is a crossing
    assert np.isnan(drawn[5:]).all()
    with pytest.raises(InputError, match=r"'linear' has values of shape \(9, 2\)\n.*\(2, 9\)"):
        plots.bin_functions({"linear": curve | {"values": values.T.tolist()}})
    with pytest.raises(InputError, match="no bin functions"):
        plots.bin_functions({})


def test_no_text_overlaps_another() -> None:
    many = [uncertainty(0.5 + 0.01 * k, 0.3) for k in range(9)]
    figures = (
        plots.sannt_histograms(make_result()),
        plots.uncertainty_band({"CENNT": many, "SANNT": many}),
        plots.impact_comparison({"CENNT": {f"parameter_{k}": k for k in range(25)}, "SANNT": {}}),
        plots.uncertainty_comparison({"CENNT": {"total": 0.4, "statistical": 0.3}, "SANNT": {"total": 0.5}}),
    )
    for figure in figures:
        for axes in figure.axes:
            texts = [axes.xaxis.label, axes.yaxis.label, axes._left_title, axes._right_title, *axes.texts]
            low, high = sorted(axes.get_ylim())
            texts += [
                t for t, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=False) if low <= y <= high
            ]
            boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
            for i, one in enumerate(boxes):
                assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_figures_leave_no_trace(tmp_path: Any) -> None:
    import matplotlib as mpl

    before = {key: value for key, value in mpl.rcParams.items() if key != "backend"}
    style.save(plots.sannt_histograms(make_result(["SR_a", "SR_b"])), tmp_path / "a.pdf")
    assert before == {key: mpl.rcParams[key] for key in before}
