"""Sessions of ``torch.export`` programs (``.pt2``)."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import WorkspaceError
from neyman.events.scoring.reference import Options, Reference
from neyman.events.scoring.session import batch_of, batched
from neyman.events.scoring.signature import LARGEST, Signature
from neyman.events.scoring.torch import device, limited, to_device

if TYPE_CHECKING:
    import torch

DOCUMENT = "neyman.json"
Array = NDArray[np.float32]


class ExportedSession:
    """A program and the device that evaluates it."""

    def __init__(self, program: Any, signature: Signature, options: Options, where: str) -> None:
        self.signature = signature
        self._device = device(options.device)
        on_gpu = self._device.type == "cuda"
        self._program = (_moved(program, self._device) if on_gpu else program).module()
        self._threads, self._where = options.threads, where
        self._batch = options.batch_size or batch_of(signature.members, on_gpu=on_gpu)

    def __call__(self, inputs: Array) -> Array:
        """Run the program."""
        with limited(self._threads):
            return batched(self._evaluate, inputs, self.signature.outputs, self._batch, self._where)

    def _evaluate(self, inputs: Array) -> Array:
        import torch

        with torch.inference_mode():
            out: Array = self._program(to_device(inputs, self._device)).cpu().numpy()
        return out


def _moved(program: Any, device: torch.device) -> Any:
    # Tensors that the graph makes itself have a device in it.
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


def open_session(reference: Reference, options: Options) -> ExportedSession:
    """Open the program of a reference."""
    return open_pt2(reference.read(), reference.name, reference.location, options)


def open_pt2(data: bytes, name: str, where: str, options: Options) -> ExportedSession:
    """Open a program.

    torch reads parts of a ``.pt2`` archive with pickle, evaluates its expressions with sympy, and resolves the
    functions of its graph by name: a stranger's file can run code. `Scorer` therefore opens one only when told that it
    is trusted, and afterwards only the very bytes of that moment.

    Raises
    ------
    WorkspaceError
        When it is no program that :func:`neyman.events.scoring.export_pt2` wrote.
    """
    import torch

    own = _signature(data, name, where)
    try:
        program = torch.export.load(io.BytesIO(data))
    except Exception as error:
        raise _unreadable(name, where, error) from error
    return ExportedSession(program, own, options, where)


def signature(reference: Reference, options: Options) -> Signature:  # noqa: ARG001
    """Read what a program says of itself: a text in the archive, without opening the program."""
    return _signature(reference.read(), reference.name, reference.location)


def _signature(data: bytes, name: str, where: str) -> Signature:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = [entry for entry in archive.infolist() if entry.filename.endswith(f"extra/{DOCUMENT}")]
            text = archive.read(found[0]).decode() if found and found[0].file_size < LARGEST else None
    except Exception as error:  # zipfile lets those of its decompressors through
        raise _unreadable(name, where, error) from error
    if text is None:
        raise WorkspaceError(
            f"the file of model {name!r} carries no neyman description",
            where=where,
            expected="a file written by neyman.events.scoring.export_pt2",
        )
    return Signature.read(text, where)


def _unreadable(name: str, where: str, error: Exception) -> WorkspaceError:
    return WorkspaceError(
        f"the file of model {name!r} is not a readable torch.export program: {error}", where=where
    )
