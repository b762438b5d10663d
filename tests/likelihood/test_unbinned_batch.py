"""Batches of the unbinned term: many points on one data set, many data sets, and toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neyman.errors import LikelihoodError
from neyman.likelihood import Events, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.shapes import TabulatedNetwork, UpDownRatio
from neyman.likelihood.yields import NormFactor, NormSys

NODES = (-1.5, 0.0, 1.5)


def events(n: int, seed: int) -> Events:
    x = np.random.default_rng(seed).normal(size=n)
    columns = {
        "s": 0.5 * x,
        "b": -0.3 * x,
        "s:u": 0.1 * x,
        "s:d": -0.12 * x,
        "b:u": 0.05 * x**2,
        "b:d": -0.1 * x,
    }
    columns |= {f"b@{z}": columns["b"] + 0.05 * z * x for z in NODES}
    return Events(np.ones(n), columns)


def term(data: Events, reference: Events, form: str = "extended") -> UnbinnedTerm:
    network = TabulatedNetwork("tes", NODES, tuple(f"b@{z}" for z in NODES))
    model = [
        UnbinnedSample("s", 30.0, "s", (NormFactor("mu"),), (UpDownRatio("jes", "s:u", "s:d"),)),
        UnbinnedSample(
            "b", 200.0, "b", (NormSys("jes", 1.1, 0.9),), (UpDownRatio("jes", "b:u", "b:d"), network)
        ),
    ]
    names = [
        Parameter("mu", 1.0, -9.0, 9.0),
        Parameter("jes", 0.0, -5.0, 5.0),
        Parameter("tes", 0.0, -1.5, 1.5),
    ]
    return UnbinnedTerm("SR", model, names, data=data, reference=reference, form=form)


def points(n: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        np.stack([rng.uniform(0, 2, n), rng.uniform(-1.6, 1.6, n), rng.uniform(-1.4, 1.4, n)], axis=1)
    )


def same(batch, i, single):
    assert float(batch.value[i]) == pytest.approx(float(single.value), rel=1e-13)
    scale = float(single.hessian.abs().max())
    assert batch.gradient[i].numpy() == pytest.approx(single.gradient.numpy(), rel=1e-11, abs=1e-11 * scale)
    assert batch.hessian[i].numpy() == pytest.approx(single.hessian.numpy(), rel=1e-11, abs=1e-11 * scale)


@pytest.mark.parametrize("form", ["extended", "fraction"])
def test_row_i_goes_with_data_set_i(form):
    t = term(events(50, 1), events(3000, 2), form)
    sets = [events(20 + 5 * i, 10 + i) for i in range(11)]
    theta = points(11)
    batch = t.with_data(t.stack(sets)).evaluate(theta, 2)
    for i, one in enumerate(sets):
        same(batch, i, t.with_data(one).evaluate(theta[i], 2))


def test_many_points_on_one_data_set():
    t = term(events(500, 1), events(3000, 2))
    theta = points(19)
    theta[7] = theta[3]  # shares a pass over the reference
    batch = t.evaluate(theta, 2)
    for i in range(19):
        same(batch, i, t.evaluate(theta[i], 2))


def test_a_list_of_events_is_a_batch():
    t = term(events(50, 1), events(300, 2))
    sets, theta = [events(30, 3), events(40, 4)], points(2)
    a = t.with_data(sets).evaluate(theta, 1)
    b = t.with_data(t.stack(sets)).evaluate(theta, 1)
    assert torch.equal(a.gradient, b.gradient)


def test_a_stacked_data_set_goes_back_alone():
    t = term(events(50, 1), events(300, 2))
    stacked = t.stack([events(30, 3), events(40, 4)])
    alone = t.with_data(stacked[1])
    assert len(alone.data) == 40
    assert len(t.with_data(stacked).data) == 2


def test_one_row_a_data_set():
    t = term(events(50, 1), events(300, 2))
    with pytest.raises(LikelihoodError, match="2 data sets but 3 rows of parameters"):
        t.with_data([events(30, 3), events(40, 4)]).evaluate(points(3))
    with pytest.raises(LikelihoodError, match=r"(?s)'SR' holds a batch of 2 data sets.*give one of them"):
        t.with_data([events(30, 3), events(40, 4)]).scores(points(1)[0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([-6.0, 0.0, 0.0], "total density of event"),
        ([-9.0, 0.0, 0.0], "total yield is -70"),
        ([1.0, 0.0, 1.6], "'tes' = 1.6 is outside the range"),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_undefined_rows(bad, message, batched):
    t = term(events(200, 1), events(300, 2))
    if batched:
        t = t.with_data([events(200, 1)] * 3)
    theta = points(3)
    good = t.evaluate(theta, 2)
    theta[1] = torch.tensor(bad)
    with pytest.raises(LikelihoodError, match=message):
        t.evaluate(theta, 2)
    loose = t.evaluate(theta, 2, strict=False)
    assert float(loose.value[1]) == np.inf
    assert loose.gradient[1].isnan().all()
    assert loose.hessian[1].isnan().all()
    for i in (0, 2):
        assert float(loose.value[i]) == pytest.approx(float(good.value[i]), rel=1e-13)
        assert torch.allclose(loose.hessian[i], good.hessian[i], rtol=1e-11, atol=1e-8)


def test_toys_hold_the_drawn_events_alone():
    t = term(events(50, 1), events(3000, 2))
    draw = t.sampler(points(1)[0])
    toy = draw(np.random.default_rng(1))
    assert len(toy) <= 300
    assert (toy.weight >= 1.0).all()
    assert set(toy.columns) == set(t.reference.columns)
    again = draw(np.random.default_rng(1))
    assert np.array_equal(toy.columns["s"], again.columns["s"])


def test_sampled_counts_are_independent_poisson():
    """Mean and variance of every event's multiplicity equal its expected count; neighbours are not correlated."""
    reference = events(6, 2)
    t = term(events(5, 1), Events(np.array([1.0, 5.0, 0.0, 2.0, 0.5, 1.5]), reference.columns))
    theta = points(1)[0]
    mean = t.expected_data(theta).weight
    draw, rng, n = t.sampler(theta), np.random.default_rng(3), 4000
    counts = np.zeros((n, 6))
    for row in counts:
        toy = draw(rng)
        position = [int(np.argmax(reference.columns["s"] == x)) for x in toy.columns["s"]]
        row[position] = toy.weight
    assert (counts[:, 2] == 0).all()
    assert counts.mean(0) == pytest.approx(mean, abs=4.5 * np.sqrt(mean.max() / n))
    covariance = np.cov(counts.T)
    assert covariance == pytest.approx(np.diag(mean), abs=5 * mean.max() / np.sqrt(n))


def test_no_pseudo_data_from_negative_weights():
    reference = events(300, 2)
    weight = np.ones(300)
    weight[5] = -0.5
    t = term(events(50, 1), Events(weight, reference.columns))
    with pytest.raises(LikelihoodError, match=r"(?s)reference with negative weights.*1 of 300 events"):
        t.sampler(points(1)[0])
