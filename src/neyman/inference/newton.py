r"""`newton`: bounded minimisation of many functions of the same parameters at once, with exact Hessians.

Each row of the batch is one problem (a toy, a shifted global observable, or the only one of a fit). A step
minimises the quadratic model

.. math:: m(s) = g^T s + \tfrac12 s^T (H + \lambda D) s, \qquad l \le y + s \le u

with D the diagonal of H; the bounds that it meets are found by the primal-dual active set method.
:math:`\lambda` is zero until a step fails to decrease the function, and the diagonal is raised where H is not positive
definite, so near a minimum the convergence is quadratic.

Source: M. Hintermueller, K. Ito, K. Kunisch, SIAM J. Optim. 13 (2003) 865, algorithm 2.1 (bounds); D. Marquardt,
J. SIAM 11 (1963) 431 (damping).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from neyman.likelihood import Derivatives
from neyman.likelihood.threads import one_thread

Evaluate = Callable[[torch.Tensor, torch.Tensor], Derivatives]
"""Value, gradient and Hessian at ``y (n, p)`` of the problems `rows` ``(n,)``; ``+inf`` where undefined."""

_DONE = 1e-12  # of the expected decrease: a millionth of a standard deviation
_FLOOR = 1e-7  # where a step that rounding spoils is as good as done
_CLOSE = 1e-2  # an expected decrease that rounding might hide
_FLAT = (
    1e-7  # a scaled diagonal that has to be raised by more than this has a direction of negative curvature
)
_SHIFTS = (_FLAT, 1e-2, 0.1, 0.5, 2.0, 10.0, 50.0)
_LARGEST = 1e6
_ROUNDS = 12  # of the search for the bounds that a step meets


@dataclass
class Minima:
    """Where the minimisations stand, one row a problem.

    Parameters
    ----------
    y
        Parameters, shape ``(n, p)``.
    value, gradient, hessian
        The function there.
    edm
        Decrease that the quadratic model still promises within the bounds, shape ``(n,)``.
    converged
        Whether `edm` is negligible and no direction has negative curvature.
    steps
        Number of evaluations of each row.
    """

    y: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    hessian: torch.Tensor
    edm: torch.Tensor
    converged: torch.Tensor
    steps: torch.Tensor


def newton(
    evaluate: Evaluate,
    start: torch.Tensor,
    bounds: torch.Tensor,
    held: torch.Tensor | None = None,
    *,
    max_steps: int = 60,
    largest_rounding: float = 1e-7,
) -> Minima:
    """Minimise all rows within the bounds.

    Parameters
    ----------
    evaluate
        The functions.
    start
        Shape ``(n, p)``, within the bounds.
    bounds
        Shape ``(p, 2)``.
    held
        Parameters that stay where they are, shape ``(p,)``; none by default.
    max_steps
        Limit of evaluations of each row after the first.
    largest_rounding
        Increase of the value that counts as rounding.
    """
    n, p = start.shape
    y = start.clone()
    fixed = torch.zeros(p, dtype=torch.bool, device=y.device) if held is None else held
    rows = torch.arange(n, device=y.device)
    at = evaluate(y, rows)
    gradient, hessian = at.gradient, at.hessian
    if gradient is None or hessian is None:
        raise TypeError("newton needs gradients and Hessians")
    state = Minima(
        y,
        at.value.clone(),
        gradient.clone(),
        hessian.clone(),
        edm=torch.full_like(at.value, torch.inf),
        converged=torch.zeros(n, dtype=torch.bool, device=y.device),
        steps=torch.ones(n, dtype=torch.long, device=y.device),
    )
    damping = torch.zeros_like(state.value)
    active = rows[torch.isfinite(state.value)]
    for _ in range(max_steps):
        if not len(active):
            break
        with one_thread(len(active) * p * p):
            trial, decrease, raised = _step(state, active, damping[active], bounds, fixed)
        state.edm[active] = decrease.nan_to_num(torch.inf)
        rounding = 1e-13 * state.value[active].abs() + largest_rounding
        # Meeting the bounds can spoil a step in a direction that is almost flat; a damped one is safe.
        spoiled = decrease.isnan()
        damping[active[spoiled]] = torch.clamp(10.0 * damping[active[spoiled]], min=1e-3)
        # A damped step promises little because it is short, so it does not show convergence.
        done = (decrease < _DONE) & (damping[active] == 0.0)
        state.converged[active] = done & (raised <= _FLAT)
        waiting = active[spoiled]
        keep = ~(done | spoiled)
        active, trial, decrease, rounding = active[keep], trial[keep], decrease[keep], rounding[keep]
        if not len(active):
            active = waiting
            continue
        at = evaluate(trial, active)
        state.steps[active] += 1
        better = at.value <= state.value[active] - 1e-4 * decrease + rounding
        if at.gradient is None or at.hessian is None:
            break
        # Close to a minimum rounding hides the decrease of the value (of float32 ratios of many events, say), and the
        # slopes decide.
        close = (decrease < _CLOSE) & (at.value < state.value[active] + _CLOSE)
        flatter = _slope(trial, at.gradient, state.hessian[active], bounds, fixed) < 0.8 * _slope(
            state.y[active], state.gradient[active], state.hessian[active], bounds, fixed
        )
        better |= close & flatter
        at_floor = ~better & (decrease < _FLOOR) & (damping[active] == 0.0)
        state.converged[active[at_floor]] = raised[keep][at_floor] <= _FLAT
        took = active[better]
        state.y[took], state.value[took] = trial[better], at.value[better]
        state.gradient[took], state.hessian[took] = at.gradient[better], at.hessian[better]
        lower = damping[took] * 0.1
        damping[took] = torch.where(lower < 1e-5, 0.0, lower)
        refused = active[~better & ~at_floor]
        damping[refused] = torch.clamp(10.0 * damping[refused], min=1e-3)
        active = torch.cat([active[~at_floor], waiting])
        active = active[damping[active] < _LARGEST]
    return state


def _slope(
    y: torch.Tensor, gradient: torch.Tensor, hessian: torch.Tensor, bounds: torch.Tensor, fixed: torch.Tensor
) -> torch.Tensor:
    """Return the sum of the squared slopes in units of the curvatures, without those that push against a bound."""
    pushed = ((y <= bounds[:, 0]) & (gradient > 0.0)) | ((y >= bounds[:, 1]) & (gradient < 0.0))
    diagonal = hessian.diagonal(dim1=1, dim2=2).abs()
    scaled = gradient.square() / torch.where(diagonal > 0.0, diagonal, 1.0)
    return torch.where(pushed | fixed, 0.0, scaled).sum(1)


def _step(
    state: Minima, rows: torch.Tensor, damping: torch.Tensor, bounds: torch.Tensor, fixed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return where the steps lead ``(n, p)``, the decreases that the model promises and by how much the diagonals
    had to be raised to be positive definite, both ``(n,)``. A step that the bounds spoiled promises NaN."""
    gradient, hessian = state.gradient[rows], state.hessian[rows]
    diagonal = hessian.diagonal(dim1=1, dim2=2).abs()
    scale = torch.where(diagonal > 0.0, diagonal, 1.0).sqrt()
    model = (hessian / scale.unsqueeze(1)).div_(scale.unsqueeze(2))
    model.diagonal(dim1=1, dim2=2).add_(damping.unsqueeze(1))
    slope = gradient / scale
    low, high = ((bounds.T.unsqueeze(1) - state.y[rows]) * scale).unbind(0)
    free = ~fixed
    at_low, at_high = free & (low >= 0.0) & (slope > 0.0), free & (high <= 0.0) & (slope < 0.0)
    raised, step, multiplier = torch.zeros_like(damping), torch.zeros_like(slope), torch.zeros_like(slope)
    todo = torch.arange(len(rows), device=rows.device)
    for _ in range(_ROUNDS):
        put = torch.where(at_low[todo], low[todo], torch.where(at_high[todo], high[todo], 0.0))
        inner = free & ~(at_low[todo] | at_high[todo])
        part, lifted = model[todo], raised[todo]
        rest = -(slope[todo] + (part @ put.unsqueeze(-1)).squeeze(-1))
        moved = torch.where(inner, _solve(_factor(part, inner, lifted), rest, inner), put)
        model[todo], raised[todo], step[todo] = part, lifted, moved
        multiplier[todo] = slope[todo] + (part @ moved.unsqueeze(-1)).squeeze(-1)
        now_low = free & (multiplier[todo] > moved - low[todo])
        now_high = free & (multiplier[todo] < moved - high[todo])
        changed = ((now_low != at_low[todo]) | (now_high != at_high[todo])).any(1)
        at_low[todo], at_high[todo] = now_low, now_high
        todo = todo[changed]
        if not len(todo):
            break
    step = torch.clamp(step, low, high)
    decrease = -(slope * step).sum(1) - 0.5 * (step * (model @ step.unsqueeze(-1)).squeeze(-1)).sum(1)
    # The best that one parameter alone could do must be negligible, too, where the model promises nothing.
    alone = torch.where(free, torch.clamp(-slope, low, high), 0.0)
    best = -(slope * alone + 0.5 * alone**2).amin(1)
    spoiled = (decrease < -1e-14) | ((decrease < _DONE) & (best > 1e3 * _DONE))
    reached = torch.clamp(state.y[rows] + step / scale, *bounds.T)
    reached = torch.where(step <= low, bounds[:, 0], torch.where(step >= high, bounds[:, 1], reached))
    return reached, torch.where(spoiled, torch.nan, decrease.clamp(min=0.0)), raised


