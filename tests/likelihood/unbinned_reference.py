"""The unbinned likelihood written down directly: float64 torch, all events at once, derivatives by autograd.

The slow reference of the tests and the peer of the benchmark. Polynomial coefficients of code4 are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Sample(NamedTuple):
    """`yield_of` maps the parameters to the yield; up/down columns go with positions of parameters."""

    yield_of: Callable[[Tensor], Tensor]
    log_ratio: str
    ratios: Sequence[tuple[int, str, str]] = ()


def code4_coefficients(log_up: Tensor, log_down: Tensor) -> Tensor:
    """Coefficients of alpha^1 to alpha^6: value, slope and curvature of u^alpha at 1 and of d^-alpha at -1."""
    rows, right = [], []
    for sign, log in ((1.0, log_up), (-1.0, log_down)):
        for order in range(3):
            rows.append([np.prod(np.arange(k, k - order, -1.0)) * sign ** (k - order) for k in range(1, 7)])
            right.append((sign * log) ** order * log.exp() - float(order == 0))
    inverse = torch.from_numpy(np.linalg.inv(np.array(rows)))
    return torch.tensordot(inverse, torch.stack(right), dims=1)


class Model:
    """One channel with data and reference as float64 columns."""

    def __init__(
        self,
        samples: Sequence[Sample],
        data: tuple[np.ndarray, Mapping[str, np.ndarray]],
        reference: tuple[np.ndarray, Mapping[str, np.ndarray]],
        form: str = "extended",
    ) -> None:
        self.samples, self.form = samples, form
        self.data, self.reference = (self._prepare(*events) for events in (data, reference))

    def _prepare(self, weight: np.ndarray, columns: Mapping[str, np.ndarray]) -> tuple:
        values = {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
        prepared = [
            (
                values[sample.log_ratio],
                [
                    (k, values[up], values[down], code4_coefficients(values[up], values[down]))
                    for k, up, down in sample.ratios
                ],
            )
            for sample in self.samples
        ]
        return torch.tensor(weight, dtype=torch.float64), prepared

    @staticmethod
    def _log_ratios(prepared: list, theta: Tensor) -> Tensor:
        out = []
        for nominal, ratios in prepared:
            log = nominal
            for k, log_up, log_down, coefficients in ratios:
                alpha = theta[k]
                if abs(alpha.item()) >= 1.0:
                    log = log + alpha * (log_up if alpha > 0.0 else -log_down)
                else:
                    log = log + torch.log(1.0 + sum(a * alpha ** (i + 1) for i, a in enumerate(coefficients)))
            out.append(log)
        return torch.stack(out)

    def __call__(self, theta: Tensor) -> Tensor:
        """``-2 ln L`` at `theta`."""
        weight, data = self.data
        reference_weight, reference = self.reference
        mean = self._log_ratios(reference, theta).exp() @ reference_weight / reference_weight.sum()
        nu = torch.stack([sample.yield_of(theta) for sample in self.samples])
        log_density = ((nu / mean) @ self._log_ratios(data, theta).exp()).log()
        if self.form == "fraction":
            log_density = log_density - nu.sum().log()
            return -2.0 * weight @ log_density
        return 2.0 * nu.sum() - 2.0 * weight @ log_density

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """``-2 ln L`` and its gradient by autograd."""
        x = torch.tensor(theta, requires_grad=True)
        value = self(x)
        value.backward()
        return value.item(), x.grad.numpy()

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Hessian of ``-2 ln L`` by autograd."""
        return torch.autograd.functional.hessian(self, torch.tensor(theta)).numpy()
