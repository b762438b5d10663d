"""The documents that neyman writes and reads: pyhf workspaces, unbinned channels and their manifest.

* `Draft` gathers what goes into a workspace folder and writes it; `read` reads one.
* `from_hists` makes a pyhf workspace from `hist` histograms with a systematic axis; a `Treatment` smooths,
  symmetrises and prunes their variations, and `Treated` records what it did.
* `check_orthogonal` refuses regions that share events.
* `documents` holds the schema of ``unbinned.json`` and ``manifest.json``.
* `validate` checks a folder: schema, digests, columns, positive yields, normalisation of the ratios.
"""

from neyman.workspace.histograms import Naming, SampleModel, from_hists
from neyman.workspace.orthogonality import check_orthogonal
from neyman.workspace.store import Draft, Workspace, read
from neyman.workspace.treatment import Treated, Treatment
from neyman.workspace.validation import Check, validate

__all__ = [
    "Check",
    "Draft",
    "Naming",
    "SampleModel",
    "Treated",
    "Treatment",
    "Workspace",
    "check_orthogonal",
    "from_hists",
    "read",
    "validate",
]
