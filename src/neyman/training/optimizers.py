"""Optimizers by name: Adam, Lion and ECD with the defaults of density-ratio training.

* ``adam`` is the one to start with; with a falling rate it is hard to beat.
* ``lion`` moves every parameter by the same amount; rates 3 to 10 times smaller than Adam's (arXiv:2302.06675).
* ``ecd`` (:class:`neyman.training.ecd.ECD`) conserves energy; its rate is rescaled, 0.1 to 1 for any network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from neyman.errors import ConfigError, nearest, optional
from neyman.training.ecd import ECD, default_eta, default_F0
from neyman.training.losses import Loss

_OPTIONS: dict[str, tuple[str, ...]] = {
    "adam": ("betas", "eps", "weight_decay", "amsgrad"),
    "lion": ("betas", "weight_decay"),
    "ecd": ("eta", "F0", "nu", "q", "renormalise", "seed", "weight_decay"),
}


def make(
    name: str,
    parameters: Iterable[torch.Tensor] | Sequence[dict[str, Any]],
    *,
    learning_rate: float,
    steps: int,
    members: int,
    loss: Loss | None = None,
    options: Mapping[str, Any] | None = None,
    first: int = 0,
) -> torch.optim.Optimizer:
    """Make an optimizer of a stack.

    Parameters
    ----------
    name
        ``adam`` (with decoupled weight decay, 0 unless asked for), ``lion`` or ``ecd``.
    parameters
        The trained parameters, each of shape ``(members, ...)``; for Adam and Lion also groups of them.
    learning_rate
        Rate, or rescaled time step of ECD.
    steps
        Number of steps of the training, from which ECD takes its ``eta``: the same for all rates, as in
        arXiv:2501.18419, where the rate is scanned at a fixed ``eta``.
    members
        Number of members; each has an ECD of its own. Adam and Lion act on every number alone.
    loss
        Loss, from which ECD takes its ``F0``.
    options
        ``adam``: betas, eps, weight_decay, amsgrad. ``lion``: betas, weight_decay. ``ecd``: eta, F0, nu, q,
        renormalise, seed.
    first
        Number of the first member, where the others are trained elsewhere.

    Raises
    ------
    ConfigError
        For an unknown name or option, or a value that the optimizer refuses.
    """
    if name not in _OPTIONS:
        raise ConfigError(
            f"unknown optimizer {name!r}",
            expected=f"one of {', '.join(_OPTIONS)}",
            fix=f"nearest: {nearest(name, _OPTIONS, n=1)}",
        )
    given = dict(options or {})
    for option in given:
        if option not in _OPTIONS[name]:
            raise ConfigError(
                f"optimizer {name!r} has no option {option!r}",
                expected=f"one of {', '.join(_OPTIONS[name])}",
                fix=f"nearest: {nearest(option, _OPTIONS[name], n=1)}",
            )
    if not (learning_rate > 0.0 and math.isfinite(learning_rate)):
        raise ConfigError(f"learning_rate must be positive, got {learning_rate}")
    if "betas" in given:
        given["betas"] = tuple(given["betas"])
    trained: list[Any] = list(parameters)
    if name == "ecd":
        return _ecd(trained, learning_rate, steps, members, loss, given | {"first": first})
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    if name == "lion":
        kind = optional("lion_pytorch", "lion").Lion
    else:
        given = {"weight_decay": 0.0, "fused": True} | given
    try:
        return kind(trained, lr=learning_rate, **given)
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"optimizer {name!r} refuses {dict(options or {})}: {error}") from error


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether ``step`` must be given a closure that returns the losses of the members."""
    return isinstance(optimizer, ECD)


def _ecd(
    parameters: list[torch.Tensor],
    learning_rate: float,
    steps: int,
    members: int,
    loss: Loss | None,
    options: dict[str, Any],
) -> ECD:
    if "eta" not in options:
        options["eta"] = default_eta(parameters, steps, members=members)
    if "F0" not in options:
        if loss is None:
            raise ConfigError(
                "ECD has no default of F0 for this objective",
                expected="F0 one unit below the smallest value of the objective",
                fix="give the option F0",
            )
        options["F0"] = default_F0(loss)
    try:
        return ECD(parameters, learning_rate, members=members, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer 'ecd' refuses {options}: {error}") from error
