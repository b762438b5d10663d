"""`from_unfolded`: measured spectra with their covariance, and predictions, become a Gaussian document."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import hist
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from neyman.errors import NeymanWarning, WorkspaceError, nearest
from neyman.naming import Naming
from neyman.workspace.covariance import checked_covariance
from neyman.workspace.gaussian import Gaussian
from neyman.workspace.histograms import SampleModel, modifier_names, pyhf_channels
from neyman.workspace.treatment import Treated, Treatment

Array = NDArray[np.float64]
_REPLICAS = 3  # a bin, for the inverse of a covariance (Hartlap et al., astro-ph/0608064)


class SpectrumLike(Protocol):
    """What `from_unfolded` reads of a measured spectrum; ``sources`` and ``replicas`` too, where there are any.

    ``edges`` of each axis, with ``names`` and ``units``; ``values`` of all bins in C order and their
    ``covariance``, shape ``(n_bins, n_bins)``.
    """

    @property
    def values(self) -> Any: ...

    @property
    def covariance(self) -> Any: ...

    @property
    def edges(self) -> Any: ...

    @property
    def names(self) -> Any: ...

    @property
    def units(self) -> Any: ...


@dataclass(frozen=True, eq=False)
class Measured:
    """A measured spectrum from plain arrays.

    Parameters
    ----------
    values
        Contents of the bins, in C order where there are several axes.
    covariance
        Shape ``(n_bins, n_bins)``.
    edges
        Of each axis; none where they do not matter.
    names, units
        Of each axis.
    sources
        What the covariance is the sum of, by name.
    """

    values: ArrayLike
    covariance: ArrayLike
    edges: Sequence[ArrayLike] = ()
    names: Sequence[str] = ()
    units: Sequence[str] = ()
    sources: Mapping[str, ArrayLike] = field(default_factory=dict)


Prediction = hist.Hist[Any] | ArrayLike


def from_unfolded(
    spectra: Mapping[str, SpectrumLike],
    predictions: Mapping[str, Mapping[str, Prediction]],
    models: Mapping[str, SampleModel],
    *,
    covariance: ArrayLike | None = None,
    sources: Mapping[str, ArrayLike] | None = None,
    name: str = "unfolded",
    poi: str = "mu",
    parameters: Sequence[Mapping[str, Any]] = (),
    naming: Naming | str | None = None,
    staterror: bool = True,
    measurement: str = "measurement",
    treatment: Treatment | None = None,
    report: list[Treated] | None = None,
) -> Gaussian:
    """Make the document ``gaussian.json`` of measured spectra and predictions, for `Draft`.

    Predictions are in the units of the measured values; they may be negative, as an interference is. Variations
    become normsys and histosys as in `from_hists`; of predictions with negative bins they become histosys alone.

    Parameters
    ----------
    spectra
        Measured spectra by channel.
    predictions
        Channel to sample name to prediction: an array of the bins in C order, or a histogram with the axes of the
        spectrum and optionally the systematic axis. Weight storage gives the staterror.
    models
        Further modifiers of each sample, by sample name.
    covariance
        Of all bins of all spectra, in their order, where there are several; that of the spectrum by default.
    sources
        What `covariance` is the sum of, by name.
    name
        Name of the common measurement of the spectra.
    poi
        Parameter of interest; empty where only other documents of the folder carry it.
    parameters
        Parameter settings with pyhf's keys (``name, inits, bounds, auxdata, sigmas, fixed``).
    naming
        Names on the systematic axis.
    staterror
        Whether the statistical uncertainty of predictions in Weight storage becomes a staterror a channel.
    measurement
        Name of the measurement.
    treatment
        Smoothing, symmetrisation, pruning and floors of the variations; nothing by default.
    report
        A list that gets a record of everything that the treatment did.

    Raises
    ------
    WorkspaceError
        When a prediction does not have the bins of its spectrum, a covariance is not symmetric and positive
        definite, several spectra have none in common, a sample has no model, or as for `from_hists`.

    Warns
    -----
    NeymanWarning
        When a covariance comes from fewer than three bootstrap replicas a bin.

    Examples
    --------
    >>> one = Measured([10.0, 4.0], [[1.0, 0.2], [0.2, 0.5]])
    >>> document = from_unfolded({"pt": one}, {"pt": {"tt": [9.0, 5.0]}}, {"tt": SampleModel(("mu",))})
    >>> document.parameters
    {'mu'}
    """
    _check_replicas(spectra)
    for what, other, known in (("spectrum", spectra, predictions), ("prediction", predictions, spectra)):
        if missing := sorted(set(known) - set(other)):
            raise WorkspaceError(
                f"channel {missing[0]!r} has no {what}", fix=f"nearest: {nearest(missing[0], other)}"
            )
    values = {channel: np.asarray(s.values, dtype=np.float64).ravel() for channel, s in spectra.items()}
    bins = [f"bin {i} of {channel}" for channel, v in values.items() for i in range(len(v))]
    if covariance is None:
        if len(spectra) != 1:
            raise WorkspaceError(
                f"{len(spectra)} spectra have no covariance in common",
                where=", ".join(spectra),
                expected=f"covariance={len(bins)} x {len(bins)} over the bins of all: spectra of the same events are "
                "correlated",
                fix="scipy.linalg.block_diag joins the covariances of spectra that are independent",
            )
        (only,) = spectra.values()
        covariance, sources = only.covariance, sources or getattr(only, "sources", None)
    total = checked_covariance(covariance, bins, where=f"the covariance of {name!r}")
    parts = {
        source: checked_covariance(matrix, bins, where=f"source {source!r} of the covariance", definite=False)
        for source, matrix in (sources or {}).items()
    }
    naming = Naming.of(naming)
    flat = {
        channel: {
            sample: _flat(
                prediction, spectra[channel], len(values[channel]), naming, f"{channel}, sample {sample}"
            )
            for sample, prediction in samples.items()
        }
        for channel, samples in predictions.items()
    }
    channels, records = pyhf_channels(
        flat, models, poi=poi, naming=naming, staterror=staterror, treatment=treatment, signed=True
    )
    by_name = {channel["name"]: channel for channel in channels}
    carried = modifier_names(channels)
    document = {
        "spectra": [
            {
                "name": name,
                "channels": [
                    {
                        "name": channel,
                        "data": _finite(values[channel], channel),
                        "samples": [_without_certain(sample) for sample in by_name[channel]["samples"]],
                        "edges": [np.asarray(e, dtype=np.float64).tolist() for e in spectrum.edges],
                        "names": list(spectrum.names),
                        "units": list(spectrum.units),
                    }
                    for channel, spectrum in spectra.items()
                ],
                "covariance": total.tolist(),
                "sources": {source: part.tolist() for source, part in parts.items()},
            }
        ],
        "measurements": [
            {
                "name": measurement,
                "config": {"poi": poi, "parameters": [dict(p) for p in parameters if p["name"] in carried]},
            }
        ],
    }
    try:
        made = Gaussian.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise WorkspaceError(
            f"the document does not fit its schema: {first['msg']}",
            where="/".join(str(part) for part in first["loc"]),
        ) from error
    if report is not None:
        report += records
    return made


def _finite(values: Array, channel: str) -> list[float]:
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise WorkspaceError(
            f"the measured value of bin {bad[0]} is {values[bad[0]]}",
            where=f"channel {channel}",
            expected="finite",
        )
    return [float(v) for v in values]


def _without_certain(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample without a staterror of no size: the prediction came without variances."""
    kept = [m for m in sample["modifiers"] if m["type"] != "staterror" or any(m["data"])]
    return {**sample, "modifiers": kept}


