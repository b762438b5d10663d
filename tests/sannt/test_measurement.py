"""Bins that are merged, noise of variations, and the scan of edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import two_gaussians as toy
from hypothesis import given
from hypothesis import strategies as st

from neyman.errors import ConfigError, NeymanWarning
from neyman.sannt import EdgeScan, Exact, Variation
from neyman.sannt.binned import BinnedStack
from neyman.sannt.measurement import Measurement
from neyman.sannt.noise import variation_noise
from neyman.sannt.objective import exact_rows, outputs
from neyman.sannt.rows import EXPECTED, VARIANCE, rows_of
from neyman.sannt.templates import Templates

ONE = Measurement(("s",), ("strength of s",), (False,), min_effective=10.0)


def rows(background, variance, signal=None) -> torch.Tensor:
    signal = [0.0] * len(background) if signal is None else signal
    expected = [s + b for s, b in zip(signal, background, strict=True)]
    return torch.tensor([[expected, variance, background, variance, signal]], dtype=torch.float64)


def test_bins_are_merged_from_the_signal_end() -> None:
    found = rows([100.0, 50.0, 4.0, 3.0, 2.0, 0.5], [1.0, 1.0, 1.0, 1.0, 0.4, 0.3])
    # 0.5 and 2 together have 2.5^2/0.7 = 8.9 effective events, with 3 more 5.5^2/1.7 = 17.8; 4 alone has 16.
    assert ONE.groups(found)[0].tolist() == [0, 1, 2, 3, 3, 3]
    merged = ONE.merged(found)
    assert merged[0, EXPECTED].tolist() == [100.0, 50.0, 4.0, 5.5, 0.0, 0.0]
    assert merged[0, VARIANCE].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.7, 0.0, 0.0])


def test_a_bin_without_background_is_no_bin_however_much_signal_it_has() -> None:
    found = rows([100.0, 50.0, 0.0], [1.0, 1.0, 0.0], signal=[1.0, 2.0, 500.0])
    assert ONE.groups(found)[0].tolist() == [0, 1, 1]


def test_what_is_left_over_joins_the_last_bin() -> None:
    assert ONE.groups(rows([0.5, 50.0, 60.0], [0.3, 1.0, 1.0]))[0].tolist() == [0, 0, 2]
    assert ONE.groups(rows([0.5, 0.0, -0.1], [0.3, 0.0, 1.0]))[0].tolist() == [0, 0, 0]


def test_negative_bins_are_merged_even_without_a_minimum() -> None:
    none = replace(ONE, min_effective=0.0)
    assert none.groups(rows([5.0, 4.0, -1.0], [1.0, 1.0, 9.0]))[0].tolist() == [0, 1, 1]


def test_classes_are_never_merged() -> None:
    two = replace(ONE, n_classes=2)
    assert two.groups(rows([90.0, 0.1, 0.1, 90.0], [1.0, 1.0, 1.0, 1.0]))[0].tolist() == [0, 0, 2, 2]


def test_unordered_bins_are_merged_with_those_of_like_purity() -> None:
    unordered = replace(ONE, ordered=False)
    found = rows([1.0, 80.0, 60.0, 30.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.1, 30.0, 20.0])
    # In the order of s/b: 80, 60, 30, 1. The purest has too few events and joins the next.
    groups = unordered.groups(found)[0]
    assert groups[0] == groups[3] == 3
    assert groups.tolist()[1:3] == [1, 2]


@given(
    st.lists(st.tuples(st.floats(-5.0, 50.0), st.floats(0.0, 5.0)), min_size=2, max_size=12),
    st.floats(0.0, 30.0),
)
def test_merging_keeps_sums_and_makes_usable_bins(bins, least) -> None:
    expected, variance = ([b[k] for b in bins] for k in (0, 1))
    measurement = replace(ONE, min_effective=least)
    found = rows(expected, variance)
    groups = measurement.groups(found)
    merged = measurement.merged(found, groups)
    torch.testing.assert_close(merged.sum(dim=2), found.sum(dim=2), rtol=1e-9, atol=1e-9)
    kept = np.unique(groups[0])
    assert (np.diff(groups[0]) >= 0).all()
    if len(kept) > 1:  # one bin can be whatever it is
        values, spread = (merged[0, k, kept].numpy() for k in (EXPECTED, VARIANCE))
        # The first bin also took what was left over, which may be negative.
        assert (values[1:] > 0.0).all()
        assert (values[1:] ** 2 >= least * spread[1:] * (1 - 1e-9)).all()


def test_free_parameters_that_cannot_be_told_apart_have_a_large_finite_loss() -> None:
    two = Measurement(("a", "b"), ("strength of a", "strength of b"), (False, False), mc_stat=False)
    same = torch.tensor(
        [[[90.0, 80.0], [1.0, 1.0], [84.0, 72.0], [1.0, 1.0], [3.0, 4.0], [3.0, 4.0]]], dtype=torch.float64
    )
    assert 1e2 < float(two.loss(same)) < 1e6
    assert float(two.loss(1e6 * same)) > 1.0  # a thousand times better known, and just as degenerate
    found, good = two.uncertainties(torch.cat([same, same]))
    assert torch.isinf(found).all()
    assert not good.any()
    apart = same.clone()
    apart[0, 5, 0] = 1.0
    found, good = two.uncertainties(torch.cat([same, apart]))
    assert good.tolist() == [False, True]
    assert float(found[1].sum()) == pytest.approx(float(two.loss(apart)), rel=1e-6)
    assert float(two.loss(apart)) < 20.0


# Noise ---------------------------------------------------------------------------------------------------------


def noise_of(variation: Variation, n_bins: int = 6):
    templates = Templates.of(
        {"signal": toy.SIGNAL}, {"background": toy.BACKGROUND}, [variation], fraction=0.5, seed=1
    )
    bins = [
        np.clip((block.x[:, 1] + 3.0) // 1.0, 0, n_bins - 1).astype(np.int64) for block in templates.blocks
    ]
    expected = sum(
        np.bincount(own, block.weight[block.keys.index((p, "nominal"))], minlength=n_bins)
        for own, block in zip(bins, templates.blocks, strict=True)
        for p in ("signal", "background")
        if (p, "nominal") in block.keys
    )
    (found,) = variation_noise(templates, bins, n_bins, expected)
    return found


def test_the_same_events_with_other_weights_have_little_noise() -> None:
    found = noise_of(
        Variation.of_weights(
            "rate",
            "background",
            toy.BACKGROUND,
            up=toy.BACKGROUND.weight * 1.05,
            down=toy.BACKGROUND.weight * 0.95,
        )
    )
    assert found.effect == pytest.approx(0.05**2 * 1000.0, rel=0.1)
    # Every bin's effect has the relative error of its n events: sum (0.05 w)^2 n_i / lambda_i, less than 6 bins' full
    assert found.noise == pytest.approx(6 * 0.05**2 * 0.25, rel=0.2)
    assert found.shape_effect == pytest.approx(0.0, abs=1e-9)
    assert found.complaint(0.5) is None


def test_flat_weights_of_the_same_events_have_no_noise_in_their_shape() -> None:
    flat = Variation.of_weights(
        "rate", "background", toy.BACKGROUND, up=toy.BACKGROUND.weight * 1.3, down=toy.BACKGROUND.weight * 0.7
    )
    found = noise_of(flat)
    assert found.shape_noise < 1e-9
    assert found.complaint(0.5) is None


def test_a_variation_without_any_effect_is_no_error() -> None:
    up, down = (replace(toy.gaussian(1.0, 1000.0, seed, n=500), extra={}) for seed in (7, 8))
    found = noise_of(Variation("none", "background", up, down), n_bins=1)
    assert found.effect == 0.0
    assert "all of its effect" in str(found.complaint(0.5))


def test_other_events_are_noisy_and_the_warning_names_them() -> None:
    few = toy.BACKGROUND.select(np.arange(200))
    found = noise_of(Variation("rate", "background", few.scaled(21.0), few.scaled(19.0)))
    assert found.noise < 0.1 * found.effect  # up and down are the same events: their rate is known well
    assert "of its effect on the shape" in str(found.complaint(0.5))  # but not where they are
    other = toy.gaussian(1.0, 950.0, 7, n=200)
    text = noise_of(Variation("rate", "background", few.scaled(21.0), replace(other, extra={}))).complaint(
        0.5
    )
    assert text is not None
    assert "'rate' of process 'background' has a statistical uncertainty of" in text


def test_events_matched_by_their_ids_or_rows_fluctuate_together() -> None:
    matched = noise_of(toy.SHIFT)
    alone = noise_of(
        replace(toy.SHIFT, up=replace(toy.SHIFT.up, extra={}), down=replace(toy.SHIFT.down, extra={}))
    )
    rows_ = noise_of(
        replace(
            toy.SHIFT,
            up=replace(toy.SHIFT.up, extra={}),
            down=replace(toy.SHIFT.down, extra={}),
            paired=True,
        )
    )
    assert matched.noise < alone.noise
    assert rows_.noise == pytest.approx(matched.noise)
    order = np.random.default_rng(1).permutation(len(toy.BACKGROUND))
    shuffled = noise_of(replace(toy.SHIFT, up=toy.SHIFT.up.select(order)))
    assert shuffled.noise == pytest.approx(matched.noise)


def test_noise_is_the_spread_over_samples() -> None:
    """The predicted variance of a shape against many independent samples of the same size."""
    effects, predicted = [], []
    for seed in range(200):
        sizes = np.random.default_rng(seed).poisson(500, 2)
        up, down = (toy.gaussian(1.0, 2.0 * n, 10 * seed + k, n=n) for k, n in enumerate(sizes))
        up, down = (replace(t, extra={}) for t in (up, down))
        found = noise_of(Variation("none", "background", up, down))
        effects.append(found.effect)
        predicted.append(found.noise)
    assert np.mean(predicted) == pytest.approx(np.mean(effects), rel=0.1)


def test_a_training_warns_of_a_noisy_variation() -> None:
    up, down = (
        replace(toy.gaussian(1.0, 1000.0 * f, seed, n=150), extra={}) for f, seed in ((1.05, 8), (0.95, 9))
    )
    with pytest.warns(NeymanWarning, match="'rate' of process 'background' has a statistical uncertainty"):
        result = toy.run([Variation("rate", "background", up, down)], replace(toy.SETTINGS, steps=2))
    assert len(result.warnings) == 1


# Scan of edges ---------------------------------------------------------------------------------------------------


def test_the_scan_finds_the_best_of_all_edges_of_a_small_grid() -> None:
    templates = Templates.of(
        {"signal": toy.SIGNAL}, {"background": toy.BACKGROUND}, [toy.SHIFT], fraction=0.5, seed=1
    )
    measurement = Measurement.of(templates, mc_stat=False, min_effective=10.0)
    rows_ = rows_of(templates, dtype=torch.float64)
    network = BinnedStack(
        toy.NETWORK.build(2, seed=3), torch.linspace(0.0, 1.0, 4, dtype=torch.float64)[None], learned=False
    )
    with torch.no_grad():
        network.network.layers[-1].weight.mul_(8.0)  # spread the scores of an untrained network
    scan = EdgeScan(places=16)
    found = scan.run(network, rows_, measurement)

    def value(edges: torch.Tensor) -> float:
        with torch.no_grad():
            scores = torch.sigmoid(outputs(network, rows_.x))
        return float(measurement.loss(exact_rows(Exact().index(scores, edges), rows_, 3)))

    with torch.no_grad():
        scores = torch.sigmoid(outputs(network, rows_.x))[..., 0]
    grid = scan._grid(scores[0], rows_)
    every = [
        value(torch.tensor([[[0.0, float(a), float(b), 1.0]]], dtype=torch.float64))
        for k, a in enumerate(grid)
        for b in grid[k + 1 :]
    ]
    assert value(found) == pytest.approx(min(every), rel=0.01)
    assert value(found) <= value(network.edges())


def test_scan_errors() -> None:
    with pytest.raises(ConfigError, match="a scan needs at least 3 places"):
        EdgeScan(places=2)
    signals, backgrounds, _ = toy.two_signals(500)
    templates = Templates.of(signals, backgrounds, (), fraction=0.5, seed=1)
    rows_ = rows_of(templates, dtype=torch.float32)
    edges = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    several = BinnedStack(toy.NETWORK.build(3, outputs=2), edges.expand(2, -1), learned=False)
    with pytest.raises(ConfigError, match="single output"):
        EdgeScan().run(several, rows_, Measurement.of(templates))
    one = BinnedStack(toy.NETWORK.build(3), edges[None], learned=False)
    with pytest.raises(ConfigError, match="10 places are too few to scan 8 bins"):
        EdgeScan(places=10).run(one, rows_, Measurement.of(templates))
