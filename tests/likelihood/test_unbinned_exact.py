"""The unbinned kernel against the formula with autograd, closed forms, and what must not matter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neyman.errors import LikelihoodError
from neyman.likelihood import Constraint, Events, Likelihood, Parameter, UnbinnedSample, UnbinnedTerm
from neyman.likelihood.shapes import Effect, TabulatedNetwork, UpDownRatio
from neyman.likelihood.yields import NormFactor, NormSys

sys.path.insert(0, str(Path(__file__).parent))

from unbinned_reference import Model, Sample, code4_coefficients

NAMES = ("mu", "a", "b", "c")
POINTS = {
    "nominal": [1.0, 0.0, 0.0, 0.0],
    "inside": [0.7, 0.4, -0.6, 0.2],
    "mixed": [1.6, 1.3, -0.3, -1.7],
    "outside": [2.0, -1.2, 1.1, 2.3],
    "edge": [1.1, 1.0, -1.0, 0.5],
    "no signal": [0.0, 0.2, -0.4, 0.9],
}
# The third sample interferes: its yield is negative and it has no shape parameters of its own.
RATIOS = {"s": ("a", "b"), "t": ("b", "c", "a"), "i": ()}
EXPECTED = {"s": 80.0, "t": 400.0, "i": -30.0}


def columns(n: int, seed: int, dtype: type = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    out = {"s": 0.5 * x, "t": -0.2 * x + 0.1, "i": 0.1 * x**2 - 0.3}
    for s, names in RATIOS.items():
        for k, name in enumerate(names):
            out[f"{s}:{name}:u"] = 0.1 * (k + 1) * x + 0.05 * rng.normal(size=n)
            out[f"{s}:{name}:d"] = -0.08 * x + 0.1 * k * np.cos(x)
    return {name: column.astype(dtype) for name, column in out.items()}


def events(n: int, seed: int, dtype: type = np.float64) -> Events:
    weight = np.random.default_rng([seed, 1]).uniform(0.5, 1.5, n)
    return Events(weight, columns(n, seed, dtype))


def samples() -> list[UnbinnedSample]:
    factors = {"s": (NormFactor("mu"),), "t": (NormSys("c", 1.1, 0.93),), "i": (NormFactor("mu"),)}
    return [
        UnbinnedSample(
            s,
            EXPECTED[s],
            s,
            factors[s],
            tuple(UpDownRatio(name, f"{s}:{name}:u", f"{s}:{name}:d") for name in RATIOS[s]),
        )
        for s in EXPECTED
    ]


def parameters() -> list[Parameter]:
    unit = Constraint("normal", 0.0, 1.0)
    return [Parameter("mu", 1.0, -5.0, 10.0), *(Parameter(n, 0.0, -5.0, 5.0, constraint=unit) for n in "abc")]


def term(data: Events, reference: Events, **options) -> UnbinnedTerm:
    return UnbinnedTerm("SR", samples(), parameters(), data=data, reference=reference, **options)


def slow(data: Events, reference: Events, form: str = "extended") -> Model:
    def normsys(theta):
        alpha = theta[3]
        if abs(alpha.item()) >= 1.0:
            return 1.1**alpha if alpha > 0 else 0.93 ** (-alpha)
        coefficients = code4_coefficients(*torch.log(torch.tensor([[1.1], [0.93]], dtype=torch.float64)))[
            :, 0
        ]
        return 1.0 + sum(c * alpha ** (i + 1) for i, c in enumerate(coefficients))

    yields = {
        "s": lambda theta: EXPECTED["s"] * theta[0],
        "t": lambda theta: EXPECTED["t"] * normsys(theta),
        "i": lambda theta: EXPECTED["i"] * theta[0],
    }
    return Model(
        [
            Sample(yields[s], s, [(NAMES.index(n), f"{s}:{n}:u", f"{s}:{n}:d") for n in RATIOS[s]])
            for s in EXPECTED
        ],
        (data.weight, data.columns),
        (reference.weight, reference.columns),
        form,
    )


def close(found, expected, rel=1e-12):
    assert float(found.value) == pytest.approx(float(expected.value), rel=rel)
    for a, b in ((found.gradient, expected.gradient), (found.hessian, expected.hessian)):
        if a is not None and b is not None:
            assert a.numpy() == pytest.approx(b.numpy(), rel=1e-10, abs=1e-10 * float(b.abs().max()))


@pytest.mark.parametrize("form", ["extended", "fraction"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equals_the_formula_with_autograd(point, form, dtype):
    data, reference = events(300, 1, dtype), events(400, 2, dtype)
    theta = np.array(POINTS[point])
    found = term(data, reference, form=form).evaluate(torch.from_numpy(theta), 2)
    model = slow(data, reference, form)
    value, gradient = model.value_and_gradient(theta)
    # Of float32 columns the factors are float32 too; the sums are float64.
    error = 1e-10 if dtype is np.float64 else 2e-6
    assert float(found.value) == pytest.approx(value, rel=1e-12, abs=0.0 if dtype is np.float64 else 3e-6)
    assert found.gradient.numpy() == pytest.approx(gradient, rel=error, abs=error * np.abs(gradient).max())
    hessian = model.hessian(theta)
    assert found.hessian.numpy() == pytest.approx(hessian, rel=error, abs=error * np.abs(hessian).max())


def test_lower_orders_are_parts_of_higher():
    t = term(events(100, 1), events(100, 2))
    theta = torch.tensor(POINTS["mixed"], dtype=torch.float64)
    zero, one, two = (t.evaluate(theta, order) for order in range(3))
    assert zero.gradient is None
    assert one.hessian is None
    close(zero, two, 1e-14)
    close(one, two, 1e-14)


@pytest.mark.parametrize("seed", [1, 2])
def test_what_must_not_matter(seed, monkeypatch):
    """Order of events and samples, splitting of weights, chunks, spans and threads."""
    data, reference = events(3000, seed), events(2500, seed + 10)
    theta = torch.tensor(POINTS["mixed"], dtype=torch.float64)
    expected = term(data, reference).evaluate(theta, 2)
    order = np.random.default_rng(seed).permutation(len(data))
    close(term(data.take(order, data.weight[order]), reference).evaluate(theta, 2), expected)
    backwards = UnbinnedTerm("SR", samples()[::-1], parameters(), data=data, reference=reference)
    close(backwards.evaluate(theta, 2), expected)
    twice = np.repeat(np.arange(len(data)), 2)
    split = data.take(twice, data.weight[twice] * np.tile([0.3, 0.7], len(data)))
    close(term(split, reference).evaluate(theta, 2), expected)
    monkeypatch.setattr("neyman.likelihood.passes._CELLS", 1)
    monkeypatch.setattr("neyman.likelihood.passes._SPAN", 700)
    results = [term(data, reference, threads=n).evaluate(theta, 2) for n in (1, 2, 5)]
    close(results[0], expected)
    for other in results[1:]:
        assert torch.equal(other.value, results[0].value)
        assert torch.equal(other.hessian, results[0].hessian)


@pytest.mark.parametrize("n_ratios", [1, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_kept_functions_equal_computed_ones(n_ratios, dtype, monkeypatch):
    """Events of many spans keep their functions, piece by piece; fewer events than a span compute them."""
    generator = np.random.default_rng(4)
    names = [f"{side}{k}" for k in range(n_ratios) for side in "ud"]
    columns = {name: generator.normal(0.0, 0.2, 1000).astype(dtype) for name in ["s", *names]}
    own = Events(np.ones(1000), columns)
    shapes = tuple(UpDownRatio(f"a{k}", f"u{k}", f"d{k}") for k in range(n_ratios))
    sample = UnbinnedSample("s", 900.0, "s", (NormFactor("mu"),), shapes)
    unit = Constraint("normal", 0.0, 1.0)
    found = [Parameter("mu", 1.0, 0.0, 5.0)]
    found += [Parameter(f"a{k}", 0.0, -5.0, 5.0, constraint=unit) for k in range(n_ratios)]
    theta = torch.tensor([1.1, *np.linspace(0.4, -0.7, n_ratios)], dtype=torch.float64)
    computed = UnbinnedTerm("SR", [sample], found, data=own, reference=own).evaluate(theta, 2)
    monkeypatch.setattr("neyman.likelihood.passes._SPAN", 128)
    close(UnbinnedTerm("SR", [sample], found, data=own, reference=own).evaluate(theta, 2), computed)


def test_threads_of_torch_are_given_back():
    before = torch.get_num_threads()
    t = term(events(70_000, 1), events(10, 2), threads=2)
    t.evaluate(torch.tensor(POINTS["inside"], dtype=torch.float64), 1)
    assert torch.get_num_threads() == before


def test_float32_columns_stay_as_they_are():
    data = events(100, 1, np.float32)
    t = term(data, events(100, 2, np.float32))
    column = t._data._bound.block.columns["s"]
    assert column.data_ptr() == data.columns["s"].ctypes.data


def test_columns_of_mixed_types_and_read_only():
    data, reference = events(100, 1), events(100, 2)
    mixed = {name: c.astype(np.float32) if name.endswith("u") else c for name, c in data.columns.items()}
    same = {name: c.astype(np.float64) for name, c in mixed.items()}
    for column in mixed.values():
        column.setflags(write=False)
    theta = torch.tensor(POINTS["mixed"], dtype=torch.float64)
    close(
        term(Events(data.weight, mixed), reference).evaluate(theta, 2),
        term(Events(data.weight, same), reference).evaluate(theta, 2),
    )


def test_no_data():
    t = term(events(0, 1), events(50, 2))
    found = t.evaluate(torch.tensor(POINTS["inside"], dtype=torch.float64), 2)
    yields = t.yields(np.array(POINTS["inside"]))
    assert float(found.value) == pytest.approx(2 * yields.sum())


def test_zero_weights_do_not_count():
    data, reference = events(100, 1), events(100, 2)
    weight = np.where(np.arange(100) % 3 == 0, 0.0, data.weight)
    keep = np.nonzero(weight)[0]
    theta = torch.tensor(POINTS["mixed"], dtype=torch.float64)
    close(
        term(Events(weight, data.columns), reference).evaluate(theta, 2),
        term(data.take(keep, weight[keep]), reference).evaluate(theta, 2),
    )


# Forms and yields -----------------------------------------------------------------------------------------


def gaussians(n: int = 4000) -> Events:
    x = np.random.default_rng(0).normal(size=n) * 1.5
    log_q = np.logaddexp(-0.5 * (x - 1) ** 2, -0.5 * (x + 1) ** 2) - np.log(2)
    return Events(np.ones(n), {"s": -0.5 * (x - 1) ** 2 - log_q, "b": -0.5 * (x + 1) ** 2 - log_q})


def test_fraction_form_is_the_mixture_of_the_literature():
    """With yields mu and 1: p = mu/(1+mu) p_s + 1/(1+mu) p_b."""
    reference = gaussians()
    data = reference.take(np.arange(0, 4000, 7), np.ones(572))
    t = UnbinnedTerm(
        "g",
        [UnbinnedSample("s", 1.0, "s", (NormFactor("mu"),)), UnbinnedSample("b", 1.0, "b")],
        [Parameter("mu", 1.0, 0.0, 10.0)],
        data=data,
        reference=reference,
        form="fraction",
    )
    p_s, p_b = (np.exp(data.columns[c]) / np.exp(reference.columns[c]).mean() for c in "sb")
    for mu in (0.1, 0.5, 2.0):
        found = t.evaluate(torch.tensor([mu], dtype=torch.float64), 2)
        p = mu / (1 + mu) * p_s + 1 / (1 + mu) * p_b
        slope = (p_s - p_b) / (1 + mu) ** 2 / p
        bend = -2 * (p_s - p_b) / (1 + mu) ** 3 / p - slope**2
        assert float(found.value) == pytest.approx(-2 * np.log(p).sum(), rel=1e-12)
        assert float(found.gradient) == pytest.approx(-2 * slope.sum(), rel=1e-10)
        assert float(found.hessian) == pytest.approx(-2 * bend.sum(), rel=1e-10)


def test_fraction_form_ignores_the_overall_yield():
    data, reference = events(100, 1), events(100, 2)
    theta = torch.tensor(POINTS["mixed"], dtype=torch.float64)
    doubled = [replace(s, expected=2.0 * s.expected) for s in samples()]
    other = UnbinnedTerm("SR", doubled, parameters(), data=data, reference=reference, form="fraction")
    close(other.evaluate(theta, 2), term(data, reference, form="fraction").evaluate(theta, 2))


def test_unknown_form():
    with pytest.raises(LikelihoodError, match=r"(?s)unknown form 'shape'.*'extended' or 'fraction'"):
        term(events(5, 1), events(5, 2), form="shape")


@pytest.mark.parametrize("form", ["extended", "fraction"])
def test_total_yield_must_be_positive(form):
    t = term(events(5, 1), events(5, 2), form=form)
    with pytest.raises(
        LikelihoodError, match=r"(?s)total yield is -100, it must be.*s: -800, t: 400, i: 300"
    ):
        t.evaluate(torch.tensor([-10.0, 0.0, 0.0, 0.0], dtype=torch.float64))


def test_a_code4_polynomial_that_is_not_positive():
    data, reference = events(60, 1), events(60, 2)
    data.columns["t:b:u"][41], data.columns["t:b:d"][41] = -6.0, 6.0
    t = term(data, reference)
    theta = torch.tensor([1.0, 0.0, 0.5, 0.0], dtype=torch.float64)
    with pytest.raises(
        LikelihoodError, match=r"(?s)polynomial is not positive.*'t:b:u' and 't:b:d'.*SR, data, .*event 41"
    ):
        t.evaluate(theta)
    loose = t.evaluate(theta, 1, strict=False)
    assert float(loose.value) == np.inf
    assert loose.gradient.isnan().all()
    with pytest.raises(LikelihoodError, match=r"(?s)polynomial is not positive.*SR, reference"):
        term(reference, data).evaluate(theta)


# Shapes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wave:
    """A shape of two parameters with a full matrix of second derivatives, partly a factor and partly a logarithm."""

    parameters: tuple[str, ...] = ("a", "c")
    columns: tuple[str, ...] = ("t",)

    def compile(self, columns: Mapping[str, torch.Tensor]) -> CompiledWave:
        return CompiledWave(columns["t"])


class CompiledWave:
    def __init__(self, column: torch.Tensor) -> None:
        self._column = column

    def at(self, alpha: torch.Tensor, rows: slice, order: int) -> Effect:
        x, (a, c) = self._column[rows].double(), alpha.tolist()
        root = 1.0 + 0.1 * c**2
        first = torch.stack([0.2 * x + 0.1 * c * x**2, 0.1 * a * x**2 + 0.2 * c / root])
        second = torch.zeros(2, 2, len(x), dtype=torch.float64)
        second[0, 1] = second[1, 0] = 0.1 * x**2
        second[1, 1] = 0.2 / root - 0.04 * c**2 / root**2
        return Effect(
            log=0.2 * a * x + 0.1 * a * c * x**2,
            factor=torch.full_like(x, root),
            first=first if order > 0 else None,
            second=second if order > 1 else None,
        )


def with_shapes(data: Events, reference: Events) -> UnbinnedTerm:
    nodes = (-2.5, -1.0, 0.0, 1.2, 2.5)
    extended = []
    for e in (data, reference):
        x = e.columns["t"]
        extra = {f"n{k}": 0.1 * z * x - 0.02 * z**2 * x**2 for k, z in enumerate(nodes)}
        extended.append(Events(e.weight, {**e.columns, **extra}))
    model = samples()
    network = TabulatedNetwork("b", nodes, tuple(f"n{k}" for k in range(len(nodes))))
    model[1] = replace(model[1], shapes=(*model[1].shapes, Wave(), network))
    model[2] = replace(model[2], shapes=(Wave(("b", "a")),))
    return UnbinnedTerm("SR", model, parameters(), data=extended[0], reference=extended[1])


@pytest.mark.parametrize("point", POINTS)
def test_derivatives_through_all_kinds_of_shapes(point):
    t = with_shapes(events(60, 1), events(80, 2))
    theta = np.array(POINTS[point])
    found = t.evaluate(torch.from_numpy(theta), 2)
    step = 1e-5
    around = [
        [t.evaluate(torch.from_numpy(theta + sign * step * unit), 1) for sign in (1, -1)]
        for unit in np.eye(len(theta))
    ]
    gradient = np.array([float(up.value - down.value) for up, down in around]) / (2 * step)
    hessian = np.stack([(up.gradient - down.gradient).numpy() for up, down in around]) / (2 * step)
    # The third derivative of code4 jumps at the edge, where a difference of slopes is as good as its step.
    tolerance = 1e-5 if point == "edge" else 1e-7
    assert found.gradient.numpy() == pytest.approx(gradient, rel=1e-6, abs=1e-4)
    assert found.hessian.numpy() == pytest.approx(hessian, rel=1e-6, abs=tolerance * np.abs(hessian).max())


def test_batch_of_all_kinds_of_shapes_equals_single_points():
    t = with_shapes(events(60, 1), events(80, 2))
    points = torch.tensor([list(point) for point in POINTS.values()], dtype=torch.float64)
    found = t.evaluate(points, 2)
    for i, point in enumerate(points):
        single = t.evaluate(point, 2)
        close(
            replace(found, value=found.value[i], gradient=found.gradient[i], hessian=found.hessian[i]), single
        )


def test_one_ratio_alone_is_a_compiled_shape():
    """`UpDownRatio.compile` gives what the stack gives."""
    data, reference = events(60, 1), events(80, 2)

    @dataclass(frozen=True)
    class Wrapped:
        inner: UpDownRatio

        @property
        def parameters(self):
            return self.inner.parameters

        @property
        def columns(self):
            return self.inner.columns

        def compile(self, columns):
            return self.inner.compile(columns)

    wrapped = [replace(s, shapes=tuple(Wrapped(shape) for shape in s.shapes)) for s in samples()]
    for point in POINTS.values():
        theta = torch.tensor(point, dtype=torch.float64)
        alone = UnbinnedTerm("SR", wrapped, parameters(), data=data, reference=reference).evaluate(theta, 2)
        close(alone, term(data, reference).evaluate(theta, 2))


# Events one by one ----------------------------------------------------------------------------------------


def test_log_density_is_the_sum_of_the_likelihood():
    data, reference = events(100, 1), events(100, 2)
    t = term(data, reference)
    theta = torch.tensor(POINTS["mixed"], dtype=torch.float64)
    log = t.log_density(theta)
    total = 2 * t.yields(theta.numpy()).sum() - 2 * data.weight @ log
    assert total == pytest.approx(float(t.evaluate(theta).value), rel=1e-12)
    assert t.log_density(theta, data.take(np.arange(7), np.ones(7))) == pytest.approx(log[:7], rel=1e-14)


def test_two_gaussians_have_the_exact_density():
    """Ratios of N(+-1, 1) to their mixture, normalised by a large sample of it: ln density against the formula."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=200_000) + rng.choice([-1.0, 1.0], 200_000)
    log_q = np.logaddexp(-0.5 * (x - 1) ** 2, -0.5 * (x + 1) ** 2) - np.log(2)
    reference = Events(np.ones_like(x), {"s": -0.5 * (x - 1) ** 2 - log_q, "b": -0.5 * (x + 1) ** 2 - log_q})
    model = [UnbinnedSample("s", 10.0, "s", (NormFactor("mu"),)), UnbinnedSample("b", 100.0, "b")]
    mu = [Parameter("mu", 1.0, 0.0, 10.0)]
    t = UnbinnedTerm("g", model, mu, data=reference, reference=reference)
    found = t.log_density(torch.tensor([2.0]).double())
    exact = np.log(20.0 * np.exp(reference.columns["s"]) + 100.0 * np.exp(reference.columns["b"]))
    assert found == pytest.approx(exact, abs=0.01)
    # The information on mu from the Asimov set is the textbook integral.
    asimov = Likelihood([t]).asimov([1.0])
    grid = np.linspace(-9, 9, 4001)
    p_s, p_b = (np.exp(-0.5 * (grid - m) ** 2) / np.sqrt(2 * np.pi) for m in (1.0, -1.0))
    information = np.trapezoid((10.0 * p_s) ** 2 / (10.0 * p_s + 100.0 * p_b), grid)
    assert asimov.hessian([1.0])[0, 0] / 2 == pytest.approx(information, rel=0.02)


def test_asimov_shares_the_columns_of_the_reference():
    t = term(events(100, 1), events(100, 2))
    asimov = t.with_data(t.expected_data(torch.tensor(POINTS["inside"], dtype=torch.float64)))
    assert asimov._data._bound.ratios is t._reference._bound.ratios


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("point", POINTS)
def test_on_a_cuda_device(point):
    t = with_shapes(events(3000, 1, np.float32), events(2000, 2, np.float32))
    theta = torch.tensor([*POINTS[point], 0.3], dtype=torch.float64)
    found = t.to("cuda").evaluate(theta.cuda(), 2)
    assert found.value.device.type == "cuda"
    close(
        replace(found, value=found.value.cpu(), gradient=found.gradient.cpu(), hessian=found.hessian.cpu()),
        t.evaluate(theta, 2),
    )


def test_to_a_device_and_back():
    t = term(events(50, 1), events(60, 2))
    theta = torch.tensor(POINTS["mixed"], dtype=torch.float64)
    close(t.to("cpu").evaluate(theta, 2), t.evaluate(theta, 2))
