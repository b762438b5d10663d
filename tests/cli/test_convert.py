"""`neyman convert`: datacards and pyhf workspaces on the command line."""

from __future__ import annotations

import json

import hist
import numpy as np
import pytest
import uproot
from click.testing import CliRunner

from neyman import Likelihood
from neyman.cli import main

CARD = """\
imax 1
jmax 1
kmax 1
bin SR
observation 12
bin      SR   SR
process  sig  bkg
process  0    1
rate     4.5  8
xsec lnN 1.1  0.8/1.3
"""


def run(*arguments):
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


@pytest.fixture
def card(tmp_path):
    (tmp_path / "card.txt").write_text(CARD)
    return tmp_path / "card.txt"


def test_there_and_back(card, tmp_path):
    done = run(card, tmp_path / "w.json", "--poi", "mu")
    assert done.exit_code == 0, done.output
    assert "wrote" in done.output
    assert "interpolation" in done.output
    first = Likelihood.from_pyhf(tmp_path / "w.json")
    assert first.poi == "mu"
    back = run(tmp_path / "w.json", tmp_path / "new" / "again.txt", "--json")
    written = json.loads(back.output)
    assert {note["what"] for note in written["notes"]} == {"renamed", "bounds", "interpolation"}
    assert (tmp_path / "new" / "again.root").is_file()
    assert run(tmp_path / "new" / "again.txt", tmp_path / "v.json", "--poi", "mu").exit_code == 0
    second = Likelihood.from_pyhf(tmp_path / "v.json")
    assert second.value(second.inits) == pytest.approx(first.value(first.inits), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("card.txt", "out.yaml"), "cannot tell what 'card.txt' should become"),
        (("card.txt", "out.json", "--measurement", "m"), "--measurement has no effect on a datacard"),
        (("w.json", "out.txt", "--poi", "mu"), "have no effect on a workspace"),
        (("w.json", "out.txt", "--floor-negative", "1e-3"), "have no effect on a workspace"),
        (("none.txt", "out.json"), "none.txt does not exist"),
        (("none.json", "out.txt"), "none.json does not exist"),
    ],
)
def test_requests_that_make_no_sense(card, tmp_path, arguments, message):
    names = [tmp_path / a if "." in a else a for a in arguments]
    done = run(*names)
    assert done.exit_code == 1
    assert message in done.output


def test_a_broken_card_names_the_line(card, tmp_path):
    card.write_text(CARD.replace("lnN", "lnM"))
    done = run(card, tmp_path / "w.json", "--json")
    assert done.exit_code == 1
    assert json.loads(done.output)["error"]["where"] == "card.txt, line 10"
    assert run(card, tmp_path / "w.json", "--keyword", "ERA").exit_code == 2


def test_negative_bins(card, tmp_path):
    axis = hist.axis.Regular(2, 0, 1, name="m")
    with uproot.recreate(tmp_path / "shapes.root") as file:
        for name, values in {"sig": [1.0, 3.5], "bkg": [9.0, -1.0], "data_obs": [7.0, 5.0]}.items():
            file[name] = hist.Hist(axis, data=np.array(values))
    card.write_text(CARD.replace("bin SR\n", "shapes * * shapes.root $PROCESS\nbin SR\n", 1))
    assert "bin 1 has a negative expectation -1" in run(card, tmp_path / "w.json").output
    done = run(card, tmp_path / "w.json", "--floor-negative", "0.001", "--json")
    (note,) = [n for n in json.loads(done.output)["notes"] if n["what"] == "floored"]
    assert note["where"] == "channel SR, sample bkg, nominal"
    assert json.loads((tmp_path / "w.json").read_text())["channels"][0]["samples"][1]["data"] == [9.0, 0.001]
