"""Sessions of ONNX models, evaluated by ONNX runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, WorkspaceError, optional
from neyman.events.scoring.onnx_file import is_complete
from neyman.events.scoring.reference import Options, Reference, session
from neyman.events.scoring.session import batch_of, batched
from neyman.events.scoring.signature import Signature

DOCUMENT = "neyman"
_BATCH = 1 << 10  # on a CPU; 10% faster than 8,192 for a single network, more for an ensemble
_QUIET = 3  # errors alone
Array = NDArray[np.float32]


class OnnxSession:
    """An ONNX runtime session of a model with one matrix as input and one as output."""

    def __init__(self, engine: Any, signature: Signature, options: Options, where: str) -> None:
        self.signature = signature
        self._engine, self._where = engine, where
        self._input = engine.get_inputs()[0].name
        on_gpu = engine.get_providers()[0] == "CUDAExecutionProvider"
        self._batch = options.batch_size or (batch_of(1, on_gpu=True) if on_gpu else _BATCH)

    def __call__(self, inputs: Array) -> Array:
        """Run the model."""
        return batched(self._evaluate, inputs, self.signature.outputs, self._batch, self._where)

    def _evaluate(self, inputs: Array) -> Array:
        try:
            out = self._engine.run(None, {self._input: inputs})[0]
        except Exception as error:
            raise WorkspaceError(
                f"ONNX runtime refuses {len(inputs)} events: {error}", where=self._where
            ) from error
        return np.asarray(out, dtype=np.float32)


def open_session(reference: Reference, options: Options) -> OnnxSession:
    """Open the model of a reference."""
    return open_onnx(reference.read(), reference.name, reference.location, options)


def signature(reference: Reference, options: Options) -> Signature:
    """Return what a model says of itself: on a CPU, as a machine that only sends the scorer may have no GPU."""
    on_cpu = replace(options, device="cpu") if options.device.startswith("cuda") else options
    return session(reference, on_cpu).signature


def open_onnx(data: bytes, name: str, where: str, options: Options) -> OnnxSession:
    """Open a model; its tensors must be inside the file.

    Raises
    ------
    WorkspaceError
        When it is no ONNX model, has external data, or takes and gives something else than one float32 matrix each.
    """
    runtime: Any = optional("onnxruntime", "onnx")
    _check_complete(data, name, where)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = options.threads or 1
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _QUIET
    settings.add_session_config_entry("session.load_model_format", "ONNX")  # the one that was checked
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other workers need the cores
    providers = _providers(options.device, runtime.get_available_providers())
    try:
        engine = runtime.InferenceSession(data, settings, providers=providers)
    except Exception as error:
        raise WorkspaceError(f"ONNX runtime cannot open the model {name!r}: {error}", where=where) from error
    document = engine.get_modelmeta().custom_metadata_map.get(DOCUMENT)
    signature = _of_engine(engine, name, where) if document is None else Signature.read(document, where)
    return OnnxSession(engine, signature, options, where)


def _check_complete(data: bytes, name: str, where: str) -> None:
    try:
        complete = is_complete(data)
    except ValueError as error:
        raise WorkspaceError(f"the model {name!r} is no ONNX file: {error}", where=where) from error
    if not complete:
        raise WorkspaceError(
            f"the ONNX model {name!r} has data in other files",
            where=where,
            expected="a complete model in one file (external_data=False)",
        )


def _providers(device: str, available: list[str]) -> list[Any]:
    name, _, index = device.partition(":")
    cuda = "CUDAExecutionProvider"
    if name == "cuda" and cuda not in available:
        raise ConfigError(
            f"the installed onnxruntime has no CUDA: {', '.join(available)}",
            fix='pip install onnxruntime-gpu, or backend="torch"',
        )
    if name == "cpu" or cuda not in available:
        return ["CPUExecutionProvider"]
    return [(cuda, {"device_id": int(index or 0)}), "CPUExecutionProvider"]


def _of_engine(engine: Any, name: str, where: str) -> Signature:
    """What a model of other origin takes and gives: a number of inputs without names."""
    inputs, outputs = engine.get_inputs(), engine.get_outputs()
    shapes = [list(port.shape) for port in (*inputs, *outputs)]
    fits = (
        len(inputs) == len(outputs) == 1
        and {port.type for port in (*inputs, *outputs)} == {"tensor(float)"}
        and len(shapes[0]) == 2
        and len(shapes[1]) in (1, 2)
        and all(isinstance(size, int) for shape in shapes for size in shape[1:])
    )
    if not fits:
        found = ", ".join(f"{port.name} {port.type}{port.shape}" for port in (*inputs, *outputs))
        raise WorkspaceError(
            f"the ONNX model {name!r} takes and gives {found}",
            where=where,
            expected="one float32 matrix (n_events, n_features) in, and (n_events,) or (n_events, n_outputs) out",
        )
    return Signature(width=shapes[0][1], outputs=shapes[1][1] if len(shapes[1]) == 2 else 1)
