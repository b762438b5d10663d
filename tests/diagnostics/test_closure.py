"""Closure against Gaussians with an exact ratio, in all events and in slices, and its verdict."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from neyman.diagnostics.closure import Closure, check_closure, closure, closure_slices
from neyman.errors import InputError


def samples(seed, n=4000):
    rng = np.random.default_rng(seed)
    target, reference = rng.normal(0.5, 1, (n, 1)), rng.normal(-0.5, 1, (n, 1))
    return (target, np.ones(n)), (reference, np.ones(n)), reference[:, 0]  # the exact log-ratio is x


def test_exact_ratio_gives_uniform_p_values():
    p = [closure("p", ["x"], *samples(seed))[0].p_value for seed in range(60)]
    assert kstest(p, "uniform").pvalue > 1e-3


def test_wrong_ratio_fails():
    target, reference, log_ratio = samples(1)
    (found,) = closure("p", ["x"], target, reference, 0.7 * log_ratio)
    assert found.p_value < 1e-6


def test_normalised_contents_and_scale_of_weights():
    (x, w), reference, log_ratio = samples(2)
    (a,) = closure("p", ["x"], (x, w), reference, log_ratio)
    (b,) = closure("p", ["x"], (x, 7.0 * w), reference, log_ratio + 3.0)
    assert sum(a.target) == pytest.approx(1.0)
    assert sum(a.model) == pytest.approx(1.0)
    assert b.chi2 == pytest.approx(a.chi2)


def test_counts_get_one_bin_a_value_and_spikes_their_own():
    rng = np.random.default_rng(3)
    n = 5000
    spike = np.where(rng.random(n) < 0.7, 0.0, rng.exponential(50.0, n) + 20.0)
    x = np.stack([rng.integers(0, 4, n).astype(float), spike], axis=1)
    counts, spiky = closure("p", ["n", "pt"], (x, np.ones(n)), (x, np.ones(n)), np.zeros(n))
    assert counts.edges == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert spiky.target[0] == pytest.approx(np.mean(spike == 0.0))
    assert spiky.chi2 == 0.0


def test_close_discrete_values_get_one_bin_each():
    x = np.repeat([0.0, 0.1, 0.2, 0.4], 100)[:, None]
    (found,) = closure("p", ["x"], (x, np.ones(400)), (x, np.ones(400)), np.zeros(400))
    assert found.edges == pytest.approx([-0.05, 0.05, 0.15, 0.3, 0.5])
    assert found.target == pytest.approx([0.25] * 4)


def test_too_few_events_for_a_p_value():
    x, w = np.zeros((400, 1)), np.ones(400)
    (one_bin,) = closure("p", ["x"], (x, w), (x, w), np.zeros(400))
    assert one_bin.edges == [-0.5, 0.5]
    few = np.arange(8.0)[:, None]
    (no_bin,) = closure("p", ["x"], (few, w[:8]), (few, w[:8]), np.zeros(8))
    assert (one_bin.n_bins, no_bin.n_bins) == (1, 0)
    assert one_bin.p_value is no_bin.p_value is no_bin.to_dict()["p_value"] is None


def test_useless_weights():
    target, (x, w), log_ratio = samples(4)
    with pytest.raises(InputError, match="reweighted reference of 'p' has a total weight of -"):
        closure("p", ["x"], target, (x, -w), log_ratio)


def signed(seed, negative, n=30_000):
    """Two features, the second without meaning; the exact log-ratio is the first."""
    rng = np.random.default_rng(seed)
    (x, y), (w_x, w_y) = (
        rng.normal(size=(2, n, 2)),
        (np.where(rng.random(n) < negative, -1.0, 1.0) for _ in "ab"),
    )
    x[:, 0] += 0.5
    y[:, 0] -= 0.5
    return (x, w_x), (y, w_y), y[:, 0]


@pytest.mark.parametrize("negative", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(4))
def test_gate_passes_the_exact_ratio(seed, negative):
    target, reference, log_ratio = signed(seed, negative)
    by = ("y", target[0][:, 1], reference[0][:, 1])
    found = closure("p", ["x", "y"], target, reference, log_ratio)
    found += closure_slices("p", ["x", "y"], target, reference, log_ratio, by=by)
    check = check_closure(found)
    assert check.passed, check.reason
    assert len(check.closures) == len(check.corrected) == 10
    assert "0 of 10 comparisons deviate by more than 5.0%" in check.reason


@pytest.mark.parametrize("negative", [0.0, 0.2])
def test_gate_fails_a_scaled_log_ratio_and_names_the_feature(negative):
    target, reference, log_ratio = signed(1, negative)
    check = check_closure(closure("p", ["x", "y"], target, reference, 1.3 * log_ratio))
    assert not check.passed
    assert "1 of 2 comparisons deviate by more than 5.0% with a corrected p < 0.001" in check.reason
    assert "the worst is x of p" in check.reason
    assert check.to_dict()["closures"][0]["deviation"] > 0.2


def test_gate_forgives_what_does_not_matter():
    rng = np.random.default_rng(2)
    x, y = rng.normal(0.03, 1.0, (400_000, 1)), rng.normal(0.0, 1.0, (400_000, 1))
    one = closure("p", ["x"], (x, np.ones(len(x))), (y, np.ones(len(y))), np.zeros(len(y)))
    assert one[0].p_value < 1e-10
    assert one[0].deviation == pytest.approx(0.03, abs=0.005)  # of N(d, 1) to N(0, 1): d
    assert check_closure(one).passed
    assert not check_closure(one, tolerance=0.01).passed


def test_deviation_bounds_the_bias_of_a_mean():
    rng = np.random.default_rng(3)
    x, y = rng.gamma(3.0, 1.0, (100_000, 1)), rng.gamma(3.3, 1.0, (100_000, 1))
    (one,) = closure("p", ["x"], (x, np.ones(len(x))), (y, np.ones(len(y))), np.zeros(len(y)), bins=50)
    t, m = np.array(one.target), np.array(one.model)
    for g in rng.normal(size=(50, 50)):
        bias, width = abs((t - m) @ g), np.sqrt(0.5 * (t + m) @ (g - 0.5 * (t + m) @ g) ** 2)
        assert bias <= np.hypot(one.deviation, one.resolution) * width * (1.0 + 1e-9)


def test_slices_see_what_features_do_not():
    rng = np.random.default_rng(4)
    a, b = (rng.normal(size=(20_000, 2)) for _ in "ab")
    a[:, 1] = 0.5 * a[:, 0] + np.sqrt(0.75) * a[:, 1]  # a correlation that the ratio misses
    one = np.ones(20_000)
    assert check_closure(closure("p", ["x", "y"], (a, one), (b, one), np.zeros(20_000))).passed
    by = ("x", a[:, 0], b[:, 0])
    check = check_closure(
        closure_slices("p", ["x", "y"], (a, one), (b, one), np.zeros(20_000), by=by, slices=3)
    )
    assert not check.passed
    assert "y of p in x " in check.reason
    slices = list(dict.fromkeys(c.slice for c in check.closures))
    low, high = np.quantile(a[:, 0], [1.0 / 3.0, 2.0 / 3.0], method="inverted_cdf")
    assert slices == [f"x ≤ {low:.3g}", f"{low:.3g} < x ≤ {high:.3g}", f"x > {high:.3g}"]


def test_one_slice_is_all_events():
    target, reference, log_ratio = signed(5, 0.0, 3000)
    by = ("y", target[0][:, 1], reference[0][:, 1])
    whole = closure("p", ["x", "y"], target, reference, log_ratio, bins=10)
    sliced = closure_slices("p", ["x", "y"], target, reference, log_ratio, by=by, slices=1)
    assert [c.slice for c in sliced] == ["y", "y"]
    assert [c.chi2 for c in sliced] == pytest.approx([c.chi2 for c in whole])


def test_slices_of_a_count_are_its_values():
    rng = np.random.default_rng(6)
    n, x, w = rng.integers(0, 2, (2, 4000)), rng.normal(size=(2, 4000, 1)), np.ones(4000)
    found = closure_slices("p", ["x"], (x[0], w), (x[1], w), np.zeros(4000), by=("n", n[0], n[1]))
    assert [c.slice for c in found] == ["n ≤ 0", "n > 0"]


def test_a_missing_reference_fails():
    rng = np.random.default_rng(7)
    one = np.ones(4000)
    (x,) = closure(
        "p", ["x"], (rng.normal(6.0, 1, (4000, 1)), one), (rng.normal(size=(4000, 1)), one), np.zeros(4000)
    )
    assert x.p_value is None
    assert x.missing > 0.9
    check = check_closure([x])
    assert not check.passed
    assert "of the target lies where the reweighted reference has too few events in x of p" in check.reason


def test_a_slice_without_reference_fails():
    rng = np.random.default_rng(8)
    target, by = rng.normal(size=(4000, 1)), np.repeat([0.0, 1.0], 2000)
    reference, one = rng.normal(size=(2000, 1)), np.ones(4000)
    found = closure_slices(
        "p", ["x"], (target, one), (reference, one[:2000]), np.zeros(2000), by=("n", by, np.zeros(2000))
    )
    assert [c.slice for c in found] == ["n ≤ 0", "n > 0"]
    assert found[1].missing == pytest.approx(1.0)
    assert not check_closure(found).passed


def test_few_events_are_not_called_missing():
    rng = np.random.default_rng(9)
    worst = 0.0
    for _ in range(60):
        x, y = rng.normal(0.5, 1, (400, 1)), rng.normal(-0.5, 1, (400, 1))
        worst = max(
            worst, *(c.missing for c in closure("p", ["x"], (x, np.ones(400)), (y, np.ones(400)), y[:, 0]))
        )
    assert worst <= 0.05


def test_dictionaries_of_earlier_figures_have_all_their_keys():
    one = Closure("p", "x", [0.0, 1.0], [1.0], [0.1], [1.0], [0.1], 0.0, 1)
    assert one.to_dict() == {
        "process": "p", "feature": "x", "edges": [0.0, 1.0], "target": [1.0], "target_error": [0.1],
        "model": [1.0], "model_error": [0.1], "chi2": 0.0, "n_bins": 1, "slice": "", "p_value": None,
        "deviation": 0.0, "resolution": pytest.approx(np.sqrt(0.02)), "missing": 0.0,
    }  # fmt: skip


def test_impossible_input():
    (x, w), (y, v), log_ratio = samples(10, 400)
    with pytest.raises(InputError, match="none of 1 closures has enough events"):
        check_closure(closure("p", ["x"], (x[:5], w[:5]), (y, v), log_ratio))
    with pytest.raises(InputError, match=r"features of the target of 'p' have shape \(400, 1\)"):
        closure("p", ["x", "y"], (x, w), (y, v), log_ratio)
    with pytest.raises(InputError, match=r"log-ratios have shape \(399,\)"):
        closure("p", ["x"], (x, w), (y, v), log_ratio[1:])
    with pytest.raises(InputError, match=r"1 of the log-ratios are not finite[\s\S]*event 7"):
        closure("p", ["x"], (x, w), (y, v), np.where(np.arange(400) == 7, np.nan, log_ratio))
    with pytest.raises(InputError, match="a log-ratio of 1000 is beyond any weight"):
        closure("p", ["x"], (x, w), (y, v), np.full(400, 1000.0))
    with pytest.raises(InputError, match=r"the score have shape \(399,\)"):
        closure_slices("p", ["x"], (x, w), (y, v), log_ratio, by=("score", x[1:, 0], y[:, 0]))
