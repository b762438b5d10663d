"""`blind`: fits whose central values stay hidden until the analysis is frozen."""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping, Sequence

import numpy as np

from neyman.errors import InferenceError
from neyman.inference.results import BlindFit, FitResult, NamedVector, position
from neyman.inference.results.blinding import keys, seal, written
from neyman.likelihood import Likelihood


def blind(
    result: FitResult,
    parameters: Sequence[str | int] | str | int,
    *,
    seed: int | str,
    scale: float | Mapping[str, float] = 1.0,
    likelihood: Likelihood | None = None,
) -> BlindFit:
    r"""Hide the central values of some parameters of a fit.

    Hidden values are shown as :math:`\hat\theta + s\,u`, with s the `scale` and u uniform in [-1, 1], decided by the
    seed and the parameter's name alone: two fits blinded with the same seed differ by what they truly differ, so
    cross-checks and trends can be studied before the box is opened (Klein, Roodman, Annu. Rev. Nucl. Part. Sci. 55
    (2005) 141). The fit itself is sealed with the seed: not even the JSON gives it away. The seed protects only as
    well as it is kept: choose a passphrase, not a small number.

    Errors stay visible, and so do the other parameters: hide those too that determine the secret, as the
    normalisation of a sample that the signal is degenerate with.

    Parameters
    ----------
    result
        The fit. Drop it afterwards: nothing hides what you already hold.
    parameters
        Names or indices of those that are hidden.
    seed
        Number or passphrase that `BlindFit.unblind` needs.
    scale
        Largest offset in units of the parameter, one number or by name; take several times the expected error.
        It must not depend on the result.
    likelihood
        What was fitted, to show the pulls of the constrained parameters.

    Raises
    ------
    InferenceError
        When a parameter is unknown, none is given, a scale is not positive or missing, or the likelihood has other
        parameters.
    """
    chosen = [parameters] if isinstance(parameters, str | int) else list(parameters)
    hidden = dict.fromkeys(result.names[position(result.names, name)] for name in chosen)
    if not hidden:
        raise InferenceError("no parameter was given to blind", fix="name the parameter of interest")
    scales = {name: _scale(scale, name) for name in hidden}
    if likelihood is not None and likelihood.names != result.names:
        raise InferenceError("the fit is not one of this likelihood: their parameters differ")
    pair = keys(seed)
    values = result.values.array.copy()
    for name in hidden:
        entropy = int.from_bytes(hmac.digest(pair[0], name.encode(), "sha256"), "big")
        values[result.names.index(name)] += scales[name] * np.random.default_rng(entropy).uniform(-1.0, 1.0)
    return BlindFit(
        names=result.names,
        blinded=tuple(hidden),
        values=NamedVector(result.names, values),
        errors=result.errors,
        pulls={} if likelihood is None else _pulls(likelihood, result, set(hidden)),
        scale=scales,
        valid=result.valid,
        at_bounds=tuple(name for name in result.at_bounds if name not in hidden),
        fixed=result.fixed,
        n_hidden_messages=len(result.messages),
        sealed=seal(written(result), pair),
    )


def _scale(scale: float | Mapping[str, float], name: str) -> float:
    if isinstance(scale, Mapping):
        if name not in scale:
            raise InferenceError(
                f"there is no scale of {name!r}", where=f"scales of {', '.join(scale) or 'none'}"
            )
        scale = scale[name]
    if not (scale > 0.0 and math.isfinite(scale)):
        raise InferenceError(f"the scale of {name!r} is {scale}", expected="a positive number")
    return float(scale)


def _pulls(likelihood: Likelihood, result: FitResult, hidden: set[str]) -> dict[str, float]:
    pulls = {}
    for parameter in likelihood.parameters:
        constraint = parameter.constraint
        if constraint is None or parameter.name in hidden:
            continue
        observed, value = float(likelihood.global_observables[parameter.name]), result.values[parameter.name]
        if constraint.kind == "normal":
            pulls[parameter.name] = (value - observed) / constraint.scale
        elif observed > 0.0:
            pulls[parameter.name] = (value * constraint.scale - observed) / math.sqrt(observed)
    return pulls
