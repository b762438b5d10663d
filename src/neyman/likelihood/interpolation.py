r"""Interpolation between the nominal and the two varied predictions: the HistFactory codes.

One implementation for the binned and the unbinned terms, with closed first and second derivatives.

* `Additive` (``code0``, ``code2``, ``code4p``) shifts yields: histosys.
* `Multiplicative` (``code1``, ``code4``) scales yields or density ratios: normsys and ratiosys.

Every code is exact at :math:`\alpha = -1, 0, +1`. ``code4`` and ``code4p`` have two continuous derivatives at
:math:`|\alpha| = 1`, ``code2`` has one, and ``code0`` and ``code1`` have a kink at :math:`\alpha = 0`, where the
mean of the two one-sided slopes is returned.

Shapes: the varied predictions have any shape `S`. One parameter acts on all of it, or, with ``axes=1``, one on
each element of the first axis (and so on); `alpha` has shape ``batch + S[:axes]`` and results ``batch + S``.

Source: K. Cranmer et al., CERN-OPEN-2012-016, section 4.1.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Self, TypeAlias

import torch

from neyman.errors import LikelihoodError

Three: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Value with first and second derivative with respect to the parameter."""


class Additive:
    r"""Shift of a yield, the sum of a straight line and of a symmetric bend:

    .. math:: \delta(\alpha) = \alpha\,\frac{u-d}{2} + b(\alpha)\,\frac{u+d}{2}

    with :math:`b(\pm 1) = 1`, so that :math:`\delta(+1) = u` and :math:`\delta(-1) = d`.

    Parameters
    ----------
    up, down
        Varied minus nominal yields `u` and `d`, shape `S`.
    bend
        The function :math:`b` of the code, with its derivatives.
    axes
        Number of leading axes of `S` along which the parameter differs.

    Attributes
    ----------
    symmetric, asymmetric
        The two coefficients, shape `S`, for sums over many parameters by one matrix product.
    """

    def __init__(
        self, up: torch.Tensor, down: torch.Tensor, bend: Callable[[torch.Tensor], Three], axes: int = 0
    ) -> None:
        self.symmetric = 0.5 * (up - down)
        self.asymmetric = 0.5 * (up + down)
        self.bend = bend
        self._trailing = (1,) * (up.ndim - axes)

    def to(self, device: torch.device | str) -> Self:
        """Return the shift with its tensors on a device."""
        moved = copy.copy(self)
        moved.symmetric, moved.asymmetric = self.symmetric.to(device), self.asymmetric.to(device)
        return moved

    def delta(self, alpha: torch.Tensor) -> Three:
        """Return the shift at `alpha` with its derivatives."""
        alpha = alpha.reshape(alpha.shape + self._trailing)
        value, first, second = self.bend(alpha)
        return (
            alpha * self.symmetric + value * self.asymmetric,
            self.symmetric + first * self.asymmetric,
            second * self.asymmetric,
        )


class Multiplicative(ABC):
    """Factor on a yield or on a density ratio.

    Parameters
    ----------
    up, down
        Varied over nominal `u` and `d`, both positive, shape `S`.
    axes
        Number of leading axes of `S` along which the parameter differs.

    Raises
    ------
    LikelihoodError
        When a factor is not positive and finite: it has no real power.
    """

    def __init__(self, up: torch.Tensor, down: torch.Tensor, axes: int = 0) -> None:
        for label, factor in (("up", up), ("down", down)):
            bad = ~((factor > 0.0) & torch.isfinite(factor))
            if bool(bad.any()):
                index = tuple(torch.nonzero(bad)[0].tolist())
                raise LikelihoodError(
                    f"the {label} factor {float(factor[index]):g} of a multiplicative variation is not positive",
                    where=f"element {index}" if index else None,
                    expected="varied over nominal, positive and finite",
                )
        self._logarithm = code0(torch.log(up), torch.log(down), axes)

    def to(self, device: torch.device | str) -> Self:
        """Return the factor with its tensors on a device."""
        moved = copy.copy(self)
        moved._logarithm = self._logarithm.to(device)
        return moved

    @abstractmethod
    def factor(self, alpha: torch.Tensor) -> Three:
        """Return the factor at `alpha` with its derivatives."""

    @abstractmethod
    def log_factor(self, alpha: torch.Tensor) -> Three:
        """Return the logarithm of the factor at `alpha` with its derivatives."""


