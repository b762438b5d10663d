"""References to the user's own functions, such as ``"processor.py:build"``.

:class:`PythonRef` carries the text of the file, so that it reaches workers that do not see the file, and runs
it once per process. Running the user's analysis code is the purpose here: a reference is read from her own
configuration, never from a workspace or a model folder.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from neyman.errors import ConfigError, NeymanError, nearest

_lock = threading.RLock()


@dataclass(frozen=True)
class PythonRef:
    """A function in a Python file.

    Parameters
    ----------
    path
        Where the file was read; shown in tracebacks.
    name
        The function's name.
    source
        The text of the file. It must import installed packages only, not files beside it.
    """

    path: str
    name: str
    source: str = field(repr=False)

    @classmethod
    def parse(cls, reference: str, folder: str | os.PathLike[str] = ".") -> PythonRef:
        """Read ``"file.py:function"``, the file relative to `folder`.

        Raises
        ------
        ConfigError
            Not of that form, or the file is missing or not text.
        """
        file, _, name = reference.rpartition(":")
        if not file or not name.isidentifier():
            raise ConfigError(
                f"{reference!r} is not a reference to a function",
                expected="file and function, such as 'processor.py:build'",
            )
        path = (Path(folder) / file).absolute()
        try:
            return cls(str(path), name, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
            raise ConfigError(
                f"cannot read {path.name}: {getattr(error, 'strerror', None) or error}",
                where=str(path),
                expected=f"a Python file; beside it: {nearest(path.name, beside)}",
            ) from error

    @property
    def sha256(self) -> str:
        """Digest of the file's text."""
        return sha256(self.source.encode()).hexdigest()

    def resolve(self) -> Callable[..., Any]:
        """Run the file, once per process, and return the function.

        Raises
        ------
        ConfigError
            The file does not compile (with the line), fails while it is imported, or lacks the function.
        """
        with _lock:
            module = self._module()
        function = getattr(module, self.name, None)
        if not callable(function):
            own = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise ConfigError(
                f"{Path(self.path).name} has no function {self.name!r}",
                where=self.path,
                expected=nearest(self.name, own),
            )
        return function  # type: ignore[no-any-return]

    def _module(self) -> ModuleType:
        key = f"neyman_user_{self.sha256[:16]}_{sha256(self.path.encode()).hexdigest()[:8]}"
        if key in sys.modules:
            return sys.modules[key]
        spec = importlib.util.spec_from_loader(key, _HeldSource(self))
        if spec is None or spec.loader is None:
            raise ConfigError(f"cannot import {self.path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[key]
            if isinstance(error, NeymanError) or not isinstance(error, Exception):
                raise
            raise _explain(error, self.path) from error
        return module


class _HeldSource(importlib.abc.SourceLoader):
    """Import machinery for text that is already here."""

    def __init__(self, reference: PythonRef) -> None:
        self._reference = reference

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002
        return self._reference.path

    def get_data(self, path: str | bytes) -> bytes:  # noqa: ARG002
        return self._reference.source.encode()


def _explain(error: Exception, path: str) -> ConfigError:
    if isinstance(error, SyntaxError) and error.filename == path:
        return ConfigError(
            f"{Path(path).name} is not valid Python: {error.msg}",
            where=f"{path}, line {error.lineno}: {(error.text or '').strip()}",
        )
    fix = "import installed packages only: a processor file travels alone to the workers"
    return ConfigError(
        f"{Path(path).name} fails when it is imported: {type(error).__name__}: {error}",
        where=location(error, path) or path,
        fix=fix if isinstance(error, ImportError) else None,
    )


def location(error: BaseException, path: str) -> str | None:
    """``"file, line n"`` of the innermost frame of `error` inside the file `path`, if any."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            found = f"{path}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found
