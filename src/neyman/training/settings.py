"""`Settings`: how long, how fast and with which optimizer a stack of networks is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from neyman.errors import ConfigError

Schedule = Literal["cosine", "one_cycle", "constant"]
_ONE_CYCLE = (0.3, 1.0 / 25.0, 1e-4)  # warm-up fraction, first and last rate in units of the peak
_POSITIVE = ("steps", "batch_size", "learning_rate", "evaluations")


@dataclass(frozen=True)
class Settings:
    """How a stack of networks is trained.

    Parameters
    ----------
    steps
        Optimizer steps.
    batch_size
        Events of each class in a step.
    learning_rate
        Peak rate of the optimizer.
    optimizer
        ``adam``, ``lion`` or ``ecd`` (:class:`neyman.training.ECD`).
    optimizer_options
        Further arguments of the optimizer, such as ``{"eta": 1e4, "F0": -0.3}``.
    schedule
        ``cosine``: linear warm-up, then a cosine to zero; ``one_cycle``: a cosine from 1/25 to the peak at 30% of the
        steps, then a cosine to almost zero; ``constant``: warm-up, then the peak.
    warmup
        Fraction of the steps over which the rate rises (cosine and constant).
    validation_fraction
        Fraction of the events held out to choose each member's best state.
    evaluations
        How often the held-out loss is computed over the training.
    patience
        A member stops when this many evaluations in a row brought no better held-out loss; None: never.
    device
        ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: a GPU where there is one. The same seed gives the same result on
        the same kind of device only.
    precision
        ``float32``, or ``bfloat16`` for mixed precision (useful on a GPU).
    compile
        Whether the networks go through ``torch.compile``; needs a C++ compiler.
    rate_factors
        Factors on the learning rate of the parameters whose names begin so, such as ``{"layers.0": 0.2}``: a network
        that starts from a trained one may change its body more slowly than its head. Not with ``ecd``.
    data_parallel
        Whether the processes of a ``torch.distributed`` group (:func:`neyman.training.join`) share every batch. They
        take the same steps as one process with the same `batch_size`, up to the rounding of sums.
    """

    steps: int = 2000
    batch_size: int = 1024
    learning_rate: float = 2e-3
    optimizer: Literal["adam", "lion", "ecd"] = "adam"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    validation_fraction: float = 0.2
    evaluations: int = 20
    patience: int | None = None
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    data_parallel: bool = False

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"patience must be positive, got {self.patience}", fix="None never stops early")
        if not 0.0 < self.validation_fraction < 1.0:
            raise ConfigError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}")
        if not 0.0 <= self.warmup < 1.0:
            raise ConfigError(f"warmup is a fraction of the steps below 1, got {self.warmup}")
        for name, factor in self.rate_factors.items():
            if not (factor >= 0.0 and math.isfinite(factor)):
                raise ConfigError(f"the rate factor of {name!r} is {factor}", expected="0 or more")
        if self.rate_factors and self.optimizer == "ecd":
            raise ConfigError(
                "ECD has one rate for all parameters of a network", fix="leave out rate_factors"
            )
        for name, known in (
            ("schedule", ("cosine", "one_cycle", "constant")),
            ("optimizer", ("adam", "lion", "ecd")),
            ("precision", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"unknown {name} {getattr(self, name)!r}", expected=", ".join(known))

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based), as a fraction of the peak."""
        if self.schedule == "one_cycle":
            fraction, first, last = _ONE_CYCLE
            peak = fraction * self.steps
            if step < peak:
                return _cosine(first, 1.0, step / peak)
            return _cosine(1.0, last, (step - peak) / max(1.0, self.steps - peak))
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        return _cosine(1.0, 0.0, (step - warm) / max(1, self.steps - warm))

    @property
    def torch_device(self) -> torch.device:
        """The device of the training.

        Raises
        ------
        ConfigError
            When there is no such device.
        """
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(f"unknown device {name!r}", expected="cpu, cuda, cuda:N or auto") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"there is no device {name!r} here", fix="use device='auto' or 'cpu'")
        return device

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def _cosine(start: float, end: float, share: float) -> float:
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(1.0, share)))
