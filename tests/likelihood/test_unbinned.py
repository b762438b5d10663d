"""The unbinned term against a slow reference, closed forms and numerical derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial

from neyman.errors import LikelihoodError
from neyman.likelihood import Constraint, Data, Events, Likelihood, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.shapes import TabulatedNetwork, UpDownRatio
from neyman.likelihood.yields import NormFactor, NormSys, yield_derivatives

NODES = (-3.0, -1.5, 0.0, 1.5, 3.0)
NAMES = ("mu", "lumi", "norm", "jes", "tes")


def parameters() -> list[Parameter]:
    unit = Constraint("normal", 0.0, 1.0)
    return [
        Parameter("mu", 1.0, -1.0, 10.0),
        Parameter("lumi", 1.0, 0.5, 1.5, constraint=Constraint("normal", 1.0, 0.02)),
        Parameter("norm", 0.0, -5.0, 5.0, constraint=unit),
        Parameter("jes", 0.0, -5.0, 5.0, constraint=unit),
        Parameter("tes", 0.0, -3.0, 3.0, constraint=unit),
    ]


def events(n: int, seed: int, weighted: bool = True) -> Events:
    """Events whose log-ratio columns are smooth functions of x and of the nuisance parameters."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    columns = {"s": 0.5 * x - 0.1, "b": -0.3 * x + 0.05}
    columns |= {"s:up": 0.1 * x, "s:down": -0.12 * x + 0.02, "b:up": 0.05 + 0 * x, "b:down": -0.04 * x**2 / 4}
    for node in NODES:
        columns[f"b@{node}"] = columns["b"] + 0.1 * node * x - 0.02 * node**2 * x**2
    weight = rng.uniform(0.5, 1.5, n) if weighted else np.ones(n)
    return Events(weight, columns)


def samples() -> list[UnbinnedSample]:
    return [
        UnbinnedSample(
            "s",
            30.0,
            "s",
            (NormFactor("mu"), NormFactor("lumi"), NormSys("tes", 1.02, 0.97)),
            (UpDownRatio("jes", "s:up", "s:down"),),
        ),
        UnbinnedSample(
            "b",
            200.0,
            "b",
            (NormFactor("lumi"), NormSys("norm", 1.1, 0.92), NormSys("jes", 1.03, 0.98)),
            (
                UpDownRatio("jes", "b:up", "b:down"),
                TabulatedNetwork("tes", NODES, tuple(f"b@{n}" for n in NODES)),
            ),
        ),
    ]


def term(n_data: int = 60, n_reference: int = 80) -> UnbinnedTerm:
    return UnbinnedTerm(
        "SR", samples(), parameters(), data=events(n_data, 1), reference=events(n_reference, 2)
    )


def slow_value(theta: np.ndarray, data: Events, reference: Events) -> float:
    """The formula event by event; interpolations from their definitions, no shared code."""

    def code4(alpha: float, up: float, down: float) -> float:
        if abs(alpha) >= 1.0:
            return up**alpha if alpha > 0 else down**-alpha
        # The polynomial of order 6 that matches value, slope and curvature at alpha = +-1, and 1 at 0.
        rows, right = [], []
        for sign, r in ((1.0, up), (-1.0, down)):
            lr = np.log(r) * sign
            for order, value in enumerate((r - 1.0, lr * r, lr**2 * r)):
                rows.append([np.polyval(np.polyder(np.eye(7)[6 - k], order), sign) for k in range(1, 7)])
                right.append(value)
        return float(Polynomial([1.0, *np.linalg.solve(rows, right)])(alpha))

    mu, lumi, norm, jes, tes = theta
    nu = [
        30.0 * mu * lumi * code4(tes, 1.02, 0.97),
        200.0 * lumi * code4(norm, 1.1, 0.92) * code4(jes, 1.03, 0.98),
    ]

    def ratios(c: dict[str, np.ndarray], i: int) -> list[float]:
        poly = np.polyfit(NODES, [c[f"b@{node}"][i] for node in NODES], 4)
        return [
            np.exp(c["s"][i]) * code4(jes, np.exp(c["s:up"][i]), np.exp(c["s:down"][i])),
            np.exp(np.polyval(poly, tes)) * code4(jes, np.exp(c["b:up"][i]), np.exp(c["b:down"][i])),
        ]

    mean = np.average(
        [ratios(reference.columns, i) for i in range(len(reference))], axis=0, weights=reference.weight
    )
    total = 2.0 * sum(nu)
    for i in range(len(data)):
        r = ratios(data.columns, i)
        total -= 2.0 * data.weight[i] * np.log(sum(n * x / m for n, x, m in zip(nu, r, mean, strict=True)))
    return float(total)


