"""`Ratio`: normalisation, calibration, aggregation after training, and warnings at the edge of the trained range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import neyman as ny
from neyman.errors import InputError, NeymanWarning
from neyman.networks import MLP, NSF, Description, Model, Part, combine
from neyman.ratios import DensityRatio, Ratio

RNG = np.random.default_rng(1)
Q = ny.EventTable(
    ("x",), RNG.normal(-0.5, 1.0, (4000, 1)), RNG.normal(1.0, 0.8, 4000), {"z": RNG.uniform(-1, 1, 4000)}
)
P = ny.EventTable(("x",), RNG.normal(0.5, 1.0, (4000, 1)), np.ones(4000), {"z": RNG.uniform(-1, 1, 4000)})


def network_ratio(parameters: tuple[str, ...] = (), members: int = 4) -> Ratio:
    """An untrained, non-trivial ratio."""
    architecture, n = MLP((8,)), len(parameters)
    part = Part(network=architecture, members=members, parameters=parameters)
    description = Description(
        features=("x",), parameters=parameters, parameter_range=((-1.5, 1.5),) * n, parts=(part,)
    )
    return Ratio(Model([architecture.build(1 + n, members=members, seed=4)], description))


def linear_ratio(slope: float, shift: float) -> Ratio:
    """The log-ratio slope * x + shift: a network of two rectifiers, relu(x) - relu(-x)."""
    architecture = MLP((2,), "relu")
    stack = architecture.build(1, members=1)
    with torch.no_grad():
        first, last = stack.layers
        first.weight.copy_(torch.tensor([[[1.0, -1.0]]]))
        first.bias.zero_()
        last.weight.copy_(torch.tensor([[[slope], [-slope]]]))
        last.bias.fill_(shift)
    return Ratio(Model([stack], Description(features=("x",), parts=(Part(network=architecture, members=1),))))


@pytest.mark.parametrize("aggregate", ["mean", "median", "truncated_mean", "mean_ratio"])
def test_the_mean_over_the_reference_is_one_at_every_z(aggregate):
    ratio = network_ratio(("z",)).normalised(Q)
    for z in (-1.2, 0.0, 0.7):
        r = np.exp(ratio.log_ratio(Q, [z], aggregate=aggregate).astype(np.float64))
        assert Q.weight @ r / Q.weight.sum() == pytest.approx(1.0, abs=1e-5)
    plain = network_ratio().normalised(Q)
    assert Q.weight @ np.exp(plain.log_ratio(Q)) / Q.weight.sum() == pytest.approx(1.0, abs=1e-5)


def test_normalisation_with_a_z_for_every_event():
    ratio = network_ratio(("z",)).normalised(Q)
    z = np.array([-1.0, 0.5])[RNG.integers(0, 2, len(P))]
    found = ratio.log_ratio(P, z[:, None])
    for value in (-1.0, 0.5):
        np.testing.assert_allclose(found[z == value], ratio.log_ratio(P, [value])[z == value], atol=1e-6)


def test_a_ratio_that_is_negative_on_average_cannot_be_normalised():
    reference = ny.EventTable(("x",), np.array([[0.0], [5.0]]), np.array([1.0, -0.9]))
    with pytest.raises(InputError, match="the ratio has a mean of -"):
        linear_ratio(2.0, 0.0).normalised(reference).log_ratio(P)


def test_the_aggregate_is_chosen_after_training_and_saved(tmp_path):
    ratio = network_ratio()
    members = ratio.members(P)
    assert members.shape == (4, 4000)
    for aggregate in ("mean", "median", "truncated_mean_ratio"):
        chosen = ratio.aggregated_by(aggregate)
        np.testing.assert_array_equal(chosen.log_ratio(P), combine(members, aggregate))
        np.testing.assert_array_equal(chosen.log_ratio(P), ratio.log_ratio(P, aggregate=aggregate))
        loaded = Ratio.load(chosen.save(tmp_path / f"{aggregate}.safetensors"))
        np.testing.assert_array_equal(loaded.log_ratio(P), chosen.log_ratio(P))


def test_the_spread_is_that_of_the_members():
    ratio = network_ratio()
    np.testing.assert_allclose(ratio.spread(P), np.std(ratio.members(P), axis=0, ddof=1), rtol=1e-6)
    with pytest.raises(InputError, match="at least two members"):
        network_ratio(members=1).spread(P)


def test_calibration_finds_the_line(tmp_path):
    """The exact log-ratio of these Gaussians is x; a ratio that says 1.5 x + 0.4 is put right."""
    q = ny.EventTable(("x",), Q.x, np.ones(len(Q)))
    wrong = linear_ratio(1.5, 0.4)
    right = wrong.calibrated(P, q, "platt")
    grid = np.linspace(-2.0, 2.0, 9)[:, None]
    np.testing.assert_allclose(wrong.log_ratio(grid), 1.5 * grid[:, 0] + 0.4, atol=1e-6)
    np.testing.assert_allclose(right.log_ratio(grid), grid[:, 0], atol=0.15)
    loaded = Ratio.load(right.save(tmp_path / "right.safetensors"))
    np.testing.assert_array_equal(loaded.log_ratio(grid), right.log_ratio(grid))
    assert loaded.model.description.calibration == right.model.description.calibration
    np.testing.assert_array_equal(right.aggregated_by("mean").log_ratio(grid), wrong.log_ratio(grid))
    with pytest.raises(InputError, match="calibrated for the mean of its members, not for median"):
        right.log_ratio(grid, aggregate="median")
    isotonic = wrong.calibrated(P, q).log_ratio(grid)
    assert np.abs(isotonic - grid[:, 0])[2:-2].max() < 0.3
    assert (np.diff(isotonic) >= 0.0).all()


def test_calibration_of_a_conditioned_ratio_takes_the_z_of_the_events():
    """With z columns the numerator's events keep theirs; a ratio that ignores z calibrates as without."""
    ratio = network_ratio(("z",))
    with torch.no_grad():
        ratio.model.stacks[0].layers[0].weight[:, 1] = 0.0
    q = ny.EventTable(("x",), Q.x, np.ones(len(Q)))
    a = ratio.calibrated(P, q, "platt").model.description.calibration
    b = ratio.calibrated(P, q, "platt", z=[0.0]).model.description.calibration
    assert a == b


