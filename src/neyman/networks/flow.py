"""Normalising flows as stacked networks: M conditional densities ``ln p_m(x | z)`` in one pass.

`NSF` describes a neural spline flow; it is the network of direct likelihood estimation. The spline is zuko's; the
networks that give its parameters are batched over the members here.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import nn
from torch.distributions import Distribution, Transform

from neyman.errors import ConfigError
from neyman.networks.scaling import Scaling, column_scaling
from neyman.networks.stacked import Activation, Draws, Stack, Standardise

_SLOPE = 1e-3  # least derivative of a spline; a bin is never narrower than about this share of the range
_BLOCK = 1 << 16  # splines evaluated at once on a CPU
_LIMITS = {"transforms": (1, 64), "bins": (2, 1024)}


def _zuko_transforms() -> ModuleType:
    # Importing zuko switches off the argument checks of torch.distributions for the whole process.
    before = {name: vars(Distribution)[name] for name in ("_validate_args", "arg_constraints")}
    try:
        return importlib.import_module("zuko.transforms")
    finally:
        for name, value in before.items():
            setattr(Distribution, name, value)


@cache
def _spline() -> Callable[[torch.Tensor, float], Any]:
    """Return the class of splines; zuko is imported with the first flow, not with every network."""

    class Spline(_zuko_transforms().MonotonicRQSTransform):  # type: ignore[misc]
        """zuko's rational-quadratic spline, its knots from one matrix product in place of two softmax and two sums.

        On a CPU that takes a third off a training step, and the outer knots lie exactly at the bound.
        """

        def __init__(self, phi: torch.Tensor, bound: float) -> None:
            Transform.__init__(self)
            bins = (phi.shape[-1] + 1) // 3
            sizes, slopes = torch.split(phi, [2 * bins, bins - 1], dim=-1)
            limit = -math.log(_SLOPE)
            weights = torch.exp(sizes / (1.0 + (2.0 / limit) * sizes.abs())).reshape(*phi.shape[:-1], 2, bins)
            sums = weights @ torch.ones(bins, bins + 1, dtype=phi.dtype, device=phi.device).triu(1)
            self.horizontal, self.vertical = (sums * (2.0 * bound / sums[..., -1:]) - bound).unbind(dim=-2)
            slopes = slopes / (1.0 + slopes.abs() / limit)
            self.derivatives = torch.exp(nn.functional.pad(slopes, (1, 1)))

    return Spline


class _Conditioner(nn.Module):
    """Masked networks of M members that turn the earlier features and z into the parameters of the splines."""

    def __init__(self, widths: Sequence[int], activation: Activation, draws: Draws) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.weight = nn.ParameterList(
            draws.uniform(n_in, n_out, bound=1.0 / math.sqrt(n_in)) for n_in, n_out in pairs
        )
        self.bias = nn.ParameterList(
            draws.uniform(1, n_out, bound=1.0 / math.sqrt(n_in)) for n_in, n_out in pairs
        )
        self._activation = getattr(nn.functional, activation)

    def forward(
        self, x: torch.Tensor, masks: Sequence[torch.Tensor], part: slice = slice(None)
    ) -> torch.Tensor:
        """Map ``(members, n, inputs)`` to the outputs in `part`, ``(members, n, outputs)``."""
        layers = list(zip(self.weight, self.bias, masks, strict=True))
        for weight, bias, mask in layers[:-1]:
            x = self._activation(torch.baddbmm(bias, x, weight * mask))
        weight, bias, mask = layers[-1]
        return torch.baddbmm(bias[..., part], x, weight[..., part] * mask[..., part])


class StackedFlow(Stack):
    r"""M autoregressive spline flows.

    With standardised inputs :math:`y_0 = (x - \mu)/\sigma`, T transforms :math:`y_t = f_t(y_{t-1} | z)`, each
    acting on a feature by a spline that depends on the features before it (in reversed order in every other
    transform), and D features,

    .. math:: \ln p(x|z) = -\tfrac12 |y_T|^2 - \tfrac{D}{2}\ln 2\pi
              + \sum_{t,i} \ln \frac{\partial y_{t,i}}{\partial y_{t-1,i}} - \sum_i \ln \sigma_i .

    The parameters are ``transforms.{t}.weight.{l}`` ``(members, in, out)`` and ``transforms.{t}.bias.{l}``
    ``(members, 1, out)``; a spline's ``3 K - 1`` outputs are the K widths, K heights and K - 1 inner slopes, feature
    by feature. Source: Durkan et al., arXiv:1906.04032.

    Attributes
    ----------
    features, context
        How many inputs are random variables, and how many nuisance parameters follow them.
    """

    def __init__(self, spec: NSF, scaling: Standardise, context: int, draws: Draws) -> None:
        super().__init__()
        self.members, self.inputs, self.outputs = draws.members, len(scaling.mean), 1
        self.context, self.features = context, self.inputs - context
        self.scaling = scaling
        self._spec = spec
        widths = (self.inputs, *spec.hidden, self.features * (3 * spec.bins - 1))
        self.transforms = nn.ModuleList(
            _Conditioner(widths, spec.activation, draws) for _ in range(spec.transforms)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``ln p(x | z)`` of inputs ``(n, inputs)`` or ``(members, n, inputs)``: ``(members, n, 1)``.

        Always in the precision of the inputs: an autocast region does not reach inside.
        """
        with torch.autocast(x.device.type, enabled=False):
            scaled = self.scaling(x)
            if scaled.ndim == 2:
                scaled = scaled.expand(self.members, -1, -1)
            parts = [self._log_density(block) for block in torch.split(scaled, self._block(x.device), dim=1)]
            return torch.cat(parts, dim=1).unsqueeze(-1)

    def _log_density(self, scaled: torch.Tensor) -> torch.Tensor:
        y, z = torch.split(scaled, [self.features, self.context], dim=-1)
        log_density = -torch.log(self.scaling.scale[: self.features]).sum()
        masks = self._masks(y.device)
        for t, conditioner in enumerate(self.transforms):
            phi = conditioner(torch.cat([y, z], dim=-1), masks[t % 2])
            spline = _spline()(phi.reshape(*y.shape, -1), self._spec.bound)
            y, log_slope = spline.call_and_ladj(y)
            log_density = log_density + log_slope.sum(dim=-1)
        return log_density - 0.5 * (y.square() + math.log(2.0 * math.pi)).sum(dim=-1)

    @torch.no_grad()
    def sample(self, context: torch.Tensor, *, seed: int) -> torch.Tensor:
        """Draw one event of every member at each row of nuisance parameters.

        Parameters
        ----------
        context
            Nuisance parameters ``(n, context)`` or ``(members, n, context)``; ``(n, 0)`` for a flow without any.
        seed
            Member m draws from its own stream, the same whatever the number of members.

        Returns
        -------
        Events ``(members, n, features)``.
        """
        device = self.scaling.mean.device
        mean, scale = self.scaling.mean, self.scaling.scale
        z = ((context.to(device) - mean[self.features :]) / scale[self.features :]).expand(
            self.members, -1, -1
        )
        size = (z.shape[1], self.features)
        streams = [torch.Generator().manual_seed(seed * 1_000_003 + m) for m in range(self.members)]
        noise = torch.stack([torch.randn(size, generator=stream) for stream in streams]).to(device)
        block = self._block(device)
        blocks = zip(torch.split(noise, block, dim=1), torch.split(z, block, dim=1), strict=True)
        y = torch.cat([self._inverse(*one) for one in blocks], dim=1)
        return y * scale[: self.features] + mean[: self.features]

    def _inverse(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        masks, width = self._masks(y.device), 3 * self._spec.bins - 1
        for t, conditioner in reversed(list(enumerate(self.transforms))):
            x = torch.zeros_like(y)
            # One feature after the other, each given those before it.
            for i in range(self.features)[:: -1 if t % 2 else 1]:
                part = slice(i * width, (i + 1) * width)
                phi = conditioner(torch.cat([x, z], dim=-1), masks[t % 2], part)
                x[..., i] = _spline()(phi, self._spec.bound).inv(y[..., i])
            y = x
        return y

    def _block(self, device: torch.device) -> int:
        # Blocks that stay in the processor's cache are several times as fast as large ones.
        return max(1, _BLOCK // (self.members * self.features)) if device.type == "cpu" else 1 << 20

    def _masks(self, device: torch.device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Masks of the layers, for features in ascending and in descending order.

        Feature i at position p depends on the features at positions below p and on z. A hidden unit of degree d
        sees the positions below d; degrees cycle through those that see anything.
        """
        position = torch.arange(self.features, device=device)
        lowest = min(0 if self.context else 1, self.features - 1)
        hidden = [
            lowest + torch.arange(width, device=device) % (self.features - lowest)
            for width in self._spec.hidden
        ]
        z = torch.zeros(self.context, dtype=torch.int64, device=device)

        def chain(order: torch.Tensor) -> list[torch.Tensor]:
            last = order.repeat_interleave(3 * self._spec.bins - 1)
            degrees = [torch.cat([order + 1, z]), *hidden, last]
            return [before[:, None] <= after for before, after in itertools.pairwise(degrees)]

        return chain(position), chain(position.flip(0))


@dataclass(frozen=True)
class NSF:
    r"""Architecture of a conditional neural spline flow, the density :math:`p(x|z)`.

    Defaults as in arXiv:2503.07962, section III C, with a smooth activation. Features should have a density: a
    discrete one or a spike makes the likelihood infinite. A sharp edge (a cut, a boundary of phase space) is smeared
    over about a bin of the splines; a variable without it (a logarithm, a logit) is learned better.

    Parameters
    ----------
    transforms
        Number of autoregressive transforms; the order of the features is reversed from one to the next.
    hidden
        Widths of the hidden layers of each transform.
    bins
        Number of bins of a spline.
    bound
        The splines cover [-bound, bound] in standard deviations of the features; beyond it they are the identity, so
        that the density of far events is small and finite.
    activation
        ``silu`` (smooth: right where the likelihood is differentiated in z), ``relu``, ``gelu`` or ``tanh``.

    Examples
    --------
    >>> flow = NSF(transforms=2, hidden=(16,)).build(inputs=3, context=1, members=5, seed=1)
    >>> flow(torch.zeros(10, 3)).shape
    torch.Size([5, 10, 1])
    >>> flow.sample(torch.zeros(10, 1), seed=1).shape
    torch.Size([5, 10, 2])
    """

    transforms: int = 4
    hidden: tuple[int, ...] = (64, 64)
    bins: int = 10
    bound: float = 7.0
    activation: Activation = "silu"
    kind: Literal["nsf"] = "nsf"

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"{name} of a flow is {getattr(self, name)}", expected=f"from {low} to {high}"
                )
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(
                f"hidden layers must be positive widths, got {self.hidden}", expected="e.g. (64, 64)"
            )
        if not 0.0 < self.bound < math.inf:
            raise ConfigError(f"bound of a flow is {self.bound}", expected="a positive number, e.g. 7")
        if self.activation not in get_args(Activation):
            raise ConfigError(
                f"unknown activation {self.activation!r}",
                expected=f"one of {', '.join(get_args(Activation))}",
            )

    @property
    def body(self) -> tuple[str, ...]:
        """A flow has no head, so nothing comes before it."""
        return ()

    def build(
        self,
        inputs: int,
        *,
        context: int = 0,
        outputs: int = 1,
        members: int = 1,
        seed: int | None = 0,
        scaling: Scaling | None = None,
    ) -> StackedFlow:
        """Make M freshly initialised members.

        Parameters
        ----------
        inputs
            Number of inputs: features, and the nuisance parameters after them.
        context
            How many of them are nuisance parameters.
        outputs
            Must be 1, the log-density.
        members
            Number of members.
        seed
            Seed of the initial values; None for shapes alone.
        scaling
            Mean and scale of the inputs, each ``(inputs,)``.

        Raises
        ------
        ConfigError
            When no feature is left, or several outputs are asked for.
        """
        if outputs != 1:
            raise ConfigError(f"a flow has one output, its log-density, not {outputs}")
        if not 0 <= context < inputs:
            raise ConfigError(
                f"a flow of {inputs} inputs cannot have {context} nuisance parameters",
                expected="at least one feature",
            )
        mean, scale = scaling or (torch.zeros(inputs), torch.ones(inputs))
        return StackedFlow(self, Standardise(mean, scale), context, Draws(members, seed))

    def scaling(self, x: NDArray[Any], names: Sequence[str]) -> Scaling:
        """Return mean and standard deviation of each feature."""
        return column_scaling(x, names)
