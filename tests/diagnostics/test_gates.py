"""Verdicts and the correction for many comparisons."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from neyman.diagnostics.gates import Check, Checks, holm
from neyman.errors import InputError


@dataclass(frozen=True, eq=False)
class Numbers(Check):
    """A check with numbers of its own."""

    values: np.ndarray
    limit: float


def test_a_check_is_plain_data():
    check = Numbers("thing", False, "too large", np.array([1.0, np.inf]), float("nan"))
    assert check.to_dict() == {
        "name": "thing",
        "passed": False,
        "reason": "too large",
        "values": [1.0, None],
        "limit": None,
    }


def test_all_must_pass():
    good, bad = Check("a", True, "fine"), Check("b", False, "0.3 of 0.1")
    assert Checks([good]).passed
    assert Checks([good]).failed == ()
    both = Checks(check for check in (good, bad))
    assert not both.passed
    assert both.failed == (bad,)
    assert both.summary() == "FAIL  b: 0.3 of 0.1\npass  a: fine"
    document = json.loads(json.dumps(both.to_dict(), allow_nan=False))
    assert document["passed"] is False
    assert [check["name"] for check in document["checks"]] == ["a", "b"]


def test_nothing_checked_is_no_pass():
    with pytest.raises(InputError, match="nothing was checked"):
        Checks([])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_rate_of_false_alarms():
    rng = np.random.default_rng(1)
    alarms = [min(p for p in holm(rng.random(30)) if p is not None) < 0.1 for _ in range(2000)]
    assert 0.07 < np.mean(alarms) < 0.12