class Code1(Multiplicative):
    r"""Piecewise exponential: :math:`u^{\alpha}` for :math:`\alpha \ge 0` and :math:`d^{-\alpha}` below."""

    def factor(self, alpha: torch.Tensor) -> Three:
        """Return the factor at `alpha` with its derivatives."""
        return _exponential(self._logarithm.delta(alpha))

    def log_factor(self, alpha: torch.Tensor) -> Three:
        """Return the logarithm of the factor at `alpha` with its derivatives."""
        return self._logarithm.delta(alpha)


class Code4(Multiplicative):
    r"""Exponential as `Code1` for :math:`|\alpha| \ge 1`, and inside the polynomial

    .. math:: f(\alpha) = 1 + \sum_{i=1}^{6} a_i \alpha^i

    with the coefficients that make value, first and second derivative continuous at :math:`\alpha = \pm 1`.
    """

    def __init__(self, up: torch.Tensor, down: torch.Tensor, axes: int = 0) -> None:
        super().__init__(up, down, axes)
        log_up, log_down = torch.log(up), torch.log(down)
        # Value, first and second derivative at alpha = +1, and at -1 in the direction of falling alpha.
        at_up = torch.stack([up - 1.0, up * log_up, up * log_up**2])
        at_down = torch.stack([down - 1.0, down * log_down, down * log_down**2])
        odd = torch.tensordot(_ODD, 0.5 * (at_up - at_down), dims=1)
        even = torch.tensordot(_EVEN, 0.5 * (at_up + at_down), dims=1)
        powers = [torch.ones_like(up), odd[0], even[0], odd[1], even[1], odd[2], even[2]]
        self._coefficients = torch.stack(powers, dim=axes)
        self._axes = axes

    def to(self, device: torch.device | str) -> Self:
        """Return the factor with its tensors on a device."""
        moved = super().to(device)
        moved._coefficients = self._coefficients.to(device)
        return moved

    def __getitem__(self, elements: slice) -> Self:
        """Return the same code for a slice of the last axis of `S`."""
        part = copy.copy(self)
        part._coefficients = self._coefficients[..., elements]
        part._logarithm = copy.copy(self._logarithm)
        part._logarithm.symmetric = self._logarithm.symmetric[..., elements]
        part._logarithm.asymmetric = self._logarithm.asymmetric[..., elements]
        return part

    def factor(self, alpha: torch.Tensor) -> Three:
        """Return the factor at `alpha` with its derivatives."""
        return self._piecewise(alpha, inside=_identity, outside=_exponential)

    def log_factor(self, alpha: torch.Tensor) -> Three:
        """Return the logarithm of the factor at `alpha` with its derivatives.

        Raises
        ------
        LikelihoodError
            When the polynomial is not positive, which takes very different up and down factors.
        """
        return self._piecewise(alpha, inside=_logarithm, outside=_identity)

    def _piecewise(
        self, alpha: torch.Tensor, inside: Callable[[Three], Three], outside: Callable[[Three], Three]
    ) -> Three:
        far = alpha.abs() >= 1.0
        if bool(far.all()):
            return outside(self._logarithm.delta(alpha))
        near = inside(self._polynomial(alpha.clamp(-1.0, 1.0)))
        if not bool(far.any()):
            return near
        far = far.reshape(far.shape + (1,) * (near[0].ndim - far.ndim))
        beyond = outside(self._logarithm.delta(alpha))
        return (
            torch.where(far, beyond[0], near[0]),
            torch.where(far, beyond[1], near[1]),
            torch.where(far, beyond[2], near[2]),
        )

    def _polynomial(self, alpha: torch.Tensor) -> Three:
        # One matrix product gives value and derivatives: rows are the orders, columns the powers of alpha.
        basis = _FALLING.to(alpha) * alpha[..., None, None] ** _POWERS.to(alpha)
        trailing = self._coefficients.shape[self._axes + 1 :]
        rows = basis @ self._coefficients.flatten(self._axes + 1) if trailing else basis @ self._coefficients
        value, first, second = rows.reshape(*alpha.shape, 3, *trailing).unbind(alpha.ndim)
        return value, first, second


# The inverse of the six conditions at alpha = +-1, separated into odd and even powers.
_ODD = torch.tensor([[15, -7, 1], [-10, 10, -2], [3, -3, 1]], dtype=torch.float64) / 8.0
_EVEN = torch.tensor([[24, -9, 1], [-24, 14, -2], [8, -5, 1]], dtype=torch.float64) / 8.0
_POWERS = torch.tensor(
    [[0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3, 4]], dtype=torch.float64
)
_FALLING = torch.tensor(
    [[1, 1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5, 6], [0, 0, 2, 6, 12, 20, 30]], dtype=torch.float64
)


