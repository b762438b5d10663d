"""A binned region from histograms and an unbinned region in one workspace and one likelihood."""

from __future__ import annotations

import hist
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import neyman as ny
from neyman.errors import WorkspaceError
from neyman.workspace import Draft, SampleModel, Treatment, documents, from_hists, validate

MEASUREMENT = {
    "name": "measurement",
    "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-5.0, 10.0]]}]},
}
CHANNEL = {
    "name": "unbinned",
    "data": {"file": "data.parquet"},
    "reference": {"file": "reference.parquet"},
    "samples": [
        {
            "name": "sig",
            "yield": 40.0,
            "log_ratio": "sig",
            "modifiers": [{"name": "mu", "type": "normfactor"}],
        },
        {
            "name": "bkg",
            "yield": 200.0,
            "log_ratio": "bkg",
            "modifiers": [
                {"name": "jes", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
                {"name": "jes", "type": "ratiosys", "data": {"hi": "bkg:up", "lo": "bkg:down"}},
            ],
        },
    ],
}


def histogram(contents):
    h = hist.Hist(
        hist.axis.StrCategory(list(contents), name="variation"),
        hist.axis.Regular(4, 0, 1, name="score"),
        storage=hist.storage.Weight(),
    )
    h.view()["value"][:] = np.stack(list(contents.values()))
    h.view()["variance"][:] = 0.02 * np.stack(list(contents.values()))
    return h


def events(path, x):
    """Log-ratios of two unit Gaussians at 1 and 0 over their equal mixture."""
    q = np.logaddexp(-0.5 * (x - 1) ** 2, -0.5 * x**2) - np.log(2)
    columns = {
        "sig": -0.5 * (x - 1) ** 2 - q,
        "bkg": -0.5 * x**2 - q,
        "bkg:up": 0.05 * x,
        "bkg:down": -0.05 * x,
    }
    pq.write_table(pa.table({"weight": np.ones(len(x))} | columns), path)
    return path


@pytest.fixture
def draft(tmp_path):
    """Keyword arguments of a draft of both regions, without the ids of events."""
    nominal = np.array([60.0, 40.0, 25.0, 10.0])
    binned = from_hists(
        {
            "SANNT": {
                "sig": histogram({"nominal": np.array([1.0, 3.0, 8.0, 12.0])}),
                "bkg": histogram(
                    {
                        "nominal": nominal,
                        "jesUp": nominal * [1.15, 1.1, 1.05, 1.02],
                        "jesDown": nominal * [0.88, 0.9, 0.96, 0.97],
                    }
                ),
            }
        },
        {"sig": SampleModel(("mu",)), "bkg": SampleModel()},
        observed={"SANNT": [63.0, 41.0, 35.0, 24.0]},
        parameters=MEASUREMENT["config"]["parameters"],
        treatment=Treatment(symmetrise="average"),
    )
    rng = np.random.default_rng(4)
    data = np.concatenate([rng.normal(1.0, 1.0, 45), rng.normal(0.0, 1.0, 195)])
    reference = rng.normal(size=5000) + rng.integers(0, 2, 5000)
    return {
        "binned": binned,
        "unbinned": documents.Unbinned.model_validate({"channels": [CHANNEL], "measurements": [MEASUREMENT]}),
        "files": {
            "data.parquet": events(tmp_path / "d", data),
            "reference.parquet": events(tmp_path / "r", reference),
        },
    }


ENTRIES = {
    "SANNT": {"sig": np.arange(100), "bkg": np.arange(500)},
    "unbinned": {"sig": np.arange(100, 300), "bkg": np.arange(500, 900)},
}


def test_one_likelihood_of_both_regions(draft, tmp_path):
    folder = Draft(**draft, entries=ENTRIES).write(tmp_path / "ws").folder
    assert all(check.passed for check in validate(folder))
    both = ny.Likelihood.load(folder)
    binned, unbinned = (ny.Likelihood.load(folder / name) for name in ("binned.json", "unbinned.json"))
    assert both.names.count("jes") == both.names.count("mu") == 1
    assert set(both.names) == set(binned.names) | set(unbinned.names)
    assert set(binned.names) & set(unbinned.names) == {"mu", "jes"}

    rng = np.random.default_rng(1)
    for _ in range(5):
        x = dict(zip(both.names, both.inits + 0.1 * rng.normal(size=len(both.names)), strict=True))
        alone = [
            lh.value(np.array([x[name] for name in lh.names], dtype=np.float64)) for lh in (binned, unbinned)
        ]
        constraint = x["jes"] ** 2 + np.log(2.0 * np.pi)  # of twice the negative logarithm
        assert both.value(both.vector(x)) == pytest.approx(sum(alone) - constraint, rel=1e-12)

    fits = {name: ny.fit(lh) for name, lh in (("both", both), ("binned", binned), ("unbinned", unbinned))}
    assert all(fit.valid for fit in fits.values())
    for parameter in ("mu", "jes"):
        assert fits["both"].errors[parameter] < min(
            fits[name].errors[parameter] for name in ("binned", "unbinned")
        )
    between = sorted(fits[name].values["mu"] for name in ("binned", "unbinned"))
    assert between[0] - 0.1 < fits["both"].values["mu"] < between[1] + 0.1


def test_regions_that_share_events_are_not_combined(draft, tmp_path):
    entries = ENTRIES | {"unbinned": {"sig": np.arange(100, 300), "bkg": np.arange(498, 900)}}
    with pytest.raises(
        WorkspaceError,
        match=r"(?s)regions 'SANNT' and 'unbinned' share 2 events of sample 'bkg'.*first id 498.*exclusive",
    ):
        Draft(**draft, entries=entries).write(tmp_path / "ws")
    assert not (tmp_path / "ws").exists()
