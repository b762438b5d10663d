"""Sources, data, interpolation codes, and refusals of pyhf documents."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyhf
import pytest

from neyman.errors import LikelihoodError, WorkspaceError
from neyman.likelihood import Likelihood
from neyman.likelihood.histfactory import binned_term

MU = {"name": "mu", "type": "normfactor", "data": None}
NORM = {"name": "norm", "type": "normsys", "data": {"hi": 1.3, "lo": 0.8}}
SHAPE = {"name": "shape", "type": "histosys", "data": {"hi_data": [14.0, 25.0], "lo_data": [9.0, 17.0]}}
STAT = {"name": "stat", "type": "staterror", "data": [1.0, 2.0]}


@pytest.fixture
def spec() -> dict[str, Any]:
    return copy.deepcopy(
        {
            "channels": [
                {
                    "name": "SR",
                    "samples": [
                        {"name": "signal", "data": [3.0, 5.0], "modifiers": [MU]},
                        {"name": "background", "data": [10.0, 20.0], "modifiers": [NORM, SHAPE, STAT]},
                    ],
                }
            ],
            "observations": [{"name": "SR", "data": [14.0, 22.0]}],
            "measurements": [
                {"name": "nominal", "config": {"poi": "mu", "parameters": []}},
                {
                    "name": "shifted",
                    "config": {
                        "poi": "mu",
                        "parameters": [{"name": "norm", "auxdata": [0.5], "fixed": True}],
                    },
                },
            ],
            "version": "1.0.0",
        }
    )


def model_spec(spec: dict[str, Any]) -> dict[str, Any]:
    return {"channels": spec["channels"]}


def sample(spec: dict[str, Any]) -> dict[str, Any]:
    background: dict[str, Any] = spec["channels"][0]["samples"][1]
    return background


@pytest.fixture
def value(spec: dict[str, Any]) -> float:
    """Return pyhf's ``twice_nll`` one step away from the start."""
    model = pyhf.Model(model_spec(spec), validate=False)
    x = [init + 0.3 for init in model.config.suggested_init()]
    return float(pyhf.infer.mle.twice_nll(x, [14.0, 22.0, *model.config.auxdata], model)[0])


def shifted(likelihood: Likelihood) -> float:
    return float(likelihood.value(likelihood.inits + 0.3))


# Sources ----------------------------------------------------------------------------------------------------


def test_every_source_gives_the_same_likelihood(spec: dict[str, Any], value: float, tmp_path: Path) -> None:
    path = tmp_path / "workspace.json"
    path.write_text(json.dumps(spec))
    model = pyhf.Model(model_spec(spec), validate=False)
    data = [14.0, 22.0, *model.config.auxdata]
    before = copy.deepcopy(spec)
    for likelihood in (
        Likelihood.from_pyhf(spec),
        Likelihood.from_pyhf(path),
        Likelihood.from_pyhf(str(path)),
        Likelihood.from_pyhf(pyhf.Workspace(spec, validate=False)),
        Likelihood.from_pyhf(spec, data=data),
        Likelihood.from_pyhf(model_spec(spec), data=data),
        Likelihood.from_pyhf(model, data=np.array(data)),
    ):
        assert shifted(likelihood) == pytest.approx(value, rel=1e-12)
        assert likelihood.terms[0].poi == "mu"  # type: ignore[attr-defined]
    assert spec == before


def test_arrays_are_as_good_as_lists(spec: dict[str, Any], value: float) -> None:
    sample(spec)["data"] = np.array(sample(spec)["data"])
    spec["observations"][0]["data"] = (np.float64(14.0), np.int64(22))
    assert shifted(Likelihood.from_pyhf(spec)) == pytest.approx(value, rel=1e-12)


def test_measurements(spec: dict[str, Any]) -> None:
    nominal, other = (Likelihood.from_pyhf(spec, measurement=name) for name in ("nominal", "shifted"))
    assert Likelihood.from_pyhf(spec).global_observables == nominal.global_observables
    assert nominal.global_observables["norm"] == 0.0
    assert other.global_observables["norm"] == 0.5
    assert other.fixed[other.index("norm")]
    with pytest.raises(WorkspaceError, match=r"no measurement 'nominl'\n  fix: nearest names: nominal"):
        Likelihood.from_pyhf(spec, measurement="nominl")
    with pytest.raises(WorkspaceError, match="is a model and has no measurements"):
        Likelihood.from_pyhf(model_spec(spec), data=[0.0] * 6, measurement="nominal")


