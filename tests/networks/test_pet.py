"""The point-edge transformer: sets of particles in flat rows, padding that takes no part, members that are single."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from neyman.errors import ConfigError, TrainingError
from neyman.networks import attention, pet
from neyman.networks.pet import PET, StackedPET, neighbours

SMALL = PET(particles=6, particle_features=3, dim=8, neighbours=2, heads=2, layer_scale=0.5)


def events(n: int, particles: int, counts: np.ndarray | None = None, seed: int = 1) -> torch.Tensor:
    """Particles ``(n, particles, 3)``; the first `counts` of each event are real, the others 0."""
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(n, particles, 3)).astype(np.float32)
    if counts is not None:
        p[np.arange(particles) >= counts[:, None]] = 0.0
    return torch.from_numpy(p)


def rows(p: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Put particles and event features into flat rows."""
    return torch.cat([p.flatten(1), event], dim=1)


def build(spec: PET = SMALL, *, members: int = 1, seed: int = 1, event: int = 2) -> StackedPET:
    mean = torch.tensor([0.1, -0.2, 0.3]).repeat(spec.particles)
    scale = torch.tensor([0.5, 2.0, 1.5]).repeat(spec.particles)
    scaling = torch.cat([mean, torch.zeros(event)]), torch.cat([scale, torch.ones(event)])
    return spec.build(
        spec.columns + event, context=min(event, 1), members=members, seed=seed, scaling=scaling
    )


EVENT = torch.randn(7, 2, generator=torch.Generator().manual_seed(5))
COUNTS = np.array([0, 1, 2, 3, 4, 6, 6])


@pytest.mark.parametrize("particles", [1, 2, 3, 6])
def test_output_is_finite_for_any_number_of_particles(particles: int) -> None:
    spec = dataclasses.replace(SMALL, particles=particles)
    net = build(spec, members=2)
    x = rows(events(7, particles, COUNTS), EVENT).requires_grad_()
    out = net(x)
    assert out.shape == (2, 7, 1)
    assert bool(torch.isfinite(out).all())
    out.sum().backward()
    assert bool(torch.isfinite(x.grad).all())  # type: ignore[arg-type]
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    assert net(x[:0]).shape == (2, 0, 1)


def test_the_order_of_the_particles_does_not_matter() -> None:
    net, p = build(), events(7, 6, COUNTS)
    order = torch.from_numpy(np.random.default_rng(2).permuted(np.tile(np.arange(6), (7, 1)), axis=1))
    shuffled = p.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))  # padding in between as well
    torch.testing.assert_close(net(rows(shuffled, EVENT)), net(rows(p, EVENT)))


def test_more_padding_changes_nothing() -> None:
    small, p = build(), events(7, 6, COUNTS)
    large = build(dataclasses.replace(SMALL, particles=12), seed=3)
    weights = {n: t for n, t in small.state_dict().items() if not n.startswith("scaling")}
    missing = large.load_state_dict(weights, strict=False)
    assert set(missing.missing_keys) == {"scaling.mean", "scaling.scale"}
    padded = torch.cat([p, torch.zeros(7, 6, 3)], dim=1)
    torch.testing.assert_close(large(rows(padded, EVENT)), small(rows(p, EVENT)))


def test_padding_has_no_gradient_and_particles_do() -> None:
    net, p = build(), events(7, 6, COUNTS).requires_grad_()
    net(rows(p, EVENT)).sum().backward()
    real = torch.arange(6) < torch.from_numpy(COUNTS)[:, None]
    assert bool((p.grad[~real] == 0.0).all())  # type: ignore[index]
    assert bool((p.grad[real] != 0.0).any(dim=1).all())  # type: ignore[index]


def test_padding_does_not_leak_inside() -> None:
    """What stands at the places of the padding, anywhere in the network, does not reach the output."""
    net = build(dataclasses.replace(SMALL, particles=6))
    p = events(7, 6, COUNTS)
    before = net(rows(p, EVENT))

    def disturb(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        padding = torch.arange(6) >= torch.from_numpy(COUNTS)[:, None]
        return output + 1e3 * padding[None, :, :, None]

    for module in (net.embedding, *net.local, *net.blocks):
        module.register_forward_hook(disturb)
    torch.testing.assert_close(net(rows(p, EVENT)), before)


def test_a_member_is_a_single_network() -> None:
    stack = build(members=3)
    x = rows(events(7, 6, COUNTS), EVENT)
    own = torch.stack([x, x.flip(0), 2.0 * x])
    together, separate = stack(x), stack(own)
    torch.testing.assert_close(stack(x.expand(3, -1, -1)), together)
    for m in range(3):
        single = build(members=1)
        state = {n: t if n.startswith("scaling") else t[m : m + 1] for n, t in stack.state_dict().items()}
        single.load_state_dict(state)
        torch.testing.assert_close(single(x)[0], together[m])
        torch.testing.assert_close(single(own[m])[0], separate[m])
    first = build(members=1).state_dict()
    assert all(
        torch.equal(t[:1] if n[:7] != "scaling" else t, first[n]) for n, t in stack.state_dict().items()
    )


def test_evaluation_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = build(members=2), rows(events(7, 6, COUNTS), EVENT)
    expected = net(x).detach()
    monkeypatch.setattr(pet, "_NUMBERS", 1500)  # two events a block
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)
        torch.testing.assert_close(net(x.expand(2, -1, -1)), expected)
        assert net(x[:0]).shape == (2, 0, 1)


