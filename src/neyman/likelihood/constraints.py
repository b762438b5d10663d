"""Constraint terms of all nuisance parameters, evaluated at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from neyman.errors import LikelihoodError
from neyman.likelihood.parameters import Parameter
from neyman.likelihood.term import Derivatives


class ConstraintTerm:
    r"""Sum of ``-2 ln`` of the normal and Poisson constraints, constants included.

    .. math::
        \text{normal:}\quad \left(\frac{a-\theta}{\sigma}\right)^2 + \ln 2\pi\sigma^2 \qquad
        \text{Poisson:}\quad 2(\tau\theta - a\ln\tau\theta + \ln\Gamma(a+1))

    Parameters
    ----------
    parameters
        All parameters of the likelihood, in order.
    observed
        Global observables that replace the parameters' own, by name.
    """

    def __init__(self, parameters: Sequence[Parameter], observed: Mapping[str, float]) -> None:
        self._names = [p.name for p in parameters if p.constraint]
        for name in observed:
            if name not in self._names:
                raise LikelihoodError(f"parameter {name!r} has no constraint, so no global observable")
        self._n = len(parameters)
        self._normal = _Group(parameters, observed, "normal")
        self._poisson = _Group(parameters, observed, "poisson")

    @property
    def global_observables(self) -> dict[str, float]:
        """Observed values by parameter name, in the order of the parameters."""
        both = self._normal.by_name | self._poisson.by_name
        return {name: both[name] for name in self._names}

    def evaluate(self, theta: torch.Tensor, order: int) -> Derivatives:
        """Return the constraints' ``-2 ln L`` at `theta`, shape ``batch + (n_parameters,)``."""
        normal, poisson = self._normal, self._poisson
        pull = (normal.observed - theta[..., normal.columns]) / normal.scale
        value = (pull**2).sum(-1) + normal.constant
        rate = self._rate(theta)
        value = value + 2.0 * (rate - torch.xlogy(poisson.observed, rate)).sum(-1) + poisson.constant
        if order == 0:
            return Derivatives(value)
        gradient = torch.zeros_like(theta)
        gradient[..., normal.columns] = -2.0 * pull / normal.scale
        gradient[..., poisson.columns] = 2.0 * poisson.scale * (1.0 - poisson.observed / rate)
        if order == 1:
            return Derivatives(value, gradient)
        diagonal = torch.zeros_like(theta)
        diagonal[..., normal.columns] = 2.0 / normal.scale**2
        diagonal[..., poisson.columns] = 2.0 * poisson.observed * (poisson.scale / rate) ** 2
        return Derivatives(value, gradient, torch.diag_embed(diagonal))

    def expected(self, theta: torch.Tensor) -> dict[str, float]:
        """Return the Asimov global observables at `theta`."""
        normal = theta[self._normal.columns]
        return self._collect(normal.tolist(), self._rate(theta).tolist())

    def sample(self, theta: torch.Tensor, generator: np.random.Generator) -> dict[str, float]:
        """Draw global observables at `theta`."""
        normal = generator.normal(theta[self._normal.columns].numpy(), self._normal.scale.numpy())
        poisson = generator.poisson(self._rate(theta).numpy())
        return self._collect(normal.tolist(), [float(count) for count in poisson])

    def _rate(self, theta: torch.Tensor) -> torch.Tensor:
        rate = self._poisson.scale * theta[..., self._poisson.columns]
        if not bool((rate > 0.0).all()):
            name = self._poisson.names[int(torch.nonzero(~(rate > 0.0))[0, -1])]
            raise LikelihoodError(
                f"parameter {name!r} has a Poisson constraint, which needs a positive value",
                fix="give it a positive lower bound, as pyhf does (1e-10)",
            )
        return rate

    def _collect(self, normal: list[float], poisson: list[float]) -> dict[str, float]:
        both = dict(zip(self._normal.names, normal, strict=True))
        both |= dict(zip(self._poisson.names, poisson, strict=True))
        return {name: both[name] for name in self._names}


class _Group:
    """Columns, global observables and scales of the constraints of one kind."""

    def __init__(self, parameters: Sequence[Parameter], observed: Mapping[str, float], kind: str) -> None:
        chosen = [
            (i, p.name, p.constraint)
            for i, p in enumerate(parameters)
            if p.constraint is not None and p.constraint.kind == kind
        ]
        self.names = [name for _, name, _ in chosen]
        self.columns = torch.tensor([i for i, _, _ in chosen], dtype=torch.long)
        self.by_name = {name: float(observed.get(name, c.observed)) for _, name, c in chosen}
        self.observed = torch.tensor(list(self.by_name.values()), dtype=torch.float64)
        self.scale = torch.tensor([c.scale for _, _, c in chosen], dtype=torch.float64)
        if kind == "normal":
            self.constant = float(torch.log(2.0 * math.pi * self.scale**2).sum())
        else:
            self.constant = float(2.0 * torch.lgamma(self.observed + 1.0).sum())