def test_data_replace_counts_and_global_observables(spec: dict[str, Any]) -> None:
    model = pyhf.Model(model_spec(spec), validate=False)
    rng = np.random.default_rng(1)
    data = [15.0, 19.0, *rng.normal(model.config.auxdata, 0.1)]
    likelihood = Likelihood.from_pyhf(spec, data=data)
    assert likelihood.data.terms[0].tolist() == [15.0, 19.0]
    names = [name for name in likelihood.names if name != "mu"]
    assert likelihood.global_observables == dict(zip(names, data[2:], strict=True))
    x = likelihood.inits + 0.3
    assert likelihood.value(x) == pytest.approx(float(pyhf.infer.mle.twice_nll(x, data, model)[0]), rel=1e-12)


# Interpolation codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"normsys": {"interpcode": "code1"}, "histosys": {"interpcode": "code0"}},
        {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}},
        {"normsys": {"interpcode": "code4"}},
        {},
    ],
)
def test_codes_of_a_pyhf_model_are_kept(spec: dict[str, Any], settings: dict[str, Any]) -> None:
    model = pyhf.Model(model_spec(spec), validate=False, modifier_settings=settings)
    data = [14.0, 22.0, *model.config.auxdata]
    x = [init + 0.4 for init in model.config.suggested_init()]
    expected = float(pyhf.infer.mle.twice_nll(x, data, model)[0])
    assert Likelihood.from_pyhf(model, data=data).value(x) == pytest.approx(expected, rel=1e-12)
    term, observed = binned_term(
        spec,
        normsys=settings.get("normsys", {}).get("interpcode", "code1"),
        histosys=settings.get("histosys", {}).get("interpcode", "code0"),
    )
    assert Likelihood([term], global_observables=observed).value(x) == pytest.approx(expected, rel=1e-12)


def test_unknown_code(spec: dict[str, Any]) -> None:
    with pytest.raises(
        LikelihoodError, match=r"unknown normsys interpolation code 'code4p'\n  expected: code1, code4"
    ):
        binned_term(spec, normsys="code4p")
    with pytest.raises(LikelihoodError, match="unknown histosys interpolation code 'code1'"):
        binned_term(spec, histosys="code1")


# pyhf's backend ---------------------------------------------------------------------------------------------


@pytest.fixture
def single_precision() -> Iterator[None]:
    backend, optimizer = pyhf.get_backend()
    pyhf.set_backend("numpy", precision="32b")
    yield
    pyhf.set_backend(backend, optimizer)


@pytest.mark.usefixtures("single_precision")
def test_the_backend_is_neither_used_nor_changed(spec: dict[str, Any]) -> None:
    before = pyhf.get_backend()
    likelihood = Likelihood.from_pyhf(spec)
    assert pyhf.get_backend() == before
    pyhf.set_backend("numpy", precision="64b")
    model = pyhf.Model(model_spec(spec), validate=False)
    x = likelihood.inits + 0.3
    reference = pyhf.infer.mle.twice_nll(x, [14.0, 22.0, *model.config.auxdata], model)
    assert likelihood.value(x) == pytest.approx(float(reference[0]), rel=1e-12)


# Refusals ---------------------------------------------------------------------------------------------------


