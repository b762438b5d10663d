"""The point-edge transformer as a stacked network: a classifier of events that are sets of particles.

`PET` describes it. Its events are flat rows like everybody's (:func:`neyman.events.particles.padded` makes them), so
that tables, training, model files and the scorer need to know nothing of particles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from neyman.errors import ConfigError, TrainingError
from neyman.networks.attention import StackedAttention, StackedFeedForward, StackedNorm, pointwise
from neyman.networks.scaling import Scaling, column_scaling
from neyman.networks.stacked import Draws, Stack, StackedLinear, Standardise

_LIMITS = {
    "particles": (1, 10_000),
    "particle_features": (1, 1_000),
    "dim": (1, 4_096),
    "neighbours": (1, 1_000),
    "local_blocks": (0, 16),
    "blocks": (0, 64),
    "heads": (1, 256),
    "head_blocks": (1, 16),
}
_NUMBERS = 1 << 22  # of the largest tensor where no gradient is wanted: what stays in the processor's cache


def neighbours(points: torch.Tensor, real: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k nearest other real points of each point.

    Parameters
    ----------
    points
        Coordinates ``(..., n_points, n_coordinates)``; distances are Euclidean.
    real
        Which points exist, ``(..., n_points)``.
    k
        How many; all others where there are fewer points.

    Returns
    -------
    Their indices ``(..., n_points, k)`` in no order, and which of these exist.
    """
    n = points.shape[-2]
    with torch.no_grad():
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        other = ~torch.eye(n, dtype=torch.bool, device=points.device)
        distance = distance.masked_fill(~(real.unsqueeze(-2) & other), torch.inf)
        nearest, index = distance.topk(min(k, n - 1), dim=-1, largest=False, sorted=False)
        return index, torch.isfinite(nearest)


