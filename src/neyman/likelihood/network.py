"""A network conditioned on nuisance parameters, evaluated in the fit.

* `ConditionedNetwork` runs the network at every evaluation, for one or several nuisance parameters.
* `TabulatedNetwork` (`neyman.likelihood.shapes`) is the one to use for a single nuisance parameter: it needs the
  network's output at a few nodes only, and a fit with it is far faster. With several parameters that act together
  the number of nodes multiplies, and the network itself is the compact form.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, cast

import torch

from neyman.errors import LikelihoodError, nearest
from neyman.likelihood.shapes import CompiledShape, Effect
from neyman.networks import MLP, Model, StackedLinear, StackedMLP
from neyman.networks.stacked import Activation

Three: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Activate: TypeAlias = Callable[[torch.Tensor], Three]
_ROWS = 1 << 12  # rows (events times members times derivatives) at a time, so that a layer stays in the cache


@dataclass(frozen=True)
class ConditionedNetwork:
    r"""Shape dependence given by a network with nuisance parameters among its inputs:

    .. math:: \ln g(x; \alpha) = \ell(x; z) - \ell(x; z = 0), \qquad
        \ell = \frac{1}{M}\sum_m \ell_m

    with :math:`\ell_m` the log-ratio of ensemble member m. The inputs `z` that are parameters of the fit follow
    them, and the others stay at 0, the nominal value. Everything is computed in float64, and derivatives are
    carried forward through the network (forward-mode differentiation), exact to rounding.

    Parameters
    ----------
    model
        The network; its output is a log-ratio.
    parameters
        Nuisance parameters of the fit, by the names that the model gives them.
    columns
        Columns of the events that hold the model's features, in the model's order. A column is called as the
        feature is, or ``x:`` and the feature.

    Raises
    ------
    LikelihoodError
        When the model is not a log-ratio of one output, does not have these parameters or features, or was not
        trained around 0.
    """

    model: Model
    parameters: tuple[str, ...]
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        description = self.model.description
        parts = description.parts
        if len(parts) > 1 or not isinstance(parts[0].network, MLP) or parts[0].link != "identity":
            raise LikelihoodError(
                f"a conditioned network is one MLP whose output is the log-ratio, this model is "
                f"{' + '.join(part.network.kind for part in parts)} with the link {parts[0].link!r}",
                fix="tabulate it over one nuisance parameter, or learn up/down ratios",
            )
        if description.kind != "log_ratio" or description.outputs != 1:
            raise LikelihoodError(
                f"a conditioned network must give one log-ratio, this one gives {description.outputs} of kind "
                f"{description.kind!r}",
                expected="a model trained as a density ratio",
            )
        if not self.parameters or len(set(self.parameters)) < len(self.parameters):
            raise LikelihoodError(
                f"a conditioned network needs different nuisance parameters, got {list(self.parameters)}"
            )
        for name in self.parameters:
            if name not in self.model.parameters:
                raise LikelihoodError(
                    f"the network has no nuisance-parameter input {name!r}",
                    where=f"its inputs: {', '.join(self.model.parameters) or 'none'}",
                    fix=f"nearest names: {nearest(name, self.model.parameters)}",
                )
        if tuple(name.removeprefix("x:") for name in self.columns) != self.model.features:
            raise LikelihoodError(
                f"the columns {', '.join(self.columns)} are not the network's features in its order",
                expected=", ".join(self.model.features),
            )
        for name, (low, high) in self._trained.items():
            if not low <= 0.0 <= high:
                raise LikelihoodError(
                    f"the network was trained for {name!r} from {low:g} to {high:g}, which must enclose 0, the "
                    f"nominal value"
                )

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Trained range of each nuisance parameter of the fit."""
        return {name: self._trained[name] for name in self.parameters}

    @property
    def _trained(self) -> dict[str, tuple[float, float]]:
        return dict(zip(self.model.parameters, self.model.description.parameter_range, strict=True))

    @property
    def _architecture(self) -> MLP:
        return cast(MLP, self.model.description.parts[0].network)

    @property
    def _stack(self) -> StackedMLP:
        return cast(StackedMLP, self.model.stacks[0])

    @cached_property
    def _copies(self) -> dict[torch.device, StackedMLP]:
        return {}

    def _network(self, device: torch.device) -> StackedMLP:
        """The network in float64 on a device."""
        if device not in self._copies:
            network = copy.deepcopy(self._stack).double().requires_grad_(False)
            self._copies[device] = network.to(device)
        return self._copies[device]

    def compile(self, columns: Mapping[str, torch.Tensor]) -> CompiledShape:
        """Bind the network to events."""
        return _Compiled(self, [columns[name] for name in self.columns])

    def at(self, x: torch.Tensor, alpha: torch.Tensor, order: int) -> tuple[torch.Tensor, ...]:
        r"""Return :math:`\ell(x; \alpha)` and its derivatives up to `order`.

        Parameters
        ----------
        x
            Features, float64 ``(n, n_features)``.
        alpha
            Nuisance parameters, float64 ``(p,)``.

        Returns
        -------
        Shapes ``(n,)``, ``(p, n)`` and ``(p, p, n)``; the first ``order + 1`` of them.

        Raises
        ------
        LikelihoodError
            When a parameter is outside the range in which the network was trained.
        """
        for name, value in zip(self.parameters, alpha.tolist(), strict=True):
            low, high = self._trained[name]
            if not low <= value <= high:
                raise LikelihoodError(
                    f"nuisance parameter {name!r} = {value:.4g} is outside the range in which its network was "
                    f"trained",
                    expected=f"{low:g} to {high:g}",
                    fix="narrow the parameter's bounds, or train the network over a wider range",
                )
        network = self._network(x.device)
        inputs = [self.model.parameters.index(name) for name in self.parameters]
        directions = torch.eye(len(self.model.parameters), dtype=x.dtype, device=x.device)[inputs]
        z = alpha.to(x) @ directions
        p = len(inputs)
        size = max(1, _ROWS // (network.members * (1, 1 + p, 1 + p + p * p)[order]))
        activate = _ACTIVATIONS[self._architecture.activation]
        parts = [
            _derivatives(network, activate, batch, z, directions, order) for batch in torch.split(x, size)
        ]
        return tuple(torch.cat(part, dim=-1) for part in zip(*parts, strict=True))


class _Compiled:
    def __init__(self, shape: ConditionedNetwork, columns: Sequence[torch.Tensor]) -> None:
        self._shape, self._columns = shape, columns
        # Filled in when an event is first evaluated: streamed events are bound again in every pass.
        self._nominal = torch.full(
            (len(columns[0]),), torch.nan, dtype=torch.float64, device=columns[0].device
        )

    def at(self, alpha: torch.Tensor, rows: slice, order: int) -> Effect:
        x = torch.stack([column[rows] for column in self._columns], dim=-1).double()
        value, *derivatives = self._shape.at(x, alpha, order)
        if bool(self._nominal[rows].isnan().any()):
            self._nominal[rows] = self._shape.at(x, torch.zeros_like(alpha), 0)[0]
        return Effect(value - self._nominal[rows], None, *derivatives)


def _derivatives(
    network: StackedMLP,
    activate: Activate,
    x: torch.Tensor,
    z: torch.Tensor,
    directions: torch.Tensor,
    order: int,
) -> tuple[torch.Tensor, ...]:
    """Return the members' mean output with derivatives by the inputs z along `directions`.

    Value, slopes and bends (one a pair of directions) go through the layers together, shapes ``(members, n,
    width)`` and ``(members, p, n, width)``. With the activations' derivatives in closed form this takes a fraction
    of the time of nested ``torch.func.jvp``.
    """
    inputs = torch.cat([x, z.expand(len(x), -1)], dim=-1)
    if order == 0:
        return (_mean(network(inputs)),)
    p, n_features = len(directions), x.shape[1]
    i, j = torch.triu_indices(p, p)
    scaled = network.scaling(inputs).expand(network.members, -1, -1)
    layers = [cast(StackedLinear, layer) for layer in network.layers]
    value = layers[0](scaled)
    # The first layer is affine: its slopes are the same for all events, and it does not bend.
    tangents = directions / network.scaling.scale[n_features:]
    slopes = (tangents @ layers[0].weight[:, n_features:]).unsqueeze(2)
    bends = torch.zeros_like(slopes[:, i])
    for layer in layers[1:]:
        hidden, first, second = activate(value)
        if order > 1:
            bends = _through(
                layer, second.unsqueeze(1) * (slopes[:, i] * slopes[:, j]) + first.unsqueeze(1) * bends
            )
        slopes = _through(layer, first.unsqueeze(1) * slopes)
        value = layer(hidden)
    if order == 1:
        return _mean(value), _mean(slopes)
    full = bends.new_empty(p, p, len(x))
    full[i, j] = full[j, i] = _mean(bends)
    return _mean(value), _mean(slopes), full


def _mean(outputs: torch.Tensor) -> torch.Tensor:
    """Average over the members, the first axis; the last axis is the single output."""
    return outputs.mean(dim=0)[..., 0]


def _through(layer: StackedLinear, derivatives: torch.Tensor) -> torch.Tensor:
    """Carry derivatives ``(members, p, n, inputs)`` through the linear part of a layer."""
    members, p, n, _ = derivatives.shape
    return (derivatives.flatten(1, 2) @ layer.weight).view(members, p, n, layer.weight.shape[-1])


# Activations with first and second derivative ----------------------------------------------------------------


def _silu(x: torch.Tensor) -> Three:
    s = torch.sigmoid(x)
    value, rest = x * s, 1.0 - s
    return value, s + value * rest, s * rest * (2.0 + x - 2.0 * value)


def _relu(x: torch.Tensor) -> Three:
    return torch.relu(x), (x > 0.0).to(x), torch.zeros_like(x)


def _gelu(x: torch.Tensor) -> Three:
    density = torch.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    below = torch.special.ndtr(x)
    return x * below, below + x * density, (2.0 - x**2) * density


def _tanh(x: torch.Tensor) -> Three:
    value = torch.tanh(x)
    slope = 1.0 - value**2
    return value, slope, -2.0 * value * slope


_ACTIVATIONS: dict[Activation, Activate] = {"silu": _silu, "relu": _relu, "gelu": _gelu, "tanh": _tanh}
