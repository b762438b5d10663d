"""The documents that neyman writes and reads: pyhf workspaces, unbinned channels and their manifest.

* `Draft` gathers what goes into a workspace folder and writes it; `read` reads one.
* `from_hists` makes a pyhf workspace from `hist` histograms with a systematic axis; a `Treatment` smooths,
  symmetrises and prunes their variations, and `Treated` records what it did.
* `from_unfolded` makes the document of measured spectra with a covariance, beside predictions.
* `check_orthogonal` refuses regions that share events.
* `documents` holds the schema of ``unbinned.json`` and ``manifest.json``, `gaussian` that of ``gaussian.json``.
* `validate` checks a folder: schema, digests, columns, positive yields, normalisation of the ratios.
"""

from neyman.naming import Naming
from neyman.workspace.gaussian import Gaussian
from neyman.workspace.histograms import SampleModel, from_hists
from neyman.workspace.orthogonality import check_orthogonal
from neyman.workspace.store import Draft, Workspace, read
from neyman.workspace.treatment import Treated, Treatment
from neyman.workspace.unfolded import Measured, SpectrumLike, from_unfolded
from neyman.workspace.validation import Check, validate

__all__ = [
    "Check",
    "Draft",
    "Gaussian",
    "Measured",
    "Naming",
    "SampleModel",
    "SpectrumLike",
    "Treated",
    "Treatment",
    "Workspace",
    "check_orthogonal",
    "from_hists",
    "from_unfolded",
    "read",
    "validate",
]
