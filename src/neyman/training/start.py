"""Starting a training from trained networks instead of random ones."""

from __future__ import annotations

from collections.abc import Sequence

from neyman.errors import TrainingError
from neyman.networks import Model, Part, Stack


def warm_start(
    stack: Stack, start: Model, features: Sequence[str], parameters: Sequence[str], *, like: Part
) -> None:
    """Give all members the weights and the input scaling of a trained stack of one or as many members.

    Raises
    ------
    TrainingError
        When the two have other inputs, architectures or links.
    """
    if start.features != tuple(features) or start.parameters != tuple(parameters):
        raise TrainingError(
            "the model to start from has other inputs",
            where=", ".join((*start.features, *start.parameters)),
            expected=", ".join((*features, *parameters)),
        )
    other = start.description.parts[0]
    if (other.network, other.link) != (like.network, like.link):
        raise TrainingError(
            f"the model to start from has another architecture: {other.network} with the link {other.link!r}",
            expected=f"{like.network} with the link {like.link!r}",
        )
    own, given = stack.state_dict(), start.stacks[0].state_dict()
    stacked = {name for name, _ in stack.named_parameters()}
    for name, tensor in own.items():
        value = given.get(name)
        if value is not None and name in stacked and len(value) == 1:
            value = value.expand(tensor.shape[0], *value.shape[1:])
        if value is None or value.shape != tensor.shape or len(given) != len(own):
            raise TrainingError(
                f"the model to start from has another architecture: {name} is "
                f"{'missing' if value is None else tuple(value.shape)}",
                expected=f"{name}: {tuple(tensor.shape)}, or one member",
            )
        tensor.copy_(value)