class _Local(nn.Module):
    """Edge convolution: the mean over a particle's neighbours of two dense layers on (neighbour - own, own)."""

    def __init__(self, inputs: int, dim: int, draws: Draws) -> None:
        super().__init__()
        self.first = StackedLinear(2 * inputs, 2 * dim, draws)
        self.second = StackedLinear(2 * dim, dim, draws)

    def forward(self, h: torch.Tensor, index: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
        """Map ``(members, n, n_particles, inputs)`` and the neighbours to ``(members, n, n_particles, dim)``."""
        members, n, particles, inputs = h.shape
        first_row = particles * torch.arange(members * n, device=h.device).view(members, n, 1, 1)
        rows = (index + first_row).flatten()

        def of_neighbours(points: torch.Tensor) -> torch.Tensor:
            return points.flatten(0, -2).index_select(0, rows).view(*index.shape, points.shape[-1])

        difference, centre = torch.split(self.first.weight, inputs, dim=1)
        if 4 * inputs <= difference.shape[-1]:
            # Few features: a product for each pair costs less than moving its result about.
            own = h.unsqueeze(3).expand(*index.shape, inputs)
            hidden = pointwise(self.first, torch.cat([of_neighbours(h) - own, own], dim=-1))
        else:
            # W (h_j - h_i, h_i) = W_1 h_j + (W_2 - W_1) h_i: products for each particle, not for each pair.
            flat = h.flatten(1, 2)
            own = torch.baddbmm(self.first.bias, flat, centre - difference)
            theirs = of_neighbours(torch.bmm(flat, difference))
            hidden = theirs + own.view(members, n, particles, 1, own.shape[-1])
        edges = functional.gelu(pointwise(self.second, functional.gelu(hidden)))
        share = exists.to(edges.dtype) / exists.sum(dim=3, keepdim=True).clamp_min(1)
        return (edges * share.unsqueeze(-1)).sum(dim=3)


class _Block(nn.Module):
    """Transformer block: attention and dense layers, each after a norm and added through a small layer scale."""

    def __init__(self, spec: PET, draws: Draws) -> None:
        super().__init__()
        self.norm = nn.ModuleList(StackedNorm(spec.dim, draws) for _ in range(2))
        self.attention = StackedAttention(spec.dim, spec.heads, draws)
        self.dense = StackedFeedForward(spec.dim, 2 * spec.dim, spec.dim, draws)
        self.scale_attention = draws.constant(1, 1, spec.dim, value=spec.layer_scale)
        self.scale_dense = draws.constant(1, 1, spec.dim, value=spec.layer_scale)

    def forward(self, h: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        normed = self.norm[0](h)
        h = h + self.scale_attention * self.attention(normed, normed, real)
        out: torch.Tensor = h + self.scale_dense * self.dense(self.norm[1](h))
        return out


class _HeadBlock(nn.Module):
    """The class token looks at itself and all particles."""

    def __init__(self, spec: PET, draws: Draws) -> None:
        super().__init__()
        self.norm = nn.ModuleList(StackedNorm(spec.dim, draws) for _ in range(3))
        self.attention = StackedAttention(spec.dim, spec.heads, draws)
        self.dense = StackedFeedForward(spec.dim, 2 * spec.dim, spec.dim, draws)

    def forward(self, token: torch.Tensor, h: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        points = self.norm[0](torch.cat([token, h], dim=2))
        token = token + self.norm[1](self.attention(points[:, :, :1], points, real))
        out: torch.Tensor = token + self.dense(self.norm[2](token))
        return out


class StackedPET(Stack):
    r"""M point-edge transformers.

    With the standardised particles :math:`p_i` of an event and its other inputs c (event features and nuisance
    parameters),

    .. math::
        h_i &= \mathrm{dense}(p_i) + \mathrm{local}^{(2)}(\mathrm{local}^{(1)}(p))_i, \\
        h &\leftarrow h + \mathrm{blocks}(h), \qquad
        h_i \leftarrow (1 + a(c))\, \mathrm{norm}(h_i) + b(c), \\
        y &= \mathrm{linear}(\mathrm{norm}(\mathrm{head}(t, h)))

    where local is an edge convolution over the nearest neighbours, first in the plane of the first two particle
    features as given (:math:`\eta, \phi` relative to the jet axis), then in the learned features; blocks are
    transformer blocks; and the class token t, modulated as the :math:`h_i` are, attends to itself and all particles.
    Particles whose features are all 0 are padding and take no part anywhere; an event without particles is a function
    of c.

    Sources: Mikuni and Nachman, arXiv:2404.16091 (the network); Perez et al., arXiv:1709.07871 (the modulation).
    """

    def __init__(self, spec: PET, scaling: Standardise, outputs: int, draws: Draws) -> None:
        super().__init__()
        self.members, self.inputs, self.outputs = draws.members, len(scaling.mean), outputs
        self._spec = spec
        self.scaling = scaling
        dim = spec.dim
        self.embedding = StackedFeedForward(spec.particle_features, 2 * dim, dim, draws)
        self.local = nn.ModuleList(
            _Local(dim if k else spec.particle_features, dim, draws) for k in range(spec.local_blocks)
        )
        self.blocks = nn.ModuleList(_Block(spec, draws) for _ in range(spec.blocks))
        event = self.inputs - spec.columns
        self.film = StackedFeedForward(event, 2 * dim, 2 * dim, draws) if event else None
        self.norm = nn.ModuleList(StackedNorm(dim, draws) for _ in range(2))
        self.token = draws.uniform(1, 1, dim, bound=1.0)
        self.head = nn.ModuleList(_HeadBlock(spec, draws) for _ in range(spec.head_blocks))
        self.result = StackedLinear(dim, outputs, draws)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate all members; without gradients in blocks of events, whatever their number."""
        if torch.is_grad_enabled():
            return self._evaluate(x)
        spec = self._spec
        an_event = (
            self.members * spec.particles * 2 * spec.dim * max(1, spec.neighbours * (spec.local_blocks > 0))
        )
        blocks = torch.split(x, max(1, _NUMBERS // an_event), dim=-2)
        return torch.cat([self._evaluate(block) for block in blocks], dim=1)

    def _evaluate(self, x: torch.Tensor) -> torch.Tensor:
        spec = self._spec
        shape = (spec.particles, spec.particle_features)
        raw = x[..., : spec.columns].reshape(*x.shape[:-1], *shape)
        real = (raw != 0.0).any(dim=-1)
        # Where all members see the same events, their neighbours in the plane are found once.
        plane = neighbours(raw[..., :2], real, spec.neighbours) if spec.local_blocks else None
        scaled = self.scaling(x)
        if scaled.ndim == 2:
            scaled, real = (t.expand(self.members, *t.shape) for t in (scaled, real))
        particles = scaled[..., : spec.columns].reshape(*real.shape, spec.particle_features)

        h = functional.gelu(self.embedding(particles))
        if plane is not None:
            h = h + self._local(particles, real, plane)
        keys = real | ~real.any(dim=-1, keepdim=True)  # a softmax over nothing has no value
        skip = h
        for block in self.blocks:
            h = block(h, keys)
        return self._classify(h + skip, real, scaled[..., spec.columns :])

    def _local(
        self, particles: torch.Tensor, real: torch.Tensor, plane: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        index, exists = (t.expand(self.members, *t.shape[-3:]) for t in plane)
        h: torch.Tensor = particles
        for k, layer in enumerate(self.local):
            if k:
                index, exists = neighbours(h.to(particles.dtype), real, self._spec.neighbours)
            h = layer(h, index, exists)
        return h

    def _classify(self, h: torch.Tensor, real: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
        token = self.token.expand(-1, h.shape[1], -1, -1)
        h = self.norm[0](h)
        if self.film is not None:
            gain, shift = self.film(event).unsqueeze(2).chunk(2, dim=-1)
            h, token = (torch.addcmul(t + shift, t, gain) for t in (h, token))
        real = functional.pad(real, (1, 0), value=True)
        for block in self.head:
            token = block(token, h, real)
        out: torch.Tensor = self.result(self.norm[1](token).squeeze(2))
        return out


@dataclass(frozen=True)
class PET:
    r"""Architecture of a point-edge transformer (arXiv:2404.16091), for events that are sets of particles.

    The first ``particles * particle_features`` inputs are the particles, one after the other: all features of the
    first, then of the second, ... A particle whose features are all exactly 0 is padding. The inputs after them are
    features of the event, then the nuisance parameters. The order of the particles does not matter.

    Parameters
    ----------
    particles
        Number of particles an event has room for.
    particle_features
        Number of features of a particle. The first two are :math:`\eta` and :math:`\phi` relative to the axis of the
        jet or of the event: nearest neighbours are sought in their plane, which is not periodic.
    dim
        Width d of the particles' representation; dense layers have 2 d inside.
    neighbours
        Number of nearest neighbours in a local block.
    local_blocks
        Number of edge convolutions: the first in the plane, the others in the space of the learned features.
    blocks
        Number of transformer blocks, 2 to 8 in the literature.
    heads
        Number of heads of the attention; divides `dim`.
    layer_scale
        Initial scale of what a transformer block adds.
    head_blocks
        Number of blocks in which the class token collects the event.

    Examples
    --------
    >>> spec = PET(particles=20, particle_features=3, dim=16)
    >>> net = spec.build(inputs=20 * 3 + 2, members=5, seed=1)  # two event features or nuisance parameters
    >>> net(torch.zeros(10, 62)).shape
    torch.Size([5, 10, 1])
    """

    particles: int
    particle_features: int
    dim: int = 64
    neighbours: int = 5
    local_blocks: int = 2
    blocks: int = 2
    heads: int = 4
    layer_scale: float = 1e-3
    head_blocks: int = 2
    kind: Literal["pet"] = "pet"

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"{name} of a PET is {getattr(self, name)}", expected=f"from {low} to {high}"
                )
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} of a PET is not a multiple of its {self.heads} heads",
                expected="e.g. dim 64 with 4 heads",
            )
        if not 0.0 < self.layer_scale <= 1.0:
            raise ConfigError(f"layer_scale of a PET is {self.layer_scale}", expected="above 0, up to 1")

    @property
    def body(self) -> tuple[str, ...]:
        """Beginnings of the names of the parameters that represent the particles, before the head."""
        return (
            "embedding.",
            *(("local.",) if self.local_blocks else ()),
            *(("blocks.",) if self.blocks else ()),
        )

    @property
    def columns(self) -> int:
        """Number of inputs that are particles."""
        return self.particles * self.particle_features

    def build(
        self,
        inputs: int,
        *,
        context: int = 0,
        outputs: int = 1,
        members: int = 1,
        seed: int | None = 0,
        scaling: Scaling | None = None,
    ) -> StackedPET:
        """Make M freshly initialised members.

        Parameters
        ----------
        inputs
            Number of inputs: particles, features of the event, nuisance parameters.
        context
            How many of them, at the end, are nuisance parameters.
        outputs
            Number of outputs.
        members
            Number of members.
        seed
            Seed of the initial values; None for shapes alone.
        scaling
            Mean and scale of the inputs, each ``(inputs,)``.

        Raises
        ------
        ConfigError
            When there are fewer inputs than the particles need.
        """
        self._check(inputs - context)
        mean, scale = scaling or (torch.zeros(inputs), torch.ones(inputs))
        return StackedPET(self, Standardise(mean, scale), outputs, Draws(members, seed))

    def scaling(self, x: NDArray[Any], names: Sequence[str]) -> Scaling:
        """Return mean and standard deviation: of a particle feature over all real particles, the same at every
        position; of the other features each.

        Raises
        ------
        TrainingError
            When no event has a particle, or a feature is constant.
        """
        self._check(x.shape[1])
        particles = x[:, : self.columns].reshape(-1, self.particle_features)
        real = particles[(particles != 0.0).any(axis=1)]
        if not len(real):
            raise TrainingError(
                f"none of {len(x)} events has a particle",
                expected=f"the first {self.columns} features hold {self.particles} particles, padded with 0",
            )
        mean, scale = column_scaling(real, names[: self.particle_features])
        event_mean, event_scale = column_scaling(x[:, self.columns :], names[self.columns :])
        return (
            torch.cat([mean.repeat(self.particles), event_mean]),
            torch.cat([scale.repeat(self.particles), event_scale]),
        )

    def _check(self, features: int) -> None:
        if features < self.columns:
            raise ConfigError(
                f"{self.particles} particles of {self.particle_features} features are {self.columns} columns, but the "
                f"events have {features}",
                expected="the particles first, one after the other, then the features of the event",
            )
