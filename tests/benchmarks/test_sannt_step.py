r"""A step of the training for the measurement: closed-form Fisher information against an automatic Hessian.

86 nuisance parameters that act by event weights on a signal and a background, 100,000 events, 15 features. The peer is
the likelihood written down in torch, with the Hessian of -ln L by automatic differentiation and its graph kept for the
gradient to the network. It is shown twice: with a histogram of its own for every template, as one would write it, and
with our filling of all templates in one pass, which leaves only the Hessian as a difference.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import neyman as ny
from neyman.networks import MLP
from neyman.sannt import EdgeKernel, Exact, Variation, histogram
from neyman.sannt.binned import BinnedStack
from neyman.sannt.histogram import fill
from neyman.sannt.measurement import Measurement
from neyman.sannt.objective import ExpectedUncertainty, outputs
from neyman.sannt.rows import rows_of
from neyman.sannt.templates import Templates
from neyman.training import memory

pytestmark = pytest.mark.benchmark

EVENTS, FEATURES, PARAMETERS, BINS = 100_000, 15, 86, 8


def problem(shifted: int = 0):
    """Templates of a signal and a background; `shifted` of the parameters move features instead of weights."""
    rng = np.random.default_rng(1)
    features = tuple(f"x{k}" for k in range(FEATURES))

    def table(mean, total):
        n = EVENTS // 2
        x = rng.normal(mean, 1.0, (n, FEATURES))
        return ny.EventTable(features, x, np.full(n, total / n), {"entry": np.arange(n)})

    tables = {"signal": table(0.3, 100.0), "background": table(0.0, 5000.0)}
    variations = []
    for k in range(PARAMETERS):
        for name, own in tables.items():
            tilt = 0.03 * np.tanh(own.x[:, k % FEATURES] * (1.0 + k / PARAMETERS))
            if k < shifted:
                up, down = (
                    ny.EventTable(features, own.x * np.float32(1.0 + s), own.weight, own.extra)
                    for s in (0.02, -0.02)
                )
                variations.append(Variation(f"s{k}", name, up, down))
            else:
                up, down = own.weight * (1.0 + tilt), own.weight * (1.0 - tilt)
                variations.append(Variation.of_weights(f"s{k}", name, own, up=up, down=down))
    return Templates.of(
        {"signal": tables["signal"]}, {"background": tables["background"]}, variations, fraction=0.01, seed=1
    )


def network() -> BinnedStack:
    edges = torch.linspace(0.0, 1.0, BINS + 1, dtype=torch.float64)[None]
    return BinnedStack(MLP((64, 64)).build(FEATURES, seed=1), edges, learned=False)


def automatic(contents: dict[tuple[str, str], torch.Tensor]) -> torch.Tensor:
    """Delta r from the Hessian of -ln L by automatic differentiation."""
    signal, background = contents["signal", "nominal"], contents["background", "nominal"]
    up, down = (
        torch.stack(
            [
                contents["signal", f"s{k}{side}"]
                + contents["background", f"s{k}{side}"]
                - signal
                - background
                for k in range(PARAMETERS)
            ]
        )
        for side in ("Up", "Down")
    )
    observed = signal + background  # Asimov data: they follow the network
    parameters = torch.zeros(1 + PARAMETERS, dtype=torch.float64)
    parameters[0] = 1.0
    parameters.requires_grad_()
    theta = parameters[1:]
    expected = parameters[0] * signal + background + theta @ (0.5 * (up - down))
    nll = (expected - observed * torch.log(expected)).sum() + 0.5 * theta.square().sum()
    (first,) = torch.autograd.grad(nll, parameters, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(slope, parameters, create_graph=True)[0] for slope in first])
    return torch.linalg.inv(hessian)[0, 0].sqrt()


def test_step(record, show, seconds) -> None:
    both = problem()
    rows = rows_of(both, dtype=torch.float32)
    measurement = Measurement.of(both, mc_stat=False, min_effective=0.0)
    net = network()
    ours = ExpectedUncertainty(rows, rows, Exact(), measurement)
    target = torch.cat(
        [torch.full((len(block.x),), float(block.keys[0][0] == "signal")) for block in both.blocks]
    )
    parameters = list(net.network.parameters())
    weights = [torch.from_numpy(block.weight).float() for block in both.blocks]

    def cross_entropy() -> None:
        net.zero_grad()
        out = outputs(net, rows.x)[0, :, 0]
        torch.nn.functional.binary_cross_entropy_with_logits(out, target).backward()

    def closed() -> torch.Tensor:
        net.zero_grad()
        loss = ours.loss(net, 0).sum()
        loss.backward()
        return loss.detach()

    def filled_together() -> torch.Tensor:
        net.zero_grad()
        scores = torch.split(torch.sigmoid(outputs(net, rows.x)), rows.sizes, dim=1)
        contents = {}
        for block, score, weight in zip(both.blocks, scores, weights, strict=True):
            values = fill(score, weight, net.edges(), EdgeKernel())[0]
            contents |= dict(zip(block.keys, values, strict=True))
        loss = automatic(contents)
        loss.backward()
        return loss.detach()

    def straightforward() -> torch.Tensor:
        net.zero_grad()
        scores = torch.split(torch.sigmoid(outputs(net, rows.x)), rows.sizes, dim=1)
        edges = net.edges()[0, 0]
        contents = {
            key: histogram(score[0, :, 0], own, edges)
            for block, score, weight in zip(both.blocks, scores, weights, strict=True)
            for key, own in zip(block.keys, weight, strict=True)
        }
        loss = automatic(contents)
        loss.backward()
        return loss.detach()

    works = {
        "cross-entropy": cross_entropy,
        "closed form": closed,
        "automatic Hessian, templates filled together": filled_together,
        "automatic Hessian, a histogram for each template": straightforward,
    }
    adam = torch.optim.Adam(parameters, 3e-3)
    for _ in range(40):  # scores that fill all bins
        cross_entropy()
        adam.step()
    values, gradients = {}, {}
    for name in list(works)[1:]:
        values[name] = float(works[name]())
        gradients[name] = torch.cat([p.grad.flatten() for p in parameters])
    for name in list(works)[2:]:
        assert values[name] == pytest.approx(values["closed form"], rel=1e-4)
        torch.testing.assert_close(gradients[name], gradients["closed form"], rtol=1e-2, atol=1e-4)

    # Some parameters move the features: their forward passes come on top.
    moved = problem(shifted=2)
    moved_rows = rows_of(moved, dtype=torch.float32)
    with_shifts = ExpectedUncertainty(moved_rows, moved_rows, Exact(), measurement)

    def shifted() -> None:
        net.zero_grad()
        with_shifts.loss(net, 0).sum().backward()

    def shifted_cross_entropy() -> None:
        net.zero_grad()
        outputs(net, moved_rows.x).sum().backward()

    with memory.kept():
        times = {name: seconds(work, repeat=5) for name, work in works.items()}
        times["two parameters move features"] = seconds(shifted, repeat=5)
        times["forward and backward of all features alone"] = seconds(shifted_cross_entropy, repeat=5)
    base, own = times["cross-entropy"], times["closed form"]
    table = [
        {"step": name, "ms": 1e3 * t, "cross-entropy steps": t / base, "closed-form steps": t / own}
        for name, t in times.items()
    ]
    show(f"{EVENTS} events, {PARAMETERS} nuisance parameters, {torch.get_num_threads()} threads", table)
    record(
        "sannt_step",
        {
            "events": EVENTS,
            "nuisance_parameters": PARAMETERS,
            "bins": BINS,
            "threads": torch.get_num_threads(),
            "seconds": times,
            "over_cross_entropy": own / base,
            "shifts_over_their_network_alone": times["two parameters move features"]
            / times["forward and backward of all features alone"],
            "speed_up": {name: times[name] / own for name in list(works)[2:]},
        },
    )
