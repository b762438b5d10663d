"""Figures of toys: pulls, coverage, and the distributions that observed test statistics are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError
from neyman.plots.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    RED,
    Array,
    figure,
    label,
    legend_above,
    numbers,
    plain,
    styled,
    symbol,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neyman.inference.results import Coverage, GoodnessOfFit, Significance, ToyFits


@styled
def toy_pulls(fits: ToyFits, name: str) -> Figure:
    """Draw the pulls of one parameter in toys with the unit Gaussian that they should follow.

    Parameters
    ----------
    fits
        Result of ``neyman.fit_toys``.
    name
        The parameter.

    Raises
    ------
    InputError
        When there are fewer than two valid fits with an error.
    """
    pulls = fits.pulls(name)
    drawn = figure(6.2, 4.6)
    axes = drawn.subplots()
    _pulls(axes, pulls, name)
    axes.set_title(_moments(pulls), loc="right")
    legend_above(axes, columns=2)
    return drawn


@styled
def coverage(result: Coverage | Mapping[str, Any]) -> Figure:
    """Draw the coverage of each kind of interval against the confidence level, and the pulls behind it.

    Parameters
    ----------
    result
        Result of ``neyman.coverage``.
    """
    data = plain(result)
    drawn = figure(10.0, 4.4)
    left, right = drawn.subplots(1, 2, width_ratios=[1.0, 1.15])
    methods = data["methods"]
    rows = np.arange(len(methods))
    found = numbers([one["coverage"] for one in methods])
    low, high = numbers([one["interval"] for one in methods]).T
    left.errorbar(
        found, rows, xerr=[found - low, high - found], fmt="o", color=BLUE, markersize=6, capsize=3.5
    )
    for row, one in zip(rows, methods, strict=True):
        left.annotate(
            f"{one['coverage']:.1%}", (one["coverage"], row), xytext=(0, 9), textcoords="offset points",
            ha="center", fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    left.axvline(data["cl"], color=RED, linewidth=1.2, linestyle=(0, (5, 2)))
    left.text(
        data["cl"], 1.02, f"{100.0 * data['cl']:.4g}%", color=RED, ha="center", fontsize="small",
        transform=left.get_xaxis_transform(),
    )  # fmt: skip
    reach = 1.6 * float(np.max(np.abs([low - data["cl"], high - data["cl"]]), initial=0.02))
    left.set_xlim(max(data["cl"] - reach, 0.0), min(data["cl"] + reach, 1.0))
    left.set_yticks(rows, [{"hesse": "HESSE"}.get(one["method"], one["method"]) for one in methods])
    left.tick_params(axis="y", which="both", left=False, right=False)
    left.set_ylim(len(methods) - 0.4, -0.6)
    left.xaxis.set_major_formatter(lambda x, _: f"{100.0 * x:.4g}%")
    left.set_xlabel(f"coverage of {label(symbol(data['poi']))} = {data['truth']:g}")
    values, errors = numbers(data["values"]), numbers(data["errors"])
    measured = errors > 0.0
    pulls = (values[measured] - data["truth"]) / errors[measured]
    _pulls(right, pulls, data["poi"])
    right.set_title(_moments(pulls), loc="right", y=1.09)
    legend_above(right, columns=2)
    return drawn


@styled
def goodness_of_fit(result: GoodnessOfFit | Mapping[str, Any]) -> Figure:
    r"""Draw the observed goodness of fit in the distribution of toys and of :math:`\chi^2`.

    Parameters
    ----------
    result
        Result of ``neyman.goodness_of_fit``.

    Raises
    ------
    InputError
        When there are neither toys nor degrees of freedom.
    """
    from scipy.stats import chi2

    data = plain(result)
    toys, ndof = data["toys"], int(data["ndof"])
    if not toys and ndof <= 0:
        raise InputError(
            "the goodness of fit has no distribution to draw", where=f"{ndof} degrees of freedom"
        )
    drawn = figure(6.6, 4.6)
    axes = drawn.subplots()
    curve = (lambda x: chi2.pdf(x, ndof)) if ndof > 0 else None
    span = _span(numbers(toys or []), data["statistic"])
    if curve is not None:
        far = chi2.isf([0.9995, 0.0005], ndof)
        span = min(span[0], far[0]), max(span[1], far[1])
    _distribution(axes, toys, data["statistic"], curve, f"χ² of {ndof} d.o.f.", span)
    axes.set_xlabel("saturated −2 ln λ")
    p = data["p_value"]
    axes.set_title("p undefined" if p is None else f"p = {p:.3g}", loc="right")
    legend_above(axes, columns=3)
    return drawn


@styled
def significance(result: Significance | Mapping[str, Any]) -> Figure:
    r"""Draw the observed discovery test statistic in its distribution under the background alone.

    The curve is the asymptotic one, half a :math:`\chi^2` with one degree of freedom; the dashed line is the median
    expected with the signal.

    Parameters
    ----------
    result
        Result of ``neyman.significance``.
    """
    from scipy.stats import chi2

    data = plain(result)
    expected = None if data["expected_z"] is None else float(data["expected_z"]) ** 2
    drawn = figure(6.6, 4.6)
    axes = drawn.subplots()
    largest = max(data["q0"], expected or 0.0, 9.0, *(data["toys"] or ()))
    _distribution(
        axes, data["toys"], data["q0"], lambda x: 0.5 * chi2.pdf(x, 1), "asymptotic", (0.0, 1.08 * largest)
    )
    if expected is not None:
        name = f"expected, {label(symbol(data['poi']))} = {data['expected_at']:g}"
        axes.axvline(expected, color=GREY, linestyle=(0, (5, 2)), label=name)
    axes.set_yscale("log")
    floor = 0.3 / len(data["toys"]) if data["toys"] else 0.3 * 0.5 * float(chi2.pdf(1.08 * largest, 1))
    axes.set_ylim(floor, 2.0 * max(axes.get_ylim()[1], 1.0))
    axes.set_xlabel(r"$q_0$")
    beyond = data["z"] is None
    axes.set_title(
        f"beyond all toys, p < {data['p_value_interval'][1]:.2g}"
        if beyond
        else f"Z = {data['z']:.2f}, p = {data['p_value']:.2g}",
        loc="right",
        y=1.075,
    )
    legend_above(axes, columns=4)
    return drawn


def _distribution(
    axes: Axes,
    toys: Any,
    observed: float,
    curve: Callable[[Array], Array] | None,
    name: str,
    span: tuple[float, float],
) -> None:
    """Draw toys as a histogram of unit area, a curve, and the observed value."""
    if toys:
        sample = numbers(toys)
        edges = np.linspace(*span, _bins(len(sample)) + 1)
        counts = np.histogram(sample, edges)[0]
        density = counts / (len(sample) * np.diff(edges))
        axes.stairs(density, edges, fill=True, color=tint(BLUE, 0.35))
        axes.stairs(density, edges, color=BLUE, linewidth=1.0, label=f"{len(sample)} toys")
    if curve is not None:
        x = np.linspace(max(span[0], 1e-3 * span[1]), span[1], 400)
        axes.plot(x, curve(x), color=INK if toys else BLUE, linewidth=1.3, label=name)
        if not toys:
            tail = x[x >= observed]
            axes.fill_between(tail, curve(tail), color=tint(BLUE, 0.35), linewidth=0.0)
    axes.axvline(observed, color=RED, label="observed")
    axes.set_xlim(*span)
    axes.set_ylim(0.0, None)
    axes.set_ylabel("probability density")


def _span(sample: Array, observed: float) -> tuple[float, float]:
    """Range that holds the toys and the observed value."""
    low, high = min(observed, *sample, np.inf), max(observed, *sample, -np.inf)
    room = 0.06 * max(high - low, 1e-3 * abs(high), 1e-6)
    return max(low - room, 0.0), high + room


def _bins(n: int) -> int:
    return int(np.clip(np.sqrt(n), 10, 50))


def _pulls(axes: Axes, pulls: Array, name: str) -> None:
    from scipy.stats import norm

    if len(pulls) < 2:
        raise InputError(
            f"there are {len(pulls)} pulls of {name!r} to draw", expected="two valid fits with errors or more"
        )
    reach = max(4.0, min(1.05 * float(np.abs(pulls).max()), 8.0))
    edges = np.linspace(-reach, reach, 2 * (_bins(len(pulls)) // 2) + 1)
    density = np.histogram(pulls, edges)[0] / (len(pulls) * np.diff(edges))
    axes.stairs(density, edges, fill=True, color=tint(BLUE, 0.35))
    axes.stairs(density, edges, color=BLUE, linewidth=1.0, label=f"{len(pulls)} toys")
    x = np.linspace(-reach, reach, 301)
    axes.plot(x, norm.pdf(x), color=INK, linewidth=1.3, label="unit Gaussian")
    axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(0.0, 1.1 * max(float(density.max()), 0.4))
    axes.set_xlabel(f"pull of {label(symbol(name))}")
    axes.set_ylabel("probability density")


def _moments(pulls: Array) -> str:
    n, mean, width = len(pulls), float(pulls.mean()), float(pulls.std(ddof=1))
    text = f"mean {mean:.3f} ± {width / n**0.5:.3f}, width {width:.3f} ± {width / (2 * n) ** 0.5:.3f}"
    return text.replace("-", "−")
