"""Fisher information of the Asimov likelihood against hand-made numbers, autograd and the engine's Hessian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import neyman as ny
from neyman.errors import TrainingError
from neyman.sannt import covariance, expected_uncertainty, fisher_information, uncertainties

SIGNAL = np.array([2.0, 6.0, 12.0])
BACKGROUND = np.array([100.0, 50.0, 20.0])
SHAPES = {
    "a": (np.array([108.0, 51.0, 17.0]), np.array([92.0, 49.0, 23.0])),
    "b": (np.array([97.0, 53.0, 24.0]), np.array([102.0, 46.0, 18.0])),
}


def model() -> tuple[torch.Tensor, torch.Tensor]:
    columns = [SIGNAL, *((up - down) / 2.0 for up, down in SHAPES.values())]
    return torch.from_numpy(SIGNAL + BACKGROUND), torch.from_numpy(np.stack(columns, axis=1))


def test_one_bin_by_hand() -> None:
    """A counting experiment: sqrt(lambda + sigma^2) / s."""
    expected, jacobian = torch.tensor([110.0]).double(), torch.tensor([[10.0, 20.0]]).double()
    found = expected_uncertainty(expected, jacobian, (False, True))
    assert float(found) == pytest.approx(math.sqrt(110.0 + 20.0**2) / 10.0, rel=1e-12)
    assert float(expected_uncertainty(expected, jacobian[:, :1], (False,))) == pytest.approx(
        math.sqrt(110.0) / 10.0, rel=1e-12
    )


def test_information_is_half_the_hessian_of_pyhf_asimov() -> None:
    modifiers = [
        {"name": name, "type": "histosys", "data": {"hi_data": up.tolist(), "lo_data": down.tolist()}}
        for name, (up, down) in SHAPES.items()
    ]
    spec = {
        "channels": [
            {
                "name": "c",
                "samples": [
                    {
                        "name": "s",
                        "data": SIGNAL.tolist(),
                        "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                    },
                    {"name": "b", "data": BACKGROUND.tolist(), "modifiers": modifiers},
                ],
            }
        ],
        "observations": [{"name": "c", "data": (SIGNAL + BACKGROUND).tolist()}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }
    likelihood = ny.Likelihood.from_pyhf(spec)
    order = [likelihood.index(name) for name in ("mu", "a", "b")]
    # The code4p interpolation of a, which is symmetric, and of b, which is not, has the slope (up - down) / 2 at 0.
    hessian = likelihood.hessian(likelihood.inits)[np.ix_(order, order)]
    expected, jacobian = model()
    information = fisher_information(expected, jacobian, (False, True, True)).numpy()
    curvature = np.diag([0.0, 1.0, 1.0])  # expected data: the second derivative of lambda drops out
    np.testing.assert_allclose(information, hessian / 2.0, rtol=1e-9, atol=1e-9)
    assert np.linalg.eigvalsh(information - curvature).min() > 0.0
    uncertainty = float(expected_uncertainty(expected, jacobian, (False, True, True)))
    assert uncertainty == pytest.approx(ny.fit(likelihood).errors["mu"], rel=1e-4)


def test_every_parameter_and_stacks_of_members_against_the_inverse() -> None:
    expected, jacobian = model()
    stack = torch.stack([expected, 2.0 * expected]), torch.stack([jacobian, 1.5 * jacobian])
    inverse = torch.linalg.inv(fisher_information(*stack, (False, True, False)))
    for p in range(3):
        found = expected_uncertainty(*stack, (False, True, False), parameter=p)
        torch.testing.assert_close(found, inverse[:, p, p].sqrt(), rtol=1e-10, atol=0.0)


def test_gradient_is_that_of_the_formula() -> None:
    expected, jacobian = (t.clone().requires_grad_() for t in model())
    assert torch.autograd.gradcheck(
        lambda e, j: expected_uncertainty(e, j, (False, True, True)), (expected, jacobian)
    )


def test_empty_bins_carry_no_information() -> None:
    expected, jacobian = model()
    padded = torch.cat([expected, torch.zeros(1)]), torch.cat([jacobian, torch.zeros(1, 3)])
    assert float(expected_uncertainty(*padded, (False, True, True))) == pytest.approx(
        float(expected_uncertainty(expected, jacobian, (False, True, True))), rel=1e-12
    )


def test_bins_that_no_fit_can_hold() -> None:
    expected, jacobian = model()
    expected[1] = -0.5
    with pytest.raises(TrainingError, match=r"bin 1 has the expectation -0\.5"):
        fisher_information(expected, jacobian, (False, True, True))
    expected[1] = 0.0
    with pytest.raises(TrainingError, match=r"bin 1 has the expectation 0\b"):
        fisher_information(expected, jacobian, (False, True, True))
    with pytest.raises(TrainingError, match=r"the Jacobian has shape \(3, 3\)"):
        fisher_information(expected, jacobian, (False, True))


def test_degenerate_parameters_are_named() -> None:
    expected, jacobian = model()
    same = torch.cat([jacobian, 2.0 * jacobian[:, :1]], dim=1)
    names = ("mu", "a", "b", "free")
    with pytest.raises(TrainingError, match=r"no bin can tell mu, free apart"):
        expected_uncertainty(expected, same, (False, True, True, False), names=names)
    assert float(expected_uncertainty(expected, same, (False, True, True, True), names=names)) > 0.0
    jacobian[:, 0] = 0.0
    with pytest.raises(TrainingError, match=r"no bin can tell mu from zero"):
        expected_uncertainty(expected, jacobian, (False, True, True), names=names[:3])
    jacobian[0, 0] = torch.nan
    with pytest.raises(TrainingError, match="the Fisher information is not finite"):
        expected_uncertainty(expected, jacobian, (False, True, True), names=names[:3])


def test_statistics_of_the_simulation_are_the_staterror_of_pyhf() -> None:
    error = np.array([3.0, 4.0, 2.5])
    modifiers = [
        {"name": name, "type": "histosys", "data": {"hi_data": up.tolist(), "lo_data": down.tolist()}}
        for name, (up, down) in SHAPES.items()
    ]
    modifiers.append({"name": "stat", "type": "staterror", "data": error.tolist()})
    signal = [
        {"name": "mu", "type": "normfactor", "data": None},
        {"name": "stat", "type": "staterror", "data": [0.1, 0.2, 0.3]},
    ]
    spec = {
        "channels": [
            {
                "name": "c",
                "samples": [
                    {"name": "s", "data": SIGNAL.tolist(), "modifiers": signal},
                    {"name": "b", "data": BACKGROUND.tolist(), "modifiers": modifiers},
                ],
            }
        ],
        "observations": [{"name": "c", "data": (SIGNAL + BACKGROUND).tolist()}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }
    likelihood = ny.Likelihood.from_pyhf(spec)
    covariance = np.linalg.inv(likelihood.hessian(likelihood.inits) / 2.0)
    expected, jacobian = model()
    variance = torch.from_numpy(error**2 + np.array([0.1, 0.2, 0.3]) ** 2)
    found = expected_uncertainty(expected, jacobian, (False, True, True), variance=variance)
    own = likelihood.index("mu")
    assert float(found) == pytest.approx(np.sqrt(covariance[own, own]), rel=1e-9)
    assert float(found) > float(expected_uncertainty(expected, jacobian, (False, True, True)))


def test_covariance_is_the_inverse() -> None:
    information = fisher_information(*model(), (False, True, True))
    torch.testing.assert_close(covariance(information), torch.linalg.inv(information))
    torch.testing.assert_close(
        uncertainties(information, [2, 0]), torch.linalg.inv(information).diagonal()[[2, 0]].sqrt()
    )
