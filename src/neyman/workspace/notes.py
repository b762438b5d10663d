"""`Note`: what a reader or writer of histograms left out or filled in, and what deserves a look."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Note:
    """Something that was left out, filled in or cannot be expressed, or that deserves a look.

    Parameters
    ----------
    where
        The histogram, line, channel or parameter.
    what
        Two or three words, the same for all of a kind.
    detail
        In words.
    size
        Largest relative change of a rate by it; 0 where it changes none or is not known.
    """

    where: str
    what: str
    detail: str
    size: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the note as plain data."""
        return asdict(self)
