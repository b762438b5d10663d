"""Stacked flows: against zuko's own flow, exact identities of densities, and what a build must not touch."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch.distributions import Normal

from neyman.errors import ConfigError, TrainingError
from neyman.networks import NSF, StackedFlow
from neyman.networks.flow import _spline

SMALL = NSF(transforms=3, hidden=(16, 12), bins=5)


def rough(flow: StackedFlow, factor: float = 1.7) -> StackedFlow:
    """Larger weights: an untrained flow that is far from a Gaussian."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(factor)
    return flow


def inputs(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize(("features", "context"), [(2, 1), (3, 0), (4, 2)])
def test_every_member_is_the_flow_that_zuko_builds(features: int, context: int, activation: str) -> None:
    from zuko.flows import NSF as Reference
    from zuko.nn import MaskedLinear
    from zuko.transforms import MonotonicRQSTransform

    spec = NSF(transforms=3, hidden=(16, 12), bins=5, bound=6.0, activation=activation)  # type: ignore[arg-type]
    flow = rough(spec.build(features + context, context=context, members=2, seed=3), 1.5)
    x = 2.0 * inputs(300, features + context)
    found = flow.double()(x.double())[..., 0]
    for m in range(2):
        reference = Reference(
            features,
            context,
            bins=5,
            transforms=3,
            hidden_features=spec.hidden,
            activation={"silu": torch.nn.SiLU, "relu": torch.nn.ReLU}[activation],
        ).double()
        for t, transform in enumerate(reference.transform.transforms):
            transform.univariate = partial(MonotonicRQSTransform, slope=1e-3, bound=6.0)
            layers = [layer for layer in transform.hyper if isinstance(layer, MaskedLinear)]
            for k, layer in enumerate(layers):
                layer.weight.data = flow.get_parameter(f"transforms.{t}.weight.{k}")[m].T
                layer.bias.data = flow.get_parameter(f"transforms.{t}.bias.{k}")[m, 0]
        y, log_slope = reference.transform(x.double()[:, features:] if context else None).call_and_ladj(
            x.double()[:, :features]
        )
        expected = log_slope - 0.5 * y.square().sum(dim=-1) - 0.5 * features * math.log(2.0 * math.pi)
        torch.testing.assert_close(found[m], expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("z", [-1.0, 0.2, 1.0])
def test_the_density_is_normalised_at_every_z(z: float) -> None:
    flow = rough(SMALL.build(3, context=1, members=2, seed=1))
    axis = torch.linspace(-12.0, 12.0, 601)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow(torch.cat([grid, torch.full((len(grid), 1), z)], dim=1))[..., 0].double().exp()
    integral = density.sum(dim=1) * float(axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(integral.numpy(), 1.0, atol=1e-3)
    assert float((density[0] - density[1]).abs().max()) > 1e-2


def test_the_jacobian_of_the_scaling_belongs_to_the_density() -> None:
    """p(x) of scaled inputs is p(y) / prod(scale); the scale of z does not enter."""
    mean, scale = torch.tensor([100.0, -3.0, 0.5]), torch.tensor([25.0, 0.125, 4.0])
    plain = rough(SMALL.build(3, context=1, members=2, seed=1))
    scaled = rough(SMALL.build(3, context=1, members=2, seed=1, scaling=(mean, scale)))
    y = inputs(200, 3)
    expected = plain.double()(y.double()) - math.log(25.0 * 0.125)
    found = scaled.double()(y.double() * scale + mean)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-10)


def test_a_member_is_the_same_flow_in_every_stack() -> None:
    one, three = (SMALL.build(3, context=1, members=m, seed=5) for m in (1, 3))
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(three.get_parameter(name)[:1], parameter, rtol=0.0, atol=0.0)
    x = inputs(500, 3)
    torch.testing.assert_close(three(x)[:1], one(x), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(
        three.sample(x[:, :1], seed=2)[:1], one.sample(x[:, :1], seed=2), rtol=0, atol=1e-4
    )
    assert float((three(x)[0] - three(x)[1]).detach().abs().median()) > 1e-3


def test_gradients_do_not_mix_members() -> None:
    flow = SMALL.build(3, context=1, members=3, seed=5)
    flow(inputs(50, 3))[1].sum().backward()
    for parameter in flow.parameters():
        assert parameter.grad is not None
        assert not parameter.grad[0].any()
        assert not parameter.grad[2].any()


def test_members_may_have_events_of_their_own() -> None:
    flow = SMALL.build(3, context=1, members=3, seed=5)
    x = inputs(120, 3).reshape(3, 40, 3)
    own = flow(x)
    assert own.shape == (3, 40, 1)
    for m in range(3):
        torch.testing.assert_close(own[m], flow(x[m])[m], rtol=0.0, atol=1e-5)


def test_a_large_batch_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, x = rough(SMALL.build(3, context=1, members=2, seed=5)), inputs(103, 3)
    whole, drawn = flow(x), flow.sample(x[:, :1], seed=1)
    monkeypatch.setattr("neyman.networks.flow._BLOCK", 40)
    torch.testing.assert_close(flow(x), whole, rtol=0.0, atol=2e-5)
    torch.testing.assert_close(flow.sample(x[:, :1], seed=1), drawn, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize(("features", "context"), [(1, 0), (1, 1), (4, 1)])
def test_a_feature_depends_on_those_before_it_alone(features: int, context: int) -> None:
    flow = rough(
        NSF(transforms=1, hidden=(16, 16), bins=4).build(features + context, context=context, seed=2)
    )
    x = inputs(1, features + context)[0]

    def transform(v: torch.Tensor) -> torch.Tensor:
        y, z = v[None, None, :features], v[None, None, features:]
        phi = flow.transforms[0](torch.cat([y, z], dim=-1), flow._masks(v.device)[0])
        return _spline()(phi.reshape(1, 1, features, -1), 7.0)(y)[0, 0]

    jacobian = torch.autograd.functional.jacobian(transform, x)
    own = jacobian[:, :features]
    assert not torch.triu(own, 1).any()
    assert bool((own.diagonal() > 0.0).all())
    if features > 1:
        assert bool((own[1:, 0] != 0.0).all())
    assert bool((jacobian[:, features:] != 0.0).all())
    log_density = flow(x[None])[0, 0, 0]
    expected = Normal(0.0, 1.0).log_prob(transform(x)).sum() + own.diagonal().log().sum()
    assert float(log_density.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)


def test_samples_follow_the_density() -> None:
    """The probability integral transform of the samples by the density on a grid is uniform."""
    flow = rough(SMALL.build(2, context=1, members=2, seed=1))
    z = torch.full((20_000, 1), 0.7)
    drawn = flow.sample(z, seed=4)
    assert drawn.shape == (2, 20_000, 1)
    axis = torch.linspace(-12.0, 12.0, 20_001)
    with torch.no_grad():
        density = flow(torch.stack([axis, torch.full_like(axis, 0.7)], dim=1))[..., 0].double().exp().numpy()
    for m in range(2):
        cdf = np.cumsum(density[m]) / density[m].sum()
        assert kstest(np.interp(drawn[m, :, 0].numpy(), axis.numpy(), cdf), "uniform").pvalue > 0.01
        assert kstest(drawn[m, :, 0].numpy(), "norm").pvalue < 1e-6


def test_sampling_inverts_the_flow() -> None:
    """The base noise of a sample, found again by the forward pass, gives its log-density."""
    scaling = (torch.tensor([50.0, 1.0, 0.0, 2.0]), torch.tensor([10.0, 0.1, 3.0, 1.0]))
    flow = rough(
        NSF(transforms=4, hidden=(16,), bins=6).build(4, context=1, members=2, seed=1, scaling=scaling), 2.0
    )
    z = inputs(2_000, 1)
    drawn = flow.sample(z, seed=9)
    assert bool(torch.isfinite(drawn).all())
    noise = torch.stack(
        [torch.randn(2_000, 3, generator=torch.Generator().manual_seed(9 * 1_000_003 + m)) for m in (0, 1)]
    )
    y = (torch.cat([drawn, z.expand(2, -1, -1)], dim=-1) - scaling[0]) / scaling[1]
    y, z = y.split([3, 1], dim=-1)
    masks = flow._masks(y.device)
    with torch.no_grad():
        for t, conditioner in enumerate(flow.transforms):
            phi = conditioner(torch.cat([y, z], dim=-1), masks[t % 2])
            y = _spline()(phi.reshape(2, 2_000, 3, -1), 7.0)(y)
    assert float((y - noise).abs().median()) < 3e-5
    assert float((y - noise).abs().quantile(0.999)) < 1e-2


def test_tails_are_gaussian_and_finite() -> None:
    flow = rough(SMALL.build(2, members=2, seed=1))
    far = torch.tensor([[8.0, 30.0], [-1e4, 9.0], [1e6, -1e6]])
    expected = Normal(0.0, 1.0).log_prob(far).sum(dim=1).expand(2, -1)
    torch.testing.assert_close(flow(far)[..., 0], expected, rtol=1e-6, atol=1e-5)


def test_single_precision_is_enough() -> None:
    flow = rough(NSF().build(3, context=1, members=2, seed=1), 1.5)
    x = inputs(5_000, 3)
    with torch.no_grad():
        single = flow(x)
        double = flow.double()(x.double())
    assert float((single - double).abs().max()) < 3e-4
    assert float((single - double).square().mean().sqrt()) < 1e-5


def test_autocast_does_not_reach_inside() -> None:
    flow, x = SMALL.build(3, context=1, seed=1), inputs(50, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = flow(x)
    torch.testing.assert_close(inside, flow(x), rtol=0.0, atol=0.0)


def test_the_state_has_the_documented_names_with_members_first() -> None:
    state = SMALL.build(3, context=1, members=4).state_dict()
    assert list(state)[:2] == ["scaling.mean", "scaling.scale"]
    assert {name: tuple(t.shape) for name, t in state.items() if "transforms.2." in name} == {
        "transforms.2.weight.0": (4, 3, 16),
        "transforms.2.weight.1": (4, 16, 12),
        "transforms.2.weight.2": (4, 12, 2 * 14),
        "transforms.2.bias.0": (4, 1, 16),
        "transforms.2.bias.1": (4, 1, 12),
        "transforms.2.bias.2": (4, 1, 28),
    }


def test_shapes_without_memory() -> None:
    """A stack that would take 10^17 bytes is described in no time, and filled without another build."""
    huge = NSF(hidden=(10**8, 10**8)).build(3, context=1, members=5, seed=None)
    assert huge.get_parameter("transforms.3.weight.1").shape == (5, 10**8, 10**8)
    assert {p.device.type for p in huge.parameters()} == {"meta"}
    built = SMALL.build(3, context=1, members=2, seed=1)
    empty = SMALL.build(3, context=1, members=2, seed=None)
    empty.load_state_dict(built.state_dict(), assign=True)
    torch.testing.assert_close(empty(inputs(20, 3)), built(inputs(20, 3)), rtol=0.0, atol=0.0)


def test_nothing_global_changes() -> None:
    """Importing zuko alone would switch off the argument checks of torch.distributions."""
    code = (
        "import torch, warnings\n"
        "warnings.simplefilter('error')\n"
        "before = torch.random.get_rng_state()\n"
        "from neyman.networks.flow import NSF\n"
        "NSF(hidden=(4,)).build(3, context=1).sample(torch.zeros(5, 1), seed=1)\n"
        "assert torch.equal(before, torch.random.get_rng_state())\n"
        "assert torch.distributions.Distribution._validate_args\n"
        "try:\n"
        "    torch.distributions.Normal(0.0, -1.0)\n"
        "except ValueError:\n"
        "    print('checked')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "checked", done.stderr


def test_a_constant_feature_cannot_be_scaled() -> None:
    x = np.stack([np.arange(10.0), np.full(10, 3.0)], axis=1)
    mean, scale = SMALL.scaling(x[:, :1], ("a",))
    assert float(mean) == pytest.approx(4.5)
    assert float(scale) == pytest.approx(x[:, 0].std())
    with pytest.raises(TrainingError, match="feature 'b' is constant"):
        SMALL.scaling(x, ("a", "b"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transforms": 0}, "transforms of a flow is 0"),
        ({"transforms": 10**9}, "from 1 to 64"),
        ({"bins": 1}, "bins of a flow is 1"),
        ({"hidden": ()}, "positive widths"),
        ({"hidden": (8, 0)}, "positive widths"),
        ({"bound": 0.0}, "bound of a flow is 0"),
        ({"bound": math.nan}, "bound of a flow is nan"),
        ({"activation": "sine"}, "unknown activation 'sine'"),
    ],
)
def test_impossible_architectures(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NSF(**changes)  # type: ignore[arg-type]


def test_impossible_builds() -> None:
    with pytest.raises(ConfigError, match="one output, its log-density, not 2"):
        SMALL.build(3, outputs=2)
    with pytest.raises(ConfigError, match="cannot have 3 nuisance parameters"):
        SMALL.build(3, context=3)
    with pytest.raises(ConfigError, match="at least one member"):
        SMALL.build(3, members=0)
