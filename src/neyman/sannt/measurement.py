"""From filled rows to the expected uncertainties of the signals' strengths, with bins that a fit can trust."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import TrainingError
from neyman.sannt.fisher import fisher_information, invertible, uncertainties, usable_bins
from neyman.sannt.rows import BACKGROUND, BACKGROUND_VARIANCE, EXPECTED, FIRST, VARIANCE
from neyman.sannt.templates import Templates

_WEAK = 1e-8


@dataclass(frozen=True)
class Measurement:
    """What is fitted: signals, nuisance parameters, and how bins are kept apart.

    Parameters
    ----------
    signals
        Names of the signal strengths.
    parameters
        Names of all parameters for messages, the strengths first.
    constrained
        Which of them have a unit Gaussian constraint.
    n_classes
        Number of classes; bins of different classes are never merged.
    mc_stat
        Whether the statistics of the simulation are part of the uncertainty (one factor a bin).
    min_effective
        Bins with fewer effective events of the backgrounds, :math:`(\\sum w)^2 / \\sum w^2`, are merged with the next:
        a bin is no purer than its simulated background can tell.
    control
        Information of other channels on the parameters, ``(n_parameters, n_parameters)``.
    ordered
        Whether neighbouring bins belong together; otherwise bins are merged in the order of their signal fraction.
    """

    signals: tuple[str, ...]
    parameters: tuple[str, ...]
    constrained: tuple[bool, ...]
    n_classes: int = 1
    mc_stat: bool = True
    min_effective: float = 10.0
    control: torch.Tensor | None = None
    ordered: bool = True

    @classmethod
    def of(cls, templates: Templates, **options: bool | float | torch.Tensor | None) -> Measurement:
        """Return the measurement of templates."""
        return cls(tuple(templates.strengths), templates.names, templates.constrained, **options)  # type: ignore[arg-type]

    def groups(self, rows: torch.Tensor) -> NDArray[np.int64]:
        """Return to which bin of the fit each bin belongs.

        From the end of the highest scores on, bins are taken together until they have a positive expectation and
        enough effective background events; what is left over joins the last bin that was made.

        Parameters
        ----------
        rows
            Shape ``(n_members, n_rows, n_classes * n_bins)``.

        Returns
        -------
        Shape ``(n_members, n_classes * n_bins)``; a group's number is that of its lowest bin.
        """
        expected, background, variance = (
            rows[:, k].detach().cpu().numpy() for k in (EXPECTED, BACKGROUND, BACKGROUND_VARIANCE)
        )
        n_bins = expected.shape[1] // self.n_classes
        out = np.empty(expected.shape, dtype=np.int64)
        for m in range(len(expected)):
            order = np.arange(expected.shape[1])
            if not self.ordered:
                signal = rows[m, FIRST : FIRST + len(self.signals)].detach().sum(dim=0).cpu().numpy()
                with np.errstate(divide="ignore", invalid="ignore"):
                    fraction = np.nan_to_num(signal / expected[m], nan=0.0, posinf=0.0, neginf=0.0)
                order = np.argsort(fraction, kind="stable")
            for c in range(self.n_classes):
                own = order[c * n_bins : (c + 1) * n_bins]
                out[m, own] = self._merged(own, expected[m, own], background[m, own], variance[m, own])
        return out

    def _merged(
        self,
        bins: NDArray[np.int64],
        expected: NDArray[np.float64],
        background: NDArray[np.float64],
        variance: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Group bins from the last one down, each named after its lowest bin in the order given."""
        starts: list[int] = []
        total = sum_ = spread = 0.0
        for k in range(len(bins) - 1, -1, -1):
            total, sum_, spread = total + expected[k], sum_ + background[k], spread + variance[k]
            enough = self.min_effective == 0.0 or (sum_ > 0.0 and sum_ * sum_ >= self.min_effective * spread)
            if total > 0.0 and enough:
                starts.append(k)
                total = sum_ = spread = 0.0
        if not starts:
            starts = [0]
        starts[-1] = 0
        return np.asarray(bins[np.repeat(starts[::-1], np.diff([*starts[::-1], len(bins)]))], dtype=np.int64)

    def merged(self, rows: torch.Tensor, groups: NDArray[np.int64] | None = None) -> torch.Tensor:
        """Return the rows with merged bins; merged ones hold everything, the others are empty."""
        groups = self.groups(rows) if groups is None else groups
        if (groups == np.arange(groups.shape[1])).all():
            return rows
        place = torch.from_numpy(groups).to(rows.device)[:, None, :].expand(rows.shape)
        return torch.zeros_like(rows).scatter_add(2, place, rows)

    def information(self, rows: torch.Tensor, *, statistical: bool = False) -> torch.Tensor:
        """Return the Fisher information of merged rows and of the control channels, without bins that no fit can use.

        Parameters
        ----------
        rows
            Shape ``(n_members, n_rows, n_bins)``, merged.
        statistical
            Of the signals' strengths alone, without nuisance parameters and statistics of the simulation.
        """
        last = FIRST + len(self.signals) if statistical else rows.shape[1]
        jacobian = rows[:, FIRST:].transpose(-1, -2)
        usable = usable_bins(rows[:, EXPECTED].detach(), jacobian.detach())
        if not bool(usable.all()):  # a class that has lost all its events
            rows = torch.where(usable[:, None, :], rows, 0.0)
        variance = rows[:, VARIANCE] if self.mc_stat and not statistical else None
        information = fisher_information(
            rows[:, EXPECTED],
            rows[:, FIRST:last].transpose(-1, -2),
            self.constrained[: last - FIRST],
            variance=variance,
        )
        if self.control is not None:
            n = last - FIRST
            information = information + self.control[:n, :n].to(information.device)
        return information

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of the uncertainties of the signals' strengths, ``(n_members,)``.

        Every parameter has a weak constraint here, 10,000 times wider than what its own bins say: networks in which
        two free parameters cannot be told apart have a large loss, out of which a training finds, and no error.
        """
        information = self.information(self.merged(rows))
        own = information.detach().diagonal(dim1=-2, dim2=-1)
        weak = torch.diag_embed(torch.where(own > 0.0, _WEAK * own, 1.0))
        found = uncertainties(information + weak, range(len(self.signals)), self.parameters)
        return found.sum(dim=-1)

    def uncertainties(
        self, rows: torch.Tensor, *, statistical: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the expected uncertainty of each signal's strength, and for which members there is one.

        Returns
        -------
        float64 ``(n_members, n_signals)``, infinite where the information is singular, and bool ``(n_members,)``.
        """
        information = self.information(self.merged(rows), statistical=statistical)
        good = invertible(information)
        found = information.new_full((len(rows), len(self.signals)), torch.inf)
        if bool(good.any()):
            found[good] = uncertainties(information[good], range(len(self.signals)), self.parameters)
        return found, good

    def usable(self, rows: torch.Tensor) -> torch.Tensor:
        """Return which members have bins that a fit can use, bool ``(n_members,)``."""
        merged = self.merged(rows.detach())
        jacobian = merged[:, FIRST:].transpose(-1, -2)
        return usable_bins(merged[:, EXPECTED], jacobian).all(dim=-1)

    def check_processes(self, contents: dict[str, NDArray[np.float64]]) -> dict[str, str]:
        """Say which processes have all their events in one bin."""
        notes = {}
        for process, values in contents.items():
            total = values.sum()
            full = np.flatnonzero(values > 0.999 * total)
            if len(full):
                notes[process] = (
                    f"all events of process {process!r} are in bin {int(full[0])} of {len(values)}: the fit is a "
                    "counting experiment for it; train for fewer steps or at a lower rate, or use other bins"
                )
        return notes


def negative_class(rows: torch.Tensor, n_classes: int) -> TrainingError | None:
    """Return an error when all events of a class together have no positive expectation."""
    totals = rows[:, EXPECTED].reshape(len(rows), n_classes, -1).sum(dim=-1)
    if bool((totals < 0.0).any()):
        _member, c = (int(i) for i in torch.nonzero(totals < 0.0)[0])
        return TrainingError(
            f"the bins of class {c} have the expectation {float(totals.min()):.4g} together",
            expected="a positive expectation",
            fix="negative weights need more events, or fewer classes",
        )
    return None