def _factor(model: torch.Tensor, moving: torch.Tensor, raised: torch.Tensor) -> torch.Tensor:
    """Return the Cholesky factors over the moving parameters; diagonals of `model` are raised where needed, and
    `raised` says by how much."""
    identity = torch.eye(model.shape[-1], dtype=model.dtype, device=model.device)

    def masked(rows: torch.Tensor | slice) -> torch.Tensor:
        part, free = model[rows], moving[rows]
        if bool(free.all()):
            return part
        return torch.where(free.unsqueeze(1) & free.unsqueeze(2), part, identity)

    factor: torch.Tensor
    factor, info = torch.linalg.cholesky_ex(masked(slice(None)))
    for shift in _SHIFTS:
        bad = torch.nonzero(_singular(factor, info)).squeeze(1)
        if not len(bad):
            break
        model[bad] += (shift - raised[bad]).clamp(min=0.0)[:, None, None] * identity
        raised[bad] = raised[bad].clamp(min=shift)
        factor[bad], info[bad] = torch.linalg.cholesky_ex(masked(bad))
    return factor


def _singular(factor: torch.Tensor, info: torch.Tensor) -> torch.Tensor:
    # A squared pivot of the scaled matrix is one minus a squared multiple correlation.
    regular: torch.Tensor = factor.diagonal(dim1=1, dim2=2).amin(1) > 1e-6
    return ~regular | info.bool()


def _solve(factor: torch.Tensor, rest: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    solved: torch.Tensor = torch.cholesky_solve(torch.where(moving, rest, 0.0).unsqueeze(-1), factor)
    return solved.squeeze(-1)
