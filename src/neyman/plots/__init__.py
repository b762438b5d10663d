"""Figures of every result, and the HTML report of a run; needs the extra ``plot``.

Each function takes plain data (a result record or its ``to_dict``) and returns a `matplotlib.figure.Figure`
that belongs to no pyplot state.

* `comparison`: expected uncertainty and likelihood scan of several descriptions of the same events.
* `profile_scan`, `profiles`: likelihood scan of one parameter, of many.
* `contours`, `cls_scan`, `construction`: joint regions, upper limits, Feldman-Cousins intervals.
* `pulls_and_impacts`, `group_impacts`, `correlation`: what the uncertainty comes from, and how parameters hang
  together.
* `toy_pulls`, `coverage`, `goodness_of_fit`, `significance`: what toys say.
* `closure`, `discriminant`: events against what was learned, and the stacked classifier histogram.
* `closure_check`, `closure_slices`, `calibration_curve`, `calibration_map`, `two_sample`, `ratio_weights`, `support`,
  `ensemble_spread`, `expected_coverage`, `overlap`, `bootstrap_coverage`: the checks of `neyman.diagnostics`.
* `likelihoods`: contours of several likelihoods of the same data.
* `training`: losses of all networks.
* `sannt_histograms`, `sannt_training`, `uncertainty_band`, `uncertainty_comparison`, `impact_comparison`,
  `bin_functions`: a systematics-aware training beside the cross-entropy training that it started from.
* `unfolded_spectrum`, `spectrum_errors`, `spectrum_correlation`: an unfolded spectrum with its covariance by source.
* `unfolding_iterations`, `unfolding_trainings`, `unfolding_weights`: how an unfolding went.
* `unfolding_folded` (of `folded_histograms`), `closure_test`, `unfolding_stability`: tests of an unfolding.
* `report.write`: all of them in one self-contained page.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "bin_functions": "neyman.plots.sannt_bins",
    "bootstrap_coverage": "neyman.plots.mixtures",
    "calibration_curve": "neyman.plots.trust",
    "calibration_map": "neyman.plots.trust",
    "closure": "neyman.plots.distributions",
    "closure_check": "neyman.plots.trust",
    "closure_slices": "neyman.plots.trust",
    "closure_test": "neyman.plots.unfolding_checks",
    "cls_scan": "neyman.plots.intervals",
    "comparison": "neyman.plots.scans",
    "construction": "neyman.plots.intervals",
    "contours": "neyman.plots.intervals",
    "correlation": "neyman.plots.parameters",
    "coverage": "neyman.plots.toys",
    "discriminant": "neyman.plots.distributions",
    "ensemble_spread": "neyman.plots.weights",
    "expected_coverage": "neyman.plots.weights",
    "folded_histograms": "neyman.plots.unfolding_checks",
    "goodness_of_fit": "neyman.plots.toys",
    "group_impacts": "neyman.plots.parameters",
    "impact_comparison": "neyman.plots.sannt",
    "likelihoods": "neyman.plots.mixtures",
    "overlap": "neyman.plots.mixtures",
    "profile_scan": "neyman.plots.scans",
    "profiles": "neyman.plots.scans",
    "pulls_and_impacts": "neyman.plots.parameters",
    "ratio_weights": "neyman.plots.weights",
    "sannt_histograms": "neyman.plots.sannt_bins",
    "sannt_training": "neyman.plots.sannt",
    "significance": "neyman.plots.toys",
    "spectrum_correlation": "neyman.plots.unfolding",
    "spectrum_errors": "neyman.plots.unfolding",
    "support": "neyman.plots.weights",
    "toy_pulls": "neyman.plots.toys",
    "training": "neyman.plots.losses",
    "two_sample": "neyman.plots.trust",
    "uncertainty_band": "neyman.plots.sannt",
    "uncertainty_comparison": "neyman.plots.sannt",
    "unfolded_spectrum": "neyman.plots.unfolding",
    "unfolding_folded": "neyman.plots.unfolding_checks",
    "unfolding_iterations": "neyman.plots.unfolding_steps",
    "unfolding_stability": "neyman.plots.unfolding_checks",
    "unfolding_trainings": "neyman.plots.unfolding_steps",
    "unfolding_weights": "neyman.plots.unfolding_steps",
}

__all__ = [
    "bin_functions",
    "bootstrap_coverage",
    "calibration_curve",
    "calibration_map",
    "closure",
    "closure_check",
    "closure_slices",
    "closure_test",
    "cls_scan",
    "comparison",
    "construction",
    "contours",
    "correlation",
    "coverage",
    "discriminant",
    "ensemble_spread",
    "expected_coverage",
    "folded_histograms",
    "goodness_of_fit",
    "group_impacts",
    "impact_comparison",
    "likelihoods",
    "overlap",
    "profile_scan",
    "profiles",
    "pulls_and_impacts",
    "ratio_weights",
    "report",
    "sannt_histograms",
    "sannt_training",
    "significance",
    "spectrum_correlation",
    "spectrum_errors",
    "support",
    "toy_pulls",
    "training",
    "two_sample",
    "uncertainty_band",
    "uncertainty_comparison",
    "unfolded_spectrum",
    "unfolding_folded",
    "unfolding_iterations",
    "unfolding_stability",
    "unfolding_trainings",
    "unfolding_weights",
]

if TYPE_CHECKING:
    from neyman.plots import report as report
    from neyman.plots.distributions import closure as closure
    from neyman.plots.distributions import discriminant as discriminant
    from neyman.plots.intervals import cls_scan as cls_scan
    from neyman.plots.intervals import construction as construction
    from neyman.plots.intervals import contours as contours
    from neyman.plots.losses import training as training
    from neyman.plots.mixtures import bootstrap_coverage as bootstrap_coverage
    from neyman.plots.mixtures import likelihoods as likelihoods
    from neyman.plots.mixtures import overlap as overlap
    from neyman.plots.parameters import correlation as correlation
    from neyman.plots.parameters import group_impacts as group_impacts
    from neyman.plots.parameters import pulls_and_impacts as pulls_and_impacts
    from neyman.plots.sannt import impact_comparison as impact_comparison
    from neyman.plots.sannt import sannt_training as sannt_training
    from neyman.plots.sannt import uncertainty_band as uncertainty_band
    from neyman.plots.sannt import uncertainty_comparison as uncertainty_comparison
    from neyman.plots.sannt_bins import bin_functions as bin_functions
    from neyman.plots.sannt_bins import sannt_histograms as sannt_histograms
    from neyman.plots.scans import comparison as comparison
    from neyman.plots.scans import profile_scan as profile_scan
    from neyman.plots.scans import profiles as profiles
    from neyman.plots.toys import coverage as coverage
    from neyman.plots.toys import goodness_of_fit as goodness_of_fit
    from neyman.plots.toys import significance as significance
    from neyman.plots.toys import toy_pulls as toy_pulls
    from neyman.plots.trust import calibration_curve as calibration_curve
    from neyman.plots.trust import calibration_map as calibration_map
    from neyman.plots.trust import closure_check as closure_check
    from neyman.plots.trust import closure_slices as closure_slices
    from neyman.plots.trust import two_sample as two_sample
    from neyman.plots.unfolding import spectrum_correlation as spectrum_correlation
    from neyman.plots.unfolding import spectrum_errors as spectrum_errors
    from neyman.plots.unfolding import unfolded_spectrum as unfolded_spectrum
    from neyman.plots.unfolding_checks import closure_test as closure_test
    from neyman.plots.unfolding_checks import folded_histograms as folded_histograms
    from neyman.plots.unfolding_checks import unfolding_folded as unfolding_folded
    from neyman.plots.unfolding_checks import unfolding_stability as unfolding_stability
    from neyman.plots.unfolding_steps import unfolding_iterations as unfolding_iterations
    from neyman.plots.unfolding_steps import unfolding_trainings as unfolding_trainings
    from neyman.plots.unfolding_steps import unfolding_weights as unfolding_weights
    from neyman.plots.weights import ensemble_spread as ensemble_spread
    from neyman.plots.weights import expected_coverage as expected_coverage
    from neyman.plots.weights import ratio_weights as ratio_weights
    from neyman.plots.weights import support as support


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name == "report":
        return importlib.import_module("neyman.plots.report")
    raise AttributeError(f"module 'neyman.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
