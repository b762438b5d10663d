"""Inference on a `Likelihood`: fits, intervals, limits, tests, impacts, toys.

* `fit` returns a `FitResult`: values, covariance, MINOS intervals. `blind` hides its central values.
* `profile` scans one parameter, `contour` two.
* `upper_limit` and `hypothesis_test` exclude signals by CLs, `significance` the background alone.
* `feldman_cousins` constructs intervals from toys, `coverage` checks them.
* `goodness_of_fit` compares the best fit with the saturated model.
* `impacts` ranks the nuisance parameters, `breakdown` splits an uncertainty into its parts.
* `toys` draws data sets, `fit_toys` fits them, many at a time.
"""

from neyman.inference.blind import blind
from neyman.inference.contour import contour
from neyman.inference.coverage import coverage
from neyman.inference.feldman_cousins import feldman_cousins
from neyman.inference.fit import fit
from neyman.inference.goodness_of_fit import goodness_of_fit
from neyman.inference.impacts import breakdown, impacts
from neyman.inference.limits import hypothesis_test, upper_limit
from neyman.inference.profile import profile
from neyman.inference.results import (
    BlindFit,
    Breakdown,
    ContourLevel,
    ContourResult,
    Coverage,
    FeldmanCousins,
    FitResult,
    GoodnessOfFit,
    GroupImpact,
    HypothesisTest,
    Impact,
    ImpactsResult,
    MethodCoverage,
    MinosError,
    NamedMatrix,
    NamedVector,
    ProfileResult,
    Significance,
    ToyFits,
    UpperLimit,
)
from neyman.inference.significance import significance
from neyman.inference.toys import Toys, fit_toys, toys

__all__ = [
    "BlindFit",
    "Breakdown",
    "ContourLevel",
    "ContourResult",
    "Coverage",
    "FeldmanCousins",
    "FitResult",
    "GoodnessOfFit",
    "GroupImpact",
    "HypothesisTest",
    "Impact",
    "ImpactsResult",
    "MethodCoverage",
    "MinosError",
    "NamedMatrix",
    "NamedVector",
    "ProfileResult",
    "Significance",
    "ToyFits",
    "Toys",
    "UpperLimit",
    "blind",
    "breakdown",
    "contour",
    "coverage",
    "feldman_cousins",
    "fit",
    "fit_toys",
    "goodness_of_fit",
    "hypothesis_test",
    "impacts",
    "profile",
    "significance",
    "toys",
    "upper_limit",
]
