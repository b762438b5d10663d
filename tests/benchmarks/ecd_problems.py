"""Two density-ratio problems with exactly known ratio, after the two of arXiv:2501.18419, section III.

`thrust`: one feature shaped like 1 - T in hadronic Z decays, two simulations that differ by some per cent.
`jets`: six correlated features with the densities of two fixed normalizing flows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import zuko
from numpy.typing import NDArray
from scipy.stats import gamma

Events = NDArray[np.float32]


@dataclass(frozen=True)
class Problem:
    """Events of two densities, and their exact log-ratio.

    Attributes
    ----------
    hidden
        The paper's layers for it.
    numerator, denominator
        Training events, ``(n_events, n_features)``.
    test
        Where the ratio is judged, ``(n_points, n_features)``.
    weight
        Weight of each of these points in the mean absolute error.
    log_ratio
        Exact log-ratio at the test points.
    """

    name: str
    hidden: tuple[int, int, int]
    numerator: Events
    denominator: Events
    test: Events
    weight: NDArray[np.float64]
    log_ratio: NDArray[np.float64]

    def errors(self, log_ratio: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the mean absolute error of the ratio of each member, ``(n_members,)``."""
        difference = np.exp(log_ratio.astype(np.float64)) - np.exp(self.log_ratio)
        return np.asarray(np.abs(difference) @ self.weight)


# Shares, shapes and scales of gamma densities in 1 - T: the two-jet peak, the multi-jet shoulder and its tail.
_DATA = ((0.62, 2.6, 0.0145), (0.28, 2.4, 0.040), (0.10, 4.5, 0.038))
_SIMULATION = ((0.60, 2.9, 0.0145), (0.32, 2.2, 0.043), (0.08, 4.8, 0.034))


def thrust(events: int, seed: int) -> Problem:
    """One dimension; the error is the density-weighted one over the bins of T <= 0.3 (1 - T in the paper's axis)."""
    rng = np.random.default_rng(seed)

    def draw(parts: tuple[tuple[float, float, float], ...]) -> Events:
        counts = rng.multinomial(events, [share for share, _, _ in parts])
        return np.concatenate(
            [rng.gamma(a, scale, n) for n, (_, a, scale) in zip(counts, parts, strict=True)]
        ).astype(np.float32)[:, None]

    def density(x: NDArray[np.float64], parts: tuple[tuple[float, float, float], ...]) -> NDArray[np.float64]:
        return np.asarray(sum(share * gamma.pdf(x, a, scale=scale) for share, a, scale in parts))

    edges = np.linspace(0.0, 0.3, 61)
    centres = 0.5 * (edges[1:] + edges[:-1])
    p, q = density(centres, _DATA), density(centres, _SIMULATION)
    return Problem(
        name="thrust",
        hidden=(50, 100, 50),
        numerator=draw(_DATA),
        denominator=draw(_SIMULATION),
        test=centres.astype(np.float32)[:, None],
        weight=p * np.diff(edges),
        log_ratio=np.log(p / q),
    )


def jets(events: int, seed: int, *, test_events: int = 100_000) -> Problem:
    """Six dimensions; the error is the mean over test events, half of each density."""
    generator = torch.Generator().manual_seed(6)
    base, shifted = (_flow(generator), _flow(generator))
    with torch.no_grad():
        for own, other in zip(shifted.parameters(), base.parameters(), strict=True):
            own.copy_(other + 0.12 * own)
    noise = torch.Generator().manual_seed(seed)
    n = events + test_events // 2
    with torch.no_grad():
        p, q = (
            flow.transform().inv(torch.randn(n, 6, generator=noise, dtype=torch.float64))
            for flow in (shifted, base)
        )
        test = torch.cat([p[events:], q[events:]])
        log_ratio = _log_density(shifted, test) - _log_density(base, test)
    return Problem(
        name="jets",
        hidden=(64, 128, 64),
        numerator=p[:events].float().numpy(),
        denominator=q[:events].float().numpy(),
        test=test.float().numpy(),
        weight=np.full(len(test), 1.0 / len(test)),
        log_ratio=log_ratio.numpy(),
    )


def _log_density(flow: zuko.flows.MAF, x: torch.Tensor) -> torch.Tensor:
    """Density of the flow over a standard normal, up to its constant."""
    z, volume = flow.transform().call_and_ladj(x)
    return volume - 0.5 * z.square().sum(dim=-1)


def _flow(generator: torch.Generator) -> zuko.flows.MAF:
    """A masked autoregressive flow in double precision with fixed random weights."""
    flow = zuko.flows.MAF(6, transforms=3, hidden_features=(32, 32), activation=torch.nn.Tanh).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            scale = 1.0 / np.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 0.2
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return flow


PROBLEMS: dict[str, Callable[[int, int], Problem]] = {"thrust": thrust, "jets": jets}
