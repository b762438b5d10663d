"""Every figure shows the numbers that it was given."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2

from neyman import plots
from neyman.diagnostics import closure
from neyman.errors import InputError
from neyman.plots import style


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def title(axes: Any) -> Any:
    """The text above the left corner, where the style puts titles."""
    return axes._left_title


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_comparison_has_a_bar_for_every_uncertainty(make: SimpleNamespace) -> None:
    rows = make.rows()
    bars, scans = plots.comparison(rows).axes
    expected = [row[key] for row in rows for key in ("stat", "syst", "with_simulation")]
    assert [patch.get_width() for patch in bars.patches] == pytest.approx(expected)
    assert words(bars) == [f"{value:.3f}" for value in expected]
    assert [t.get_text().replace("\n", " ") for t in bars.get_yticklabels()] == [
        f"({letter}) {row['label']}" for letter, row in zip("abc", rows, strict=True)
    ]
    assert bars.get_xlim()[0] == 0.0
    assert bars.get_xlim()[1] > max(expected)
    assert "Δμ" in bars.get_xlabel()
    curves = [line for line in scans.lines if len(line.get_xdata()) > 2]
    assert len(curves) == 3
    for line, row in zip(curves, rows, strict=True):
        x, y = line.get_data()
        assert y == pytest.approx(((x - 1.0) / row["syst"]) ** 2, abs=0.01)  # the scan is a parabola
    levels = [line.get_ydata()[0] for line in scans.lines if len(line.get_xdata()) == 2]
    assert levels == [1.0, 4.0]
    low, high = scans.get_xlim()
    assert low < 1.0 - 2.0 * 0.56
    assert high > 1.0 + 2.0 * 0.56


def test_comparison_names_a_missing_uncertainty(make: SimpleNamespace) -> None:
    rows = make.rows()
    rows[2]["syst"] = None
    bars = plots.comparison(rows).axes[0]
    assert words(bars).count("no valid fit") == 1
    with pytest.raises(InputError, match="nothing to compare"):
        plots.comparison([])


@pytest.mark.parametrize("form", ["record", "dictionary"])
def test_profile_scan_marks_points_and_interval(make: SimpleNamespace, form: str) -> None:
    record = make.profile(make.fit(1.2), bad=(0,))
    profile = record if form == "record" else record.to_dict()
    axes = plots.profile_scan(profile, expected=make.profile(make.fit())).axes[0]
    points = next(line for line in axes.lines if line.get_marker() == "o")
    assert np.allclose(points.get_data(), (record.grid[1:], record.delta[1:]))
    crosses = next(line for line in axes.lines if line.get_marker() == "X")
    assert crosses.get_xdata() == pytest.approx([record.grid[0]])
    (shaded,) = axes.patches
    assert (shaded.get_x(), shaded.get_x() + shaded.get_width()) == pytest.approx((0.95, 1.45), abs=2e-3)
    assert axes.get_title(loc="right") == "μ = 1.20 +0.25 −0.25"
    assert axes.get_xlim() == pytest.approx((record.grid[0], record.grid[-1]))
    assert axes.get_ylim()[1] > 6.25
    assert words(axes) == ["68%", "95%"]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["68% interval", "expected", "observed", "fit not valid"]


def test_profile_scan_says_which_side_is_open(make: SimpleNamespace) -> None:
    whole = make.profile(make.fit()).to_dict()
    half = whole | {key: whole[key][5:] for key in ("grid", "delta", "valid", "parameters")}
    axes = plots.profile_scan(half).axes[0]
    assert axes.get_title(loc="right") == "μ = 1.00 +0.25 (open)"
    assert axes.patches[0].get_x() == pytest.approx(half["grid"][0])


def test_profiles_draw_a_panel_each_with_the_parabola_of_hesse(make: SimpleNamespace) -> None:
    best = make.fit()
    figure = plots.profiles({name: make.profile(best, name) for name in ("mu", "tes", "ttbar_norm", "tes")})
    assert [axes.get_xlabel() for axes in figure.axes] == ["μ", "tes", "ttbar_norm"]
    parabola, curve = figure.axes[1].lines[:2]
    assert np.allclose(parabola.get_ydata(), curve.get_ydata(), atol=0.01)
    assert parabola.get_ydata().max() == pytest.approx(6.25)
    with pytest.raises(InputError, match="no profiles"):
        plots.profiles({})


def test_impacts_are_ranked_and_pulls_have_their_errors(make: SimpleNamespace) -> None:
    impacts = make.impacts(make.fit()).to_dict()
    impacts["impacts"][2]["valid"] = False
    figure = plots.pulls_and_impacts(impacts)
    bars, pulls = figure.axes
    assert [t.get_text() for t in bars.get_yticklabels()] == ["tes", "ttbar_norm", "staterror_control[0]"]
    up, down = bars.containers
    assert [p.get_width() for p in up] == pytest.approx([0.05, 0.02, 0.001])
    assert [p.get_width() for p in down] == pytest.approx([-0.08, -0.02, 0.002])
    points, _, (spread,) = pulls.containers[0]
    assert np.allclose(points.get_data(), ([-0.5, 0.1], [0, 2]))  # nothing is drawn for the free parameter
    assert np.allclose([s[:, 0] for s in spread.get_segments()], [[-0.9, -0.1], [-0.89, 1.09]])
    assert words(pulls) == ["1.010 ± 0.020"]
    colours = [t.get_color() for t in bars.get_yticklabels()]
    assert colours == [style.INK, style.INK, style.RED]
    for axes in (bars, pulls):  # both zeros are in the middle
        assert sum(axes.get_xlim()) == pytest.approx(0.0)
    assert legend(figure) == ["impact, up", "impact, down", "pull"]


def test_impacts_keep_the_largest_and_refuse_none(make: SimpleNamespace) -> None:
    impacts = make.impacts(make.fit()).to_dict()
    impacts["impacts"].reverse()
    bars = plots.pulls_and_impacts(impacts, largest=1).axes[0]
    assert [t.get_text() for t in bars.get_yticklabels()] == ["tes"]
    with pytest.raises(InputError, match="no nuisance parameters"):
        plots.pulls_and_impacts(impacts | {"impacts": []})


def test_a_long_or_odd_parameter_name_leaves_room(make: SimpleNamespace) -> None:
    impacts = make.impacts(make.fit()).to_dict()
    impacts["impacts"][0]["name"] = "n" * 200
    impacts["impacts"][2]["name"] = "$broken_{$"
    bars = plots.pulls_and_impacts(impacts).axes[0]
    assert len(bars.get_yticklabels()[0].get_text()) == 40
    assert bars.get_position().width > 0.3


def test_correlation_in_percent_without_fixed_and_staterror(make: SimpleNamespace) -> None:
    (axes,) = plots.correlation(make.fit(fixed=("ttbar_norm",))).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["μ", "tes"]
    assert words(axes) == ["100", "−30", "−30", "100"]
    assert np.allclose(axes.images[0].get_array(), [[1.0, -0.3], [-0.3, 1.0]])
    (chosen,) = plots.correlation(make.fit().to_dict(), names=["tes", "ttbar_norm"]).axes
    assert words(chosen) == ["100", "0", "0", "100"]


def test_correlation_needs_a_covariance_and_known_names(make: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="no covariance"):
        plots.correlation(make.fit(covariance=None, messages=("not positive definite",)))
    with pytest.raises(InputError, match="no parameter jes"):
        plots.correlation(make.fit(), names=["jes"])


def test_closure_draws_densities_ratio_and_distance(make: SimpleNamespace) -> None:
    good, wrong = make.closures("htautau")
    figure = plots.closure([good, wrong], labels={"m_vis": "visible mass [GeV]"})
    main, bad, ratio, _ = figure.axes
    width = np.diff(good["edges"])
    assert main.patches[0].get_data().values == pytest.approx(np.array(good["model"]) / width)
    points = main.containers[0][0].get_ydata()
    assert points == pytest.approx(np.array(good["target"]) / width)
    assert ratio.containers[0][0].get_ydata() == pytest.approx(np.array(good["target"]) / good["model"])
    assert f"χ²/ndf = {good['chi2']:.1f}/{good['n_bins'] - 1}" in title(main).get_text()
    assert title(main).get_color() == style.INK
    assert wrong["p_value"] < 0.01
    assert title(bad).get_color() == style.RED
    assert ratio.get_xlabel() == "visible mass [GeV]"
    low, high = ratio.get_ylim()
    assert (low < ratio.containers[0][0].get_ydata()).all()
    assert (high > ratio.containers[0][0].get_ydata()).all()
    assert main.get_ylim()[1] > points.max()


def test_closure_of_too_few_events(make: SimpleNamespace) -> None:
    (one,) = make.closures("htautau", ("m_vis",))
    main = plots.closure([one | {"p_value": None}]).axes[0]
    assert title(main).get_text() == "too few events"
    assert title(main).get_color() == style.INK


def test_closure_cuts_only_outermost_bins(make: SimpleNamespace) -> None:
    (one,) = make.closures("htautau", ("m_vis",))
    main = plots.closure([one]).axes[0]
    shown = main.patches[0].get_data().edges
    assert shown[1:-1] == pytest.approx(one["edges"][1:-1])
    assert shown[-1] < one["edges"][-1]
    assert main.get_xlim() == pytest.approx((shown[0], shown[-1]))


def test_closure_points_beyond_a_factor_of_two_are_marked(make: SimpleNamespace) -> None:
    (one,) = make.closures("htautau", ("m_vis",))
    one["target"][3] *= 5.0
    ratio = plots.closure([one]).axes[1]
    diamonds = next(line for line in ratio.lines if line.get_marker() == "d")
    assert len(diamonds.get_xdata()) == 1
    assert ratio.get_ylim() == pytest.approx((0.0, 2.0))


def test_closure_is_logarithmic_where_a_fill_value_dominates(make: SimpleNamespace) -> None:
    (smooth,) = make.closures("htautau", ("m_vis",))
    rng = np.random.default_rng(1)
    x = np.where(rng.random((5000, 2)) < 0.9, 0.0, rng.uniform(30.0, 2000.0, (5000, 2)))
    weight = np.ones(5000)
    (spike,) = closure("htautau", ["m_jj"], (x[:, :1], weight), (x[:, 1:], weight), np.zeros(5000))
    figure = plots.closure([smooth, spike.to_dict()])
    assert [axes.get_yscale() for axes in figure.axes[:2]] == ["linear", "log"]
    low, high = figure.axes[1].get_ylim()
    density = np.array(spike.target) / np.diff(spike.edges)
    assert low < density[density > 0.0].min()
    assert high > density.max()


def test_closure_is_of_one_process(make: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="one process"):
        plots.closure([*make.closures("htautau"), *make.closures("ztautau")])


def test_discriminant_stacks_the_samples_under_the_data(results: dict[str, Any]) -> None:
    contents = results["discriminant"]
    figure = plots.discriminant(contents, signal="htautau", labels={"htautau": "H", "ztautau": "Z"})
    main, ratio = figure.axes
    background, signal, total, line = (patch.get_data() for patch in main.patches)
    s, b = np.array(contents["samples"]["htautau"]), np.array(contents["samples"]["ztautau"])
    assert background.values == pytest.approx(b)
    assert (signal.baseline, signal.values) == (pytest.approx(b), pytest.approx(s + b))
    assert total.values == pytest.approx(s + b)
    assert line.values == pytest.approx(50 * s)  # the largest 1-2-5 factor that stays under 1000
    names = [text.get_text() for text in main.get_legend().get_texts()]
    assert names == ["Z", "H", "H × 50", "observed", "without signal"]
    assert main.get_yscale() == "log"
    assert main.get_ylim()[0] < 1.0
    assert main.get_ylim()[1] > 1010 + np.sqrt(1010)
    data = ratio.containers[0]
    assert data[0].get_ydata() == pytest.approx(np.array(contents["observed"]) / (s + b))
    band, without = (patch.get_data() for patch in ratio.patches)
    relative = np.array(contents["error"]) / (s + b)
    assert (band.baseline, band.values) == (pytest.approx(1 - relative), pytest.approx(1 + relative))
    assert without.values == pytest.approx(b / (s + b))


def test_discriminant_has_garwood_errors(results: dict[str, Any]) -> None:
    figure = plots.discriminant(results["discriminant"], signal="htautau")
    bars = figure.axes[0].containers[0][2][0].get_segments()
    tail = 0.158655
    assert bars[1][0, 1] == pytest.approx(chi2.ppf(tail, 2 * 98) / 2, rel=1e-6)
    assert bars[1][1, 1] == pytest.approx(chi2.ppf(1 - tail, 2 * 99) / 2, rel=1e-6)
    assert bars[2][1, 1] == pytest.approx(1.841, abs=1e-3)  # of zero events
    with pytest.raises(InputError, match="no sample 'higgs'"):
        plots.discriminant(results["discriminant"], signal="higgs")


def test_training_draws_members_means_and_the_kept_state(history: dict[str, Any]) -> None:
    figure = plots.training({"htautau": history, "ztautau": history})
    axes = figure.axes[0]
    assert [title(a).get_text() for a in figure.axes] == ["htautau", "ztautau"]
    assert [len(line.get_xdata()) for line in axes.lines] == [4, 4, 4, 4, 4, 4, 2]
    assert axes.lines[2].get_ydata() == pytest.approx(np.mean(history["training"], axis=1))
    assert axes.lines[5].get_ydata() == pytest.approx(np.mean(history["validation"], axis=1))
    assert np.allclose(axes.lines[6].get_data(), ([30, 40], [0.59, 0.58]))
    assert axes.get_xlim()[1] > 40
    with pytest.raises(InputError, match="no trainings"):
        plots.training({})


def test_no_text_overlaps_another(make: SimpleNamespace, results: dict[str, Any]) -> None:
    figures = (
        plots.comparison(make.rows()),
        plots.profile_scan(make.profile(make.fit())),
        plots.pulls_and_impacts(make.impacts(make.fit())),
        plots.discriminant(results["discriminant"], signal="htautau"),
    )
    for figure in figures:
        for axes in figure.axes:
            low, high = sorted(axes.get_ylim())
            ticks = [
                t for t, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True) if low <= y <= high
            ]
            texts = [axes.xaxis.label, axes.yaxis.label, title(axes), axes.title, *axes.texts, *ticks]
            boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
            for i, one in enumerate(boxes):
                assert not any(one.overlaps(other) for other in boxes[i + 1 :])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("visible mass [GeV]", "visible mass [GeV]"),
        (r"$m_\mathrm{vis}$", r"$m_\mathrm{vis}$"),
        ("costs 5$", "costs 5$"),
        ("$m_{vis$ and $", r"\$m_{vis\$ and \$"),
        ("tt\u0304", r"t$\bar{t}$"),
    ],
)
def test_labels_are_mathtext_only_where_that_is_valid(text: str, shown: str) -> None:
    assert style.label(text) == shown


def test_figures_are_saved_in_both_formats_and_reproducibly(make: SimpleNamespace, tmp_path: Path) -> None:
    figure = plots.profile_scan(make.profile(make.fit()))
    for name in ("a.png", "b.png", "a.pdf", "b.pdf"):
        style.save(figure, tmp_path / name)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == pytest.approx(2 * style.SCREEN_DPI * figure.get_size_inches())
    assert re.match(rb"%PDF-1\.\d", (tmp_path / "a.pdf").read_bytes())
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
