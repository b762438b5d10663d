"""What the functions of this layer return: immutable records with ``to_dict`` (JSON-safe, None for missing).

`FitResult` is the result of a fit (`BlindFit` with its central values hidden), `ProfileResult` and `ContourResult`
of likelihood scans; `ImpactsResult` and `Breakdown` say where the uncertainty of a parameter comes from;
`HypothesisTest`, `UpperLimit` and `Significance` test values of it; `ToyFits` holds the fits of many toys,
`FeldmanCousins` and `Coverage` what is constructed from them; `GoodnessOfFit` says whether the model describes the
data. Parameters are found by name or by position, through `NamedVector` and `NamedMatrix`.
"""

from neyman.inference.results.blinding import BlindFit
from neyman.inference.results.construction import Coverage, FeldmanCousins, MethodCoverage
from neyman.inference.results.fits import FitResult, MinosError
from neyman.inference.results.hypothesis import HypothesisTest, Significance, UpperLimit
from neyman.inference.results.named import Array, NamedMatrix, NamedVector, Record, position
from neyman.inference.results.quality import GoodnessOfFit
from neyman.inference.results.ranking import Breakdown, GroupImpact, Impact, ImpactsResult
from neyman.inference.results.scans import ContourLevel, ContourResult, ProfileResult
from neyman.inference.results.toys import ToyFits

__all__ = [
    "Array",
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
    "Record",
    "Significance",
    "ToyFits",
    "UpperLimit",
    "position",
]
