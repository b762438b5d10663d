"""Terms joined by parameter name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from neyman.errors import LikelihoodError
from neyman.likelihood import Constraint, Data, HistFactoryTerm, Likelihood, Parameter
from neyman.likelihood.histfactory import binned_term
from neyman.likelihood.rates import Channel, Variation

JES = Parameter("jes", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 1.0))
MU = Parameter("mu", 1.0, 0.0, 10.0)


def counting(
    name: str, nominal: float, observed: float, parameters: tuple[Parameter, ...]
) -> HistFactoryTerm:
    """One bin of one sample, scaled by mu and by jes (10%) where they are among the parameters."""
    names = [p.name for p in parameters]
    scalings = (Variation(names.index("jes"), 0, 1.1, 0.9),) if "jes" in names else ()
    slots = np.array([[[names.index("mu") if "mu" in names else -1]]])
    channel = Channel(name, ("s",), np.array([[nominal]]), (), scalings, slots)
    return HistFactoryTerm([channel], parameters, [observed])


@pytest.fixture
def likelihood() -> Likelihood:
    return Likelihood([counting("a", 10.0, 12.0, (MU, JES)), counting("b", 30.0, 27.0, (JES,))])


@pytest.fixture
def shared() -> dict[str, Any]:
    def sample(data: list[float], *modifiers: tuple[str, str, Any]) -> dict[str, Any]:
        return {
            "name": "s",
            "data": data,
            "modifiers": [{"name": n, "type": t, "data": d} for n, t, d in modifiers],
        }

    norm = ("norm", "normsys", {"hi": 1.2, "lo": 0.9})
    return {
        "channels": [
            {"name": "x", "samples": [sample([20.0, 30.0], ("mu", "normfactor", None), norm)]},
            {"name": "y", "samples": [sample([50.0], norm, ("unc", "shapesys", [5.0]))]},
        ],
        "observations": [{"name": "x", "data": [22.0, 28.0]}, {"name": "y", "data": [55.0]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def test_the_constraint_counts_once(likelihood: Likelihood) -> None:
    mu, jes = 1.2, 1.4
    assert likelihood.names == ("mu", "jes")
    expected = (
        stats.poisson(10.0 * mu * 1.1**jes).logpmf(12)
        + stats.poisson(30.0 * 1.1**jes).logpmf(27)
        + stats.norm(jes, 1.0).logpdf(0.0)
    )
    assert likelihood.value([mu, jes]) == pytest.approx(-2.0 * expected, rel=1e-13)


def test_splitting_into_channels_changes_nothing(shared: dict[str, Any]) -> None:
    term, observed = binned_term(shared)
    whole = Likelihood([term], global_observables=observed)
    split = Likelihood(
        [term.select_channels(["y"]), term.select_channels(["x"])], global_observables=observed
    )
    assert split.names != whole.names
    order = [split.index(name) for name in whole.names]
    values = {"mu": (1.2, 0.7), "norm": (0.4, -1.6), "unc[0]": (1.1, 0.8)}
    points = np.array([values[name] for name in whole.names]).T
    other = np.array([values[name] for name in split.names]).T
    a, b = whole.evaluate(points, 2), split.evaluate(other, 2)
    np.testing.assert_allclose(a[0], b[0], rtol=1e-13)
    assert a[1] is not None
    assert b[1] is not None
    np.testing.assert_allclose(a[1], b[1][:, order], rtol=1e-12, atol=1e-12)
    assert a[2] is not None
    assert b[2] is not None
    np.testing.assert_allclose(a[2], b[2][:, order][:, :, order], rtol=1e-12, atol=1e-12)


def test_single_rows_and_batches(likelihood: Likelihood) -> None:
    batch = np.array([[1.0, 0.0], [1.5, 0.7], [0.4, -2.0]])
    values = likelihood.value(batch)
    assert isinstance(likelihood.value(batch[0]), float)
    assert likelihood(batch[0]) == likelihood.value(batch[0])
    assert np.shape(values) == (3,)
    assert likelihood.gradient(batch).shape == (3, 2)
    assert likelihood.hessian(batch).shape == (3, 2, 2)
    for i, x in enumerate(batch):
        assert likelihood.value(x) == pytest.approx(np.asarray(values)[i], rel=1e-14)
        np.testing.assert_allclose(
            likelihood.gradient(x), likelihood.gradient(batch)[i], rtol=1e-12, atol=1e-12
        )
        np.testing.assert_allclose(
            likelihood.hessian(x), likelihood.hessian(batch)[i], rtol=1e-12, atol=1e-12
        )


def test_read_only_points_are_accepted(likelihood: Likelihood) -> None:
    x = np.broadcast_to(np.array([1.0, 0.5]), (2, 2))
    assert np.ptp(likelihood.value(x)) == 0.0


def test_conflicting_constraints_are_refused() -> None:
    other = Parameter("jes", 0.0, -5.0, 5.0, constraint=Constraint("normal", 0.0, 2.0))
    with pytest.raises(LikelihoodError, match="'jes' is declared twice with different constraints"):
        Likelihood([counting("a", 10.0, 12.0, (MU, JES)), counting("b", 30.0, 27.0, (other,))])


def test_a_likelihood_needs_a_term() -> None:
    with pytest.raises(LikelihoodError, match="needs at least one term"):
        Likelihood([])


@pytest.mark.parametrize("x", [[1.0], [1.0, 0.0, 0.0], [[[1.0, 0.0]]], 1.0])
def test_wrong_length(likelihood: Likelihood, x: Any) -> None:
    with pytest.raises(LikelihoodError, match="expected 2 parameter values, got an array of shape"):
        likelihood.value(x)


@pytest.mark.parametrize("x", [[1.0, np.nan], [[1.0, 0.0], [1.0, np.inf]]])
def test_values_that_are_not_finite(likelihood: Likelihood, x: Any) -> None:
    with pytest.raises(LikelihoodError, match="parameter jes is not finite"):
        likelihood.gradient(x)


def test_names_and_indices(likelihood: Likelihood) -> None:
    assert likelihood.index("jes") == 1
    assert likelihood.index(-1) == 1
    assert likelihood.vector().tolist() == [1.0, 0.0]
    assert likelihood.vector({"jes": 0.5}).tolist() == [1.0, 0.5]
    assert likelihood.vector([2.0, 0.5]).tolist() == [2.0, 0.5]
    with pytest.raises(LikelihoodError, match=r"no parameter 'JES'\n  fix: nearest names: jes"):
        likelihood.index("JES")
    with pytest.raises(LikelihoodError, match="index 2 is out of range for 2 parameters"):
        likelihood.index(2)
    with pytest.raises(LikelihoodError, match=r"expected 2 parameter values, got an array of shape \(3,\)"):
        likelihood.vector([1.0, 2.0, 3.0])


def test_asimov_data_have_their_minimum_at_the_truth(shared: dict[str, Any]) -> None:
    likelihood = Likelihood.from_pyhf(shared)
    x = likelihood.vector({"mu": 1.3, "norm": 0.6, "unc[0]": 1.1})
    asimov = likelihood.asimov(x)
    np.testing.assert_allclose(asimov.gradient(x), 0.0, atol=1e-9)
    assert asimov.global_observables == pytest.approx({"norm": 0.6, "unc[0]": 110.0})
    assert likelihood.global_observables == pytest.approx({"norm": 0.0, "unc[0]": 100.0})
    assert np.all(np.linalg.eigvalsh(asimov.hessian(x)) > 0.0)


def test_samples_are_reproducible_and_replace_all_data(shared: dict[str, Any]) -> None:
    likelihood = Likelihood.from_pyhf(shared)
    one, two = (likelihood.sample({"mu": 2.0}, generator=np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one.terms[0], two.terms[0])
    assert one.global_observables == two.global_observables
    toy = likelihood.with_data(one)
    assert torch.equal(toy.data.terms[0], one.terms[0])
    assert toy.global_observables == one.global_observables
    assert toy.value(toy.inits) != likelihood.value(likelihood.inits)
    assert likelihood.with_data(likelihood.data).value(toy.inits) == likelihood.value(toy.inits)


def test_data_of_another_likelihood(likelihood: Likelihood) -> None:
    with pytest.raises(LikelihoodError, match="the data belong to 1 terms, the likelihood has 2"):
        likelihood.with_data(Data((torch.tensor([1.0]),), {}))


def test_global_observables_move_the_constraint(likelihood: Likelihood) -> None:
    moved = likelihood.with_global_observables({"jes": 0.8})
    x = [1.0, 0.3]
    assert moved.value(x) - likelihood.value(x) == pytest.approx((0.8 - 0.3) ** 2 - 0.3**2)
    assert likelihood.global_observables == {"jes": 0.0}
    with pytest.raises(LikelihoodError, match="'mu' has no constraint"):
        likelihood.with_global_observables({"mu": 1.0})
    with pytest.raises(LikelihoodError, match="no parameter 'nobody'"):
        likelihood.with_global_observables({"nobody": 1.0})