@pytest.mark.parametrize("k", [1, 3, 9])
def test_neighbours_are_those_of_brute_force(k: int) -> None:
    rng = np.random.default_rng(3)
    points, real = rng.normal(size=(20, 8, 2)), rng.random((20, 8)) < 0.6
    index, exists = neighbours(torch.from_numpy(points), torch.from_numpy(real), k)
    assert index.shape == (20, 8, min(k, 7))
    for e in range(20):
        for i in range(8):
            others = [j for j in range(8) if real[e, j] and j != i]
            others.sort(key=lambda j: float(np.sum((points[e, i] - points[e, j]) ** 2)))
            assert set(index[e, i][exists[e, i]].tolist()) == set(others[:k])


@pytest.mark.parametrize("block", [0, 1])
def test_local_block_is_the_mean_over_edges(block: int) -> None:
    """With few inputs, and with many, where products are taken apart for speed: both are as in the definition."""
    net, p = build(members=2), events(4, 6, np.array([6, 3, 1, 0]))
    layer = net.local[block]
    wide = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(2))
    x = wide if block else p
    h = x.expand(2, -1, -1, -1)
    index, exists = neighbours(p[..., :2], p.any(dim=-1), 2)
    out = layer(h, index.expand(2, -1, -1, -1), exists.expand(2, -1, -1, -1))
    gelu = torch.nn.functional.gelu
    for m in range(2):
        w1, b1, w2, b2 = (t[m] for t in layer.parameters())
        for e in range(4):
            for i in range(6):
                near = x[e, index[e, i][exists[e, i]]]
                edge = torch.cat([near - x[e, i], x[e, i].expand(len(near), -1)], dim=1)
                value = gelu(gelu(edge @ w1 + b1) @ w2 + b2)
                expected = value.mean(dim=0) if len(near) else torch.zeros(8)
                torch.testing.assert_close(out[m, e, i], expected)


def test_attention_is_a_masked_softmax() -> None:
    net, h = build(members=2), torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    real = (torch.arange(6) < torch.tensor([6, 3, 1, 5])[:, None]).expand(2, -1, -1)
    layer = net.blocks[0].attention
    out = layer(h, h, real)
    for m in range(2):
        wq, bq, wk, bk, wr, br = (t[m] for t in layer.parameters())
        for e in range(4):
            q, (k, v) = h[m, e] @ wq + bq, (h[m, e, real[m, e]] @ wk + bk).chunk(2, dim=1)
            heads = [
                torch.softmax(q[:, s] @ k[:, s].T / 2.0, dim=1) @ v[:, s] for s in (slice(0, 4), slice(4, 8))
            ]
            torch.testing.assert_close(out[m, e], torch.cat(heads, dim=1) @ wr + br)


def test_norm_starts_as_layer_norm() -> None:
    h = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(1))
    norm = attention.StackedNorm(8, pet.Draws(2, 0))
    expected = (h - h.mean(-1, keepdim=True)) / torch.sqrt(h.var(-1, correction=0, keepdim=True) + 1e-5)
    torch.testing.assert_close(norm(h), expected)