POINTS = [
    np.array([1.0, 1.0, 0.0, 0.0, 0.0]),
    np.array([0.3, 0.97, 0.6, -0.4, 0.8]),
    np.array([2.5, 1.04, -1.7, 1.6, -2.2]),
    np.array([0.0, 1.0, 0.2, 0.3, -0.1]),
]


@pytest.mark.parametrize("theta", POINTS)
def test_value_equals_the_formula_event_by_event(theta):
    t = term()
    found = float(t.evaluate(torch.from_numpy(theta)).value)
    assert found == pytest.approx(slow_value(theta, t.data, t.reference), rel=1e-10)


@pytest.mark.parametrize("theta", POINTS)
def test_derivatives_are_exact(theta):
    t = term()
    point = torch.from_numpy(theta)
    full = t.evaluate(point, 2)
    step = 1e-5
    shifts = np.eye(len(theta)) * step
    up = [t.evaluate(torch.from_numpy(theta + s), 1) for s in shifts]
    down = [t.evaluate(torch.from_numpy(theta - s), 1) for s in shifts]
    gradient = np.array([float(u.value - d.value) for u, d in zip(up, down, strict=True)]) / (2 * step)
    hessian = np.stack([(u.gradient - d.gradient).numpy() for u, d in zip(up, down, strict=True)]) / (
        2 * step
    )
    assert full.gradient.numpy() == pytest.approx(gradient, rel=1e-6, abs=1e-4)
    assert full.hessian.numpy() == pytest.approx(hessian, rel=1e-6, abs=1e-4)
    assert np.array_equal(t.evaluate(point, 1).gradient.numpy(), full.gradient.numpy())


def test_chunks_do_not_matter(monkeypatch):
    whole = term().evaluate(torch.from_numpy(POINTS[1]), 2)
    monkeypatch.setattr("neyman.likelihood.passes._CELLS", 1)
    monkeypatch.setattr("neyman.likelihood.passes._SPAN", 17)
    parts = term().evaluate(torch.from_numpy(POINTS[1]), 2)
    for a, b in (
        (whole.value, parts.value),
        (whole.gradient, parts.gradient),
        (whole.hessian, parts.hessian),
    ):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-9)


def test_batch_equals_single_points():
    t = term()
    batch = t.evaluate(torch.from_numpy(np.stack(POINTS)), 2)
    for i, theta in enumerate(POINTS):
        single = t.evaluate(torch.from_numpy(theta), 2)
        assert float(batch.value[i]) == pytest.approx(float(single.value), rel=1e-13)
        assert torch.allclose(batch.gradient[i], single.gradient, rtol=1e-11, atol=1e-10)
        assert torch.allclose(batch.hessian[i], single.hessian, rtol=1e-11, atol=1e-10)


def test_asimov_data_carry_the_yield_and_have_no_gradient():
    lh = Likelihood([term()])
    x = np.array([1.3, 1.01, 0.2, -0.3, 0.4])
    asimov = lh.asimov(x)
    part = asimov.terms[0]
    assert part.data.weight.sum() == pytest.approx(part.yields(x).sum(), rel=1e-12)
    assert asimov.gradient(x) == pytest.approx(np.zeros(5), abs=1e-8)


