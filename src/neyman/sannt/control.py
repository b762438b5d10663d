"""What other channels of a fit say of its parameters: information that no network changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hist
import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import TrainingError, nearest
from neyman.sannt.fisher import fisher_information
from neyman.sannt.templates import NOMINAL, Direction, Templates

Array = NDArray[np.float64]
Channels = Mapping[str, Mapping[str, hist.Hist[Any]]]


def control_parameters(channels: Channels) -> list[str]:
    """Return the nuisance parameters that vary histograms of control channels."""
    found = {
        category.removesuffix("Up")
        for own in channels.values()
        for h in own.values()
        for category in _categories(h)
        if category.endswith("Up")
    }
    return sorted(found)


def control_information(
    channels: Channels, templates: Templates, *, direction: Direction, mc_stat: bool
) -> torch.Tensor:
    """Return the Fisher information of control channels on the parameters of a measurement, without constraints.

    Parameters
    ----------
    channels
        Channel to process to histogram: one axis of any name, and optionally ``variation`` with the categories
        nominal, NAMEUp and NAMEDown.
    templates
        The measurement, whose strengths and normalisations act here too.
    direction
        Derivative to nuisance parameters, see :func:`neyman.sannt.train`.
    mc_stat
        Whether bins have the variances of the histograms.

    Returns
    -------
    float64, ``(n_parameters, n_parameters)``, strengths first.

    Raises
    ------
    TrainingError
        When a process is unknown, a histogram has no nominal category or a variation only one side, processes differ
        in their bins, or a bin has no positive expectation.
    """
    order = [*templates.strengths, *templates.parameters]
    total = torch.zeros(len(order), len(order), dtype=torch.float64)
    for channel, own in channels.items():
        expected = variance = np.zeros(0)
        jacobian = np.zeros((0, len(order)))
        for process, h in own.items():
            where = f"control channel {channel!r}, process {process!r}"
            if process not in templates.processes:
                raise TrainingError(
                    f"there is no process {process!r}",
                    where=where,
                    fix=f"nearest: {nearest(process, templates.processes)}",
                )
            nominal, spread, varied = _contents(h, where)
            if not len(expected):
                expected, variance = np.zeros(len(nominal)), np.zeros(len(nominal))
                jacobian = np.zeros((len(nominal), len(order)))
            if expected.shape != nominal.shape:
                raise TrainingError(
                    f"{len(nominal)} bins, where another process has {len(expected)}", where=where
                )
            expected, variance = expected + nominal, variance + spread
            slopes = np.zeros((len(nominal), len(order)))
            for name, processes in templates.strengths.items():
                slopes[:, order.index(name)] += nominal * (process in processes)
            for parameter, (up, down) in varied.items():
                slopes[:, order.index(parameter)] += _slope(up, down, nominal, direction)
            for one in templates.normalisations:
                if process in one.processes:
                    if one.parameter in varied:
                        raise TrainingError(
                            f"{one.parameter!r} varies the histogram and is a normalisation too",
                            where=where,
                            expected="one effect of a parameter on a process",
                        )
                    slopes[:, order.index(one.parameter)] += one.slope(direction) * nominal
            jacobian = jacobian + slopes
        try:
            total += fisher_information(
                torch.from_numpy(expected),
                torch.from_numpy(jacobian),
                [False] * len(order),
                variance=torch.from_numpy(variance) if mc_stat else None,
            )
        except TrainingError as error:
            raise TrainingError(
                error.what, where=f"control channel {channel!r}", expected=error.expected, fix=error.fix
            ) from error
    return total


def _slope(up: Any, down: Any, nominal: Any, direction: Direction) -> Any:
    return {"average": 0.5 * (up - down), "up": up - nominal, "down": nominal - down}[direction]


def _categories(h: hist.Hist[Any]) -> list[str]:
    return list(h.axes["variation"]) if "variation" in [axis.name for axis in h.axes] else [NOMINAL]


def _contents(h: hist.Hist[Any], where: str) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
    axes = [axis.name for axis in h.axes]
    if len([name for name in axes if name != "variation"]) != 1:
        raise TrainingError(
            f"the histogram has the axes {', '.join(axes)}",
            where=where,
            expected="one axis beside 'variation'",
        )
    categories = _categories(h)
    if NOMINAL not in categories:
        raise TrainingError(
            f"the axis 'variation' has no category {NOMINAL!r}",
            where=where,
            expected="nominal, NAMEUp, NAMEDown",
        )

    def one(category: str) -> tuple[Array, Array]:
        chosen: Any = h[{"variation": category}] if len(h.axes) > 1 else h
        values = np.asarray(chosen.values(), dtype=np.float64)
        variances = chosen.variances()
        return values, values if variances is None else np.asarray(variances, dtype=np.float64)

    varied = {}
    names = [c for c in categories if c != NOMINAL]
    for name in sorted({c.removesuffix("Up") if c.endswith("Up") else c.removesuffix("Down") for c in names}):
        for side in ("Up", "Down"):
            if f"{name}{side}" not in categories:
                raise TrainingError(f"the variation {name!r} has no {name}{side}", where=where)
        varied[name] = one(f"{name}Up")[0], one(f"{name}Down")[0]
    nominal, spread = one(NOMINAL)
    if not (np.isfinite(nominal).all() and (spread >= 0.0).all()):
        raise TrainingError(
            "the nominal histogram has contents that are not finite, or negative variances", where=where
        )
    return nominal, spread, varied
