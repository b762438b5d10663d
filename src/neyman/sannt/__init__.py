"""Systematics-aware training of networks whose output histogram is fitted (SANNT, arXiv:2502.13047).

* `train` takes signals, backgrounds and what nuisance parameters do (`Variation`, `Normalisation`) and returns a
  `SANNT`: two `Stage` objects with an `Uncertainty` each, the cross-entropy network and the one trained for the
  smallest expected uncertainty. `Stage.histograms` goes into :func:`neyman.workspace.from_hists`, or with everything
  else into :func:`neyman.analysis.sannt_workspace`.
* How outputs become bins in training: `Exact` with a `BinFunction` (`EdgeKernel`, `Linear`, `GaussianDerivative`,
  `StraightThrough`), or the comparators `KDE`, `Inferno` and `EdgeScan`. `ClassConstraint` keeps the meaning of several
  classes.
* `Classifier` is what is kept in files: networks with their `Bins`, to bin data and other samples.
* `histogram` fills bins with gradients; `fisher_information`, `expected_uncertainty`, `uncertainties` and `covariance`
  are the closed-form figures of merit. Both work alone, in any training.
"""

from neyman.events.scoring.bins import Bins
from neyman.sannt.bin_functions import BinFunction, EdgeKernel, GaussianDerivative, Linear, StraightThrough
from neyman.sannt.classifier import Classifier
from neyman.sannt.filling import KDE, Exact, Filling, Inferno
from neyman.sannt.fisher import covariance, expected_uncertainty, fisher_information, uncertainties
from neyman.sannt.histogram import histogram
from neyman.sannt.objective import ClassConstraint
from neyman.sannt.result import SANNT, Stage, Uncertainty
from neyman.sannt.scan import EdgeScan
from neyman.sannt.training import train
from neyman.sannt.variations import Normalisation, Variation

__all__ = [
    "KDE",
    "SANNT",
    "BinFunction",
    "Bins",
    "ClassConstraint",
    "Classifier",
    "EdgeKernel",
    "EdgeScan",
    "Exact",
    "Filling",
    "GaussianDerivative",
    "Inferno",
    "Linear",
    "Normalisation",
    "Stage",
    "StraightThrough",
    "Uncertainty",
    "Variation",
    "covariance",
    "expected_uncertainty",
    "fisher_information",
    "histogram",
    "train",
    "uncertainties",
]
