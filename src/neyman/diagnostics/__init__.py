"""Checks that make a result believable.

* `closure` compares each process with the reweighted reference, feature by feature.
"""

from neyman.diagnostics.closure import Closure, closure

__all__ = ["Closure", "closure"]
