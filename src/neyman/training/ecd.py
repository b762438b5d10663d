r"""`ECD`: energy-conserving descent, an optimizer whose motion never stops by friction (arXiv:2501.18419).

The parameters :math:`\Theta` of a network move as a particle in the potential of the loss F. The energy of the
particle is conserved by construction, and it spends its time where F is small, with the density
:math:`p(\Theta) \propto \mu = (F - F_0)^{-d\eta/2}` (eq. 3) in the limit of many steps. Use it with large batches:
the value of F itself enters every step. :func:`neyman.training.optimizers.make` fills in the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neyman.errors import ConfigError, TrainingError
from neyman.training.losses import Loss


def default_F0(loss: Loss) -> float:
    """Return the energy offset for a loss: one unit below the loss of a network that knows nothing.

    -1 for the maximum-likelihood classifiers and -0.31 for the cross-entropies; arXiv:2501.18419, Table IV, has -1
    and -0.3. Samples that are easy to tell apart bring an MLC below -1, and then need a lower one.
    """
    return loss.flat() - 1.0


def default_eta(
    parameters: Iterable[Tensor], steps: int, *, lr: float = 1.0, members: int | None = None
) -> float:
    r"""Return the largest useful concentration for a number of steps.

    .. math:: \eta = \frac{n_{steps}^2\, \widehat{\Delta t}^2}{\Theta_{max}^2}, \qquad
              \Theta_{max}^2 = \sum_i \mathrm{Var}(\Theta_i)

    so that the way of all steps together, :math:`n\,\widehat{\Delta t}/\sqrt\eta`, is as long as the parameters'
    initial spread (eqs. 28 and 30; `eta_of_width` is its value for one family of networks). The variance is
    that of each tensor's initial values, in the first member of a stack.

    Parameters
    ----------
    parameters
        Freshly initialised parameters.
    steps
        Number of steps of the training.
    lr
        Rescaled time step.
    members
        Number of members, the first axis of every parameter; None for a network of its own.
    """
    spread = 0.0
    for parameter in parameters:
        values = (parameter if members is None else parameter[0]).detach().double()
        spread += float(values.numel() * values.var(correction=0))
    if not spread > 0.0:
        raise ConfigError(
            "eta has no default: the parameters have no spread",
            expected="freshly initialised parameters",
            fix="give eta",
        )
    return (steps * lr) ** 2 / spread


def eta_of_width(steps: int, width: int) -> float:
    """Return :math:`2 n_{steps}^2 / (3 n)`, `default_eta` of three hidden layers of n/2, n and n/2 nodes whose
    weights have variance 1/fan-in (arXiv:2501.18419, eq. 30 and the text below it)."""
    return 2.0 * steps**2 / (3.0 * width)


class ECD(torch.optim.Optimizer):
    r"""Energy-conserving descent.

    One step for d parameters with loss F and its gradient, velocity :math:`u` (:math:`-\nabla F/|\nabla F|` before
    the first step), q = 1 (eqs. 16 to 18):

    .. math::

       u &\leftarrow (u + \nu\zeta)/|u + \nu\zeta|, \qquad \zeta_i \sim N(0, 1) \\
       u &\leftarrow u - \Delta t \frac{\eta d}{2 (d-1)(F - F_0)} \left(\nabla F - (u\cdot\nabla F)\, u\right) \\
       \Theta &\leftarrow \Theta + \Delta t\, u, \qquad \Delta t = \mathrm{lr}/\sqrt\eta

    Other q (appendix B) give the particle the speed :math:`|u| = \mu^{(q-1)/(d-q)}` (eq. B6) and the acceleration

    .. math:: \dot u = -\frac{\eta d}{2(d-q)(F-F_0)}
              \left((F-F_0)^{-d\eta\frac{q-1}{d-q}} \nabla F + (q-2)(u\cdot\nabla F)\, u\right)

    Eq. B7 prints d - 1 for d - q in front; B5 gives d - q, with which B6 is conserved. The speed is kept as a
    logarithm beside a unit vector. Eq. 3 leaves the scale of :math:`\mu` open: it is chosen so that the speed is 1
    at the first step.

    All scalar products run over all parameters of a network together. In a stack every member has a motion of its
    own, and its sums are made in the same order whatever the number of members: member m of a stack is, bit for
    bit, the network trained alone.

    Parameters
    ----------
    params
        All trained parameters of a network or of a stack.
    lr
        Rescaled time step :math:`\widehat{\Delta t} = \Delta t\sqrt\eta` (eq. 25), 0.1 to 1 by eq. 26. A schedule may
        change ``param_groups[0]["lr"]`` between steps.
    eta
        Concentration :math:`\eta`; see `default_eta`.
    F0
        Energy offset :math:`F_0`, below every loss that is met; see `default_F0`.
    nu
        Rescaled bounce angle :math:`\hat\nu = \nu\sqrt d`; 0 or up to 1e-6 in the paper.
    q
        Member of the family of Hamiltonians, :math:`q \ge 0`; 1 moves at constant speed.
    members
        Number of members M of a stack, whose parameters have shape ``(M, ...)``; None for a network of its own.
    renormalise
        Put :math:`|u|` back to its conserved value at every step. Without it the finite time step lets the energy
        drift; `drift` tells by how much.
    seed
        Seed of the bounces; every member has a generator of its own.
    first
        Number of the first member, where the others are trained elsewhere.
    weight_decay
        Must be 0: it would need a term of its own in the energy. Accepted so that it cannot be dropped in silence.

    Raises
    ------
    ConfigError
        When an argument cannot be used, or `step` is called without a closure or with one of another shape.
    TrainingError
        When F is not above F0, or a loss or gradient is not finite; parameters and velocities are as before the step.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        *,
        eta: float,
        F0: float,
        nu: float = 0.0,
        q: float = 1.0,
        members: int | None = None,
        renormalise: bool = True,
        seed: int = 0,
        first: int = 0,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"lr": lr, "eta": eta, "F0": F0, "nu": nu, "q": q}
        super().__init__(params, settings | {"renormalise": renormalise, "weight_decay": weight_decay})
        self.members = members
        self._parameters: list[Tensor] = self.param_groups[0]["params"]
        self._rows = 1 if members is None else members
        self._check()
        self.d = sum(p.numel() for p in self._parameters) // self._rows
        if self.d < 2 or self.d <= q:
            raise ConfigError(
                f"ECD with q = {q:g} cannot move a network of {self.d} parameters",
                expected="at least 2 parameters, and more than q",
            )
        self._generators = [
            torch.Generator().manual_seed(seed * 1_000_003 + m) for m in range(first, first + self._rows)
        ]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the parameters; there is one group, because all of them share one velocity."""
        if self.param_groups:
            raise ConfigError(
                "ECD has one velocity for all parameters of a network, and so one group of parameters",
                fix="give all parameters in one group, or use Adam or Lion for rates of their own",
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """Make one step and return the losses.

        Parameters
        ----------
        closure
            Clears the gradients, computes the losses of the members on a batch, calls ``backward`` on their sum and
            returns them: shape ``(members,)``, or a scalar without `members`. F and its gradient must come from the
            same forward pass.
        """
        if closure is None:
            raise ConfigError(
                "ECD needs the value of the loss",
                expected="step(closure), where the closure calls backward and returns the losses",
            )
        with torch.enable_grad():
            found = closure()
        if not isinstance(found, Tensor):
            raise ConfigError(
                f"the closure of ECD returned {type(found).__name__}",
                expected="the losses as a tensor: `return loss`, not `loss.item()`",
            )
        losses = found.detach()
        state = self.state[self._parameters[0]]
        heights = self._heights(losses)
        moves, motions = [], []
        for m, gradient in enumerate(self._gradients()):
            before = None
            if "velocity" in state:
                before = _Motion(state["velocity"][m], *(float(state[name][m]) for name in _SCALARS))
            move, after = self._advance(m, before, gradient, heights[m])
            moves.append(move)
            motions.append(after)
        state["velocity"] = torch.stack([motion.u for motion in motions])
        for name in _SCALARS:
            state[name] = torch.tensor([getattr(motion, name) for motion in motions], dtype=torch.float64)
        way = torch.stack(moves)
        start = 0
        for parameter in self._parameters:
            stop = start + parameter.numel() // self._rows
            parameter.add_(way[:, start:stop].reshape(parameter.shape))
            start = stop
        return losses

    def _advance(
        self, m: int, before: _Motion | None, gradient: Tensor, height: float
    ) -> tuple[Tensor, _Motion]:
        """Return the step of the parameters of member m, and its motion after the step; `height` is F - F0."""
        group, d = self.param_groups[0], self.d
        eta, q, nu = group["eta"], group["q"], group["nu"]
        motion = before or self._start(m, gradient, height)
        u = motion.u
        if nu > 0.0:
            draws = torch.randn(d, generator=self._generators[m], dtype=u.dtype).to(u.device)
            u = _unit(u + draws * (nu / math.sqrt(d)))[0]
        slope = float((u * gradient).sum())
        dt = group["lr"] / math.sqrt(eta)
        conserved = -0.5 * (q - 1.0) * d * eta / (d - q) * (math.log(height) - motion.origin)
        log_speed = conserved if group["renormalise"] else motion.log_speed
        # Eqs. 17 and B7 divided by the speed at the beginning of the step, so that u stays a unit vector.
        kick = 0.5 * dt * eta * d / ((d - q) * height)
        along = 1.0 - kick * _exp(log_speed) * (q - 2.0) * slope
        u, log_norm = _unit(u * along - gradient * (kick * _exp(2.0 * conserved - log_speed)))
        log_speed = conserved if group["renormalise"] else log_speed + log_norm
        if not math.isfinite(slope + log_norm + _exp(log_speed)):
            raise TrainingError(
                f"the {'step' if math.isfinite(slope) else 'gradient'} of {self._names([m])} is not finite",
                where=f"ECD with eta = {eta:g}, q = {q:g}, lr = {group['lr']:g}",
                fix="lower lr or eta"
                + ("; with q other than 1 the speed is a power of the loss" if q != 1.0 else ""),
            )
        return u * (dt * _exp(log_speed)), _Motion(u, motion.origin, log_speed, conserved)

    def _start(self, m: int, gradient: Tensor, height: float) -> _Motion:
        u, log_norm = _unit(-gradient)
        if log_norm == -math.inf:
            raise TrainingError(
                f"the gradient of {self._names([m])} is zero: ECD has no direction to start in",
                fix="start from parameters at which the loss has a slope",
            )
        return _Motion(u, math.log(height), 0.0, 0.0)

    def drift(self) -> Tensor:
        r"""Return :math:`\ln |u|` minus its conserved value (eq. B6) at the last step, float64 ``(members,)``."""
        state = self.state[self._parameters[0]]
        if "velocity" not in state:
            return torch.zeros(self._rows, dtype=torch.float64)
        drift: Tensor = state["log_speed"] - state["conserved"]
        return drift

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as tensors and numbers."""
        self.state[self._parameters[0]]["generators"] = torch.stack([g.get_state() for g in self._generators])
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state: the steps that follow are, bit for bit, those that followed it."""
        super().load_state_dict(state_dict)
        first = self._parameters[0]
        # The base class turns every tensor into the parameters' type, which is right for the velocity alone.
        for name, value in state_dict["state"].get(0, {}).items():
            device = first.device if name == "velocity" else "cpu"
            self.state[first][name] = value.detach().to(device, copy=True)
        state = self.state[first]
        velocity = state.get("velocity")
        if (
            "generators" not in state
            or len(state["generators"]) != self._rows
            or (velocity is not None and velocity.shape != (self._rows, self.d))
        ):
            raise ConfigError(
                "the state of the optimizer belongs to another network",
                expected=f"ECD with {self._rows} x {self.d} parameters",
            )
        for generator, value in zip(self._generators, state["generators"], strict=True):
            # A copy: set_state reads from the beginning of the storage, and ends the process on a view of it.
            generator.set_state(value.clone())

    # Checks and parts of a step -----------------------------------------------------------------------------

    def _check(self) -> None:
        group = self.param_groups[0]
        for name, good, expected in (
            ("lr", group["lr"] > 0.0, "a positive time step"),
            ("eta", group["eta"] > 0.0, "a positive concentration"),
            ("F0", True, "a number below every loss"),
            ("nu", group["nu"] >= 0.0, "a bounce angle of 0 or more"),
            ("q", group["q"] >= 0.0, "0 or more"),
        ):
            if not (good and math.isfinite(group[name])):
                raise ConfigError(f"ECD cannot use {name} = {group[name]}", expected=expected)
        if group["weight_decay"] != 0.0:
            raise ConfigError(
                f"ECD has no weight decay, got {group['weight_decay']}",
                expected="weight_decay = 0: friction would take energy away",
                fix="use Adam or Lion for weight decay",
            )
        if self.members is None:
            return
        for k, parameter in enumerate(self._parameters):
            if self.members < 1 or parameter.ndim == 0 or len(parameter) != self.members:
                raise ConfigError(
                    f"parameter {k} of shape {tuple(parameter.shape)} is no stack of {self.members} members",
                    expected="parameters of shape (members, ...)",
                )

    def _heights(self, losses: Tensor) -> list[float]:
        shape = () if self.members is None else (self.members,)
        if losses.shape != shape:
            raise ConfigError(
                f"the closure of ECD returned losses of shape {tuple(losses.shape)}",
                expected=f"shape {shape}: one loss a member",
            )
        F0: float = self.param_groups[0]["F0"]
        values: list[float] = losses.double().reshape(self._rows).tolist()
        odd = [m for m, value in enumerate(values) if not math.isfinite(value)]
        if odd:
            raise TrainingError(f"the loss of {self._names(odd)} is not finite", fix="lower lr or eta")
        low = [m for m, value in enumerate(values) if value <= F0]
        if low:
            raise TrainingError(
                f"the loss of {self._names(low)} is {min(values):.6g}, "
                f"at or below the energy offset F0 = {F0:.6g}",
                fix=f"lower F0, e.g. to {min(values) - 1.0:.3g}: one unit below the smallest loss",
            )
        return [value - F0 for value in values]

    def _gradients(self) -> Tensor:
        rows = []
        for k, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                raise ConfigError(
                    f"parameter {k} of shape {tuple(parameter.shape)} has no gradient",
                    expected="a closure that calls backward, and only parameters that the loss depends on",
                )
            rows.append(parameter.grad.reshape(self._rows, -1))
        return torch.cat(rows, dim=1)

    def _names(self, members: list[int]) -> str:
        return "the network" if self.members is None else f"member {', '.join(map(str, members))}"


@dataclass(frozen=True)
class _Motion:
    """Motion of one member: unit vector of the velocity; logarithms of mu's scale, of the speed, of its due value.

    Each member is computed alone, so that the order of its sums does not depend on the number of members.
    """

    u: Tensor
    origin: float
    log_speed: float
    conserved: float


_SCALARS = ("origin", "log_speed", "conserved")


def _unit(u: Tensor) -> tuple[Tensor, float]:
    """Return the vector of unit length, and the logarithm of its length."""
    square = float((u * u).sum())
    if not 0.0 < square < math.inf:
        return u, -math.inf if square == 0.0 else math.nan
    return u * (1.0 / math.sqrt(square)), 0.5 * math.log(square)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700.0 else math.inf
