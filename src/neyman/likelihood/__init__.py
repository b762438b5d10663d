"""Likelihoods: ``-2 ln L`` with exact gradients and Hessians (``errordef`` 1).

* `Likelihood` joins terms by parameter name and adds the constraints, once each.
* `HistFactoryTerm` is the binned term of a pyhf workspace, Poisson counts.
* `GaussianTerm` compares measured values and their covariance (an unfolded spectrum) with the same predictions.
* `UnbinnedTerm` is the extended unbinned term of per-event density ratios.
* `interpolation` is the one implementation of the HistFactory interpolation codes, used by both.
"""

from neyman.likelihood.combination import Data, Likelihood
from neyman.likelihood.gaussian import GaussianTerm
from neyman.likelihood.histfactory import HistFactoryTerm
from neyman.likelihood.parameters import Constraint, Parameter
from neyman.likelihood.term import Derivatives, Term
from neyman.likelihood.unbinned import Events, UnbinnedSample, UnbinnedTerm

__all__ = [
    "Constraint",
    "Data",
    "Derivatives",
    "Events",
    "GaussianTerm",
    "HistFactoryTerm",
    "Likelihood",
    "Parameter",
    "Term",
    "UnbinnedSample",
    "UnbinnedTerm",
]
