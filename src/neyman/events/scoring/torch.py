"""Sessions of ``.safetensors`` models, evaluated by torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, WorkspaceError
from neyman.events.scoring.reference import Options, Reference, in_forked_process
from neyman.events.scoring.session import batch_of, batched
from neyman.events.scoring.signature import Signature

if TYPE_CHECKING:
    import torch

    from neyman.networks import Aggregate, Model

Array = NDArray[np.float32]


class TorchSession:
    """A model and the device that evaluates it."""

    def __init__(self, model: Model, signature: Signature, options: Options, where: str) -> None:
        self.signature = signature
        self._device = device(options.device)
        self._model = model.to(self._device)
        self._aggregate = cast("Aggregate | None", options.aggregate)
        self._threads, self._where = options.threads, where
        on_gpu = self._device.type == "cuda"
        self._batch = options.batch_size or batch_of(signature.members, on_gpu=on_gpu)

    def __call__(self, inputs: Array) -> Array:
        """Evaluate, aggregate and calibrate."""
        with limited(self._threads):
            return batched(self._evaluate, inputs, self.signature.outputs, self._batch, self._where)

    def _evaluate(self, inputs: Array) -> Array:
        import torch

        with torch.inference_mode():
            members = self._model.evaluate(to_device(inputs, self._device)).cpu().numpy()
        bad = ~np.isfinite(members).all(axis=(0, 2))
        members[:, bad] = 0.0
        out = self._model.aggregated(members[..., 0] if members.shape[2] == 1 else members, self._aggregate)
        out[bad] = np.nan
        return out


def open_session(reference: Reference, options: Options) -> TorchSession:
    """Open a model file."""
    from neyman.networks import Model

    model = Model.from_bytes(reference.read(), reference.location)
    return TorchSession(model, signature(reference, options), options, reference.location)


def signature(reference: Reference, options: Options) -> Signature:  # noqa: ARG001
    """Read the header of a ``.safetensors`` file, a length and JSON, without torch."""
    data = reference.read()
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text = header["__metadata__"]["neyman"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WorkspaceError(
            f"the file of model {reference.name!r} carries no neyman description",
            where=reference.location,
            expected="a file written by Model.save",
        ) from error
    return Signature.of_description(str(text), reference.location)


def device(name: str) -> torch.device:
    """Return the device of a name on this machine; ``auto`` is a GPU where there is one.

    Raises
    ------
    ConfigError
        When a GPU is asked for and is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(name)
    if found.type == "cuda" and not (found.index or 0) < torch.cuda.device_count():
        raise ConfigError(
            f"there is no device {name!r} on this machine: {torch.cuda.device_count()} CUDA devices",
            fix='device="auto" uses a GPU where there is one',
        )
    return found


def to_device(inputs: Array, place: torch.device) -> torch.Tensor:
    """Copy to a device; to a GPU through pinned memory, which torch's host allocator keeps for the next batch."""
    import torch

    rows = torch.from_numpy(np.ascontiguousarray(inputs))
    return rows.pin_memory().to(place, non_blocking=True) if place.type == "cuda" else rows


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Set the number of torch's threads of the calling thread for a while.

    Unless told otherwise, a thread other than the main one, in which executors run processors, uses a single thread:
    each would start as many as there are cores. The main thread keeps torch's setting. A forked process always uses
    one: the threads of its parent are gone, and torch would wait for them for ever.
    """
    import torch

    before = torch.get_num_threads()
    in_main = threading.current_thread() is threading.main_thread()
    wanted = 1 if in_forked_process() else threads or (before if in_main else 1)
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
