"""The documents that neyman writes and reads: pyhf workspaces, unbinned channels and their manifest.

* `Draft` gathers what goes into a workspace folder and writes it; `read` reads one.
* `from_hists` makes a pyhf workspace from histograms with a systematic axis; a `Treatment` smooths, symmetrises and
  prunes their variations, and `Treated` records what it did.
* `from_axes`, `from_accumulator` and `from_root` gather such histograms, as `Templates`, from one with process and
  channel axes, from what a coffea processor returned, and from ROOT files; a `Note` says what was found on the way.
* `cabinetry_router` hands them to cabinetry; `read_datacard` and `write_datacard` are for Combine.
* `from_unfolded` makes the document of measured spectra with a covariance, beside predictions.
* `check_orthogonal` refuses regions that share events.
* `documents` holds the schema of ``unbinned.json`` and ``manifest.json``, `gaussian` that of ``gaussian.json``.
* `validate` checks a folder: schema, digests, columns, positive yields, normalisation of the ratios.
"""

from neyman.naming import Naming
from neyman.workspace.accumulators import from_accumulator, normalisation
from neyman.workspace.cabinetry_router import cabinetry_router
from neyman.workspace.combine import Datacard, read_datacard, write_datacard
from neyman.workspace.gaussian import Gaussian
from neyman.workspace.histograms import SampleModel, from_hists
from neyman.workspace.notes import Note
from neyman.workspace.orthogonality import check_orthogonal
from neyman.workspace.root_histograms import from_root
from neyman.workspace.store import Draft, Workspace, read
from neyman.workspace.templates import Templates, from_axes
from neyman.workspace.treatment import Treated, Treatment
from neyman.workspace.unfolded import Measured, SpectrumLike, from_unfolded
from neyman.workspace.validation import Check, validate

__all__ = [
    "Check",
    "Datacard",
    "Draft",
    "Gaussian",
    "Measured",
    "Naming",
    "Note",
    "SampleModel",
    "SpectrumLike",
    "Templates",
    "Treated",
    "Treatment",
    "Workspace",
    "cabinetry_router",
    "check_orthogonal",
    "from_accumulator",
    "from_axes",
    "from_hists",
    "from_root",
    "from_unfolded",
    "normalisation",
    "read",
    "read_datacard",
    "validate",
    "write_datacard",
]
