"""`Spectrum`: the histogram of an unfolded observable with its covariance, by source."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from neyman.errors import InputError, NeymanWarning

if TYPE_CHECKING:
    import hist

Array = NDArray[np.float64]
_ENOUGH = 3  # replicas a bin, for the inverse of a covariance
_RANK = 1e-10  # eigenvalues below this fraction of the largest are those of constraints, such as a fixed sum


@dataclass(frozen=True, eq=False)
class Comparison:
    r"""A spectrum against a truth.

    Parameters
    ----------
    chi2
        :math:`(x - t)^T C^{-1} (x - t)`, with the pseudo-inverse where C is singular.
    ndof
        Rank of C.
    p_value
        Probability of a larger chi2.
    pulls
        :math:`(x - t)/\sqrt{C_{ii}}`, ``(n_bins,)``.
    bias
        :math:`(x - t)/t`, ``(n_bins,)``.
    """

    chi2: float
    ndof: int
    p_value: float
    pulls: Array
    bias: Array

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "chi2": self.chi2,
            "ndof": self.ndof,
            "p_value": self.p_value,
            "pulls": self.pulls.tolist(),
            "bias": self.bias.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Contents of the bins of one or several observables, as one vector in C order, and their covariance.

    Parameters
    ----------
    names, units
        One an axis.
    edges
        One an axis; axis a has ``len(edges[a]) - 1`` bins.
    values
        Sum of the unfolded weights in each bin, ``(n_bins,)``; for a density divided by the sum over all bins and by
        the bins' volume.
    sources
        Covariance ``(n_bins, n_bins)`` by source: ``data``, ``simulation`` (bootstrap), ``training`` (spread of the
        ensemble), and every systematic variation by name. Without bootstrap replicas ``simulation`` is the diagonal of
        `statistics`, which knows nothing of the fluctuations of the data.
    statistics
        Sum of the squared weights in each bin, ``(n_bins,)``: what a fill gives as variance.
    density
        Whether the values are a normalised density.
    replicas
        From how many bootstrap replicas a source is known.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    edges: tuple[Array, ...]
    values: Array
    sources: Mapping[str, Array]
    statistics: Array
    density: bool = False
    replicas: Mapping[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of bins of each axis."""
        return tuple(len(edges) - 1 for edges in self.edges)

    @property
    def covariance(self) -> Array:
        """Sum over the sources; without any the diagonal of `statistics`, ``(n_bins, n_bins)``."""
        return np.asarray(sum(self.sources.values())) if self.sources else np.diag(self.statistics)

    @property
    def errors(self) -> Array:
        """Square roots of the diagonal of the covariance, ``(n_bins,)``."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def correlation(self) -> Array:
        """Correlation matrix; 0 for bins without error."""
        errors = np.where(self.errors > 0.0, self.errors, np.inf)
        return np.asarray(self.covariance / np.outer(errors, errors))

    @property
    def hist(self) -> hist.Hist[hist.storage.Weight]:
        """The values as a histogram whose variances are the diagonal of the covariance."""
        import hist

        axes = [
            hist.axis.Variable(edges.tolist(), name=name, label=f"{name} [{unit}]" if unit else name)
            for name, unit, edges in zip(self.names, self.units, self.edges, strict=True)
        ]
        h = hist.Hist(*axes, storage=hist.storage.Weight())
        view = h.view()
        view.value = self.values.reshape(self.shape)
        view.variance = np.diag(self.covariance).reshape(self.shape)
        return h

    def normalised(self) -> Spectrum:
        r"""Return the normalised density :math:`x_i/(\Delta_i \sum_j x_j)`, its covariance propagated to first order.

        Raises
        ------
        InputError
            When the values do not have a positive sum.
        """
        if self.density:
            return self
        whole = self.values.sum()
        if not whole > 0.0:
            raise InputError(
                f"the spectrum of {', '.join(self.names)} sums to {whole:g}, it cannot be normalised"
            )
        widths = _volumes(self.edges)
        shape = self.values / whole
        jacobian = (np.eye(len(shape)) - shape[:, None]) / whole / widths[:, None]
        return replace(
            self,
            values=shape / widths,
            sources={name: jacobian @ own @ jacobian.T for name, own in self.sources.items()},
            statistics=np.einsum("ij,j,ij->i", jacobian, self.statistics, jacobian),
            density=True,
        )

    def compare(self, truth: ArrayLike | Spectrum) -> Comparison:
        """Compare with a truth in the same bins; with that of another spectrum the covariances are added.

        Parameters
        ----------
        truth
            Contents of the bins, ``(n_bins,)`` or the shape of the axes, or a spectrum.

        Raises
        ------
        InputError
            When it has other bins, or a bin without error differs from it.

        Warns
        -----
        NeymanWarning
            When a covariance comes from fewer than three replicas a bin: the inverse of a sample covariance of n
            replicas in p bins is too large by (n - 1)/(n - p - 2) (Hartlap et al., astro-ph/0608064).
        """
        other = (
            truth.values if isinstance(truth, Spectrum) else np.asarray(truth, dtype=np.float64).reshape(-1)
        )
        if other.shape != self.values.shape:
            raise InputError(
                f"the truth has {other.size} bins", expected=f"{self.values.size}, those of the spectrum"
            )
        if isinstance(truth, Spectrum):
            same = len(truth.edges) == len(self.edges) and all(
                np.array_equal(own, theirs) for own, theirs in zip(self.edges, truth.edges, strict=True)
            )
            if not same or truth.density != self.density:
                raise InputError(
                    "the two spectra have other bins"
                    if not same
                    else "one spectrum is a density, the other is not",
                    where=", ".join(self.names),
                )
        few = {name: n for name, n in self.replicas.items() if n < _ENOUGH * len(self.values)}
        if few:
            warnings.warn(
                f"the covariance of {len(self.values)} bins comes from {min(few.values())} replicas of the "
                f"{' and '.join(few)}: its inverse, and so chi2, is too large; use {_ENOUGH * len(self.values)}",
                NeymanWarning,
                stacklevel=2,
            )
        covariance = self.covariance + (truth.covariance if isinstance(truth, Spectrum) else 0.0)
        difference = self.values - other
        scale = np.sqrt(np.diag(covariance))
        empty = (scale == 0.0) & (difference != 0.0)
        if empty.any():
            raise InputError(
                f"bin {int(empty.argmax())} has no error and differs from the truth by {difference[empty][0]:g}",
                where=", ".join(self.names),
                fix="merge it with its neighbour: no simulated event, or none of a replica, is in it",
            )
        scale = np.where(scale > 0.0, scale, 1.0)
        values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
        used = values > _RANK * max(values.max(), 0.0)
        projected = vectors[:, used].T @ (difference / scale)
        found = float((projected**2 / values[used]).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            return Comparison(
                found,
                int(used.sum()),
                float(chi2.sf(found, int(used.sum()))),
                difference / np.sqrt(np.diag(covariance)),
                difference / other,
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "names": list(self.names),
            "units": list(self.units),
            "edges": [edges.tolist() for edges in self.edges],
            "values": self.values.tolist(),
            "sources": {name: own.tolist() for name, own in self.sources.items()},
            "statistics": self.statistics.tolist(),
            "density": self.density,
            "replicas": dict(self.replicas),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Spectrum:
        """Read what :meth:`to_dict` gives.

        Raises
        ------
        InputError
            When an entry is missing or has another size.
        """
        try:
            spectrum = cls(
                tuple(map(str, data["names"])),
                tuple(map(str, data["units"])),
                tuple(np.asarray(edges, dtype=np.float64) for edges in data["edges"]),
                np.asarray(data["values"], dtype=np.float64),
                {str(k): np.asarray(v, dtype=np.float64) for k, v in data["sources"].items()},
                np.asarray(data["statistics"], dtype=np.float64),
                bool(data["density"]),
                {str(k): int(v) for k, v in data["replicas"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"this is not a spectrum: {error!r}", expected="the output of Spectrum.to_dict"
            ) from error
        n = int(np.prod(spectrum.shape))
        sizes: dict[str, tuple[Array, tuple[int, ...]]] = {
            "values": (spectrum.values, (n,)),
            "statistics": (spectrum.statistics, (n,)),
        }
        sizes |= {f"source {name!r}": (own, (n, n)) for name, own in spectrum.sources.items()}
        for name, (array, shape) in sizes.items():
            if array.shape != shape:
                raise InputError(f"{name} of the spectrum has shape {array.shape}", expected=f"{shape}")
        return spectrum


def binned(
    values: ArrayLike | Sequence[ArrayLike],
    edges: ArrayLike | Sequence[ArrayLike],
    name: str | Sequence[str],
    n: int,
) -> tuple[tuple[str, ...], list[Array], tuple[Array, ...]]:
    """Return names, observables and edges of every axis, checked.

    Raises
    ------
    InputError
        When there is not one value for each of the `n` events, or edges do not rise.
    """
    names = (name,) if isinstance(name, str) else tuple(name)
    given: tuple[Any, Any] = ([values], [edges]) if isinstance(name, str) else (values, edges)
    columns, bins = ([np.asarray(own, dtype=np.float64) for own in several] for several in given)
    if len(set(names)) != len(names):
        raise InputError(f"two axes have one name: {', '.join(names)}")
    if not len(names) == len(columns) == len(bins):
        raise InputError(f"{len(names)} names, {len(columns)} observables and {len(bins)} sets of edges")
    for own, column, steps in zip(names, columns, bins, strict=True):
        if column.shape != (n,):
            raise InputError(
                f"the observable has shape {column.shape}",
                where=own,
                expected=f"({n},), one value for every simulated event",
            )
        if (
            steps.ndim != 1
            or len(steps) < 2
            or not (np.diff(steps) > 0.0).all()
            or not np.isfinite(steps).all()
        ):
            raise InputError(
                f"the edges of {own!r} do not rise",
                expected="edges of the bins, at least two, each finite and above the one before",
            )
    return names, columns, tuple(bins)


def bin_numbers(columns: Sequence[Array], edges: Sequence[Array]) -> NDArray[np.int64]:
    """Return the flattened bin of every event, or the number of bins for one outside; the last edge is inside."""
    number = np.zeros(len(columns[0]), dtype=np.int64)
    inside = np.ones(len(number), dtype=np.bool_)
    for column, steps in zip(columns, edges, strict=True):
        own = np.searchsorted(steps, column, side="right") - 1
        own = np.where(column == steps[-1], len(steps) - 2, own)
        inside &= (own >= 0) & (own < len(steps) - 1)
        number = number * (len(steps) - 1) + own
    return np.where(inside, number, int(np.prod([len(steps) - 1 for steps in edges])))


def filled(weights: NDArray[Any], number: NDArray[np.int64], n_bins: int) -> Array:
    """Return the sums of each row of weights in the bins, ``(n_rows, n_bins)``."""
    return np.stack([np.bincount(number, row, minlength=n_bins + 1)[:n_bins] for row in weights])


def covariances(
    nominal: Array, replicas: Mapping[str, Array], systematics: Mapping[str, Array]
) -> dict[str, Array]:
    r"""Return the covariance of statistics from those of the replicas of each source.

    Replicas give their sample covariance. A systematic variation gives :math:`d d^T`, d half the difference of up and
    down, or the difference of one variation from the nominal value.

    Parameters
    ----------
    nominal
        Statistics, ``(n,)``.
    replicas
        Those of the replicas by source, ``(n_replicas, n)``.
    systematics
        Those of each variation, ``(1 or 2, n)``.
    """
    found = {name: np.atleast_2d(np.cov(own.T)) for name, own in replicas.items()}
    for name, own in systematics.items():
        shift = 0.5 * (own[0] - own[1]) if len(own) == 2 else own[0] - nominal
        found[name] = np.outer(shift, shift)
    return found


def _volumes(edges: Sequence[Array]) -> Array:
    volume = np.ones(1)
    for steps in edges:
        volume = np.outer(volume, np.diff(steps)).reshape(-1)
    return volume
