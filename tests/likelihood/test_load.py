"""From unbinned.json to terms: every modifier, parameter settings, memory budgets, and what is refused."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from neyman.errors import LikelihoodError, WorkspaceError
from neyman.likelihood import Likelihood
from neyman.likelihood.events import Events, StreamedEvents
from neyman.likelihood.load import load_terms, memory_bytes
from neyman.likelihood.loglinear import ExponentialRatio, LinearShape, ReferenceStatistics
from neyman.likelihood.network import ConditionedNetwork
from neyman.likelihood.shapes import UpDownRatio
from neyman.likelihood.yields import NormFactor, NormSys, Polynomial
from neyman.networks import MLP, Description, Model, Part
from neyman.workspace import validate

KAPPA = {
    "parameters": ["kappa", "kt"],
    "terms": [{"coefficient": 1.0, "powers": [2, 0]}, {"coefficient": -0.5, "powers": [1, 1]}],
}
DOCUMENT = {
    "channels": [
        {
            "name": "SR",
            "form": "extended",
            "data": {"file": "data.parquet"},
            "reference": {"file": "reference.parquet"},
            "samples": [
                {
                    "name": "sig",
                    "yield": 20.0,
                    "log_ratio": "sig",
                    "modifiers": [
                        {"name": "mu", "type": "normfactor"},
                        {"name": "coupling", "type": "polynomial", "data": KAPPA},
                        {"name": "spread_sig", "type": "spread", "data": {"columns": ["sig#0", "sig#1"]}},
                        {"name": "refstat_SR_sig", "type": "refstat"},
                    ],
                },
                {
                    "name": "bkg",
                    "yield": 100.0,
                    "log_ratio": "bkg",
                    "modifiers": [
                        {"name": "jes", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9, "code": "code1"}},
                        {
                            "name": "jes",
                            "type": "ratiosys",
                            "data": {"hi": "up", "lo": "down", "code": "code1"},
                        },
                        {"name": "jer", "type": "ratiosys", "data": {"hi": "up", "lo": "down"}},
                        {
                            "name": "energy scales",
                            "type": "network",
                            "data": {
                                "file": "networks/bkg.safetensors",
                                "features": ["x:pt", "x:eta"],
                                "parameters": ["tes", "ees"],
                            },
                        },
                    ],
                },
            ],
        }
    ],
    "measurements": [
        {
            "name": "m",
            "config": {
                "poi": "mu",
                "parameters": [
                    {"name": "mu", "bounds": [[-1.0, 5.0]]},
                    {"name": "kappa", "inits": [1.2], "bounds": [[-3.0, 3.0]]},
                    {"name": "spread_sig", "bounds": [[-2.0, 2.0], [-3.0, 3.0]], "inits": [0.0, 0.1]},
                    {"name": "tes", "bounds": [[-4.0, 4.0]]},
                ],
            },
        }
    ],
    "version": "1.0.0",
}
NAMES = {"mu", "kappa", "kt", "spread_sig[0]", "spread_sig[1]", "refstat_SR_sig", "jes", "jer", "tes", "ees"}


def table(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) + rng.integers(0, 2, n)  # the equal mixture of both samples
    q = np.logaddexp(-0.5 * (x - 1) ** 2, -0.5 * x**2) - np.log(2)
    columns = {"weight": np.ones(n), "sig": -0.5 * (x - 1) ** 2 - q, "bkg": -0.5 * x**2 - q}
    columns |= {"up": 0.05 * x, "down": -0.04 * x, "sig#0": 0.1 * x, "sig#1": 0.03 * (x**2 - 1)}
    columns |= {"x:pt": x, "x:eta": rng.normal(size=n)}
    return {name: values.astype(np.float32) for name, values in columns.items()}


@pytest.fixture(scope="module")
def model():
    network = MLP((8, 8)).build(4, members=2, seed=4)
    return Model(
        [network],
        Description(
            features=("pt", "eta"),
            parameters=("tes", "ees"),
            parameter_range=((-3.0, 3.0), (-2.0, 2.0)),
            parts=(Part(network=MLP((8, 8)), members=2, parameters=("tes", "ees")),),
        ),
    )


@pytest.fixture
def make(tmp_path, model):
    """Write a workspace; the argument changes the document."""
    (tmp_path / "networks").mkdir()
    model.save(tmp_path / "networks" / "bkg.safetensors")
    pq.write_table(pa.table(table(150, 1)), tmp_path / "data.parquet")
    pq.write_table(pa.table(table(2000, 2)), tmp_path / "reference.parquet", row_group_size=700)

    def write(change=None):
        document = copy.deepcopy(DOCUMENT)
        if change is not None:
            change(document)
        (tmp_path / "unbinned.json").write_text(json.dumps(document))
        return tmp_path

    return write


def modifier(document, sample, name):
    (found,) = (m for m in document["channels"][0]["samples"][sample]["modifiers"] if m["name"] == name)
    return found


def test_every_modifier_becomes_its_factor_or_shape(make, model):
    lh = Likelihood.load(make())
    (term,) = lh.terms
    sig, bkg = term.samples
    assert set(lh.names) == NAMES
    assert sig.factors == (
        NormFactor("mu"),
        Polynomial(("kappa", "kt"), ((1.0, (2, 0)), (-0.5, (1, 1)))),
    )
    assert sig.shapes[:2] == (LinearShape("spread_sig[0]", "sig#0"), LinearShape("spread_sig[1]", "sig#1"))
    assert bkg.factors == (NormSys("jes", 1.1, 0.9, "code1"),)
    assert bkg.shapes[:2] == (ExponentialRatio("jes", "up", "down"), UpDownRatio("jer", "up", "down"))
    assert isinstance(bkg.shapes[2], ConditionedNetwork)
    assert bkg.shapes[2].ranges == {"tes": (-3.0, 3.0), "ees": (-2.0, 2.0)}
    assert torch.equal(bkg.shapes[2].model.stacks[0].layers[0].weight, model.stacks[0].layers[0].weight)
    assert isinstance(sig.shapes[-1], ReferenceStatistics)
    assert sig.shapes[-1] == bkg.shapes[-1]
    assert sig.shapes[-1].log_ratios == ("sig",)
    assert all(c.passed for c in validate(make()) if c.name != "manifest")


def test_parameters_have_defaults_and_settings(make):
    lh = Likelihood.load(make())
    settings = {n: (i, *b) for n, i, b in zip(lh.names, lh.inits.tolist(), lh.bounds.tolist(), strict=True)}
    assert settings == {
        "mu": (1.0, -1.0, 5.0),
        "kappa": (1.2, -3.0, 3.0),
        "kt": (1.0, 0.0, 10.0),
        "spread_sig[0]": (0.0, -2.0, 2.0),
        "spread_sig[1]": (0.1, -3.0, 3.0),
        "refstat_SR_sig": (0.0, -5.0, 5.0),
        "jes": (0.0, -5.0, 5.0),
        "jer": (0.0, -5.0, 5.0),
        "tes": (0.0, -3.0, 3.0),
        "ees": (0.0, -2.0, 2.0),
    }
    assert set(lh.global_observables) == NAMES - {"mu", "kappa", "kt"}


def test_the_derivatives_of_everything_together_are_exact(make):
    lh = Likelihood.load(make())
    rng = np.random.default_rng(5)
    # The columns are float32 and so are the factors: differences of values need a step above their rounding.
    x, step = lh.inits + 0.3 * rng.normal(size=len(lh.names)), 3e-4
    _, gradient, hessian = lh.evaluate(x, 2)
    shifts = step * np.eye(len(x))
    slopes = [(lh.value(x + d) - lh.value(x - d)) / (2 * step) for d in shifts]
    bends = [(lh.gradient(x + d) - lh.gradient(x - d)) / (2 * step) for d in shifts]
    assert gradient == pytest.approx(np.array(slopes), rel=1e-5, abs=1e-3)
    assert hessian == pytest.approx(np.stack(bends), rel=1e-5, abs=1e-3)


def test_the_parameter_may_be_the_name_of_the_modifier(make, model, tmp_path):
    def change(document):
        bkg = document["channels"][0]["samples"][1]["modifiers"]
        bkg[3]["name"] = "tes"
        del bkg[3]["data"]["parameters"]
        polynomial = {
            "name": "kappa",
            "type": "polynomial",
            "data": {"terms": [{"coefficient": 2.0, "powers": [1]}]},
        }
        document["channels"][0]["samples"][0]["modifiers"][1] = polynomial

    lh = Likelihood.load(make(change))
    assert set(lh.names) == NAMES - {"kt", "ees"}
    assert lh.terms[0].samples[0].factors[1] == Polynomial(("kappa",), ((2.0, (1,)),))


def test_a_polynomial_takes_a_nuisance_parameter_as_it_is(make):
    lh = Likelihood.load(
        make(lambda d: modifier(d, 0, "coupling")["data"].__setitem__("parameters", ["mu", "jes"]))
    )
    assert lh.bounds[lh.index("jes")].tolist() == [-5.0, 5.0]
    assert "jes" in lh.global_observables


def test_fraction_form(make):
    lh = Likelihood.load(make(lambda d: d["channels"][0].__setitem__("form", "fraction")))
    assert lh.terms[0].form == "fraction"
    assert Likelihood.load(make()).terms[0].form == "extended"


# Memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [(1000, 1000), ("1 GB", 10**9), ("512MiB", 512 * 2**20), ("1.5 kB", 1500), ("2T", 2 * 10**12), ("7", 7)],
)
def test_budgets_are_understood(text, size):
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1 GB", "1 XB", "GB", 0, -5, "0 MB", "1 GB 2"])
def test_budgets_that_are_not_understood(make, text):
    with pytest.raises(
        LikelihoodError, match=r"(?s)memory budget .* is not understood.*positive number of bytes"
    ):
        Likelihood.load(make(), memory_budget=text)


def test_the_largest_files_are_streamed_until_the_rest_fits(make):
    folder = make()

    def kinds(budget):
        (term,), *_ = load_terms(folder, "unbinned", None, budget)
        return type(term.data), type(term.reference)

    # 9 columns of float32, two of them of an up/down ratio and counted four times: 15 for 150 and 2000 events
    assert kinds(None) == kinds("1 GB") == kinds(129000) == (Events, Events)
    assert kinds(128999) == kinds(9000) == (Events, StreamedEvents)
    assert kinds(8999) == kinds(1) == (StreamedEvents, StreamedEvents)


def test_streaming_changes_nothing(make):
    folder = make()
    memory, streamed = Likelihood.load(folder), Likelihood.load(folder, memory_budget="1 kB")
    x = memory.inits + 0.2
    for a, b in zip(memory.evaluate(x, 2), streamed.evaluate(x, 2), strict=True):
        assert a == pytest.approx(b, rel=1e-10, abs=1e-8)


# Refusals ----------------------------------------------------------------------------------------------------


def edit(sample, name, **changes):
    return lambda d: modifier(d, sample, name)["data"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            edit(0, "coupling", terms=[{"coefficient": 1.0, "powers": [2]}]),
            r"(?s)term 0 has 1 powers for 2 parameters.*samples/0/modifiers/1/polynomial/data",
        ),
        (
            edit(0, "coupling", terms=[{"coefficient": 1.0, "powers": [2, -1]}]),
            r"(?s)greater than or equal to 0.*terms/0/powers/1",
        ),
        (edit(0, "coupling", terms=[]), r"(?s)at least 1 item.*polynomial/data/terms"),
        (
            lambda d: d["channels"][0].__setitem__("form", "binned"),
            r"(?s)'extended' or 'fraction'.*channels/0/form",
        ),
        (edit(1, "jer", code="code7"), r"(?s)'code1' or 'code4'.*ratiosys/data/code"),
        (
            edit(1, "energy scales", file="networks/absent.safetensors"),
            r"networks/absent.safetensors is missing",
        ),
        (edit(1, "energy scales", file="../../etc/passwd"), r"must be a relative path inside the workspace"),
        (edit(1, "energy scales", features=["x:pt", "x:etta"]), r"(?s)no column 'x:etta'.*nearest: .*x:eta"),
        (edit(0, "spread_sig", columns=["sig#0", "sig#3"]), r"(?s)no column 'sig#3'.*nearest: .*sig#"),
        (edit(0, "spread_sig", columns=[]), r"(?s)at least 1 item.*spread/data/columns"),
        (
            lambda d: d["channels"][0]["samples"][1]["modifiers"].append(
                {"name": "refstat_SR_sig", "type": "refstat"}
            ),
            r"refstat 'refstat_SR_sig' is used twice",
        ),
    ],
)
def test_documents_and_files_that_do_not_fit(make, change, message):
    with pytest.raises(WorkspaceError, match=message):
        Likelihood.load(make(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            edit(1, "energy scales", parameters=["tes", "jes"]),
            r"(?s)no .*input 'jes'.*channel SR, sample bkg, modifier energy scales; its inputs: tes, ees",
        ),
        (
            edit(1, "energy scales", features=["x:eta", "x:pt"]),
            r"(?s)columns x:eta, x:pt are not the network's features in its order.*sample bkg.*pt, eta",
        ),
        (
            edit(0, "coupling", parameters=["kappa", "kappa"]),
            r"(?s)needs different parameters, got \(kappa, kappa\).*sample sig, modifier coupling",
        ),
        (
            lambda d: d["measurements"][0]["config"].__setitem__("poi", "muu"),
            r"(?s)parameter of interest 'muu' is carried by no sample.*nearest names: mu",
        ),
        (
            lambda d: d["measurements"][0]["config"]["parameters"][2].__setitem__("inits", [0.0]),
            r"(?s)settings of 'spread_sig' have no value for component 1.*one value a component",
        ),
        (
            lambda d: d["measurements"][0]["config"]["parameters"][3].__setitem__("bounds", [[3.5, 4.0]]),
            r"(?s)bounds 3.5 to 4 of 'tes' lie outside.*within -3 to 3",
        ),
    ],
)
def test_models_that_do_not_fit(make, change, message):
    with pytest.raises(LikelihoodError, match=message):
        Likelihood.load(make(change))


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        (
            edit(1, "energy scales", parameters=["tes", "jes"]),
            "SR: network of bkg",
            "has no input jes; .*: tes, ees",
        ),
        (
            edit(1, "energy scales", features=["x:eta", "x:pt"]),
            "SR: network of bkg",
            "takes pt, eta, not eta, pt",
        ),
        (edit(1, "energy scales", file="absent"), "SR: network of bkg", "absent is missing"),
        (edit(0, "spread_sig", columns=["x:pt", "x:pt"]), "SR: spread of sig", "log-ratio uncertain by 1"),
        (
            lambda d: d["measurements"][0]["config"].__setitem__("poi", "muu"),
            "parameter of interest of m",
            "no sample carries 'muu'; nearest: mu",
        ),
    ],
)
def test_validate_knows_the_modifiers(make, change, check, detail):
    failed = {c.name: c.detail for c in validate(make(change)) if not c.passed}
    assert set(failed) == {"manifest", check}
    assert re.search(detail, failed[check])


def test_validate_finds_features_that_are_not_finite(make):
    folder = make()
    broken = table(150, 1)
    broken["x:pt"][3] = np.nan
    pq.write_table(pa.table(broken), folder / "data.parquet")
    failed = {c.name: c.detail for c in validate(folder) if not c.passed}
    assert failed["SR: data: features and spreads finite"] == "not finite: x:pt"
