"""Errors that a user can act on.

Every failure that the input can cause is a :class:`NeymanError`: it says what was wrong, where, what was
expected and how to fix it. No error derives from ``OSError`` or names one as its cause, because coffea's
``skipbadfiles`` would then drop the chunk and lose events without a word.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

_CAUSE: Any = vars(BaseException)["__cause__"]


class NeymanError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what
        What is wrong, one sentence.
    where
        The file, branch, event, parameter or bin concerned.
    expected
        What would have been right.
    fix
        What the user can do.
    """

    def __init__(
        self, what: str, *, where: str | None = None, expected: str | None = None, fix: str | None = None
    ) -> None:
        self.what, self.where, self.expected, self.fix = what, where, expected, fix
        notes = (("where", where), ("expected", expected), ("fix", fix))
        super().__init__("\n".join([what, *(f"  {label}: {text}" for label, text in notes if text)]))

    @property
    def __cause__(self) -> BaseException | None:
        """What it was raised from; None where an ``OSError`` is behind it: coffea's ``skipbadfiles`` looks here."""
        cause: BaseException | None = _CAUSE.__get__(self)
        behind = cause
        while behind is not None and not isinstance(behind, OSError):
            behind = behind.__cause__
        return cause if behind is None else None

    @__cause__.setter
    def __cause__(self, cause: BaseException | None) -> None:
        _CAUSE.__set__(self, cause)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling, and errors travel from Dask workers.
        return _rebuild, (type(self), self.what, self.where, self.expected, self.fix)


def _rebuild(
    kind: type[NeymanError], what: str, where: str | None, expected: str | None, fix: str | None
) -> NeymanError:
    return kind(what, where=where, expected=expected, fix=fix)


class ConfigError(NeymanError):
    """``analysis.toml`` or an argument is not usable."""


class InputError(NeymanError):
    """A file, tree, branch or event is not what it should be."""


class TrainingError(NeymanError):
    """A network cannot be trained on what was given."""


class WorkspaceError(NeymanError):
    """A workspace document or a model folder is broken or inconsistent."""


class LikelihoodError(NeymanError):
    """A likelihood cannot be built or evaluated."""


class InferenceError(NeymanError):
    """A fit, scan or limit was asked for something impossible."""


class MissingExtraError(NeymanError):
    """An optional dependency is needed and not installed."""


class NeymanWarning(UserWarning):
    """The input is usable, but something about it deserves a look."""


def nearest(name: str, options: Iterable[str], n: int = 3) -> str:
    """Return the likeliest spellings of `name` among `options`, for a message.

    Examples
    --------
    >>> nearest("Tau_pT", ["Tau_pt", "Jet_pt", "MET_pt"], n=1)
    'Tau_pt'
    """
    pool = list(options)
    lowered = {option.lower(): option for option in pool}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=n, cutoff=0.5)
    return ", ".join([lowered[c] for c in close] or pool[:n]) or "(none)"


def optional(module: str, extra: str) -> ModuleType:
    """Import an optional dependency or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module.partition('.')[0]} is not installed: {error}",
            fix=f"pip install 'neyman[{extra}]'",
        ) from error
