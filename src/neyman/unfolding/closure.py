"""Closure of an unfolding: one half of the simulation, as if it were data, is unfolded with the other half."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError
from neyman.events import EventTable
from neyman.events.draws import uniform
from neyman.unfolding.inputs import Bootstrap, poisson
from neyman.unfolding.spectrum import Comparison, Spectrum

if TYPE_CHECKING:
    from neyman.unfolding.omnifold import OmniFold
    from neyman.unfolding.result import Unfolding

Array = NDArray[np.float64]
Observable = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True, eq=False)
class ClosureTest:
    """What came out of an unfolding whose truth is known.

    Parameters
    ----------
    result
        The unfolding, of the half of the simulation that was not data.
    spectra, truths
        Unfolded spectrum and truth of each observable.
    priors
        The simulation before the unfolding, scaled to the yield of the truth.
    comparisons
        Unfolded against truth, with the covariance of their difference: the truth is drawn along with the data.
    """

    result: Unfolding
    spectra: Mapping[str, Spectrum]
    truths: Mapping[str, Spectrum]
    priors: Mapping[str, Array]
    comparisons: Mapping[str, Comparison]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            name: {
                "spectrum": self.spectra[name].to_dict(),
                "truth": self.truths[name].to_dict(),
                "prior": self.priors[name].tolist(),
                "comparison": self.comparisons[name].to_dict(),
            }
            for name in self.spectra
        }


def closure_test(
    omnifold: OmniFold,
    reconstructed: EventTable,
    truth: EventTable,
    observables: Mapping[str, Observable],
    *,
    passes_reconstruction: ArrayLike | None = None,
    passes_truth: ArrayLike | None = None,
    detector_factor: ArrayLike | None = None,
    distortion: ArrayLike | None = None,
    bootstrap: Bootstrap | None = None,
    seed: int,
    **options: Any,
) -> ClosureTest:
    """Unfold a distorted half of the simulation with the other half, and compare with what is known.

    Parameters
    ----------
    omnifold
        How to unfold.
    reconstructed, truth, passes_reconstruction, passes_truth, detector_factor
        The simulation, as for :meth:`OmniFold.fit`.
    observables
        By name values of every simulated event, ``(n_events,)``, and bin edges.
    distortion
        Factors on the weights of the half that plays the data, ``(n_events,)``: a function of the particle level, of
        features that are unfolded or of others (a hidden variable). Without it the test is a technical closure.
    bootstrap
        Replicas; by default 100 of the data and 100 of the simulation.
    seed
        Seed of the halves and of the unfolding.
    **options
        Further arguments of :meth:`OmniFold.fit`, without those that have a value for each event.

    Raises
    ------
    InputError
        When there is not one value for every event, or as :meth:`OmniFold.fit`.
    """
    for name in ("background", "systematics"):
        if options.get(name) is not None:
            raise InputError(
                f"a closure test has no {name}", fix="its data are simulated signal events alone"
            )
    n = len(truth)
    passes = [
        np.ones(n, dtype=np.bool_) if given is None else np.asarray(given)
        for given in (passes_reconstruction, passes_truth)
    ]
    factor, detector = (
        np.ones(n) if given is None else np.asarray(given, dtype=np.float64)
        for given in (distortion, detector_factor)
    )
    columns = {name: np.asarray(values, dtype=np.float64) for name, (values, _) in observables.items()}
    for name, values in {"distortion": factor, "detector_factor": detector, **columns}.items():
        if values.shape != (n,):
            raise InputError(
                f"{name} has shape {values.shape}", expected=f"({n},), one value for every simulated event"
            )
    if len(reconstructed) != n or any(mask.shape != (n,) for mask in passes):
        raise InputError(f"detector level, particle level and masks have different lengths, expected {n}")
    half = uniform(("closure", seed), np.arange(n)) < 0.5
    seen = half & passes[0]
    data = reconstructed.select(seen)
    # Identities, so that the truth is drawn along with the data in their replicas.
    data = EventTable(
        data.features, data.x, data.weight * (factor * detector)[seen], {"entry": np.flatnonzero(seen)}
    )
    bootstrap = Bootstrap(data=100, simulation=100) if bootstrap is None else bootstrap
    result = omnifold.fit(
        data,
        reconstructed.select(~half),
        truth.select(~half),
        passes_reconstruction=passes[0][~half],
        passes_truth=passes[1][~half],
        detector_factor=detector[~half],
        bootstrap=bootstrap,
        seed=seed,
        **options,
    )
    drawn = [poisson("data", seed, k, np.arange(n)) for k in range(bootstrap.data)]
    kept = half & passes[1]
    w = truth.weight * factor
    spectra, truths, priors, comparisons = {}, {}, {}, {}
    for name, (_, edges) in observables.items():
        spectra[name] = result.spectrum(columns[name][~half], edges, name=name)
        steps = spectra[name].edges[0]
        content, square = (
            np.histogram(columns[name][kept], steps, weights=own[kept])[0] for own in (w, np.square(w))
        )
        truths[name] = Spectrum((name,), ("",), (steps,), content, {}, square)
        before, _ = np.histogram(
            columns[name][~half & passes[1]], steps, weights=truth.weight[~half & passes[1]]
        )
        priors[name] = before * content.sum() / before.sum()
        comparisons[name] = _difference(
            spectra[name],
            result,
            columns[name],
            half,
            [np.histogram(columns[name][kept], steps, weights=(w * own)[kept])[0] for own in drawn],
        ).compare(content)
    return ClosureTest(result, spectra, truths, priors, comparisons)


def _difference(
    spectrum: Spectrum, result: Unfolding, column: Array, half: NDArray[np.bool_], truths: list[Array]
) -> Spectrum:
    """The spectrum with the covariance of its difference from the truth, which fluctuates along with the data."""
    if not truths:
        return spectrum
    steps, chosen = spectrum.edges[0], result.passes_truth
    contents = [
        np.histogram(column[~half][chosen], steps, weights=own[chosen].astype(np.float64))[0]
        for own in result.replicas["data"]
    ]
    covariance = np.atleast_2d(np.cov((np.stack(contents) - np.stack(truths)).T))
    return replace(spectrum, sources={**spectrum.sources, "data": covariance})
