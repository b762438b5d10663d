"""Control channels: what they say of the parameters is part of the expected uncertainty."""

from __future__ import annotations

from dataclasses import replace

import hist
import numpy as np
import pytest
import two_gaussians as toy

import neyman as ny
from neyman.errors import TrainingError
from neyman.sannt import Normalisation
from neyman.workspace import SampleModel, from_hists

FREE = [toy.SHIFT, Normalisation("k", "background", free=True), Normalisation("rate", "signal", 1.1, 0.9)]
SHORT = replace(toy.SETTINGS, steps=10)


def channel(contents: dict[str, list[float]], error: float = 0.0) -> hist.Hist:
    n = len(next(iter(contents.values())))
    h = hist.Hist(
        hist.axis.Regular(n, 0.0, 1.0, name="n_jets"),
        hist.axis.StrCategory(list(contents), name="variation"),
        storage=hist.storage.Weight(),
    )
    h.view().value = np.array(list(contents.values())).T
    h.view().variance = (error * np.array(list(contents.values())).T) ** 2
    return h


CONTROL = {
    "CR": {
        "signal": channel({"nominal": [2.0, 1.0]}),
        "background": channel(
            {"nominal": [900.0, 400.0], "onlyUp": [960.0, 390.0], "onlyDown": [845.0, 412.0]}, 0.02
        ),
    }
}


@pytest.mark.parametrize("mc_stat", [False, True])
def test_the_fit_with_the_control_region_has_the_expected_uncertainty(mc_stat: bool) -> None:
    result = toy.run(FREE, SHORT, control=CONTROL, mc_stat=mc_stat)
    assert result.parameters == ("shift", "k", "rate", "only")
    models = {
        "signal": SampleModel(normfactors=("mu",), normsys={"rate": (1.1, 0.9)}),
        "background": SampleModel(normfactors=("k",)),
    }
    for stage in (result.pretrained, result.trained):
        spec = from_hists({**stage.histograms, **CONTROL}, models, staterror=mc_stat)
        fit = ny.fit(ny.Likelihood.from_pyhf(spec))
        assert fit.errors["mu"] == pytest.approx(stage.uncertainty.total, rel=0.01)
        for name in ("shift", "k", "only"):
            found = fit.covariance["mu", name] / fit.errors[name]
            assert stage.impacts["signal"][name] == pytest.approx(found, rel=0.05, abs=2e-3)
    alone = toy.run(FREE, SHORT, mc_stat=mc_stat)
    assert result.pretrained.uncertainty.total < 0.99 * alone.pretrained.uncertainty.total
    assert result.pretrained.uncertainty.statistical == pytest.approx(
        alone.pretrained.uncertainty.statistical, rel=1e-3
    )


def test_errors_name_the_channel() -> None:
    background = CONTROL["CR"]["background"]

    def fails(own, message: str) -> None:
        with pytest.raises(TrainingError, match=message):
            toy.run(FREE, SHORT, control={"CR": own})

    fails({"backgrund": background}, r"no process 'backgrund'\n.*channel 'CR'.*\n.*background")
    fails({"background": channel({"none": [1.0]})}, r"no category 'nominal'\n.*'CR', process 'background'")
    for one, other in (("xUp", "xDown"), ("xDown", "xUp")):
        fails({"background": channel({"nominal": [1.0], one: [1.0]})}, f"variation 'x' has no {other}")
    fails(
        {"background": background, "signal": channel({"nominal": [1.0, 2.0, 3.0]})},
        "3 bins, where another process has 2",
    )
    fails(
        {"background": channel({"nominal": [1.0]}), "signal": channel({"nominal": [1.0, 2.0, 3.0]})},
        "3 bins, where another process has 1",
    )
    fails(
        {"background": channel({"nominal": [1.0], "kUp": [1.0], "kDown": [1.0]})}, "free parameter 'k' varies"
    )
    flat = hist.Hist(hist.axis.Regular(2, 0, 1, name="a"), hist.axis.Regular(2, 0, 1, name="b"))
    fails({"background": flat}, r"has the axes a, b\n.*channel 'CR'")
    twice = channel({"nominal": [1.0], "rateUp": [1.1], "rateDown": [0.9]})
    fails({"signal": twice}, r"'rate' varies the histogram and is a normalisation too\n.*process 'signal'")
    infinite = channel({"nominal": [1.0, 1.0]})
    infinite.view().value[0, 0] = np.inf
    fails({"background": infinite}, "contents that are not finite")
    fails({"background": channel({"nominal": [5.0, -1.0]})}, r"bin 1 has the expectation -1\n.*channel 'CR'")
