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
                return (
                    f"the variation {self.parameter!r} of process {self.process!r} has a statistical uncertainty of "
                    f"{100.0 * np.sqrt(noise / effect):.0f}% of its {what}: a training lowers the effect of "
                    "fluctuations too; use more events, a normalisation, or weights of the nominal events"
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
    out = []
    for (process, category), (k_up, row_up) in place.items():
        if not category.endswith("Up"):
            continue
        parameter = category.removesuffix("Up")
        k_down, row_down = place[process, f"{parameter}Down"]
        up = templates.blocks[k_up], bins[k_up], templates.blocks[k_up].weight[row_up]
        down = templates.blocks[k_down], bins[k_down], templates.blocks[k_down].weight[row_down]
        aligned = (process, parameter) in templates.paired
        effect, variance = _difference(up, down, n_bins, same=k_up == k_down, aligned=aligned)
        k, row = place[process, NOMINAL]
        nominal = np.bincount(bins[k], templates.blocks[k].weight[row], minlength=n_bins)
        norm = effect.sum() / nominal.sum()
        shape = effect - norm * nominal
        weight = np.where(usable, 1.0 / np.where(usable, expected, 1.0), 0.0)
        share = nominal / nominal.sum()
        # Bin i loses its part p_i of the total: (1 - p_i) of its own fluctuation and -p_i of the others' remain.
        shape_variance = (1.0 - 2.0 * share) * variance + share**2 * variance.sum()
        out.append(
            Noise(
                process,
                parameter,
                float(weight @ effect**2),
                float(weight @ variance),
                float(weight @ shape**2),
                float(weight @ np.maximum(shape_variance, 0.0)),
            )
        )
    return out


def _difference(
    up: tuple[Block, Index, Array],
    down: tuple[Block, Index, Array],
    n_bins: int,
    *,
    same: bool,
    aligned: bool,
) -> tuple[Array, Array]:
    """Half the difference of up and down in each bin, and its variance; events on both sides fluctuate together."""
    (block_u, bin_u, w_u), (block_d, bin_d, w_d) = up, down
    effect = 0.5 * (np.bincount(bin_u, w_u, minlength=n_bins) - np.bincount(bin_d, w_d, minlength=n_bins))
    variance = 0.25 * (
        np.bincount(bin_u, w_u**2, minlength=n_bins) + np.bincount(bin_d, w_d**2, minlength=n_bins)
    )
    rows_u, rows_d = _matched(block_u, block_d, same=same, aligned=aligned)
    together = bin_u[rows_u] == bin_d[rows_d]
    rows_u, rows_d = rows_u[together], rows_d[together]
    common = np.bincount(bin_u[rows_u], w_u[rows_u] * w_d[rows_d], minlength=n_bins)
    return effect.astype(np.float64), np.maximum(variance - 0.5 * common, 0.0)


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
