"""What a scorer carries to its workers, and what a worker process keeps.

coffea unpickles a processor for every chunk. A scorer therefore pickles as references (kind, digest, and the path or
the bytes of each model), and the opened sessions stay in this module for as long as the process lives.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neyman.errors import ConfigError, WorkspaceError
from neyman.events.scoring.session import Session
from neyman.events.scoring.signature import Signature

Kind = Literal["torch", "pt2", "onnx", "triton"]
INLINE = 8 << 20  # bytes that one scorer may carry
_MODULES: dict[Kind, str] = {
    "torch": "neyman.events.scoring.torch",
    "pt2": "neyman.events.scoring.exported",
    "onnx": "neyman.events.scoring.onnx",
    "triton": "neyman.events.scoring.triton",
}
Entry = Literal["session", "description"]
_KEPT: dict[Entry, int] = {"session": 128, "description": 1024}  # of one process


@dataclass(frozen=True)
class Options:
    """How sessions are opened.

    Attributes
    ----------
    aggregate
        How members of an ensemble are combined; None as the model says.
    device
        ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
    batch_size
        Events of one evaluation; None for the session's own choice.
    threads
        Threads of one evaluation; None for one in workers.
    """

    aggregate: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Reference:
    """One model: its file or its address, and the digest that it must have."""

    name: str
    kind: Kind
    location: str
    sha256: str
    data: bytes | None = None

    @classmethod
    def of_file(cls, name: str, kind: Kind, path: str | os.PathLike[str], *, inline: bool) -> Reference:
        """Refer to a file as it is now.

        Raises
        ------
        WorkspaceError
            When it does not exist or cannot be read.
        """
        location = str(Path(path).resolve())
        data = _read(name, location)
        return cls(name, kind, location, hashlib.sha256(data).hexdigest(), data if inline else None)

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells it from other models: the bytes of a file, wherever it lies; the address on a server."""
        return (self.kind, self.sha256, *([self.location] if self.kind == "triton" else ()))

    def read(self) -> bytes:
        """Return the bytes of the model.

        Raises
        ------
        WorkspaceError
            When the file is missing on this machine, or is not the one that the scorer was made with.
        """
        if self.data is not None:
            return self.data
        data = _read(self.name, self.location)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise WorkspaceError(
                f"the file of model {self.name!r} is not the one that this scorer was made with",
                where=self.location,
                fix="make the scorer again, or put the old file back",
            )
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        values = (self.name, self.kind, self.location, bytes.fromhex(self.sha256), self.data)
        return _restore, values


def _restore(name: str, kind: Kind, location: str, digest: bytes, data: bytes | None) -> Reference:
    return Reference(name, kind, location, digest.hex(), data)


def _read(name: str, location: str) -> bytes:
    # Never an OSError, nor one as the cause: coffea's `skipbadfiles` would take it for a broken file of events and
    # drop the chunk.
    try:
        return Path(location).read_bytes()
    except FileNotFoundError:
        raise WorkspaceError(
            f"the file of model {name!r} does not exist",
            where=location,
            fix="put it on a file system that the workers share, or let the scorer carry it: inline=True",
        ) from None
    except OSError as error:
        raise WorkspaceError(
            f"the file of model {name!r} cannot be read: {error.strerror}", where=location
        ) from None


def check_inline(references: tuple[Reference, ...]) -> None:
    """Raise :class:`ConfigError` when the bytes carried by a scorer are too many."""
    size = sum(len(reference.data or b"") for reference in references)
    if size > INLINE:
        raise ConfigError(
            f"the models have {size / 2**20:.1f} MB, too much to travel with every task",
            expected=f"at most {INLINE >> 20} MB inline",
            fix="load them by path, from a file system that the workers share",
        )


class _Cache:
    """Sessions and descriptions of this process, made once even when several threads ask together."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.entries: dict[Entry, OrderedDict[Any, Any]] = {kind: OrderedDict() for kind in _KEPT}
        self.forked = False

    def get(self, kind: Entry, key: Any, make: Callable[[], Any]) -> Any:
        with self.lock:
            entries = self.entries[kind]
            if key not in entries:
                made = make()  # which may ask for others
                entries[key] = made
                if len(entries) > _KEPT[kind]:
                    entries.popitem(last=False)
            entries.move_to_end(key)
            return entries[key]


_CACHE = _Cache()


def once(kind: Entry, key: Any, make: Callable[[], Any]) -> Any:
    """Return what `make` gave when it was first called for this key in this process."""
    return _CACHE.get(kind, key, make)


def in_forked_process() -> bool:
    """Tell whether this process began as a copy of another that had this module."""
    return _CACHE.forked


def _forget() -> None:
    # Threads of a session do not survive a fork, and its lock may be held by one of them.
    _CACHE.__init__()  # type: ignore[misc]
    _CACHE.forked = True


os.register_at_fork(after_in_child=_forget)


def session(reference: Reference, options: Options) -> Session:
    """Return the session of a model in this process."""
    module = _MODULES[reference.kind]

    def make() -> Session:
        opened: Session = importlib.import_module(module).open_session(reference, options)
        return opened

    found: Session = once("session", (*reference.identity, options), make)
    return found


def signature(reference: Reference, options: Options) -> Signature:
    """Return what a model takes and gives, where possible from its file alone."""
    module = _MODULES[reference.kind]

    def make() -> Signature:
        read: Signature = importlib.import_module(module).signature(reference, options)
        return read

    found: Signature = once("description", ("signature", *reference.identity), make)
    return found