def test_gradients_are_those_of_differences() -> None:
    spec = PET(particles=3, particle_features=2, dim=4, neighbours=1, blocks=1, heads=2, head_blocks=1)
    net = spec.build(7, context=1, members=2, seed=1).double()
    p = torch.randn(3, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    p[1, 2:] = 0.0
    event = torch.randn(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    particles = p[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda q: net(rows(q[:1], event[:1])), (particles,))
    names = [n for n, _ in net.named_parameters()]
    values = tuple(t.detach().clone().requires_grad_() for t in net.parameters())
    x = rows(p, event)

    def evaluate(*tensors: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(net, dict(zip(names, tensors, strict=True)), (x,))
        return out

    assert torch.autograd.gradcheck(evaluate, values, fast_mode=True)


def test_event_features_and_nuisance_parameters_matter() -> None:
    net, x = build(), rows(events(7, 6, COUNTS), EVENT).requires_grad_()
    net(x).sum().backward()
    assert bool((x.grad[:, -2:] != 0.0).all())  # type: ignore[index]
    alone = build(event=0)  # nothing but particles
    assert alone(events(7, 6, COUNTS).flatten(1)).shape == (1, 7, 1)


def test_shapes_without_memory() -> None:
    real, shapes = (
        build(members=2).state_dict(),
        SMALL.build(20, context=1, members=2, seed=None).state_dict(),
    )
    assert {n: (t.shape, t.dtype) for n, t in real.items()} == {
        n: (t.shape, t.dtype) for n, t in shapes.items()
    }
    assert all(p.is_meta for p in SMALL.build(20, members=2, seed=None).parameters())
    for name, parameter in build(members=2).named_parameters():
        assert parameter.shape[0] == 2, name


def test_scaling_is_that_of_the_real_particles() -> None:
    p = events(500, 6, np.random.default_rng(1).integers(0, 7, 500)).numpy() * [1.0, 2.0, 3.0] + 0.0
    p[p.any(axis=2)] += [0.0, 1.0, -1.0]
    x = np.concatenate([p.reshape(500, -1), np.arange(500.0)[:, None]], axis=1)
    mean, scale = SMALL.scaling(x, [f"x{i}" for i in range(19)])
    real = p[p.any(axis=2)]
    np.testing.assert_allclose(mean, [*np.tile(real.mean(axis=0), 6), 249.5], rtol=1e-12)
    np.testing.assert_allclose(scale, [*np.tile(real.std(axis=0), 6), np.arange(500.0).std()], rtol=1e-12)


def test_unusable_scaling() -> None:
    names = [f"x{i}" for i in range(18)]
    with pytest.raises(TrainingError, match="none of 4 events has a particle"):
        SMALL.scaling(np.zeros((4, 18)), names)
    x = events(4, 6).numpy()
    x[..., 1] = 2.0
    with pytest.raises(TrainingError, match="feature 'x1' is constant"):
        SMALL.scaling(x.reshape(4, -1), names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"particles": 0}, "particles of a PET is 0"),
        ({"neighbours": 0}, "neighbours of a PET is 0"),
        ({"dim": 9}, "dim 9 of a PET is not a multiple of its 2 heads"),
        ({"layer_scale": 0.0}, "layer_scale of a PET is 0"),
        ({"layer_scale": float("nan")}, "layer_scale of a PET is nan"),
    ],
)
def test_unusable_architectures(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]


def test_particles_need_columns() -> None:
    with pytest.raises(ConfigError, match="6 particles of 3 features are 18 columns, but the events have 17"):
        SMALL.build(18, context=1)


def jets(n: int, quarks: bool, seed: int) -> torch.Tensor:
    """Jets of up to 12 particles in rows: quark jets have fewer and narrower ones than gluon jets."""
    rng = np.random.default_rng(seed)
    counts = np.minimum(rng.poisson(5.0 if quarks else 6.5, n), 12)
    pt = rng.exponential(1.0, (n, 12))
    radius = rng.exponential(0.10 if quarks else 0.14, (n, 12))
    angle = rng.uniform(0.0, 2.0 * np.pi, (n, 12))
    p = np.stack([radius * np.cos(angle), radius * np.sin(angle), pt], axis=2).astype(np.float32)
    p[np.arange(12) >= counts[:, None]] = 0.0
    return torch.from_numpy(p.reshape(n, -1))


def test_learns_to_tell_jets_apart() -> None:
    """Close to the best classifier, which knows the densities."""
    spec = PET(particles=12, particle_features=3, dim=8, neighbours=3, local_blocks=1, heads=2)
    train = [jets(2000, quarks, seed) for seed, quarks in enumerate((True, False))]
    scaling = spec.scaling(torch.cat(train).numpy(), [f"x{i}" for i in range(36)])
    net = spec.build(36, members=2, seed=1, scaling=scaling)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    softplus = torch.nn.functional.softplus
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        p, q = (t[torch.randint(2000, (64,), generator=generator)] for t in train)
        z = net(torch.cat([p, q]))
        optimizer.zero_grad()
        (softplus(-z[:, :64]).mean(dim=1) + softplus(z[:, 64:]).mean(dim=1)).sum().backward()
        optimizer.step()
    test = [jets(2000, quarks, seed + 10) for seed, quarks in enumerate((True, False))]
    with torch.no_grad():
        p, q = (net(t)[..., 0] for t in test)

    def truth(x: torch.Tensor) -> torch.Tensor:
        particles = x.view(-1, 12, 3).double()
        real, radius = particles.any(dim=-1), particles[..., :2].norm(dim=-1)
        each = -radius / 0.10 + radius / 0.14 + np.log(0.14 / 0.10)
        count = real.sum(dim=1)
        return (each * real).sum(dim=1) + count * np.log(5.0 / 6.5) - 5.0 + 6.5  # but for jets cut at 12

    def area(p: torch.Tensor, q: torch.Tensor) -> float:
        return float((p[:, None] > q[None, :]).float().mean())

    best = area(*(truth(t) for t in test))
    assert best > 0.7
    for m in range(2):
        assert best - 0.03 < area(p[m], q[m]) < best + 0.01
