"""Models as ONNX and ``torch.export`` files: scaling, ensemble and calibration inside, checked after writing.

A file has one input ``inputs``, float32 ``(n_events, n_features + n_parameters)`` with any number of events; one
output ``scores``, float32 ``(n_events, n_outputs)``; and the :class:`Signature` as JSON in its metadata.
"""

from __future__ import annotations

import io
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neyman.errors import InputError, optional
from neyman.events.scoring.exported import DOCUMENT as IN_PT2
from neyman.events.scoring.exported import open_pt2
from neyman.events.scoring.onnx import DOCUMENT as IN_ONNX
from neyman.events.scoring.onnx import open_onnx
from neyman.events.scoring.reference import Options
from neyman.events.scoring.session import Session
from neyman.events.scoring.signature import Signature
from neyman.files import atomic
from neyman.networks import PET, Aggregate, Model, StackedFlow

Array = NDArray[np.float32]
_CHECKED = 257  # random events; no divisor or multiple of a batch
_TOLERANCE = 1e-4  # relative to 1 + |output|, for float32 sums in another order
_ERFC = (
    *(0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807),
    *(-0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223),
)
_ANY = 1 << 30  # more events than one evaluation ever has


def export_onnx(model: Model, path: str | os.PathLike[str], *, aggregate: Aggregate | None = None) -> Path:
    """Write a model as one ONNX file, atomically, after comparing it with the model on random events.

    Parameters
    ----------
    model
        The model; it stays as it is.
    path
        The ``.onnx`` file. Beside ``NAME.safetensors`` it is called ``NAME.onnx``: that is where a scorer looks.
    aggregate
        How members are combined; as the model says if not given.

    Raises
    ------
    InputError
        When a network cannot be expressed in ONNX, or its output differs from that of the model.
    MissingExtraError
        When onnx, onnxscript or onnxruntime is not installed.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional(module, "onnx")
    signature = _signature(model, aggregate)
    graph = _Graph(model, aggregate)
    with _quiet():
        program = _program(graph, signature)
        program = program.run_decompositions(
            {
                torch.ops.aten.cdist.default: _distance,
                torch.ops.aten.special_log_ndtr.default: _log_normal_cdf,
                torch.ops.aten.atan2.default: _angle,
            }
        )
        try:
            found = torch.onnx.export(
                program,
                (),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["inputs"],
                output_names=["scores"],
            )
        except Exception as error:
            raise InputError(
                f"the model cannot be written as ONNX: {str(error).strip().splitlines()[-1]}",
                where=str(path),
                fix="export_pt2, or the model file itself with torch",
            ) from error
    document: Any = cast("Any", found).model_proto
    document.metadata_props.add(key=IN_ONNX, value=signature.model_dump_json())
    data = document.SerializeToString()
    session = open_onnx(data, Path(path).name, str(path), Options(device="cpu"))
    return _checked(model, aggregate, session, data, path)


def export_pt2(model: Model, path: str | os.PathLike[str], *, aggregate: Aggregate | None = None) -> Path:
    """Write a model as a ``torch.export`` program, atomically, after comparing it with the model on random events.

    Parameters
    ----------
    model, aggregate
        As for :func:`export_onnx`.
    path
        The ``.pt2`` file. Opening such a file can run code: give it only to people who trust you.

    Raises
    ------
    InputError
        When the output of the program differs from that of the model.
    """
    signature = _signature(model, aggregate)
    buffer = io.BytesIO()
    with _quiet():
        program = _program(_Graph(model, aggregate), signature)
        torch.export.save(program, buffer, extra_files={IN_PT2: signature.model_dump_json()})
    data = buffer.getvalue()
    session = open_pt2(data, Path(path).name, str(path), Options(device="cpu"))
    return _checked(model, aggregate, session, data, path)


class _Graph(nn.Module):
    """A model from features and nuisance parameters to the aggregated and calibrated output, in torch alone."""

    knots: torch.Tensor
    values: torch.Tensor

    def __init__(self, model: Model, aggregate: Aggregate | None) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(model.stacks)
        self._model = model
        self._aggregate = aggregate or model.description.aggregate
        self._calibration = model.description.calibration
        if self._calibration is not None and self._calibration.knots:
            self.register_buffer("knots", torch.tensor(self._calibration.knots, dtype=torch.float64))
            self.register_buffer("values", torch.tensor(self._calibration.values, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        members = self._model.evaluate(inputs).double()
        # NaN where any member is not finite: a median or truncated mean would leave it out.
        out = _combined(members, self._aggregate) + (0.0 * members).sum(dim=0)
        if self._calibration is not None:
            out = self._calibration.scale * out + self._calibration.shift
            if self._calibration.knots:
                out = _interpolated(out, self.knots, self.values)
        return out.float()


def _combined(members: torch.Tensor, aggregate: Aggregate) -> torch.Tensor:
    """The aggregates of :func:`neyman.networks.combine`."""
    n = members.shape[0]
    if n == 1:
        return members[0]
    if aggregate == "median":
        ordered = members.sort(dim=0).values
        return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])
    if aggregate in ("truncated_mean", "truncated_mean_ratio"):
        members = members.sort(dim=0).values[1:-1]
    if aggregate in ("mean", "truncated_mean"):
        return members.mean(dim=0)
    largest = members.amax(dim=0)  # not torch.logsumexp: ONNX takes exponentials as they are, which overflow
    return largest + (members - largest).exp().mean(dim=0).log()


def _interpolated(x: torch.Tensor, knots: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Linear interpolation, constant beyond the ends, by a binary search of fixed depth: ONNX has none of its own."""
    n = len(knots)
    if n == 1:
        return values.expand_as(x)
    left = torch.zeros_like(x, dtype=torch.int64)
    for step in reversed([1 << k for k in range(max(1, (n - 1).bit_length()))]):
        further = (left + step).clamp_max(n - 2)
        left = torch.where(knots[further] <= x, torch.maximum(left, further), left)
    share = ((x - knots[left]) / (knots[left + 1] - knots[left])).clamp(0.0, 1.0)
    return values[left] + share * (values[left + 1] - values[left])