def test_a_warning_at_the_edge_of_the_trained_range_and_an_error_beyond():
    ratio = network_ratio(("z",))
    ratio.log_ratio(P, [1.3])
    with pytest.warns(NeymanWarning, match=r"z = 1\.4 is at the edge of the trained range \[-1\.5, 1\.5\]"):
        ratio.log_ratio(P, [1.4])
    with pytest.warns(NeymanWarning, match=r"z = -1\.45 is at the edge"):
        ratio.log_ratio(P, np.linspace(0.0, -1.45, len(P))[:, None][::-1])
    with pytest.raises(InputError, match=r"(?s)'z' = 1\.6 is outside the range.*-1\.5 to 1\.5.*wider"):
        ratio.log_ratio(P, [1.6])


def test_other_kinds_of_models_are_not_ratios(tmp_path):
    architecture = NSF(transforms=1, hidden=(4,), bins=4)
    part = Part(network=architecture, members=1)
    density = Model([architecture.build(1)], Description(features=("x",), parts=(part,), kind="log_density"))
    with pytest.raises(InputError, match=r"is a log_density, not a log_ratio\n.*Density"):
        Ratio.load(density.save(tmp_path / "d.safetensors"))
    with pytest.raises(InputError, match="not the difference of two log-densities"):
        DensityRatio(network_ratio().model)
    with pytest.raises(InputError, match="unknown aggregate 'foo'"):
        network_ratio().aggregated_by("foo")
    with pytest.raises(InputError, match="at least 3 members, got 2"):
        network_ratio(members=2).aggregated_by("truncated_mean")


def test_calibration_uses_the_parameters_that_the_denominator_has():
    """p = N(z + 1/2, 1) and q = N(z - 1/2, 1): exactly x - z, whose calibration is the identity when q keeps its z."""
    rng = np.random.default_rng(3)
    z = rng.uniform(-1.0, 1.0, (2, 20_000))
    p, q = (
        ny.EventTable(("x",), rng.normal(own + side, 1.0)[:, None], np.ones(20_000), {"z": own})
        for own, side in zip(z, (0.5, -0.5), strict=True)
    )
    architecture = MLP((2,), "relu")
    stack = architecture.build(2)
    with torch.no_grad():
        first, last = stack.layers
        first.weight.copy_(torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]))
        first.bias.zero_()
        last.weight.copy_(torch.tensor([[[1.0], [-1.0]]]))
        last.bias.zero_()
    part = Part(network=architecture, members=1, parameters=("z",))
    description = Description(
        features=("x",), parameters=("z",), parameter_range=((-1.5, 1.5),), parts=(part,)
    )
    calibration = Ratio(Model([stack], description)).calibrated(p, q, "platt").model.description.calibration
    assert calibration.scale == pytest.approx(1.0, abs=0.03)
    assert calibration.shift == pytest.approx(0.0, abs=0.03)