def test_toys_have_the_poisson_yield_and_the_model_shape():
    t = term(n_reference=3000)
    theta = torch.from_numpy(POINTS[0])
    rng = np.random.default_rng(5)
    draw = t.sampler(theta)
    draws = [draw(rng) for _ in range(300)]
    totals = np.array([d.weight.sum() for d in draws])
    assert totals.mean() == pytest.approx(230.0, abs=4 * np.sqrt(230.0 / 300))
    assert totals.var() == pytest.approx(230.0, rel=4 * np.sqrt(2 / 300))
    asimov = t.expected_data(theta)
    expected = asimov.weight @ asimov.columns["s"]
    found = np.mean([d.weight @ d.columns["s"] for d in draws])
    spread = np.sqrt(asimov.weight @ asimov.columns["s"] ** 2 / 300)
    assert found == pytest.approx(expected, abs=4 * spread)


def test_data_are_swapped_without_touching_the_reference():
    lh = Likelihood([term()])
    other = events(50, 9)
    swapped = lh.with_data(Data((other,), lh.global_observables))
    assert swapped.terms[0].reference is lh.terms[0].reference
    rebuilt = Likelihood(
        [UnbinnedTerm("SR", samples(), parameters(), data=other, reference=lh.terms[0].reference)]
    )
    assert swapped.value(POINTS[1]) == rebuilt.value(POINTS[1])
    assert lh.value(POINTS[1]) != swapped.value(POINTS[1])


def test_reference_weights_are_swapped_alone():
    t = term()
    weight = t.reference.weight * np.linspace(0.5, 1.5, len(t.reference))
    theta = torch.from_numpy(POINTS[1])
    found = t.with_reference_weight(weight).evaluate(theta, 2)
    rebuilt = UnbinnedTerm(
        "SR", samples(), parameters(), data=t.data, reference=Events(weight, t.reference.columns)
    ).evaluate(theta, 2)
    assert torch.equal(found.value, rebuilt.value)
    assert torch.equal(found.hessian, rebuilt.hessian)
    assert not torch.equal(found.value, t.evaluate(theta).value)


def test_signed_weights_cancel():
    t = term()
    base = t.data
    doubled = Events(
        np.concatenate([base.weight, base.weight, -base.weight]),
        {k: np.concatenate([v, v, v]) for k, v in base.columns.items()},
    )
    a = t.evaluate(torch.from_numpy(POINTS[1]), 2)
    b = t.with_data(doubled).evaluate(torch.from_numpy(POINTS[1]), 2)
    assert float(b.value) == pytest.approx(float(a.value), rel=1e-12)
    assert torch.allclose(a.hessian, b.hessian, rtol=1e-9, atol=1e-8)


def test_scores_sum_to_the_gradient():
    t = term()
    theta = torch.from_numpy(POINTS[2])
    nu = np.zeros(5)
    columns = {name: i for i, name in enumerate(NAMES)}
    for s in t.samples:
        nu += yield_derivatives(s.expected, s.factors, POINTS[2], columns)[1]
    total = 2 * nu - 2 * (t.scores(theta).T @ torch.from_numpy(t.data.weight)).numpy()
    assert total == pytest.approx(t.evaluate(theta, 1).gradient.numpy(), rel=1e-10)


def test_two_gaussians_recover_the_exact_fisher_information():
    """Exact ratios of N(+-0.5, 1) against their mixture: the error of mu equals the textbook integral."""
    rng = np.random.default_rng(3)
    n = 200_000
    x = np.concatenate([rng.normal(0.5, 1, n), rng.normal(-0.5, 1, n)])
    log_s, log_b = -0.5 * (x - 0.5) ** 2, -0.5 * (x + 0.5) ** 2
    log_q = np.logaddexp(log_s, log_b) - np.log(2.0)
    reference = Events(np.ones(2 * n), {"s": log_s - log_q, "b": log_b - log_q})
    model = [
        UnbinnedSample("s", 100.0, "s", (NormFactor("mu"),)),
        UnbinnedSample("b", 1000.0, "b"),
    ]
    lh = Likelihood(
        [UnbinnedTerm("g", model, [Parameter("mu", 1, 0, 10)], data=reference, reference=reference)]
    )
    asimov = lh.asimov([1.0])
    grid = np.linspace(-8, 8, 4001)
    p_s, p_b = (np.exp(-0.5 * (grid - m) ** 2) / np.sqrt(2 * np.pi) for m in (0.5, -0.5))
    information = np.trapezoid((100.0 * p_s) ** 2 / (100.0 * p_s + 1000.0 * p_b), grid)
    assert asimov.hessian([1.0])[0, 0] / 2 == pytest.approx(information, rel=0.01)


