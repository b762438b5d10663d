"""Inference on a `Likelihood`: fits, profiles, impacts, toys.

* `fit` returns a `FitResult`: values, covariance, MINOS intervals.
* `profile` scans one parameter; its `ProfileResult` gives intervals.
* `impacts` ranks the nuisance parameters, `breakdown` splits an uncertainty into its parts.
* `toys` draws data sets, `fit_toys` fits them.
"""

from neyman.inference.fit import fit
from neyman.inference.impacts import breakdown, impacts
from neyman.inference.profile import profile
from neyman.inference.results import (
    Breakdown,
    FitResult,
    Impact,
    ImpactsResult,
    MinosError,
    NamedMatrix,
    NamedVector,
    ProfileResult,
    ToyFits,
)
from neyman.inference.toys import Toys, fit_toys, toys

__all__ = [
    "Breakdown",
    "FitResult",
    "Impact",
    "ImpactsResult",
    "MinosError",
    "NamedMatrix",
    "NamedVector",
    "ProfileResult",
    "ToyFits",
    "Toys",
    "breakdown",
    "fit",
    "fit_toys",
    "impacts",
    "profile",
    "toys",
]
