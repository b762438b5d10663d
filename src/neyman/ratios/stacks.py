"""What the estimators of this package have in common: a stack made for its events, trained, and described."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from neyman.cluster import gpu, run_tasks
from neyman.errors import ConfigError, TrainingError, nearest
from neyman.files import digest
from neyman.networks import Architecture, Model, Part, Stack, joined, tensors_digest
from neyman.ratios.preparation import Ranges, fingerprint, parameter_scaling
from neyman.training import Checkpoint, History, Objective, Sample, Settings, train

Progress = Callable[[int], None]
Trained = TypeVar("Trained")


def build(
    network: Architecture,
    features: tuple[str, ...],
    parameters: tuple[str, ...],
    training: Sequence[Sample],
    *,
    members: int,
    seed: int,
) -> tuple[Stack, Ranges]:
    """Return a fresh stack whose inputs are scaled by the training events, and the range of each parameter.

    The parameters are those of the first sample.

    Raises
    ------
    TrainingError
        When a feature or a parameter is constant.
    """
    ranges, (z_mean, z_scale) = parameter_scaling(training[0], parameters)
    mean, scale = network.scaling(np.concatenate([one.x for one in training]), features)
    stack = network.build(
        len(features) + len(parameters),
        context=len(parameters),
        members=members,
        seed=seed,
        scaling=(torch.cat([mean, z_mean]), torch.cat([scale, z_scale])),
    )
    return stack, ranges


def freeze(stack: Stack, prefixes: Sequence[str]) -> None:
    """Keep the parameters whose names begin with one of `prefixes` as they are.

    Raises
    ------
    TrainingError
        When no parameter begins with a prefix.
    """
    names = [name for name, _ in stack.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise TrainingError(
                f"there is no network parameter {prefix!r} to freeze",
                fix=f"nearest names: {nearest(prefix, names)}",
            )
    for name, parameter in stack.named_parameters():
        if name.startswith(tuple(prefixes)):
            parameter.requires_grad_(False)


def checkpoint(
    path: str | os.PathLike[str] | None, stack: Stack, whole: int, samples: Sequence[Sample], *key: object
) -> Checkpoint | None:
    """Return the checkpoint at `path`, if any, of a training of this stack on these samples with this key.

    Where others train other members, every stack has a file of its own: ``path.k`` for the members from k on.
    """
    if path is None:
        return None
    if whole != stack.members:
        path = f"{os.fspath(path)}.{stack.first}"
    parts = (*(str(part) for part in key), tensors_digest(stack.state_dict()), fingerprint(*samples))
    return Checkpoint(Path(path), digest(*parts))


def fit(
    stack: Stack,
    objective: Objective,
    settings: Settings,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train a stack on the device of the settings and bring it back.

    Raises
    ------
    TrainingError
        As :func:`neyman.training.train`, or when a member never had a finite held-out loss.
    """
    history = train(
        stack.to(settings.torch_device), objective, settings, progress=progress, checkpoint=checkpoint
    )
    stack.cpu().requires_grad_(True)
    if 0 in history.best_step:
        raise TrainingError(
            f"the held-out loss of member {history.best_step.index(0)} was never finite",
            fix="lower learning_rate, or look for extreme features or weights",
        )
    return history


def groups(members: range, size: int) -> list[range]:
    """Return the members in groups of a size, the last one perhaps smaller.

    Raises
    ------
    ConfigError
        When the size is not positive.
    """
    if size < 1:
        raise ConfigError(f"groups of {size} members", expected="at least 1")
    return [members[k : k + size] for k in range(0, len(members), size)]


def spread(
    client: Any,
    train: Callable[[range, Any], Trained],
    shared: Any,
    parts: Sequence[range],
    settings: Settings,
    progress: Progress | None,
) -> list[Trained]:
    """Train groups of members on Dask workers; `train` is called there with a group and with `shared`."""
    return run_tasks(
        client,
        train,
        parts,
        shared=shared,
        resources=None if settings.device == "cpu" else gpu(client),
        progress=None if progress is None else lambda done, n: progress(done * settings.steps // n),
        label="training of members",
    )


def join(parts: Sequence[tuple[Model, History]]) -> tuple[Model, History]:
    """Return the ensemble of the members of several ensembles that differ in nothing else.

    A group of which all members have stopped early keeps its last losses.
    """
    models, histories = zip(*parts, strict=True)
    stack = joined([model.stacks[0] for model in models])
    own = models[0].description.parts[0].model_copy(update={"members": stack.members})
    model = Model([stack], models[0].description.model_copy(update={"parts": (own,)}))
    return model, History(
        max((history.steps for history in histories), key=len),
        _columns([history.training for history in histories]),
        _columns([history.validation for history in histories]),
        [step for history in histories for step in history.best_step],
    )


def _columns(parts: Sequence[list[list[float]]]) -> list[list[float]]:
    rows = zip_longest(*parts)
    return [
        [loss for part, losses in zip(parts, row, strict=True) for loss in losses or part[-1]] for row in rows
    ]


def part(network: Architecture, members: int, parameters: tuple[str, ...], link: str = "identity") -> Part:
    """Return the description of a stack with one output."""
    return Part.model_validate(
        {"network": network, "members": members, "parameters": parameters, "link": link}
    )


def later(progress: Progress | None, done: int) -> Progress | None:
    """Return the `progress` of a training that comes after `done` steps of others."""
    return None if progress is None else lambda step: progress(done + step)
