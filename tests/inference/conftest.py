"""Small likelihoods with known answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyhf
import pytest
import torch
from torch.autograd import functional as autograd

from neyman.errors import LikelihoodError
from neyman.inference import pyhf_optimizer
from neyman.likelihood import Constraint, Derivatives, Likelihood, Parameter


class ByRow:
    """A term that evaluates one parameter vector at a time; a batch of data sets is a tuple."""

    def evaluate(self, theta: torch.Tensor, order: int = 0, *, strict: bool = True) -> Derivatives:
        if theta.ndim == 1:
            return self.one(theta, order)
        data = self.data if isinstance(self.data, tuple) else (self.data,) * len(theta)
        rows = []
        for row, part in zip(theta, data, strict=True):
            try:
                rows.append(self.with_data(part).one(row, order))
            except LikelihoodError:
                if strict:
                    raise
                n = len(row)
                empty = Derivatives(torch.zeros(()), torch.zeros(n), torch.zeros(n, n))
                rows.append(empty.undefined_where(torch.tensor(True)))
        return Derivatives(
            torch.stack([r.value for r in rows]),
            torch.stack([r.gradient for r in rows]) if order else None,
            torch.stack([r.hessian for r in rows]) if order > 1 else None,
        )

    def with_data(self, data: Any) -> Self:
        return replace(self, data=data)

    def stack(self, data: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(data)

    def sampler(self, theta: torch.Tensor) -> Callable[[np.random.Generator], Any]:
        return lambda generator: self.sample(theta, generator)


@dataclass(frozen=True)
class CountingTerm(ByRow):
    """Poisson counts with a rate that is any torch function of the parameters, differentiated by torch."""

    parameters: tuple[Parameter, ...]
    rate: Callable[[torch.Tensor], torch.Tensor]
    data: torch.Tensor
    name: str = "counting"

    def one(self, theta: torch.Tensor, order: int) -> Derivatives:
        if bool((self.rate(theta) <= 0.0).any()):
            raise LikelihoodError("the rate is not positive")

        def value(t: torch.Tensor) -> torch.Tensor:
            rate = self.rate(t)
            return 2.0 * (rate - self.data * torch.log(rate) + torch.lgamma(self.data + 1.0)).sum()

        gradient = autograd.jacobian(value, theta) if order else None
        hessian = autograd.hessian(value, theta) if order > 1 else None
        return Derivatives(value(theta), gradient, hessian)

    def expected_data(self, theta: torch.Tensor) -> torch.Tensor:
        return self.rate(theta)

    def sample(self, theta: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        return torch.tensor(generator.poisson(self.rate(theta).numpy()), dtype=torch.float64)


@dataclass(frozen=True)
class GaussianTerm(ByRow):
    """Measurements ``data ~ N(design @ theta, sigma)``; -2 ln L without constants."""

    parameters: tuple[Parameter, ...]
    design: torch.Tensor
    sigma: torch.Tensor
    data: torch.Tensor
    name: str = "gaussian"

    def one(self, theta: torch.Tensor, order: int) -> Derivatives:
        weighted = self.design / self.sigma[:, None]
        residual = weighted @ theta - self.data / self.sigma
        gradient = 2.0 * weighted.T @ residual if order else None
        return Derivatives(residual @ residual, gradient, 2.0 * weighted.T @ weighted if order > 1 else None)

    def expected_data(self, theta: torch.Tensor) -> torch.Tensor:
        return self.design @ theta

    def sample(self, theta: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        noise = torch.from_numpy(generator.normal(size=len(self.sigma)))
        return self.design @ theta + self.sigma * noise


@dataclass(frozen=True)
class FunctionTerm(ByRow):
    """-2 ln L is any torch function; it has no data."""

    parameters: tuple[Parameter, ...]
    function: Callable[[torch.Tensor], torch.Tensor]
    data: None = None
    name: str = "function"

    def one(self, theta: torch.Tensor, order: int) -> Derivatives:
        gradient = autograd.jacobian(self.function, theta) if order else None
        hessian = autograd.hessian(self.function, theta) if order > 1 else None
        return Derivatives(self.function(theta), gradient, hessian)

    def expected_data(self, _theta: torch.Tensor) -> None:
        return None

    def sample(self, _theta: torch.Tensor, _generator: np.random.Generator) -> None:
        return None


def free(name: str, init: float = 1.0, lower: float = -10.0, upper: float = 10.0) -> Parameter:
    return Parameter(name, init, lower, upper)


def nuisance(name: str, observed: float = 0.0, scale: float = 1.0) -> Parameter:
    return Parameter(name, 0.0, -10.0, 10.0, constraint=Constraint("normal", observed, scale))


def _counting(
    rate: Callable[[torch.Tensor], torch.Tensor], counts: Sequence[float], *parameters: Parameter
) -> Likelihood:
    return Likelihood([CountingTerm(parameters, rate, torch.tensor(counts, dtype=torch.float64))])


def _gaussian(
    design: Sequence[Sequence[float]],
    sigma: Sequence[float],
    data: Sequence[float],
    parameters: Sequence[Parameter],
) -> Likelihood:
    arrays = (torch.tensor(a, dtype=torch.float64) for a in (design, sigma, data))
    return Likelihood([GaussianTerm(tuple(parameters), *arrays)])


def _function(function: Callable[[torch.Tensor], torch.Tensor], *parameters: Parameter) -> Likelihood:
    return Likelihood([FunctionTerm(parameters, function)])


@pytest.fixture
def counting() -> Callable[..., Likelihood]:
    """``counting(rate, counts, *parameters)``."""
    return _counting


@pytest.fixture
def gaussian() -> Callable[..., Likelihood]:
    """``gaussian(design, sigma, data, parameters)``."""
    return _gaussian


@pytest.fixture
def function() -> Callable[..., Likelihood]:
    """``function(f, *parameters)``."""
    return _function


@pytest.fixture
def one_bin() -> Likelihood:
    """One bin, n = 100 expected and seen, a 10% uncertainty on the normalisation: the textbook example."""
    return _counting(lambda t: 100.0 * t[:1] + 10.0 * t[1:], [100.0], free("mu", 1.0, 0.0), nuisance("alpha"))


@pytest.fixture
def linear() -> tuple[Likelihood, np.ndarray]:
    """Linear Gaussian model of `mu`, a constrained `tes` and `jes` (0.5 wide) and a free `norm`, with its exact
    covariance."""
    design = [[1.0, 0.7, -0.4, 0.2], [0.3, 1.0, 0.2, 0.0], [0.5, 0.0, 1.0, 1.0], [1.0, 0.0, 0.3, -1.0]]
    sigma = [0.5, 0.8, 1.5, 0.7]
    parameters = [free("mu"), nuisance("tes"), nuisance("jes", 0.2, 0.5), free("norm", 0.0)]
    lh = _gaussian(design, sigma, [1.3, 0.4, 0.8, 0.6], parameters)
    weighted = np.array(design) / np.array(sigma)[:, None]
    return lh, np.linalg.inv(weighted.T @ weighted + np.diag([0.0, 1.0, 4.0, 0.0]))


@pytest.fixture
def pyhf_state() -> Iterator[None]:
    """The test starts from pyhf's own numpy backend and leaves nothing behind."""
    before = pyhf.get_backend()
    yield
    assert not pyhf_optimizer._active
    pyhf.set_backend(*before)
    assert not isinstance(pyhf.optimizer, pyhf_optimizer.EngineOptimizer)


@pytest.fixture
def counting_model() -> Any:
    return pyhf.simplemodels.uncorrelated_background([12.0, 11.0], [50.0, 52.0], [3.0, 7.0])


@pytest.fixture
def counting_data(counting_model: Any) -> list[float]:
    return [71.0, 57.0, *counting_model.config.auxdata]