def code4_weights(alpha: torch.Tensor) -> torch.Tensor:
    r"""Return the functions of `alpha` that code4 is linear in, for :math:`|\alpha| < 1`:

    .. math:: f(\alpha) = 1 + \sum_{j=0}^{2} w_j(\alpha)\, v_j(u) + w_j(-\alpha)\, v_j(d), \qquad
        v = (u - 1,\; u\ln u,\; u\ln^2 u)

    Parameters
    ----------
    alpha
        Any shape.

    Returns
    -------
    The weights of `u`, then of `d`, with their first and second derivatives by alpha, shape
    ``alpha.shape + (3, 6)``: the order of the derivative, then the weight.
    """
    odd, even = _ODD.to(alpha), _EVEN.to(alpha)
    by_power = 0.5 * torch.stack([odd[0], even[0], odd[1], even[1], odd[2], even[2]])
    mirrored = by_power * torch.tensor([[-1.0], [1.0]] * 3).to(alpha)
    basis = _FALLING.to(alpha) * alpha[..., None, None] ** _POWERS.to(alpha)
    return basis[..., 1:] @ torch.cat([by_power, mirrored], dim=1)


def code0(up: torch.Tensor, down: torch.Tensor, axes: int = 0) -> Additive:
    """Return the piecewise linear shift."""
    return Additive(up, down, _absolute, axes)


def code2(up: torch.Tensor, down: torch.Tensor, axes: int = 0) -> Additive:
    r"""Return the shift that is quadratic inside :math:`|\alpha| \le 1` and continues in a straight line.

    The continuation is ROOT's. pyhf's own ``code2`` agrees inside and jumps at :math:`|\alpha| = 1`.
    """
    return Additive(up, down, _quadratic, axes)


def code4p(up: torch.Tensor, down: torch.Tensor, axes: int = 0) -> Additive:
    r"""Return the shift that is a polynomial of order 6 inside :math:`|\alpha| \le 1` and linear outside."""
    return Additive(up, down, _polynomial, axes)


def code1(up: torch.Tensor, down: torch.Tensor, axes: int = 0) -> Code1:
    """Return the piecewise exponential factor."""
    return Code1(up, down, axes)


def code4(up: torch.Tensor, down: torch.Tensor, axes: int = 0) -> Code4:
    r"""Return the factor that is a polynomial of order 6 inside :math:`|\alpha| \le 1`, exponential outside."""
    return Code4(up, down, axes)


ADDITIVE: Mapping[str, Callable[..., Additive]] = MappingProxyType(
    {"code0": code0, "code2": code2, "code4p": code4p}
)
MULTIPLICATIVE: Mapping[str, Callable[..., Multiplicative]] = MappingProxyType(
    {"code1": code1, "code4": code4}
)


def _absolute(alpha: torch.Tensor) -> Three:
    return alpha.abs(), torch.sign(alpha), torch.zeros_like(alpha)


def _quadratic(alpha: torch.Tensor) -> Three:
    inside = alpha.abs() <= 1.0
    value = torch.where(inside, alpha**2, 2.0 * alpha.abs() - 1.0)
    return value, 2.0 * alpha.clamp(-1.0, 1.0), torch.where(inside, 2.0, 0.0).to(alpha)


def _polynomial(alpha: torch.Tensor) -> Three:
    inside, square = alpha.abs() < 1.0, alpha**2
    value = 0.125 * square * (15.0 + square * (-10.0 + 3.0 * square))
    first = 0.25 * alpha * (15.0 + square * (-20.0 + 9.0 * square))
    second = 3.75 * (1.0 + square * (-4.0 + 3.0 * square))
    return (
        torch.where(inside, value, alpha.abs()),
        torch.where(inside, first, torch.sign(alpha)),
        torch.where(inside, second, 0.0),
    )


def _identity(terms: Three) -> Three:
    return terms


def _exponential(log: Three) -> Three:
    value = torch.exp(log[0])
    return value, log[1] * value, (log[2] + log[1] ** 2) * value


def _logarithm(factor: Three) -> Three:
    value, first, second = factor
    if not bool((value > 0.0).all()):
        raise LikelihoodError(
            "a code4 polynomial is not positive between the nominal and the varied prediction",
            expected="up and down factors closer to 1",
            fix="use code1, or make the variation smaller",
        )
    slope = first / value
    return torch.log(value), slope, second / value - slope**2
