"""The documents that neyman writes and reads: pyhf workspaces, unbinned channels and their manifest.

* `Draft` gathers what goes into a workspace folder and writes it; `read` reads one.
* `from_hists` makes a pyhf workspace from `hist` histograms with a systematic axis.
* `documents` holds the schema of ``unbinned.json`` and ``manifest.json``.
* `validate` checks a folder: schema, digests, columns, positive yields, normalisation of the ratios.
"""

from neyman.workspace.histograms import Naming, SampleModel, from_hists
from neyman.workspace.store import Draft, Workspace, read
from neyman.workspace.validation import Check, validate

__all__ = ["Check", "Draft", "Naming", "SampleModel", "Workspace", "from_hists", "read", "validate"]