def _flat(
    prediction: Prediction, spectrum: SpectrumLike, n_bins: int, naming: Naming, where: str
) -> hist.Hist[Any]:
    """Return a prediction as a histogram with one axis of all bins, and the systematic axis where it has one."""
    where = f"channel {where}"
    if not isinstance(prediction, hist.Hist):
        contents = np.asarray(prediction, dtype=np.float64).ravel()
        _same_size(len(contents), n_bins, where)
        return _one_axis(contents, np.zeros(n_bins), naming.axis, None)
    axes = [axis for axis in prediction.axes if axis.name != naming.axis]
    _same_bins([np.asarray(axis.edges) for axis in axes], spectrum, where)
    _same_size(int(np.prod([len(axis) for axis in axes])), n_bins, where)
    systematic = next((axis for axis in prediction.axes if axis.name == naming.axis), None)
    weighted = isinstance(prediction.storage_type(), hist.storage.Weight)
    contents = np.asarray(prediction.values(), dtype=np.float64)
    # Other storages give their contents as variances, which holds for counts, not for cross sections.
    variances = np.asarray(prediction.variances(), dtype=np.float64) if weighted else np.zeros_like(contents)
    if systematic is not None:
        last = [axis.name for axis in prediction.axes].index(naming.axis)
        contents, variances = (np.moveaxis(a, last, -1) for a in (contents, variances))
    shape = (n_bins,) if systematic is None else (n_bins, len(systematic))
    categories = None if systematic is None else list(systematic)
    return _one_axis(contents.reshape(shape), variances.reshape(shape), naming.axis, categories)


def _one_axis(
    contents: Array, variances: Array, systematic: str, categories: Sequence[str] | None
) -> hist.Hist[Any]:
    axes: list[Any] = [hist.axis.Integer(0, len(contents), name="bin", flow=False)]
    if categories is not None:
        axes.append(hist.axis.StrCategory(categories, name=systematic))
    flat = hist.Hist(*axes, storage=hist.storage.Weight())
    view: Any = flat.view()
    view["value"], view["variance"] = contents, variances
    return flat


def _same_size(size: int, n_bins: int, where: str) -> None:
    if size != n_bins:
        raise WorkspaceError(
            f"the prediction has {size} bins", where=where, expected=f"{n_bins}, as the measured values"
        )


def _same_bins(axes: Sequence[Array], spectrum: SpectrumLike, where: str) -> None:
    edges = [np.asarray(e, dtype=np.float64) for e in spectrum.edges]
    if edges and len(edges) != len(axes):
        raise WorkspaceError(
            f"the prediction has {len(axes)} axes",
            where=where,
            expected=f"{len(edges)}, as the measured values",
        )
    for i, (own, measured) in enumerate(zip(axes, edges, strict=False)):
        width = np.diff(measured).min()
        if len(own) != len(measured) or np.abs(own - measured).max() > 1e-6 * width:
            raise WorkspaceError(
                f"the edges of axis {i} of the prediction are not those of the measured values",
                where=where,
                expected=", ".join(f"{e:g}" for e in measured),
            )


def _check_replicas(spectra: Mapping[str, SpectrumLike]) -> None:
    """Warn where the inverse of a covariance, and so the fit, pretends to know more than the replicas do."""
    for name, spectrum in spectra.items():
        n_bins = len(np.asarray(spectrum.values).reshape(-1))
        given: Mapping[str, int] = getattr(spectrum, "replicas", {})
        few = {source: n for source, n in given.items() if n < _REPLICAS * n_bins}
        if few:
            warnings.warn(
                f"the covariance of the {n_bins} bins of {name!r} comes from {min(few.values())} replicas of the "
                f"{' and '.join(few)}: its inverse is too large and errors of a fit too small; use "
                f"{_REPLICAS * n_bins} or more",
                NeymanWarning,
                stacklevel=3,
            )
