"""All checks of a ratio: an exact one passes, a wrong one fails where it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from ratio_toy import SHIFT, SMALL, ExactModel, tables

from neyman.analysis.trust import Tolerances, trust, within
from neyman.errors import InputError
from neyman.ratios import Ratio


def checked(model, *, events=None, **options):
    p, q = events or tables(shifted=bool(model.parameters))
    return trust(Ratio(model), p, q, seed=4, classifier=SMALL, **options)


def verdicts(checks):
    return {one.name: one.passed for one in checks.checks}


def test_exact_ratio_passes_everything():
    checks = checked(ExactModel(spread=0.001), slices=("y",), name="signal")
    assert checks.passed, checks.summary()
    assert list(verdicts(checks)) == [
        "closure", "calibration", "two-sample test", "weights", "ensemble spread", "support"
    ]  # fmt: skip
    closures = checks.checks[0].closures
    assert {one.process for one in closures} == {"signal"}
    sliced = {one.slice for one in closures}
    assert "" in sliced
    assert any("log-ratio" in name for name in sliced)
    assert any(name.startswith("y ") for name in sliced)


@pytest.mark.parametrize(
    ("model", "failing"),
    [
        (ExactModel(wrong=lambda x, _: 0.4 * x), {"closure", "calibration", "two-sample test"}),
        (ExactModel(wrong=lambda x, _: 0.5 + 0.0 * x), {"calibration", "weights"}),
        (ExactModel(spread=0.5), {"ensemble spread"}),
    ],
    ids=["shape", "normalisation", "spread"],
)
def test_wrong_ratio_fails_where_it_is_wrong(model, failing):
    checks = checked(model)
    assert {name for name, passed in verdicts(checks).items() if not passed} >= failing
    assert verdicts(checks)["support"]


def test_normalised_ratio_is_checked_normalised():
    _, reference = tables(seed=21)
    p, q = tables()
    wrong = Ratio(ExactModel(wrong=lambda x, _: 0.5 + 0.0 * x)).normalised(reference)
    assert trust(wrong, p, q, seed=4, classifier=SMALL).passed


def test_support_is_that_of_the_reference_sample():
    p, q = tables()
    narrow = q.select(q.x[:, 0] < 0.5)
    checks = trust(Ratio(ExactModel()).normalised(q), p, narrow, seed=4, classifier=SMALL)
    assert verdicts(checks)["support"]
    checks = trust(Ratio(ExactModel()).normalised(narrow), p, q, seed=4, classifier=SMALL)
    assert not verdicts(checks)["support"]


def test_tolerances_decide():
    wide = Tolerances(closure=0.5, calibration=0.5, two_sample=0.5, normalisation=0.5)
    assert checked(ExactModel(wrong=lambda x, _: 0.2 * x), tolerances=wide).passed
    assert not checked(ExactModel(), tolerances=Tolerances(effective_events=1e9)).passed


def test_conditioned_ratio_is_checked_in_windows():
    checks = checked(ExactModel(("z",)))
    assert checks.passed, checks.summary()
    windows = [name.partition(", ")[2] for name in verdicts(checks) if name.startswith("calibration")]
    assert len(windows) == 3
    low, high = (float(text) for text in windows[0].removeprefix("z from ").split(" to "))
    assert low == pytest.approx(-0.9, abs=0.01)  # the inner 90% of the trained range
    assert high == pytest.approx(-0.3, abs=0.03)  # a third of the events
    assert {one.process for one in checks.checks[0].closures} == {f"numerator, {name}" for name in windows}


def test_conditioned_ratio_that_is_wrong_at_one_end_fails_there():
    wrong = ExactModel(("z",), wrong=lambda x, z: np.where(z > 0.4, -0.6 * x, 0.0))
    passed = verdicts(checked(wrong))
    ends = {name: ok for name, ok in passed.items() if name.startswith("calibration")}
    assert list(ends.values()) == [True, True, False]


def test_wide_windows_are_exact_because_z_is_taken_in_turn():
    """At the window's centre alone, a ratio that is exact would fail."""
    model = ExactModel(("z",), range=(-1.0, 1.0))
    p, q = tables(20000, shifted=True)
    checks = trust(Ratio(model), p, q, seed=4, classifier=SMALL)
    assert checks.passed, checks.summary()
    centred = ExactModel(("z",), wrong=lambda x, z: 2.0 * (np.round(z * 1.5) / 1.5 - z) * x)
    assert not trust(Ratio(centred), p, q, seed=4, classifier=SMALL).passed


def test_parameter_of_few_values_has_a_window_for_each():
    p, q = tables(shifted=True)
    z = np.round(p.extra["z"])
    x = p.x.copy()
    x[:, 0] += SHIFT * (z - p.extra["z"])
    p = type(p)(p.features, x, p.weight, {"z": z})
    checks = checked(ExactModel(("z",)), events=(p, q))
    assert checks.passed, checks.summary()
    names = [name for name in verdicts(checks) if name.startswith("weights")]
    assert names == ["weights, z = -1", "weights, z = 0", "weights, z = 1"]


def test_reference_with_its_own_parameters_keeps_them():
    """p(x, z) over q(x, z) with z of another density in q: the log-ratio then contains that of z."""
    p, q = tables(20000, shifted=True)
    z = np.random.default_rng(1).triangular(-1.0, 1.0, 1.0, len(q))
    q = type(q)(q.features, q.x, q.weight, {"z": z})
    model = ExactModel(("z",), wrong=lambda x, z: -np.log(np.maximum(1.0 + z, 1e-3)) + 0.0 * x)
    checks = trust(Ratio(model), p, q, seed=4, classifier=SMALL, tolerances=Tolerances(normalisation=9.0))
    assert checks.passed, checks.summary()


def test_events_outside_the_trained_range_are_left_out():
    p, _ = tables(shifted=True)
    ratio = Ratio(ExactModel(("z",), range=(-0.5, 1.0)))
    kept = within(ratio, p)
    assert kept.extra["z"].min() >= -0.5
    assert len(kept) == (p.extra["z"] >= -0.5).sum()


def test_errors():
    with pytest.raises(InputError, match="'u' is not a feature to slice in"):
        checked(ExactModel(), slices=("u",))
    with pytest.raises(InputError, match=r"(?s)no column 'z'.*events of signal"):
        checked(ExactModel(("z",)), events=tables(), name="signal")
