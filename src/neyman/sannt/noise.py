"""Statistical uncertainty of variations: a training lowers the effect of a fluctuation as gladly as a real one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neyman.sannt.templates import NOMINAL, Block, Templates

Array = NDArray[np.float64]
Index = NDArray[np.int64]
_NEGLIGIBLE = 0.02  # of the information of the constraint: noise that no fit feels


@dataclass(frozen=True)
class Noise:
    r"""How much of a variation is noise of the simulation.

    With the effect :math:`\Delta_i` of one standard deviation on bin i, its statistical error :math:`\sigma_i` and the
    expectation :math:`\lambda_i`, the variation adds :math:`\sum_i \Delta_i^2/\lambda_i` to the information on its
    nuisance parameter, and noise alone would add :math:`\sum_i \sigma_i^2/\lambda_i`.

    Parameters
    ----------
    process, parameter
        The variation.
    effect, noise
        The two sums, for the whole variation.
    shape_effect, shape_noise
        The same after its effect on the yield is taken out.
    """

    process: str
    parameter: str
    effect: float
    noise: float
    shape_effect: float
    shape_noise: float

    def complaint(self, share: float) -> str | None:
        """Return a warning where the noise is at least this share of the effect, None otherwise."""
        for what, effect, noise in (
            ("effect", self.effect, self.noise),
            ("effect on the shape", self.shape_effect, self.shape_noise),
        ):
            if noise > _NEGLIGIBLE and noise >= share**2 * effect:
                size = (
                    f"{100.0 * np.sqrt(noise / effect):.0f}% of its {what}"
                    if effect > 0.0
                    else f"all of its {what}"
                )
                return (
                    f"the variation {self.parameter!r} of process {self.process!r} has a statistical uncertainty of "
                    f"{size}: a training lowers the effect of fluctuations too; use more events, weights of the "
                    "nominal events that change smoothly, or a normalisation"
                )
        return None


def variation_noise(templates: Templates, bins: list[Index], n_bins: int, expected: Array) -> list[Noise]:
    """Return the noise of all variations.

    Parameters
    ----------
    templates
        Events of the templates.
    bins
        Bins of the events of each block.
    n_bins
        Number of bins.
    expected
        Expectation of each bin, all processes together.
    """
    place = {key: (k, row) for k, block in enumerate(templates.blocks) for row, key in enumerate(block.keys)}
    usable = expected > 0.0
    weight = np.where(usable, 1.0 / np.where(usable, expected, 1.0), 0.0)
    out = []
    for (process, category), (k_up, row_up) in place.items():
        if not category.endswith("Up"):
            continue
        parameter = category.removesuffix("Up")
        up, down, nominal = (
            _Template(k, templates.blocks[k], bins[k], templates.blocks[k].weight[row], n_bins)
            for k, row in ((k_up, row_up), place[process, f"{parameter}Down"], place[process, NOMINAL])
        )
        aligned = (process, parameter) in templates.paired
        effect = 0.5 * (up.contents - down.contents)
        variance = 0.25 * (up.variance + down.variance) - 0.5 * _together(up, down, aligned)
        norm = effect.sum() / nominal.contents.sum()
        shape = effect - norm * nominal.contents
        # Of (up - down) / 2 - norm * nominal: events that are in all three fluctuate together.
        both = 0.5 * (_together(up, nominal, aligned) - _together(down, nominal, aligned))
        own = variance + norm**2 * nominal.variance - 2.0 * norm * both
        share = nominal.contents / nominal.contents.sum()
        # Bin i loses its part p_i of the total: (1 - p_i) of its own fluctuation and -p_i of the others' remain.
        shape_variance = (1.0 - 2.0 * share) * own + share**2 * own.sum()
        rounding = 1e-12 * float(weight @ nominal.contents**2)
        sums = (
            float(weight @ effect**2),
            float(weight @ np.maximum(variance, 0.0)),
            float(weight @ shape**2),
            float(weight @ np.maximum(shape_variance, 0.0)),
        )
        out.append(Noise(process, parameter, *(x if x > rounding else 0.0 for x in sums)))
    return out


class _Template:
    """Contents of one template and their variances."""

    def __init__(self, number: int, block: Block, bins: Index, weight: Array, n_bins: int) -> None:
        self.number, self.block, self.bins, self.weight, self.n_bins = number, block, bins, weight, n_bins
        self.contents = np.bincount(bins, weight, minlength=n_bins).astype(np.float64)
        self.variance = np.bincount(bins, weight**2, minlength=n_bins).astype(np.float64)


def _together(a: _Template, b: _Template, aligned: bool) -> Array:
    """Covariance of two templates in each bin: events that are there in both."""
    rows_a, rows_b = _matched(a.block, b.block, same=a.number == b.number, aligned=aligned)
    there = a.bins[rows_a] == b.bins[rows_b]
    rows_a, rows_b = rows_a[there], rows_b[there]
    products = a.weight[rows_a] * b.weight[rows_b]
    return np.bincount(a.bins[rows_a], products, minlength=a.n_bins).astype(np.float64)


def _matched(up: Block, down: Block, *, same: bool, aligned: bool) -> tuple[Index, Index]:
    """Rows of the same events."""
    if same or (aligned and len(up.x) == len(down.x)):
        rows = np.arange(len(up.x))
        return rows, rows
    none = np.zeros(0, dtype=np.int64)
    if up.entry is None or down.entry is None:
        return none, none
    for entry in (up.entry, down.entry):
        if len(np.unique(entry)) != len(entry):
            return none, none
    _, rows_u, rows_d = np.intersect1d(up.entry, down.entry, assume_unique=True, return_indices=True)
    return rows_u.astype(np.int64), rows_d.astype(np.int64)
