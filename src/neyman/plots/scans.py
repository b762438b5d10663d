"""Figures of likelihood scans: the comparison of descriptions, one profile, many profiles."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neyman.errors import InputError
from neyman.plots.style import (
    BLUE,
    FAINT,
    GREY,
    RED,
    Array,
    figure,
    grid,
    label,
    legend_above,
    levels,
    numbers,
    plain,
    styled,
    symbol,
    tint,
)
from neyman.plots.words import rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neyman.inference.results import ProfileResult

    Profile = ProfileResult | Mapping[str, Any]

_DESCRIPTIONS = (GREY, BLUE, RED, "#832db6", "#a96b59")
_UNCERTAINTIES = (
    ("stat", "statistical only"),
    ("syst", "with systematics"),
    ("with_simulation", "and simulation statistics"),
)
_AXIS = "−2 Δ ln L"


@styled
def comparison(rows: Sequence[Mapping[str, Any]], *, poi: str = "mu") -> Figure:
    """Draw the expected uncertainty of several descriptions of the same events, and their likelihood scans.

    Parameters
    ----------
    rows
        One description each: ``label``, the uncertainties ``stat``, ``syst`` and ``with_simulation`` (None where a
        fit failed), and ``scan``, a profile of `poi`.
    poi
        Parameter of interest.
    """
    if not rows:
        raise InputError("there is nothing to compare", expected="at least one description")
    from matplotlib.patches import Patch

    drawn = figure(11.0, 1.5 + 1.05 * len(rows))
    bars, scans = drawn.subplots(1, 2, width_ratios=[1.3, 1.0])
    colours = [_DESCRIPTIONS[i % len(_DESCRIPTIONS)] for i in range(len(rows))]
    widths = numbers([[row[key] for key, _ in _UNCERTAINTIES] for row in rows])
    for i, colour in enumerate(colours):
        for j, (key, _) in enumerate(_UNCERTAINTIES):
            place, value = i + 0.27 * (j - 1), float(widths[i, j])
            bars.barh(place, np.nan_to_num(value), height=0.22, **_bar(j, colour))
            words = f"{value:.3f}" if np.isfinite(value) else "no valid fit"
            bars.annotate(
                words,
                (np.nan_to_num(value), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
                fontweight="bold" if key == "syst" else "normal",
            )
    bars.set_yticks(
        range(len(rows)),
        [textwrap.fill(f"({_letter(i)}) {label(r['label'])}", 22) for i, r in enumerate(rows)],
    )
    bars.tick_params(axis="y", which="both", left=False, right=False, labelsize="medium")
    bars.set_ylim(len(rows) - 0.45, -0.55)
    bars.set_xlim(0.0, 1.18 * float(np.nanmax(widths, initial=1e-9)))
    bars.set_xlabel(f"expected Δ{symbol(poi)}")
    handles = [Patch(label=name, **_bar(j, GREY)) for j, (_, name) in enumerate(_UNCERTAINTIES)]
    legend_above(bars, columns=3, handles=handles)

    top, ends = 5.2, []
    for i, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        profile = _restore(row["scan"])
        x, y = _smooth(profile)
        scans.plot(x, y, color=colour, label=f"({_letter(i)})")
        ends += x[y <= top].tolist()
    levels(scans, {1.0: "1σ", 4.0: "2σ"})
    scans.set_ylim(0.0, top)
    if ends:
        scans.set_xlim(min(ends), max(ends))
    scans.set_xlabel(symbol(poi))
    scans.set_ylabel(_AXIS)
    legend_above(scans, columns=len(rows))
    return drawn


@styled
def profile_scan(profile: Profile, *, expected: Profile | None = None) -> Figure:
    """Draw the profile likelihood of one parameter with its 68 % and 95 % levels.

    Parameters
    ----------
    profile
        The scan; its 68 % interval is shaded and given in the title. Points whose fit is not valid are crossed.
    expected
        A second scan to compare with, drawn dashed (the one on Asimov data).
    """
    shown = _restore(profile)
    drawn = figure(6.6, 4.6)
    axes = drawn.subplots()
    low, high = shown.interval()
    if low is not None or high is not None:
        left, right = shown.grid[0] if low is None else low, shown.grid[-1] if high is None else high
        axes.axvspan(left, right, color=tint(BLUE, 0.15), zorder=0, label="68% interval")
    name = "scan"
    if expected is not None:
        name = "observed"
        axes.plot(*_smooth(_restore(expected)), color=GREY, linestyle="--", label="expected")
    _curve(axes, shown, name)
    levels(axes, {1.0: "68%", 3.841: "95%"})
    axes.set_xlim(shown.grid[0], shown.grid[-1])
    axes.set_ylim(0.0, max(5.0, 1.05 * float(np.nanmax(shown.delta, initial=0.0))))
    axes.set_xlabel(label(symbol(shown.parameter)))
    axes.set_ylabel(_AXIS)
    axes.set_title(_interval_text(shown, low, high), loc="right")
    legend_above(axes, columns=3)
    return drawn


@styled
def profiles(scans: Mapping[str, Profile], *, columns: int = 3) -> Figure:
    r"""Draw a grid of profile likelihoods, each beside the parabola :math:`((x-\hat x)/\sigma)^2` of its HESSE error.

    Parameters
    ----------
    scans
        Profiles by parameter name.
    columns
        Panels in a row.
    """
    if not scans:
        raise InputError("there are no profiles to draw", expected="at least one profile")
    rows, columns = grid(len(scans), columns)
    drawn = figure(3.6 * columns, 0.5 + 2.6 * rows)
    panels = drawn.subplots(rows, columns, squeeze=False)
    for axes, (name, scan) in zip(panels.flat, scans.items(), strict=False):
        shown = _restore(scan)
        sigma = shown.best.errors[name] if name in shown.best.names else np.nan
        x, _ = _smooth(shown)
        if sigma > 0.0:
            parabola = ((x - shown.best.values[name]) / sigma) ** 2
            axes.plot(x, parabola, color=FAINT, linestyle=(0, (4, 3)), label="parabola of the HESSE error")
        _curve(axes, shown, "profile likelihood")
        axes.minorticks_off()
        axes.axhline(1.0, color=FAINT, linewidth=0.8, linestyle=":")
        axes.axhline(3.841, color=FAINT, linewidth=0.8, linestyle=":")
        axes.set_xlim(shown.grid[0], shown.grid[-1])
        axes.set_ylim(0.0, max(5.0, 1.05 * float(np.nanmax(shown.delta, initial=0.0))))
        axes.set_xlabel(label(symbol(name)))
    for axes in panels.flat[len(scans) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel(_AXIS)
    handles, names = panels.flat[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside upper left", ncols=len(names))
    return drawn


def _bar(which: int, colour: str) -> dict[str, Any]:
    """Look of the bar of an uncertainty: light, full, hatched; distinct in grey as well."""
    looks: tuple[dict[str, Any], ...] = (
        {"facecolor": tint(colour, 0.35), "edgecolor": "none"},
        {"facecolor": colour, "edgecolor": "none"},
        {"facecolor": "white", "edgecolor": colour, "hatch": "////"},
    )
    return looks[which]


def _letter(index: int) -> str:
    return chr(ord("a") + index)


def _curve(axes: Axes, profile: ProfileResult, name: str) -> None:
    good = profile.valid
    axes.plot(*_smooth(profile), color=BLUE, label=name)
    axes.plot(profile.grid[good], profile.delta[good], "o", color=BLUE, markersize=3.5)
    if not good.all():
        bad = profile.grid[~good], np.nan_to_num(profile.delta[~good])
        axes.plot(*bad, "X", color=RED, markersize=7, label="fit not valid")


def _smooth(profile: ProfileResult) -> tuple[Array, Array]:
    """Interpolate the signed root between the valid points, as `ProfileResult.interval` does."""
    from scipy.interpolate import PchipInterpolator

    used = profile.valid & np.isfinite(profile.delta)
    x, delta = profile.grid[used], np.maximum(profile.delta[used], 0.0)
    if len(x) < 2:
        return x, delta
    centre = profile.best.values[profile.parameter]
    roots = np.sign(x - centre) * np.sqrt(delta)
    if x[0] < centre < x[-1] and centre not in x:
        place = int(np.searchsorted(x, centre))
        x, roots = np.insert(x, place, centre), np.insert(roots, place, 0.0)
    dense = np.linspace(x[0], x[-1], 301)
    return dense, np.asarray(PchipInterpolator(x, roots)(dense) ** 2, dtype=np.float64)


def _restore(profile: Profile) -> ProfileResult:
    """Return the record of a profile that may have been through JSON."""
    from neyman.inference.results import FitResult, NamedVector, ProfileResult

    if isinstance(profile, ProfileResult):
        return profile
    data, best = plain(profile), profile["best"]
    names = tuple(best["names"])
    values, errors = (NamedVector(names, numbers([best[k][n] for n in names])) for k in ("values", "errors"))
    fit = FitResult(names, values, errors, None, float(best["fval"]), best["valid"], float(best["edm"]))
    return ProfileResult(
        data["parameter"],
        tuple(data["names"]),
        numbers(data["grid"]),
        numbers(data["delta"]),
        np.array(data["valid"], dtype=bool),
        numbers(data["parameters"]),
        fit,
    )


def _interval_text(profile: ProfileResult, low: float | None, high: float | None) -> str:
    value = profile.best.values[profile.parameter]
    sides = [abs(end - value) if end is not None else None for end in (high, low)]
    scale = min((side for side in sides if side), default=None)
    words = [
        f"{sign}{rounded(side, scale)}" if side else "(open)" for sign, side in zip("+−", sides, strict=True)
    ]
    return " ".join([f"{label(symbol(profile.parameter))} = {rounded(value, scale)}", *words])