# What ONNX lacks, or torch writes with operators whose results are not finite in the tails of the links.


def _distance(x: torch.Tensor, y: torch.Tensor, p: float = 2.0, mode: int | None = None) -> torch.Tensor:  # noqa: ARG001
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(dim=-1).sqrt()


def _log_normal_cdf(z: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\ln\Phi(z)` to 1e-7, by the complementary error function of Numerical Recipes (``erfcc``)."""
    x = z.double().abs() / math.sqrt(2.0)
    t = 1.0 / (1.0 + 0.5 * x)
    polynomial = torch.zeros_like(t)
    for coefficient in _ERFC:
        polynomial = polynomial * t + coefficient
    log_tail = t.log() - x.square() + polynomial - math.log(2.0)
    return torch.where(z > 0.0, torch.log1p(-log_tail.exp()), log_tail).to(z.dtype)


def _angle(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    slope = torch.atan(y / torch.where(x == 0.0, 1.0, x))
    half = torch.where(y < 0.0, -math.pi, math.pi)
    return torch.where(x == 0.0, 0.5 * half, torch.where(x < 0.0, slope + half, slope))


def _program(graph: _Graph, signature: Signature) -> Any:
    flows: list[Any] = [stack for stack in graph.stacks if isinstance(stack, StackedFlow)]
    example = torch.zeros(7, signature.width) + torch.linspace(0.1, 1.0, signature.width)
    try:
        # A program has one block of events, of any size. A PET evaluates blocks where no gradient is wanted, a flow
        # always.
        for flow in flows:
            flow._block = lambda _: _ANY
        with torch.enable_grad():
            return torch.export.export(
                graph.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("events", min=1, max=_ANY)},)
            )
    finally:
        for flow in flows:
            del flow._block


def _signature(model: Model, aggregate: Aggregate | None) -> Signature:
    own = Signature.of_description(model.document, "the model")
    model.aggregated(np.zeros((max(model.description.members, 1), 1), dtype=np.float32), aggregate)
    return own.model_copy(update={"aggregate": aggregate or model.description.aggregate})


def _checked(
    model: Model,
    aggregate: Aggregate | None,
    session: Session,
    data: bytes,
    path: str | os.PathLike[str],
) -> Path:
    inputs = random_inputs(model)
    n = len(model.features)
    expected = model(inputs[:, :n], inputs[:, n:] if model.parameters else None, aggregate=aggregate)
    found = session(inputs).reshape(expected.shape)
    difference = np.abs(found - expected)
    if not (difference <= _TOLERANCE * (1.0 + np.abs(expected))).all():
        raise InputError(
            f"the exported model differs from the model by {float(np.nanmax(difference)):.3g} on random events",
            where=str(path),
            expected=f"at most {_TOLERANCE:g} of 1 + |output|",
        )
    with atomic(path) as part:
        part.write_bytes(data)
    return Path(path)


def random_inputs(model: Model, n: int = _CHECKED, seed: int = 0) -> Array:
    """Draw inputs like those of the training, ``(n, n_features + n_parameters)``: normal with the mean and scale that
    the first stack was trained with, nuisance parameters uniform in their ranges; any number of particles."""
    generator = np.random.default_rng(seed)
    features, ranges = len(model.features), model.description.parameter_range
    scaling: Any = model.stacks[0].scaling
    mean, scale = (t.detach().cpu().numpy()[:features] for t in (scaling.mean, scaling.scale))
    x = mean + scale * generator.normal(size=(n, features))
    network = model.description.parts[0].network
    if isinstance(network, PET):
        count = generator.integers(0, network.particles + 1, n)
        x[:, : network.columns] *= np.repeat(
            np.arange(network.particles) < count[:, None], network.particle_features, axis=1
        )
    z = [generator.uniform(low, high, n) for low, high in ranges]
    return np.column_stack([x, *z]).astype(np.float32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about its own parts to itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
