"""A digest of everything that a processor's result depends on: its settings, its code and its models."""

from __future__ import annotations

import enum
import functools
import re
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib import metadata, resources
from pathlib import Path, PurePath
from typing import Any

import hist
import numpy as np

from neyman.errors import ConfigError

_INSTALLED = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")})


def identity(value: Any) -> str:
    """Return a hexadecimal digest of a processor, equal in all processes.

    It covers the values that the processor holds, by their content; the bytecode of its classes and functions, with
    the functions, classes and constants of the user's own modules that they use; the code of neyman; and the versions
    of other installed packages whose code it holds. An attribute ``digest``, as scorers and feature specifications
    have, stands for the whole object. Comments and line numbers of the user's code do not count. What a function
    imports when it runs is not seen.

    Raises
    ------
    ConfigError
        The processor holds something whose content cannot be known, such as an open file or a running session.
    """
    walk = _Walk()
    walk.read(value)
    return walk.digest()


class _Walk:
    """Reads a value, then each of the user's functions and classes that its code names, once."""

    def __init__(self) -> None:
        self.waiting: dict[tuple[str, str], Any] = {}
        self.done: dict[tuple[str, str], bytes] = {}

    def read(self, value: Any) -> None:
        self.done["", ""] = b"".join(map(_framed, self.parts(value, "processor", ())))
        while self.waiting:
            key, found = self.waiting.popitem()
            self.done[key] = b""
            self.done[key] = b"".join(map(_framed, self.parts(found, ".".join(key), ())))

    def digest(self) -> str:
        whole = sha256()
        for (module, name), content in sorted(self.done.items()):
            for part in (module.encode(), name.encode(), content):
                whole.update(_framed(part))
        return whole.hexdigest()

    def parts(self, value: Any, place: str, parents: tuple[int, ...]) -> Iterator[bytes]:
        """Bytes that stand for a value; `parents` are what it is inside of."""
        if id(value) in parents:
            yield f"parent {len(parents) - parents.index(id(value))}".encode()
            return
        inside = (*parents, id(value))
        kind = type(value)
        yield f"{kind.__module__}.{kind.__qualname__}".encode()
        digest = None if isinstance(value, type) else getattr(value, "digest", None)
        if isinstance(digest, str) and digest:
            yield digest.encode()
            if _is_installed(kind.__module__):
                yield _version(kind.__module__)
            return
        wrapped: Any = getattr(value, "__wrapped__", None)
        match value:
            case None | bool() | int() | float() | complex() | str() | PurePath():
                yield repr(value).encode()
            case re.Pattern():  # whose repr is cut off
                yield from self.parts((value.pattern, value.flags), place, inside)
            case bytes() | bytearray():
                yield bytes(value)
            case enum.Enum():
                yield repr(value).encode()
            case np.ndarray() | np.generic() if value.dtype.kind != "O":
                yield f"{value.dtype.str} {value.shape}".encode()
                yield np.ascontiguousarray(value).tobytes()
            case hist.Hist():
                yield from self.parts(value._to_uhi_(), place, inside)
            case list() | tuple():
                yield str(len(value)).encode()
                for i, item in enumerate(value):
                    yield from self.parts(item, f"{place}[{i}]", inside)
            case set() | frozenset():
                yield from sorted(b"".join(self.parts(item, place, inside)) for item in value)
            case Mapping() if kind.__module__ in ("builtins", "collections", "types"):
                pairs = {b"".join(self.parts(key, place, inside)): (key, item) for key, item in value.items()}
                for name, (key, item) in sorted(pairs.items(), key=lambda pair: pair[0]):
                    yield name
                    yield from self.parts(item, f"{place}[{key!r}]", inside)
            case types.ModuleType():
                yield _version(value.__name__)
            case functools.partial():
                yield from self.parts((value.func, value.args, value.keywords), place, inside)
            case types.MethodType():
                yield from self.parts((value.__func__, value.__self__), place, inside)
            case types.FunctionType():
                yield from self._function(value, place, inside)
            case types.BuiltinFunctionType() | np.ufunc():
                yield getattr(value, "__qualname__", value.__name__).encode()
            case type():
                yield from self._class(value, place, inside)
            case _ if callable(wrapped):  # functools.cache, numba.njit
                yield from self.parts(wrapped, place, inside)
            case _:
                yield from self._object(value, place, inside)

    def _object(self, value: Any, place: str, inside: tuple[int, ...]) -> Iterator[bytes]:
        yield from self.parts(type(value), place, inside)
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:
            raise ConfigError(
                f"the content of {place} is not known: a {type(value).__module__}.{type(value).__qualname__}",
                expected="settings, arrays, functions, and objects with an attribute 'digest'",
                fix="make it inside process(), or give the processor an attribute 'digest' of what it depends on",
            ) from error
        if isinstance(reduced, str):
            yield reduced.encode()
            return
        _, arguments, *rest = reduced
        yield from self.parts(arguments, place, inside)
        state = rest[0] if rest else None
        named = state if isinstance(state, dict) else {}
        for name in sorted(named):
            yield str(name).encode()
            yield from self.parts(named[name], f"{place}.{name}", inside)
        if not isinstance(state, dict):
            yield from self.parts(state, place, inside)
        for items in rest[1:3]:
            yield from self.parts(list(items or ()), place, inside)

    def _class(self, kind: type, place: str, inside: tuple[int, ...]) -> Iterator[bytes]:
        yield kind.__qualname__.encode()
        if _is_installed(kind.__module__):
            yield _version(kind.__module__)
            return
        for base in kind.__bases__:
            yield from self.parts(base, place, inside)
        for name, member in sorted(vars(kind).items()):
            if name == "_abc_impl" or (name[:2] == name[-2:] == "__" and not callable(member)):
                continue
            yield name.encode()
            if isinstance(member, staticmethod | classmethod):
                yield from self.parts(member.__func__, f"{place}.{name}", inside)
            elif isinstance(member, property):
                yield from self.parts((member.fget, member.fset), f"{place}.{name}", inside)
            elif isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType):
                continue
            else:
                yield from self.parts(member, f"{place}.{name}", inside)

    def _function(self, function: types.FunctionType, place: str, inside: tuple[int, ...]) -> Iterator[bytes]:
        yield function.__qualname__.encode()
        if _is_installed(function.__module__):
            yield _version(function.__module__)
            return
        cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
        yield from self.parts((function.__defaults__, function.__kwdefaults__, cells), place, inside)
        modules = [vars(cell) for cell in cells if _is_own_module(cell)]
        yield from self._code(function.__code__, [function.__globals__, *modules], place, inside)

    def _code(
        self, code: types.CodeType, scopes: Sequence[Mapping[str, Any]], place: str, inside: tuple[int, ...]
    ) -> Iterator[bytes]:
        yield code.co_code
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from self._code(constant, scopes, place, inside)
            else:
                yield from self.parts(constant, place, inside)
        found = list(scopes)
        # Grows by the user's modules: of "helpers.cut(x)", both "helpers" and "cut" are in co_names.
        for scope in found:
            for name in code.co_names:
                yield name.encode()
                used = scope.get(name)
                if isinstance(used, type | types.FunctionType) and not _is_installed(used.__module__):
                    key = (str(scope.get("__name__")), name)
                    if key not in self.done:
                        self.waiting[key] = used
                elif _is_own_module(used):
                    if not any(vars(used) is known for known in found):
                        found.append(vars(used))
                elif name in scope:
                    yield from self.parts(used, f"{place}, {name}", inside)


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(8, "big") + part


def _is_installed(module: str | None) -> bool:
    """Whether the code of a module is fixed by the version of an installed package."""
    if module is None or module == "__main__":
        return False
    if module.partition(".")[0] in ("neyman", *sys.builtin_module_names):
        return True
    path = getattr(sys.modules.get(module), "__file__", None)
    return path is not None and path.startswith(_INSTALLED)


def _is_own_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and not _is_installed(value.__name__)


@functools.cache
def _version(module: str) -> bytes:
    name = module.partition(".")[0]
    if name == "neyman":
        return _source_of_neyman()
    try:
        return f"{name} {metadata.version(name)}".encode()
    except metadata.PackageNotFoundError:
        return name.encode()


def _source_of_neyman() -> bytes:
    """Digest of all code of the package, which changes between versions where it is developed."""
    root = resources.files("neyman")
    files = sorted(path for path in Path(str(root)).rglob("*.py"))
    return sha256(b"".join(_framed(path.read_bytes()) for path in files)).digest()
