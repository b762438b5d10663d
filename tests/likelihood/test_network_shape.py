"""The network evaluated in the fit: against torch's own derivatives, its tabulated form and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neyman.errors import LikelihoodError
from neyman.likelihood import Constraint, Events, Likelihood, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.network import ConditionedNetwork
from neyman.likelihood.shapes import TabulatedNetwork
from neyman.likelihood.yields import NormFactor
from neyman.networks import MLP, Description, Model, Part

FEATURES = ("pt", "eta")


def model(parameters=("tes", "jes"), activation="silu", members=3, seed=1, **changes) -> Model:
    scaling = (
        torch.tensor([0.3, -0.1, *[0.2] * len(parameters)]),
        torch.tensor([1.4, 0.8, *[1.5] * len(parameters)]),
    )
    settings = {
        "features": FEATURES,
        "parameters": parameters,
        "parameter_range": ((-3.0, 2.5),) * len(parameters),
    } | changes
    sizes = {"members": members, "outputs": settings.pop("outputs", 1)}
    part = Part(
        network=MLP((24, 24), activation),
        parameters=parameters,
        link=settings.pop("link", "identity"),
        **sizes,
    )
    network = part.network.build(2 + len(parameters), seed=seed, scaling=scaling, **sizes)
    return Model([network], Description(parts=(part,), **settings))


def features(n: int, seed: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 2)))


def by_torch(model, x, z):
    """Value, gradient and Hessian of the mean output by reverse differentiation."""
    each = z.expand(len(x), -1).clone().requires_grad_()
    value = model.stacks[0].double()(torch.cat([x, each], dim=-1)).mean(0)[:, 0]
    (first,) = torch.autograd.grad(value.sum(), each, create_graph=True)
    second = [torch.autograd.grad(column.sum(), each, retain_graph=True)[0] for column in first.T]
    return value.detach(), first.detach().T, torch.stack(second).permute(0, 2, 1)


@pytest.mark.parametrize("activation", ["silu", "gelu", "tanh", "relu"])
def test_derivatives_equal_those_of_torch(activation):
    net = model(activation=activation)
    shape = ConditionedNetwork(net, ("tes", "jes"), FEATURES)
    x, z = features(50), torch.tensor([0.7, -1.1], dtype=torch.float64)
    found = shape.at(x, z, 2)
    for a, b in zip(found, by_torch(net, x, z), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
    for order in (0, 1):
        lower = shape.at(x, z, order)
        assert len(lower) == order + 1
        for a, b in zip(lower, found, strict=False):
            assert torch.allclose(a, b, rtol=1e-13, atol=1e-15)


def test_derivatives_equal_finite_differences():
    shape = ConditionedNetwork(model(), ("jes", "tes"), FEATURES)
    x, z, step = features(40), torch.tensor([0.4, 1.2], dtype=torch.float64), 1e-5
    _, first, second = shape.at(x, z, 2)
    for k, unit in enumerate(torch.eye(2, dtype=torch.float64)):
        up, down = shape.at(x, z + step * unit, 1), shape.at(x, z - step * unit, 1)
        assert torch.allclose(first[k], (up[0] - down[0]) / (2 * step), rtol=1e-6, atol=1e-8)
        assert torch.allclose(second[k], (up[1] - down[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_values_are_those_of_the_model():
    net = model()
    x = features(30)
    shape = ConditionedNetwork(net, ("tes", "jes"), FEATURES)
    value = shape.at(x, torch.tensor([0.5, -0.5], dtype=torch.float64), 0)[0]
    assert value.numpy() == pytest.approx(net(x.numpy(), [0.5, -0.5]), abs=1e-6)
    assert net.stacks[0].layers[0].weight.dtype == torch.float32


def test_inputs_that_are_no_parameters_stay_nominal():
    net = model()
    x, z = features(20), torch.tensor([0.8], dtype=torch.float64)
    one = ConditionedNetwork(net, ("jes",), FEATURES).at(x, z, 2)
    both = ConditionedNetwork(net, ("tes", "jes"), FEATURES).at(
        x, torch.tensor([0.0, 0.8], dtype=torch.float64), 2
    )
    assert torch.allclose(one[0], both[0], rtol=1e-13)
    assert torch.allclose(one[1][0], both[1][1], rtol=1e-12)
    assert torch.allclose(one[2][0, 0], both[2][1, 1], rtol=1e-12)


def test_the_number_of_events_at_a_time_does_not_matter(monkeypatch):
    shape = ConditionedNetwork(model(), ("tes", "jes"), FEATURES)
    x, z = features(101), torch.tensor([0.7, -1.1], dtype=torch.float64)
    whole = shape.at(x, z, 2)
    monkeypatch.setattr("neyman.likelihood.network._ROWS", 50)
    for a, b in zip(whole, shape.at(x, z, 2), strict=True):
        assert torch.allclose(a, b, rtol=1e-13, atol=1e-15)
    assert [tuple(t.shape) for t in shape.at(x[:0], z, 2)] == [(0,), (2, 0), (2, 2, 0)]


def test_the_effect_is_relative_to_the_nominal():
    shape = ConditionedNetwork(model(), ("tes", "jes"), ("x:pt", "x:eta"))
    x = features(64)
    bound = shape.compile({"x:pt": x[:, 0].float(), "x:eta": x[:, 1]})
    zero = bound.at(torch.zeros(2, dtype=torch.float64), slice(10, 30), 2)
    assert zero.log.abs().max() < 1e-14
    assert zero.factor is None
    z = torch.tensor([1.0, 0.3], dtype=torch.float64)
    part, whole = bound.at(z, slice(20, 40), 1), bound.at(z, slice(0, 64), 1)
    assert torch.allclose(part.log, whole.log[20:40], rtol=1e-13)
    assert torch.allclose(part.first, whole.first[:, 20:40], rtol=1e-13)
    assert part.second is None


NODES = tuple(float(v) for v in 2.5 * np.cos(np.pi * np.arange(17)[::-1] / 16))


@pytest.fixture(scope="module")
def both_forms():
    """The same term with the network evaluated in the fit and tabulated at Chebyshev nodes."""
    net = model(("tes",), seed=5)
    shape = ConditionedNetwork(net, ("tes",), FEATURES)

    def events(n, seed):
        x = features(n, seed)
        columns = {"pt": x[:, 0].numpy(), "eta": x[:, 1].numpy()}
        for k, node in enumerate(NODES):
            columns[f"n{k}"] = shape.at(x, torch.tensor([node], dtype=torch.float64), 0)[0].numpy()
        columns["s"], columns["b"] = 0.5 * columns["pt"] - 0.1, columns["n8"]
        return Events(np.ones(n), columns)

    def term(form):
        samples = [
            UnbinnedSample("s", 30.0, "s", (NormFactor("mu"),)),
            UnbinnedSample("b", 200.0, "b", (), (form,)),
        ]
        parameters = [
            Parameter("mu", 1.0, 0.0, 10.0),
            Parameter("tes", 0.0, -2.5, 2.5, constraint=Constraint("normal", 0.0, 1.0)),
        ]
        return UnbinnedTerm("SR", samples, parameters, data=events(230, 1), reference=events(500, 2))

    return term(shape), term(TabulatedNetwork("tes", NODES, tuple(f"n{k}" for k in range(17))))


def test_equals_the_tabulated_form_at_the_nodes_and_between(both_forms):
    direct, tabulated = both_forms
    for tes in (NODES[3], NODES[11], 0.0, 0.77, -1.9):
        theta = torch.tensor([1.2, tes], dtype=torch.float64)
        a, b = direct.evaluate(theta, 2), tabulated.evaluate(theta, 2)
        assert float(a.value) == pytest.approx(float(b.value), rel=1e-10)
        assert torch.allclose(a.gradient, b.gradient, rtol=1e-6, atol=1e-5)
        assert torch.allclose(a.hessian, b.hessian, rtol=1e-5, atol=1e-3)


def test_a_term_with_two_inputs_has_exact_derivatives():
    columns = {"pt": features(150)[:, 0].numpy(), "eta": features(150)[:, 1].numpy()}
    columns |= {"s": 0.4 * columns["pt"], "b": -0.2 * columns["eta"]}
    events = Events(np.ones(150), columns)
    samples = [
        UnbinnedSample("s", 30.0, "s", (NormFactor("mu"),)),
        UnbinnedSample("b", 120.0, "b", (), (ConditionedNetwork(model(), ("tes", "jes"), FEATURES),)),
    ]
    unit = Constraint("normal", 0.0, 1.0)
    parameters = [
        Parameter("mu", 1.0, 0.0, 10.0),
        *(Parameter(name, 0.0, -2.5, 2.5, constraint=unit) for name in ("tes", "jes")),
    ]
    lh = Likelihood([UnbinnedTerm("SR", samples, parameters, data=events, reference=events)])
    x, step = np.array([1.3, 0.6, -0.8]), 1e-5
    _, gradient, hessian = lh.evaluate(x, 2)
    shifts = step * np.eye(3)
    slopes = [(lh.value(x + d) - lh.value(x - d)) / (2 * step) for d in shifts]
    bends = [(lh.gradient(x + d) - lh.gradient(x - d)) / (2 * step) for d in shifts]
    assert gradient == pytest.approx(np.array(slopes), rel=1e-6, abs=1e-5)
    assert hessian == pytest.approx(np.stack(bends), rel=1e-6, abs=1e-5)


def test_outside_the_trained_range():
    shape = ConditionedNetwork(model(), ("tes", "jes"), FEATURES)
    with pytest.raises(LikelihoodError, match=r"(?s)'jes' = 2\.6 is outside the range.*-3 to 2\.5"):
        shape.at(features(3), torch.tensor([0.0, 2.6], dtype=torch.float64), 0)
    assert shape.ranges == {"tes": (-3.0, 2.5), "jes": (-3.0, 2.5)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ConditionedNetwork(model(), ("tess",), FEATURES),
            r"(?s)no nuisance-parameter input 'tess'.*its inputs: tes, jes.*nearest names: tes",
        ),
        (lambda: ConditionedNetwork(model(()), ("tes",), FEATURES), r"(?s)no .* input 'tes'.*inputs: none"),
        (lambda: ConditionedNetwork(model(), (), FEATURES), "needs different nuisance parameters"),
        (
            lambda: ConditionedNetwork(model(), ("tes", "tes"), FEATURES),
            "needs different nuisance parameters",
        ),
        (
            lambda: ConditionedNetwork(model(), ("tes",), ("eta", "pt")),
            r"(?s)columns eta, pt are not the network's features in its order.*pt, eta",
        ),
        (
            lambda: ConditionedNetwork(model(parameter_range=((1.0, 2.0),) * 2), ("tes",), FEATURES),
            r"trained for 'tes' from 1 to 2, which must enclose 0",
        ),
        (
            lambda: ConditionedNetwork(model(link="gaussian"), ("tes",), FEATURES),
            r"one MLP whose output is the log-ratio, this model is mlp with the link 'gaussian'",
        ),
        (
            lambda: ConditionedNetwork(model(kind="score"), ("tes",), FEATURES),
            r"(?s)must give one log-ratio, this one gives 1 of kind 'score'.*density ratio",
        ),
        (
            lambda: ConditionedNetwork(model(outputs=2, kind="score"), ("tes",), FEATURES),
            r"this one gives 2 of kind 'score'",
        ),
    ],
)
def test_broken_networks(make, message):
    with pytest.raises(LikelihoodError, match=message):
        make()
