"""Constraint terms of all nuisance parameters, evaluated at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from neyman.errors import LikelihoodError
from neyman.likelihood.parameters import Parameter
from neyman.likelihood.term import Derivatives

Array = NDArray[np.float64]


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
        Global observables that replace the parameters' own, by name: numbers, or for a batch of data sets arrays
        of shape ``(n_rows,)``.
    """

    def __init__(self, parameters: Sequence[Parameter], observed: Mapping[str, float | Array]) -> None:
        self.names = tuple(p.name for p in parameters if p.constraint)
        self._normal = _Group(parameters, "normal")
        self._poisson = _Group(parameters, "poisson")
        self._observe({p.name: p.constraint.observed for p in parameters if p.constraint} | dict(observed))

    def _observe(self, observed: Mapping[str, float | Array]) -> None:
        for name in observed:
            if name not in self.names:
                raise LikelihoodError(f"parameter {name!r} has no constraint, so no global observable")
        self.global_observables = {name: observed[name] for name in self.names}
        self._normal_observed = self._normal.collect(observed)
        self._poisson_observed = self._poisson.collect(observed)
        self._constant = torch.log(2.0 * math.pi * self._normal.scale**2).sum() + 2.0 * torch.lgamma(
            self._poisson_observed + 1.0
        ).sum(-1)

    def with_observed(self, observed: Mapping[str, float | Array]) -> Self:
        """Return the same constraints with some global observables replaced."""
        term = copy.copy(self)
        term._observe(self.global_observables | dict(observed))
        return term

    def to(self, device: torch.device | str) -> Self:
        """Return the constraints with their tensors on a device."""
        term = copy.copy(self)
        term._normal, term._poisson = self._normal.to(device), self._poisson.to(device)
        term._observe(self.global_observables)
        return term

    def evaluate(self, theta: torch.Tensor, order: int, *, strict: bool = True) -> Derivatives:
        """Return the constraints' ``-2 ln L`` at `theta`, shape ``batch + (n_parameters,)``."""
        normal, poisson = self._normal, self._poisson
        pull = (self._normal_observed - theta[..., normal.columns]) / normal.scale
        rate = poisson.scale * theta[..., poisson.columns]
        undefined = ~(rate > 0.0)
        if bad := bool(undefined.any()):
            if strict:
                self._refuse(undefined)
            rate = torch.where(undefined, 1.0, rate)
        counts = self._poisson_observed
        value = (pull**2).sum(-1) + 2.0 * (rate - torch.xlogy(counts, rate)).sum(-1) + self._constant
        gradient = hessian = None
        if order > 0:
            gradient = torch.zeros_like(theta)
            gradient[..., normal.columns] = -2.0 * pull / normal.scale
            gradient[..., poisson.columns] = 2.0 * poisson.scale * (1.0 - counts / rate)
        if order > 1:
            diagonal = torch.zeros_like(theta)
            diagonal[..., normal.columns] = 2.0 / normal.scale**2
            diagonal[..., poisson.columns] = 2.0 * counts * (poisson.scale / rate) ** 2
            hessian = torch.diag_embed(diagonal)
        result = Derivatives(value, gradient, hessian)
        return result.undefined_where(undefined.any(-1)) if bad else result

    def expected(self, theta: torch.Tensor) -> dict[str, float]:
        """Return the Asimov global observables at `theta`, shape ``(n_parameters,)``."""
        return self._by_name(theta[self._normal.columns].tolist(), self._rate(theta).tolist())

    def sampler(self, theta: torch.Tensor) -> Callable[[np.random.Generator], dict[str, float]]:
        """Return a function that draws global observables at `theta`, shape ``(n_parameters,)``."""
        centre, scale = theta[self._normal.columns].cpu().numpy(), self._normal.scale.cpu().numpy()
        rate = self._rate(theta).cpu().numpy()

        def draw(generator: np.random.Generator) -> dict[str, float]:
            normal = generator.normal(centre, scale).tolist()
            return self._by_name(normal, generator.poisson(rate).astype(np.float64).tolist())

        return draw

    def _rate(self, theta: torch.Tensor) -> torch.Tensor:
        rate = self._poisson.scale * theta[..., self._poisson.columns]
        if not bool((rate > 0.0).all()):
            self._refuse(~(rate > 0.0))
        return rate

    def _refuse(self, undefined: torch.Tensor) -> None:
        name = self._poisson.names[int(torch.nonzero(undefined)[0, -1])]
        raise LikelihoodError(
            f"parameter {name!r} has a Poisson constraint, which needs a positive value",
            fix="give it a positive lower bound, as pyhf does (1e-10)",
        )

    def _by_name(self, normal: list[float], poisson: list[float]) -> dict[str, float]:
        both = dict(zip(self._normal.names, normal, strict=True))
        both |= dict(zip(self._poisson.names, poisson, strict=True))
        return {name: both[name] for name in self.names}


class _Group:
    """Columns and scales of the constraints of one kind."""

    def __init__(self, parameters: Sequence[Parameter], kind: str) -> None:
        chosen = [
            (i, p.name, p.constraint.scale)
            for i, p in enumerate(parameters)
            if p.constraint is not None and p.constraint.kind == kind
        ]
        self.names = tuple(name for _, name, _ in chosen)
        self.columns = torch.tensor([i for i, _, _ in chosen], dtype=torch.long)
        self.scale = torch.tensor([scale for _, _, scale in chosen], dtype=torch.float64)

    def collect(self, observed: Mapping[str, float | Array]) -> torch.Tensor:
        """Return the observed values, shape ``(n,)`` or ``(n_rows, n)``."""
        values = (
            np.stack([np.asarray(observed[name], dtype=np.float64) for name in self.names], axis=-1)
            if self.names
            else np.zeros(0)
        )
        return torch.from_numpy(values).to(self.scale.device)

    def to(self, device: torch.device | str) -> Self:
        """Return the group with its tensors on a device."""
        group = copy.copy(self)
        group.columns, group.scale = self.columns.to(device), self.scale.to(device)
        return group
