"""Energy-conserving descent against the paper's equations, its conserved energy, its measure, and stacks."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neyman.errors import ConfigError, TrainingError
from neyman.networks import MLP
from neyman.training.ecd import ECD, default_eta, default_F0, eta_of_width
from neyman.training.losses import BCE, MLC

CURVATURE = [0.5, 1.0, 2.0, 3.0, 0.1]
START = [1.0, -0.7, 0.4, 1.3, -2.0]


def landscape(theta: Tensor) -> Tensor:
    """A curved valley without symmetry; rows are members."""
    bend = (theta[..., 1:] - 0.3 * theta[..., :-1] ** 2) ** 2
    return (torch.tensor(CURVATURE, dtype=theta.dtype) * theta**2).sum(-1) + 0.2 * bend.sum(-1)


def slope(theta: Sequence[float]) -> tuple[float, list[float]]:
    """Value and gradient of `landscape`, by hand."""
    value = sum(c * t * t for c, t in zip(CURVATURE, theta, strict=True))
    gradient = [2.0 * c * t for c, t in zip(CURVATURE, theta, strict=True)]
    for i in range(4):
        gap = theta[i + 1] - 0.3 * theta[i] ** 2
        value += 0.2 * gap**2
        gradient[i + 1] += 0.4 * gap
        gradient[i] -= 0.4 * gap * 0.6 * theta[i]
    return value, gradient


def reference(
    steps: int,
    *,
    lr: float,
    eta: float,
    F0: float,
    q: float,
    renormalise: bool,
    nu: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """Eqs. 16 to 18 for q = 1, B6 and B7 for other q, number by number and without logarithms."""
    d, dt = 5, lr / math.sqrt(eta)
    generator = torch.Generator().manual_seed(seed * 1_000_003)
    theta, u, first = list(START), [], 0.0
    for k in range(steps):
        F, g = slope(theta)
        if k == 0:
            norm = math.sqrt(sum(x * x for x in g))
            u, first = [-x / norm for x in g], F - F0
        speed = ((F - F0) / first) ** (-0.5 * d * eta * (q - 1.0) / (d - q))
        if renormalise:
            norm = math.sqrt(sum(x * x for x in u))
            u = [x / norm * speed for x in u]
        if nu > 0.0:
            length = math.sqrt(sum(x * x for x in u))
            z = torch.randn(d, generator=generator, dtype=torch.float64).tolist()
            u = [x / length + nu / math.sqrt(d) * y for x, y in zip(u, z, strict=True)]
            norm = math.sqrt(sum(x * x for x in u))
            u = [x / norm * length for x in u]
        ug = sum(x * y for x, y in zip(u, g, strict=True))
        front = -eta * d / (2.0 * (d - q) * (F - F0))
        u = [x + dt * front * (speed**2 * y + (q - 2.0) * ug * x) for x, y in zip(u, g, strict=True)]
        if renormalise:
            norm = math.sqrt(sum(x * x for x in u))
            u = [x / norm * speed for x in u]
        theta = [t + dt * x for t, x in zip(theta, u, strict=True)]
    return theta


def closure_of(optimizer: ECD, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = loss()
        losses.sum().backward()
        return losses

    return closure


def run(
    theta: Tensor,
    steps: int,
    members: int | None = None,
    function: Callable[[Tensor], Tensor] = landscape,
    **options: Any,
) -> ECD:
    """Move `theta` in place."""
    theta.requires_grad_()
    optimizer = ECD([theta], members=members, **({"lr": 0.5, "eta": 30.0, "F0": -1.0} | options))
    closure = closure_of(optimizer, lambda: function(theta))
    for _ in range(steps):
        optimizer.step(closure)
    return optimizer


def start(rows: int | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    one = torch.tensor(START, dtype=dtype)
    if rows is None:
        return one
    return torch.stack([one * (1.0 + 0.1 * m) for m in range(rows)])


# The equations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize(
    ("q", "eta", "nu"),
    [(1.0, 30.0, 0.0), (1.0, 60.0, 0.3), (0.0, 3.0, 0.0), (2.0, 2.0, 0.1), (1.5, 4.0, 0.0)],
)
def test_steps_are_those_of_the_paper(q: float, eta: float, nu: float, renormalise: bool) -> None:
    theta = start()
    options = {"lr": 0.3, "eta": eta, "F0": -1.0, "q": q, "renormalise": renormalise, "nu": nu, "seed": 5}
    run(theta, 40, **options)
    np.testing.assert_allclose(theta.detach(), reference(40, **options), rtol=1e-7)  # type: ignore[arg-type]


def test_hand_written_gradient_is_the_gradient() -> None:
    theta = start().requires_grad_()
    value = landscape(theta)
    (gradient,) = torch.autograd.grad(value, theta)
    assert slope(START)[0] == pytest.approx(float(value.detach()))
    np.testing.assert_allclose(slope(START)[1], gradient)


def test_first_step_goes_down_the_gradient_by_dt() -> None:
    theta = start()
    run(theta, 1, lr=0.7, eta=49.0)
    gradient = torch.tensor(slope(START)[1], dtype=torch.float64)
    torch.testing.assert_close(theta.detach(), start() - 0.1 * gradient / gradient.norm())


@pytest.mark.parametrize("steps", [1, 7])
def test_every_step_has_the_length_dt(steps: int) -> None:
    """q = 1 moves at constant speed, whatever the loss (eq. 6)."""
    theta = start()
    optimizer = run(theta, steps, lr=2.0, eta=1e4)
    before = theta.detach().clone()
    optimizer.step(closure_of(optimizer, lambda: landscape(theta)))
    assert float((theta.detach() - before).norm()) == pytest.approx(2.0 / 100.0, rel=1e-12)


def test_a_changed_rate_changes_the_time_step() -> None:
    theta = start().requires_grad_()
    optimizer = ECD([theta], 1.0, eta=100.0, F0=-1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0 / (k + 1))
    for k in range(4):
        before = theta.detach().clone()
        optimizer.step(closure_of(optimizer, lambda: landscape(theta)))
        schedule.step()
        assert float((theta.detach() - before).norm()) == pytest.approx(0.1 / (k + 1), rel=1e-12)


def test_general_q_has_the_limit_q_1() -> None:
    ends = []
    for q in (1.0, 1.0 + 1e-9, 1.0 - 1e-9):
        ends.append(start())
        run(ends[-1], 60, q=q)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[2], ends[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(ends[1], ends[0])


# Energy and measure ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "eta"), [(0.0, 2.0), (1.0, 20.0), (2.0, 0.5), (3.0, 0.2)])
def test_energy_is_conserved_as_the_time_step_shrinks(q: float, eta: float) -> None:
    """The same way in 1, 2, 4 times as many steps: the drift of ln|u| is of first order.

    At d = 5 this also tells d - q from the d - 1 that eq. B7 has in front: with it the drift would stay.
    """
    drifts = []
    for finer in (16, 32, 64):
        theta = start()
        optimizer = run(theta, 10 * finer, lr=0.4 / finer, eta=eta, q=q, renormalise=False)
        drifts.append(abs(float(optimizer.drift()[0])))
    assert drifts[0] < 0.5
    assert drifts[1] == pytest.approx(0.5 * drifts[0], rel=0.3)
    assert drifts[2] == pytest.approx(0.5 * drifts[1], rel=0.2)


def test_renormalised_energy_does_not_drift() -> None:
    theta = start()
    assert float(run(theta, 50, eta=1e3).drift()[0]) == 0.0
    assert abs(float(run(start(), 50, eta=20.0, renormalise=False).drift()[0])) > 0.1


@pytest.mark.parametrize(("q", "eta"), [(1.0, 4.0), (0.5, 4.0)])
def test_bounced_motion_has_the_measure_of_eq_3(q: float, eta: float) -> None:
    r"""In F = |theta|^2, p ~ (F - F0)^(-d eta/2) has <F> = -F0 (d/2) / (d eta/2 - d/2 - 1)."""
    d, rows, steps = 4, 8, 1500
    generator = torch.Generator().manual_seed(1)
    theta = (0.5 * torch.randn(rows, d, generator=generator, dtype=torch.float64)).requires_grad_()
    optimizer = ECD([theta], 0.1, eta=eta, F0=-1.0, nu=0.4, q=q, members=rows, seed=3)
    closure = closure_of(optimizer, lambda: (theta**2).sum(dim=1))
    losses = [optimizer.step(closure) for _ in range(steps)]
    mean = float(torch.stack(losses[200:]).mean())
    assert mean == pytest.approx((d / 2) / (d * eta / 2 - d / 2 - 1), rel=0.1)


def test_concentration_grows_with_eta() -> None:
    """The typical distance from the minimum falls as eta^-1/2 (eq. 13)."""
    ends = []
    for eta in (1e2, 4e3):
        theta = start(4)
        optimizer = run(theta, 800, members=4, lr=0.5, eta=eta, nu=0.1)
        ends.append(float(landscape(theta.detach()).mean()))
        assert optimizer.d == 5
    assert ends[1] < 0.2 * ends[0]


# Stacks -----------------------------------------------------------------------------------------------------------


def valley(big: Tensor, small: Tensor) -> Tensor:
    """Sums over members are made alone, so that the gradients themselves cannot depend on the stack."""
    tail = (big.flatten(1) * 0.7 + 0.1).square()
    return torch.stack([t.sum() + (s**2).sum() * 3.0 for t, s in zip(tail, small, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("q", "nu", "renormalise"), [(1.0, 0.0, True), (1.0, 0.2, False), (1.5, 0.1, True)])
def test_a_stack_is_its_members_bit_for_bit(
    dtype: torch.dtype, q: float, nu: float, renormalise: bool
) -> None:
    members, shapes = 5, ((13, 57), (1, 3))
    generator = torch.Generator().manual_seed(2)
    initial = [0.1 * torch.randn(members, *shape, generator=generator, dtype=dtype) for shape in shapes]
    options: dict[str, Any] = {
        "lr": 0.4,
        "eta": 3.0,
        "F0": -1.0,
        "nu": nu,
        "q": q,
        "renormalise": renormalise,
    }

    def train(rows: slice, generators: Tensor | None = None) -> list[Tensor]:
        parameters = [value[rows].clone().requires_grad_() for value in initial]
        optimizer = ECD(parameters, members=len(parameters[0]), seed=4, **options)
        if generators is not None:
            state = optimizer.state_dict()
            state["state"][0]["generators"] = generators[rows]
            optimizer.load_state_dict(state)
        for _ in range(25):
            optimizer.step(closure_of(optimizer, lambda: valley(*parameters)))
        return [p.detach() for p in parameters]

    streams = ECD([initial[0].clone()], members=members, seed=4, **options).state_dict()["state"][0][
        "generators"
    ]
    whole = train(slice(0, members))
    for first, alone in zip(whole, train(slice(0, 2)), strict=True):
        assert torch.equal(first[:2], alone), "the first two of five are the same as two"
    for m in range(members):
        for stacked, alone in zip(whole, train(slice(m, m + 1), streams), strict=True):
            assert torch.equal(stacked[m : m + 1], alone)
    assert not torch.equal(whole[0][0], whole[0][1])


def test_a_network_of_its_own_is_a_stack_of_one() -> None:
    single, stack = start(dtype=torch.float32), start(1, torch.float32)
    run(single, 30, nu=0.1, seed=3)
    run(stack, 30, members=1, nu=0.1, seed=3)
    assert torch.equal(single, stack[0])


def test_members_have_bounces_of_their_own() -> None:
    theta = torch.stack([start(), start()])
    run(theta, 3, members=2, nu=0.5)
    assert not torch.allclose(theta[0], theta[1])


def test_all_parameters_share_one_velocity() -> None:
    """One tensor or several: the scalar products run over all of them."""
    whole = start()
    run(whole, 30)
    head, tail = start()[:2].clone().requires_grad_(), start()[2:].clone().requires_grad_()
    optimizer = ECD([head, tail], 0.5, eta=30.0, F0=-1.0)
    for _ in range(30):
        optimizer.step(closure_of(optimizer, lambda: landscape(torch.cat([head, tail]))))
    torch.testing.assert_close(torch.cat([head, tail]), whole)


def test_a_stack_of_networks_finds_a_known_ratio() -> None:
    """N(0.5, 1) over N(-0.5, 1): the log-ratio is x."""
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1))
    p, q = x[:2000] + 0.5, x[2000:] - 0.5
    network, loss = MLP((16, 16)).build(1, members=3, seed=2), BCE()
    parameters = list(network.parameters())
    eta = default_eta(parameters, 300, members=3)
    optimizer = ECD(parameters, eta=eta, F0=default_F0(loss), members=3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)

    def losses() -> Tensor:
        z_p, z_q = network(p)[..., 0], network(q)[..., 0]
        return 0.5 * (loss.numerator(z_p).mean(dim=1) + loss.denominator(z_q).mean(dim=1))

    for _ in range(300):
        optimizer.step(closure_of(optimizer, losses))
        schedule.step()
    grid = torch.linspace(-1.5, 1.5, 31)[:, None]
    with torch.no_grad():
        assert float((network(grid)[..., 0] - grid[:, 0]).abs().mean()) < 0.1


# Checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restored_state_goes_on_bit_for_bit(done: int, dtype: torch.dtype) -> None:
    options: dict[str, Any] = {"nu": 0.2, "q": 1.3, "eta": 3.0, "renormalise": False, "members": 3}
    theta = start(3, dtype)
    optimizer = run(theta, done, **options)
    buffer = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "theta": theta.detach()}, buffer)
    buffer.seek(0)
    stored = torch.load(buffer, weights_only=True)
    again = stored["theta"].requires_grad_()
    restored = ECD([again], 0.1, eta=1.0, F0=-9.0, members=3, seed=77)
    restored.load_state_dict(stored["optimizer"])
    for _ in range(10):
        optimizer.step(closure_of(optimizer, lambda: landscape(theta)))
        restored.step(closure_of(restored, lambda: landscape(again)))
    assert torch.equal(theta, again)
    assert torch.equal(optimizer.drift(), restored.drift())


def test_state_is_tensors_and_numbers() -> None:
    state = run(start(3), 2, members=3, nu=0.1).state_dict()
    assert all(isinstance(value, Tensor) for value in state["state"][0].values())
    (group,) = state["param_groups"]
    assert all(isinstance(value, (int, float, bool, list)) for value in group.values())


def test_a_state_of_another_network_is_refused() -> None:
    state = run(start(3), 2, members=3).state_dict()
    other = ECD([start(2).requires_grad_()], eta=1.0, F0=-1.0, members=2)
    with pytest.raises(ConfigError, match=r"state of the optimizer belongs to another network(.|\n)*2 x 5"):
        other.load_state_dict(state)
    wider = ECD([torch.zeros(3, 6, requires_grad=True)], eta=1.0, F0=-1.0, members=3)
    with pytest.raises(ConfigError, match="belongs to another network"):
        wider.load_state_dict(state)
    bare = {"state": {}, "param_groups": state["param_groups"]}
    with pytest.raises(ConfigError, match="belongs to another network"):
        ECD([start(3).requires_grad_()], eta=1.0, F0=-1.0, members=3).load_state_dict(bare)


# Defaults ---------------------------------------------------------------------------------------------------------


def test_default_eta_is_eq_30() -> None:
    """Three layers of n/2, n, n/2 with variance 1/fan-in give Theta_max^2 = 3n/2."""
    n, generator = 128, torch.Generator().manual_seed(1)
    weights = [
        torch.randn(1, fan_out, fan_in, generator=generator) / math.sqrt(fan_in)
        for fan_in, fan_out in ((n // 2, n), (n, n // 2))
    ]
    assert default_eta(weights, 800, members=1) == pytest.approx(eta_of_width(800, n), rel=0.05)
    assert eta_of_width(800, n) == pytest.approx(3333.3, rel=1e-4)
    assert default_eta(weights, 800, lr=0.1) == pytest.approx(0.01 * default_eta(weights, 800))


def test_default_eta_does_not_depend_on_the_number_of_members() -> None:
    one, many = (list(MLP((8, 8)).build(2, members=m).parameters()) for m in (1, 4))
    assert default_eta(one, 100, members=1) == default_eta(many, 100, members=4)


def test_default_eta_needs_a_spread() -> None:
    with pytest.raises(ConfigError, match=r"eta has no default(.|\n)*give eta"):
        default_eta([torch.ones(3, 4)], 100)


def test_default_energy_offset_is_the_paper_s() -> None:
    assert default_F0(MLC()) == -1.0
    assert default_F0(BCE("arctan")) == pytest.approx(-0.3, abs=0.01)


# Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "cannot use lr = 0.0"),
        ({"eta": -1.0}, "cannot use eta = -1.0"),
        ({"eta": math.inf}, "cannot use eta = inf"),
        ({"F0": math.nan}, "cannot use F0 = nan"),
        ({"nu": -0.1}, "cannot use nu = -0.1"),
        ({"q": -1.0}, "cannot use q = -1.0"),
        ({"q": 5.0}, "q = 5 cannot move a network of 5 parameters"),
        ({"weight_decay": 0.01}, r"no weight decay, got 0.01(.|\n)*Adam or Lion"),
        ({"members": 0}, "parameter 0 of shape .5,. is no stack of 0 members"),
        ({"members": 3}, "parameter 0 of shape .5,. is no stack of 3 members"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ECD([start()], **({"eta": 1.0, "F0": -1.0} | options))


def test_weight_decay_of_a_group_is_refused() -> None:
    with pytest.raises(ConfigError, match="no weight decay"):
        ECD([{"params": [start()], "weight_decay": 0.1}], eta=1.0, F0=-1.0)


def test_one_parameter_is_too_few() -> None:
    with pytest.raises(ConfigError, match="cannot move a network of 1 parameters"):
        ECD([torch.zeros(3, 1)], eta=1.0, F0=-1.0, members=3)


def test_groups_of_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="one velocity for all parameters"):
        ECD([{"params": [start()]}, {"params": [start()]}], eta=1.0, F0=-1.0)


def test_the_closure_is_needed_and_returns_one_loss_a_member() -> None:
    theta = start(2).requires_grad_()
    optimizer = ECD([theta], eta=1.0, F0=-1.0, members=2)
    with pytest.raises(ConfigError, match=r"needs the value of the loss(.|\n)*step\(closure\)"):
        optimizer.step()
    with pytest.raises(ConfigError, match=r"parameter 0 of shape .2, 5. has no gradient"):
        optimizer.step(lambda: landscape(theta))
    with pytest.raises(ConfigError, match=r"losses of shape \(\)(.|\n)*shape \(2,\)"):
        optimizer.step(closure_of(optimizer, lambda: landscape(theta).sum()))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda t: landscape(t) - torch.tensor([0.0, 1e3, 0.0]),
            r"loss of member 1 is -98\d.*at or below .* F0 = -1",
        ),
        (
            lambda t: landscape(t) * torch.tensor([1.0, math.nan, math.inf]),
            "loss of member 1, 2 is not finite",
        ),
        (lambda t: landscape(t).clamp_min(1e3), "gradient of member 0 is zero"),
        (
            lambda t: landscape(t) + (t - t.detach()).abs().sqrt().sum(dim=1),
            "gradient of member 0 is not finite",
        ),
    ],
)
def test_losses_and_gradients_that_stop_the_motion(
    function: Callable[[Tensor], Tensor], message: str
) -> None:
    theta = start(3)
    with pytest.raises(TrainingError, match=message):
        run(theta, 1, members=3, function=function)
    assert torch.equal(theta.detach(), start(3)), "the parameters stay"


def test_an_error_keeps_velocity_and_parameters() -> None:
    theta = start(2)
    optimizer = run(theta, 3, members=2)
    kept, velocity = theta.detach().clone(), optimizer.state_dict()["state"][0]["velocity"].clone()
    with pytest.raises(TrainingError, match=r"at or below the energy offset(.|\n)*lower F0"):
        optimizer.step(closure_of(optimizer, lambda: landscape(theta) - 1e3))
    assert torch.equal(theta.detach(), kept)
    assert torch.equal(optimizer.state_dict()["state"][0]["velocity"], velocity)


def test_a_speed_without_end_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"step of the network is not finite(.|\n)*q other than 1"):
        run(start(), 200, q=2.0, eta=1e7)


def test_it_is_an_ordinary_optimizer() -> None:
    network = nn.Linear(3, 2)
    optimizer = ECD(network.parameters(), eta=10.0, F0=-1.0)
    assert optimizer.d == 8
    x = torch.ones(4, 3)
    first = optimizer.step(closure_of(optimizer, lambda: network(x).square().mean()))
    assert first.shape == ()
    assert not first.requires_grad
