"""Figures of mixture likelihoods show what they were given."""

from __future__ import annotations

import numpy as np
import pytest

from neyman import plots
from neyman.diagnostics import bootstrap_coverage, intervals, overlap
from neyman.errors import InputError

MU, Z = np.linspace(0.0, 0.5, 60), np.linspace(0.1, 1.2, 50)


def gaussian(mu, z, width=0.08):
    return -0.5 * ((MU[:, None] - mu) / width) ** 2 - 0.5 * ((Z - z) / (2 * width)) ** 2


def covered(scale):
    grid = np.linspace(-3.0, 3.0, 121)
    best = np.random.default_rng(1).normal(size=(3, 400))
    found = [intervals(grid, 0.5 * ((grid - scale * row[:, None]) / 0.7) ** 2) for row in 0.7 * best]
    return bootstrap_coverage(
        found, [0.0] * 3, parameter="mu", expected=0.683, expected_width=1.4, width_tolerance=0.03
    )


def test_overlap():
    true = np.stack([gaussian(0.2, 0.6), gaussian(0.25, 0.7)])
    good = plots.overlap(overlap(true, true))
    assert "mean 1.000" in good.axes[0].get_title(loc="right")
    assert "passed" in good.axes[0].get_title(loc="right")
    bad = overlap(np.stack([gaussian(0.35, 0.6), gaussian(0.25, 0.7)]), true)
    drawn = plots.overlap(bad.to_dict())
    assert "FAILED" in drawn.axes[0].get_title(loc="right")
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == [
        "needed on average",
        "mean",
    ]


def test_contours_lie_at_one_two_and_three_sigma():
    drawn = plots.likelihoods(
        [MU, Z], {"true": gaussian(0.25, 0.6), "LRE": gaussian(0.26, 0.6)}, truth=(0.25, 0.6)
    )
    (axes,) = drawn.axes
    assert axes.get_xlabel() == "μ"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["true", "LRE", "truth"]
    inner = axes.collections[1].get_paths()[0].vertices
    assert inner[:, 0].max() == pytest.approx(0.26 + 0.08, abs=0.005)
    assert inner[:, 1].max() == pytest.approx(0.6 + 0.16, abs=0.01)
    with pytest.raises(InputError, match=r"the likelihood 'b' has shape \(3, 3\)\n.*\(60, 50\)"):
        plots.likelihoods([MU, Z], {"b": np.zeros((3, 3))})
    with pytest.raises(InputError, match="no likelihood to draw"):
        plots.likelihoods([MU, Z], {})


def test_bootstrap_coverage():
    good, bad = covered(1.0), covered(1.6)
    assert good.passed
    assert not bad.passed
    drawn = plots.bootstrap_coverage({"truth": good, "LRE": bad.to_dict()})
    assert drawn.axes[0].get_title(loc="left") == "μ: 1 of 2 fail"
    assert [tick.get_text() for tick in drawn.axes[0].get_yticklabels()] == ["truth", "LRE"]
    assert plots.bootstrap_coverage({"truth": good}).axes[0].get_title(loc="left") == "μ: all pass"
    with pytest.raises(InputError, match="no coverage to draw"):
        plots.bootstrap_coverage({})
