"""The whole chain on real collisions: CMS open data of 2012 to an observed signal strength."""

from __future__ import annotations

import json

import pytest

from neyman.analysis import train_sannt

pytestmark = pytest.mark.benchmark


def test_open_data(record, show, repository, shared_data, tmp_path) -> None:
    done = train_sannt(
        repository / "examples" / "opendata" / "sannt.toml",
        output=tmp_path / "out",
        data=shared_data / "cms_open_data_htautau",
    )
    assert done.invalid == []
    results = done.results
    (signal,) = done.config.signals
    rows, figures = [], {}
    for name, stage, seen in (
        ("CENNT", "pretrained", "observed_cennt"),
        ("SANNT", "trained", "observed"),
    ):
        fit, observed = results["fits"][stage], results[seen]
        figures[name] = {
            method: fit[method][signal] for method in ("statistical", "fisher", "hesse", "minos", "pyhf")
        } | {
            "observed": observed["values"]["r"],
            "observed_hesse": observed["errors"]["r"],
            "observed_minos": observed["minos"]["r"],
            "goodness_of_fit": observed["goodness_of_fit"],
            "largest_pull": max(map(abs, observed["pulls"].values())),
            "w_norm": [observed["values"]["w_norm"], observed["errors"]["w_norm"]],
        }
        rows.append(
            {"network": name}
            | {key: figures[name][key] for key in ("statistical", "fisher", "hesse", "pyhf", "observed")}
            | {"observed MINOS": " ".join(f"{end:+.2f}" for end in figures[name]["observed_minos"])}
        )
    show("CMS open data, H to tau tau, muon + hadronic tau, 1.15/fb at 8 TeV", rows)
    print(f"report: {done.output / 'report' / 'index.html'}")
    record(
        "sannt_opendata",
        {
            "regions": json.loads(json.dumps(results["regions"])),
            "strength": figures,
            "warnings": results["warnings"],
            "seconds": results["steps"],
        },
    )
