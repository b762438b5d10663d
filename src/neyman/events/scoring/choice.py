"""Which file of a model a scorer evaluates, and by what."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from neyman.errors import ConfigError, WorkspaceError
from neyman.events.scoring.reference import Kind, Options, Reference, signature

Backend = Literal["auto", "torch", "onnx", "pt2", "triton"]
SUFFIXES: dict[str, Kind] = {".safetensors": "torch", ".onnx": "onnx", ".pt2": "pt2"}
_DRIVER = Path("/proc/driver/nvidia/version")


def choose(
    name: str,
    path: str | os.PathLike[str],
    backend: Backend,
    options: Options,
    *,
    inline: bool,
    trusted: bool,
) -> Reference:
    """Return the reference to a model by the rules of `Scorer`.

    Raises
    ------
    ConfigError
        When the backend does not fit the file, or a ``.pt2`` file is not trusted.
    WorkspaceError
        When a file is missing, or an exported one belongs to another model.
    """
    if str(path).startswith(("triton://", "tritons://")):
        if backend not in ("auto", "triton"):
            raise ConfigError(f"a model on a server is not evaluated by {backend}", where=str(path))
        from neyman.events.scoring.triton import refer

        return refer(name, str(path))
    given = Path(path)
    if given.suffix not in SUFFIXES:
        raise WorkspaceError(
            f"the file of model {name!r} is of an unknown kind",
            where=str(given),
            expected=f"a name that ends in {', '.join(SUFFIXES)}",
        )
    kind = SUFFIXES[given.suffix]
    own = Reference.of_file(name, kind, given, inline=inline)
    if backend == "auto":
        beside = given.with_suffix(".onnx")
        if kind == "torch" and beside.is_file() and _onnx_is_better(options):
            exported = Reference.of_file(name, "onnx", beside, inline=inline)
            if _same(own, exported, options):
                return exported
    elif backend != kind:
        if kind != "torch" or backend == "triton":
            raise ConfigError(f"{given.name} is not evaluated by {backend}", where=str(given))
        suffix = {own: ending for ending, own in SUFFIXES.items()}[backend]
        source, own = own, _beside(name, given, suffix, inline=inline)
        _same(source, own, options)
    _check_trusted(own, trusted=trusted)
    return own


def _onnx_is_better(options: Options) -> bool:
    if importlib.util.find_spec("onnxruntime") is None or options.device.startswith("cuda"):
        return False
    if options.device == "auto" and _DRIVER.exists():  # before torch is imported, which takes a second
        import torch

        return not torch.cuda.is_available()
    return True


def _beside(name: str, given: Path, suffix: str, *, inline: bool) -> Reference:
    beside = given.with_suffix(suffix)
    if not beside.is_file():
        export = "export_onnx" if suffix == ".onnx" else "export_pt2"
        raise WorkspaceError(
            f"the model {name!r} has not been exported to {suffix}",
            where=str(beside),
            fix=f"neyman.events.scoring.{export}(neyman.networks.Model.load({given.name!r}), {beside.name!r})",
        )
    return Reference.of_file(name, SUFFIXES[suffix], beside, inline=inline)


def _same(source: Reference, exported: Reference, options: Options) -> bool:
    """Check that a file was exported from the model beside it; tell whether it has the aggregate that is wanted."""
    own = signature(exported, replace(options, aggregate=None))
    if own.model != signature(source, options).model:
        raise WorkspaceError(
            f"{Path(exported.location).name} was exported from another model than "
            f"{Path(source.location).name} beside it",
            where=exported.location,
            fix="export it again, or remove it",
        )
    return options.aggregate in (None, own.aggregate)


def _check_trusted(reference: Reference, *, trusted: bool) -> None:
    if reference.kind == "pt2" and not trusted:
        raise ConfigError(
            f"{Path(reference.location).name} can run code when torch opens it",
            where=reference.location,
            fix="trusted=True if you or a person you trust made it; .safetensors and .onnx files never run code",
        )