def test_non_positive_density_names_event_and_samples():
    lh = Likelihood([term()])
    with pytest.raises(
        LikelihoodError, match=r"(?s)total density of event \d+ is .*channel SR.*s: .* x .*b: "
    ):
        lh.value([-6.0, 1.0, 0.0, 0.0, 0.0])


def test_outside_the_trained_range():
    with pytest.raises(LikelihoodError, match=r"(?s)'tes' = 3\.5 is outside the range.*-3 to 3"):
        Likelihood([term()]).value([1.0, 1.0, 0.0, 0.0, 3.5])


def test_missing_column_offers_the_nearest():
    broken = events(10, 1)
    del broken.columns["s:up"]
    with pytest.raises(LikelihoodError, match=r"(?s)no column 's:up'.*nearest names: .*b:up"):
        UnbinnedTerm("SR", samples(), parameters(), data=broken, reference=events(10, 2))


def test_non_finite_log_ratio_names_the_event():
    broken = events(10, 1)
    broken.columns["b"][7] = np.nan
    with pytest.raises(LikelihoodError, match=r"(?s)'b' is not finite for 1 events.*data, first at event 7"):
        UnbinnedTerm("SR", samples(), parameters(), data=broken, reference=events(10, 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_weight_names_the_event(bad):
    t = term()
    for name in ("data", "reference"):
        own = {"data": events(10, 1), "reference": events(10, 2)}
        own[name].weight[4:6] = bad
        message = rf"(?s)weight is not finite for 2 events.*channel SR, {name}, first at event 4"
        with pytest.raises(LikelihoodError, match=message):
            UnbinnedTerm("SR", samples(), parameters(), **own)
    weight = t.reference.weight.copy()
    weight[4:6] = bad
    for change in (
        lambda: t.with_data(Events(weight, t.reference.columns)),
        lambda: t.with_reference_weight(weight),
    ):
        with pytest.raises(LikelihoodError, match=r"(?s)weight is not finite for 2 events.*event 4"):
            change()


def test_reference_weights_must_be_positive_in_sum():
    reference = events(10, 2)
    bad = Events(-reference.weight, reference.columns)
    with pytest.raises(LikelihoodError, match=r"reference weights sum to .*, not a positive number"):
        UnbinnedTerm("SR", samples(), parameters(), data=events(10, 1), reference=bad)


def test_undeclared_parameter():
    with pytest.raises(LikelihoodError, match="parameters tes are not both declared and used"):
        UnbinnedTerm("SR", samples(), parameters()[:-1], data=events(10, 1), reference=events(10, 2))


@pytest.mark.parametrize(
    ("nodes", "columns", "message"),
    [
        ((0.0, 1.0), ("a",), "one column for each of at least two distinct nodes"),
        ((1.0, 2.0), ("a", "b"), "must enclose 0"),
    ],
)
def test_broken_nodes(nodes, columns, message):
    with pytest.raises(LikelihoodError, match=message):
        TabulatedNetwork("tes", nodes, columns)


def test_yield_derivatives_at_a_zero_factor():
    factors = (NormFactor("mu"), NormSys("a", 1.2, 0.9), NormFactor("mu"))
    theta, columns = np.array([0.0, 0.5]), {"mu": 0, "a": 1}
    value, gradient, hessian = yield_derivatives(10.0, factors, theta, columns)
    k = NormSys("a", 1.2, 0.9).factor(theta[1:])[0]
    assert (value, *gradient) == (0.0, 0.0, 0.0)
    assert hessian == pytest.approx(np.array([[20.0 * k, 0.0], [0.0, 0.0]]))
