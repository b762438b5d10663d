"""Checks that make a result believable; each has its numbers, a verdict with its reason, and a figure.

* `closure`, `closure_slices`, `check_closure`: each feature, also in slices, of the reweighted reference against the
  target.
* `calibration_curve`: do the odds that a ratio states come true?
* `two_sample`: can a classifier tell the reweighted reference from the target?
* `ratio_weights`, `support`: effective sample size, tails, normalisation; events that the reference does not reach.
* `ensemble_spread`: the noise of the training beside the statistical error.
* `overlap`, `bootstrap_coverage`, `expected_coverage`: likelihoods and intervals against known truth.
* `Checks` gathers them, and passes when all pass.
"""

from neyman.diagnostics.bootstrap import (
    BootstrapCoverage,
    Intervals,
    bootstrap_coverage,
    intervals,
    resample,
    resampled_coverage,
)
from neyman.diagnostics.calibration import CalibrationCurve, calibration_curve
from neyman.diagnostics.closure import Closure, ClosureCheck, check_closure, closure, closure_slices
from neyman.diagnostics.expected_coverage import ExpectedCoverage, expected_coverage
from neyman.diagnostics.gates import Check, Checks
from neyman.diagnostics.overlap import (
    MixtureSurface,
    Overlap,
    chebyshev_nodes,
    mixture_nll,
    overlap,
    profiles,
)
from neyman.diagnostics.spread import EnsembleSpread, ensemble_spread
from neyman.diagnostics.support import Support, support
from neyman.diagnostics.two_sample import TwoSample, two_sample
from neyman.diagnostics.weights import RatioWeights, ratio_weights

__all__ = [
    "BootstrapCoverage",
    "CalibrationCurve",
    "Check",
    "Checks",
    "Closure",
    "ClosureCheck",
    "EnsembleSpread",
    "ExpectedCoverage",
    "Intervals",
    "MixtureSurface",
    "Overlap",
    "RatioWeights",
    "Support",
    "TwoSample",
    "bootstrap_coverage",
    "calibration_curve",
    "chebyshev_nodes",
    "check_closure",
    "closure",
    "closure_slices",
    "ensemble_spread",
    "expected_coverage",
    "intervals",
    "mixture_nll",
    "overlap",
    "profiles",
    "ratio_weights",
    "resample",
    "resampled_coverage",
    "support",
    "two_sample",
]