def test_unreadable_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"channels": [')
    with pytest.raises(WorkspaceError, match=r"broken\.json is not readable JSON"):
        Likelihood.from_pyhf(broken)
    with pytest.raises(WorkspaceError, match=r"missing\.json does not exist"):
        Likelihood.from_pyhf(tmp_path / "missing.json")
    patch = tmp_path / "patch.json"
    patch.write_text("[]")
    with pytest.raises(
        WorkspaceError, match=r"JSON object, got list\n  where: .*patch.json\n  fix: apply a JSON patch"
    ):
        Likelihood.from_pyhf(patch)


BROKEN = [
    (
        lambda spec: sample(spec)["modifiers"][0].update(type="normsyst"),
        r"unknown modifier type 'normsyst'\n  where: channels\[0\].samples\[1\].modifiers\[0\]\n.*\n.*: normsys",
    ),
    (lambda spec: sample(spec)["modifiers"].append("stat"), "unknown modifier type None"),
    (
        lambda spec: sample(spec)["modifiers"][0]["data"].pop("lo"),
        r"schema: 'lo' is a required property\n  where: channels\[0\].samples\[1\].modifiers\[0\].data",
    ),
    (lambda spec: spec.pop("measurements"), r"'measurements' is a required property\n  where: the top level"),
    (lambda spec: spec.update(version="2"), r"'1.0.0' was expected\n  where: version"),
    (lambda spec: sample(spec).update(data="10, 20"), r"'10, 20' is not of type 'array'"),
    (
        lambda spec: spec["observations"][0].update(data=[{"n": "x" * 300}]),
        r"schema: \{'n': 'xxx.{40,60} \.\.\. .*is not of type 'number'\n  where: observations\[0\].data\[0\]",
    ),
    (lambda spec: spec["observations"][0].update(name="CR"), "no observation of channel 'SR'"),
    (lambda spec: spec["observations"][0].update(data=[1.0]), r"channel 'SR' has 1 bins\n  expected: 2"),
    (lambda spec: spec["channels"].append(spec["channels"][0]), r"channel 'SR' appears 2 times"),
    (
        lambda spec: spec["channels"][0]["samples"].append(sample(spec)),
        r"sample 'background' appears 2 times\n  where: channel 'SR'",
    ),
    (
        lambda spec: sample(spec)["modifiers"].append({"name": "lumi", "type": "lumi", "data": None}),
        "the luminosity parameter has no auxdata, sigmas, inits, bounds",
    ),
    (
        lambda spec: sample(spec)["modifiers"][0]["data"].update(lo=0.0),
        r"a normsys factor is 0.0\n  where: channel 'SR', sample 'background', normsys 'norm'",
    ),
    (
        lambda spec: sample(spec)["modifiers"][1]["data"].update(hi_data=[1.0, float("nan")]),
        r"a number is not finite\n  where: channel 'SR', sample 'background', histosys 'shape'",
    ),
    (lambda spec: sample(spec).update(data=[1.0, float("inf")]), "a number is not finite"),
    (lambda spec: sample(spec).update(data=[1.0]), "pyhf cannot build the model: expected 2 size"),
    (
        lambda spec: sample(spec)["modifiers"][2].update(data=[1.0]),
        "pyhf cannot build the model: .*inconsistent",
    ),
    (
        lambda spec: sample(spec)["modifiers"][2].update(name="mu"),
        "pyhf cannot build the model: Multiple values",
    ),
    (
        lambda spec: spec["measurements"][0]["config"].update(parameters=[{"name": "mu", "bounds": [[1.0]]}]),
        "parameter 'mu' has 1 bounds",
    ),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("action", "message"), BROKEN)
def test_broken_documents(
    spec: dict[str, Any], action: Callable[[dict[str, Any]], Any], message: str
) -> None:
    action(spec)
    with pytest.raises(WorkspaceError, match=message):
        Likelihood.from_pyhf(spec)


def test_staterror_that_covers_different_channels(spec: dict[str, Any]) -> None:
    control = copy.deepcopy(spec["channels"][0])
    control["name"] = "CR"
    control["samples"][0]["modifiers"].append(STAT)
    spec["channels"].append(control)
    spec["observations"].append({"name": "CR", "data": [1.0, 1.0]})
    with pytest.raises(WorkspaceError, match="share a staterror but not in the same channels"):
        Likelihood.from_pyhf(spec)


def test_shapefactor_with_too_few_components(spec: dict[str, Any]) -> None:
    factor = {"name": "free", "type": "shapefactor", "data": None}
    sample(spec)["modifiers"].append(factor)
    control = {"name": "CR", "samples": [{"name": "background", "data": [4.0], "modifiers": [factor]}]}
    spec["channels"].append(control)
    spec["observations"].append({"name": "CR", "data": [1.0]})
    with pytest.raises(WorkspaceError, match="the shapefactor has 1 components for 2 bins"):
        Likelihood.from_pyhf(spec)


@pytest.mark.parametrize("length", [0, 2, 5, 7])
def test_data_of_wrong_length(spec: dict[str, Any], length: int) -> None:
    with pytest.raises(
        LikelihoodError,
        match=rf"shape \({length},\)\n  expected: \(6,\): 2 main counts .* SR, then 4 auxiliary data",
    ):
        Likelihood.from_pyhf(spec, data=[1.0] * length)


def test_auxiliary_data_that_are_not_finite(spec: dict[str, Any]) -> None:
    with pytest.raises(LikelihoodError, match="auxiliary data are not finite"):
        Likelihood.from_pyhf(spec, data=[14.0, 22.0, 0.0, float("nan"), 1.0, 1.0])


def test_a_model_without_data(spec: dict[str, Any]) -> None:
    for source in (model_spec(spec), pyhf.Model(model_spec(spec), validate=False)):
        with pytest.raises(LikelihoodError, match="a model specification has no data"):
            Likelihood.from_pyhf(source)


def test_a_model_that_clips(spec: dict[str, Any]) -> None:
    model = pyhf.Model(model_spec(spec), validate=False, clip_bin_data=0.0)
    with pytest.raises(LikelihoodError, match="clips its expectations"):
        Likelihood.from_pyhf(model, data=[1.0] * 6)
