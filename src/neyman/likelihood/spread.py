r"""From the members of an ensemble to nuisance parameters: how uncertain is a learned log-ratio?

`member_components` turns the differences between members into a few columns, each a direction of the log-ratio with
one standard deviation as its length. A `LinearShape` with a unit normal constraint on every column then lets the fit
move the log-ratio within the spread of the members, and the uncertainty of the result grows accordingly.

Members that differ in their random initialisation and batches alone measure the spread of the training
(``kind="ensemble"``). Members that were each trained on another Poisson bootstrap of the simulated events (event
weights times independent Poisson(1) numbers) measure the statistical error of the training sample too
(``kind="bootstrap"``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import LikelihoodError

Array = NDArray[np.float64]
Kind = Literal["ensemble", "bootstrap"]


@dataclass(frozen=True)
class MemberComponents:
    """Principal components of the differences between the members of an ensemble.

    Parameters
    ----------
    loadings
        Column j is ``loadings[j]`` times the members, shape ``(k, n_members)``.
    fraction
        Share of the members' total variance that the first components capture together, shape ``(k,)``.
    """

    loadings: Array
    fraction: Array

    def columns(self, members: ArrayLike) -> Array:
        """Return the components for the members' log-ratios of any events, ``(n_members, n)`` to ``(k, n)``.

        The data, the reference and every other sample of a channel must go through the same components.
        """
        return self.loadings @ _members(members, self.loadings.shape[1])


def member_components(
    members: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    kind: Kind = "ensemble",
    n_components: int | None = None,
) -> MemberComponents:
    r"""Find the leading directions in which the members of an ensemble differ.

    With :math:`d_m(x) = \ell_m(x) - \bar\ell(x)` the deviations of the M members, the covariance of the log-ratio is

    .. math:: C(x, x') = \frac{1}{N} \sum_m d_m(x)\, d_m(x') = \sum_j c_j(x)\, c_j(x'), \qquad
        c_j(x) = \frac{1}{\sqrt N} \sum_m U_{mj}\, d_m(x)

    where :math:`N = M - 1` for bootstrap members (each is as uncertain as the training sample makes it), and
    :math:`N = M (M - 1)` for an ensemble, whose mean is used and varies less than a member by :math:`1/\sqrt M`.
    U diagonalises the matrix of :math:`\langle d_m d_{m'} \rangle` over the reference sample, so that the first
    columns capture the most. With all :math:`M - 1` columns the covariance is exact. A direction that matters to the
    result need not be one in which the members differ most: keep components until the error of the result no
    longer grows, not until a fraction is reached.

    Parameters
    ----------
    members
        Log-ratios of the members over the reference sample, shape ``(n_members, n)``. Normalise each first
        (subtract the logarithm of its mean ratio): a constant has no effect in a term that renormalises.
    weights
        Weights of the reference events, ``(n,)``; their absolute values order the components.
    kind
        ``ensemble`` or ``bootstrap``.
    n_components
        Number of components to keep; all by default.

    Raises
    ------
    LikelihoodError
        When there are fewer than two members, a log-ratio or weight is not finite, the shapes differ, or more
        components are asked for than there are.
    """
    values = _members(members)
    n_members, n = values.shape
    if n_members < 2:
        raise LikelihoodError(f"the spread needs at least two members, got {n_members}")
    if kind not in ("ensemble", "bootstrap"):
        raise LikelihoodError(f"unknown kind of members {kind!r}", expected="ensemble or bootstrap")
    largest = n_members - 1
    keep = largest if n_components is None else n_components
    if not 1 <= keep <= largest:
        raise LikelihoodError(
            f"{keep} components asked for", expected=f"1 to {largest}, one less than the {n_members} members"
        )
    weight = np.ones(n) if weights is None else np.abs(np.asarray(weights, dtype=np.float64))
    if weight.shape != (n,) or not np.isfinite(weight).all():
        raise LikelihoodError(
            f"the weights have shape {weight.shape} or are not finite", expected=f"{n} finite weights"
        )
    deviations = values - values.mean(axis=0)
    # The differences between members span one dimension less than the members: work in a basis of them.
    basis = np.linalg.qr(np.eye(n_members)[:, 1:] - 1.0 / n_members)[0]
    contrasts = basis.T @ deviations
    variances, directions = np.linalg.eigh((contrasts * weight) @ contrasts.T)
    variances, directions = np.maximum(variances[::-1], 0.0), directions[:, ::-1]
    scale = largest * (n_members if kind == "ensemble" else 1)
    total = variances.sum()
    fraction = np.cumsum(variances) / total if total > 0.0 else np.ones(largest)
    return MemberComponents((basis @ directions).T[:keep] / np.sqrt(scale), fraction[:keep])


def _members(members: ArrayLike, n_members: int | None = None) -> Array:
    values = np.asarray(members, dtype=np.float64)
    if values.ndim != 2 or (n_members is not None and len(values) != n_members):
        raise LikelihoodError(
            f"the members' log-ratios have shape {values.shape}",
            expected=f"({n_members or 'n_members'}, n_events)",
        )
    if not np.isfinite(values).all():
        event = int(np.nonzero(~np.isfinite(values))[1][0])
        raise LikelihoodError("a member's log-ratio is not finite", where=f"first at event {event}")
    return values
