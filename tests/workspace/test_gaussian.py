"""Spectra with a covariance: the document, its folder, `from_unfolded`, and the commands on them."""

from __future__ import annotations

import copy
import json
import re

import hist
import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from neyman import Likelihood, fit
from neyman.analysis.inspection import inspect
from neyman.cli import main
from neyman.errors import LikelihoodError, WorkspaceError
from neyman.likelihood import GaussianTerm
from neyman.workspace import Draft, Gaussian, Measured, SampleModel, Treatment, from_unfolded, read, validate
from neyman.workspace import gaussian as documents

DOCUMENT = {
    "format": "neyman-gaussian",
    "spectra": [
        {
            "name": "unfolded",
            "channels": [
                {
                    "name": "pt",
                    "edges": [[0.0, 50.0, 100.0, 200.0]],
                    "names": ["pt"],
                    "units": ["GeV"],
                    "data": [11.0, 21.0, 28.0],
                    "samples": [
                        {
                            "name": "tt",
                            "data": [10.0, 20.0, 30.0],
                            "modifiers": [
                                {"name": "mu", "type": "normfactor", "data": None},
                                {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
                                {
                                    "name": "tune",
                                    "type": "histosys",
                                    "data": {"hi_data": [11.0, 20.0, 29.0], "lo_data": [9.0, 20.0, 31.0]},
                                },
                                {"name": "stat", "type": "staterror", "data": [0.1, 0.2, 0.3]},
                            ],
                        },
                        {"name": "interference", "data": [-1.0, 0.0, 1.0], "modifiers": []},
                    ],
                },
            ],
            "covariance": [[1.0, 0.2, 0.0], [0.2, 2.0, 0.1], [0.0, 0.1, 3.0]],
            "sources": {
                "data": [[0.5, 0.2, 0.0], [0.2, 1.0, 0.1], [0.0, 0.1, 3.0]],
                "simulation": [[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]],
            },
        }
    ],
    "measurements": [
        {"name": "first", "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-1.0, 4.0]]}]}},
        {"name": "second", "config": {"poi": "norm", "parameters": [{"name": "mu", "fixed": True}]}},
    ],
    "version": "1.0.0",
}
BINNED = {
    "channels": [
        {
            "name": "CR",
            "samples": [
                {
                    "name": "tt",
                    "data": [50.0],
                    "modifiers": [
                        {"name": "mu", "type": "normfactor", "data": None},
                        {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
                    ],
                }
            ],
        }
    ],
    "observations": [{"name": "CR", "data": [56.0]}],
    "measurements": [
        {"name": "first", "config": {"poi": "mu", "parameters": []}},
        {"name": "second", "config": {"poi": "norm", "parameters": []}},
    ],
    "version": "1.0.0",
}


def changed(change):
    document = copy.deepcopy(DOCUMENT)
    change(document["spectra"][0])
    return document


@pytest.fixture
def folder(tmp_path):
    return Draft(gaussian=Gaussian.model_validate(DOCUMENT)).write(tmp_path / "ws").folder


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


# The document -------------------------------------------------------------------------------------------------


def test_published_schema_is_the_one_of_the_models():
    assert documents.gaussian_schema() == json.loads(json.dumps(documents.generated_schema()))


def test_round_trip(folder, tmp_path):
    written = json.loads((folder / "gaussian.json").read_text())
    assert written == DOCUMENT
    jsonschema.validate(written, documents.gaussian_schema())
    workspace = read(folder)
    assert workspace.binned is None
    assert workspace.unbinned is None
    assert set(workspace.manifest.files) == {"gaussian.json"}
    Draft(gaussian=workspace.gaussian).write(tmp_path / "again")
    again = (tmp_path / "again" / "gaussian.json").read_bytes()
    assert again == (folder / "gaussian.json").read_bytes()


@pytest.mark.parametrize("name", ["gaussian.json", "renamed.json"])
def test_the_file_alone_is_a_workspace(folder, tmp_path, name):
    (tmp_path / name).write_bytes((folder / "gaussian.json").read_bytes())
    lh = Likelihood.load(tmp_path / name)
    assert lh.names == Likelihood.load(folder).names
    assert all(check.passed for check in validate(tmp_path / name))
    assert inspect(tmp_path / name).sections["Gaussian channels"][0]["channel"] == "pt"


def test_the_likelihood_of_a_folder(folder):
    lh = Likelihood.load(folder)
    (term,) = lh.terms
    assert isinstance(term, GaussianTerm)
    assert term.name == "unfolded"
    assert lh.poi == "mu"
    assert set(lh.names) == {"mu", "norm", "tune", "stat[0]", "stat[1]", "stat[2]"}
    assert lh.bounds[lh.index("mu")].tolist() == [-1.0, 4.0]
    x = lh.vector({"mu": 1.1, "norm": 1.0, "tune": -1.0, "stat[2]": 1.02})
    prediction = np.array([9.0, 20.0, 31.0]) * 1.1 * 1.1 * [1.0, 1.0, 1.02] + [-1.0, 0.0, 1.0]
    residual = np.array([11.0, 21.0, 28.0]) - prediction
    cov = np.array(DOCUMENT["spectra"][0]["covariance"])
    pulls = [1.0, -1.0, 0.02 / (0.3 / 30.0)]
    widths = [1.0, 1.0, 0.01, 0.01, 0.01]
    expected = residual @ np.linalg.solve(cov, residual) + np.linalg.slogdet(2 * np.pi * cov)[1]
    expected += np.square(pulls).sum() + np.log(2 * np.pi * np.square(widths)).sum()
    assert lh.value(x) == pytest.approx(expected, rel=1e-11)


def test_the_measurement_by_name(folder):
    lh = Likelihood.load(folder, measurement="second")
    assert lh.poi == "norm"
    assert lh.fixed[lh.index("mu")]
    with pytest.raises(
        WorkspaceError, match=r"(?s)gaussian.json has no measurement 'thrid'.*nearest names: "
    ):
        Likelihood.load(folder, measurement="thrid")


def test_beside_counts_a_parameter_is_the_same_and_its_constraint_counts_once(tmp_path):
    folder = Draft(BINNED, gaussian=Gaussian.model_validate(DOCUMENT)).write(tmp_path / "ws").folder
    lh = Likelihood.load(folder)
    assert [term.name for term in lh.terms] == ["binned", "unfolded"]
    assert lh.names.count("norm") == 1
    parts = [Likelihood.load(folder / name) for name in ("binned.json", "gaussian.json")]
    values = {"mu": 1.2, "norm": 0.7, "tune": -0.3}
    separate = [
        part.value(part.vector({k: v for k, v in values.items() if k in part.names})) for part in parts
    ]
    assert lh.value(lh.vector(values)) == pytest.approx(sum(separate) - 0.7**2 - np.log(2 * np.pi), rel=1e-12)
    assert all(check.passed for check in validate(folder))
    assert set(read(folder).manifest.files) == {"binned.json", "gaussian.json"}
    assert fit(lh).valid


def test_independent_spectra_are_terms_of_their_own():
    document = copy.deepcopy(DOCUMENT)
    other = copy.deepcopy(document["spectra"][0]) | {"name": "other"}
    other["channels"][0]["name"] = "eta"
    other["channels"][0]["samples"][0]["modifiers"].pop()
    document["spectra"].append(other)
    model = Gaussian.model_validate(document)
    assert [c.name for c in model.channels] == ["pt", "eta"]
    assert model.parameters == {"mu", "norm", "tune", "stat"}


def test_what_the_folder_names_has_to_be_carried(tmp_path):
    document = copy.deepcopy(DOCUMENT)
    document["measurements"][0]["config"]["poi"] = "muu"
    folder = Draft(gaussian=Gaussian.model_validate(document)).write(tmp_path / "ws").folder
    with pytest.raises(
        LikelihoodError, match=r"(?s)interest 'muu' is carried by no sample.*nearest names: mu"
    ):
        Likelihood.load(folder)
    failed = {c.name: c.detail for c in validate(folder) if not c.passed}
    assert set(failed) == {"parameter of interest of first"}
    assert "no sample carries 'muu'; nearest: mu" in failed["parameter of interest of first"]


def test_a_workspace_needs_a_document(tmp_path):
    with pytest.raises(WorkspaceError, match="needs binned, unbinned or Gaussian channels, it has none"):
        Draft().write(tmp_path / "ws")
    with pytest.raises(WorkspaceError, match=r"neither binned\.json nor unbinned\.json nor gaussian\.json"):
        read(tmp_path)


# Refusals -----------------------------------------------------------------------------------------------------


def channel(**changes):
    return changed(lambda s: s["channels"][0].update(changes))


def sample(**changes):
    return changed(lambda s: s["channels"][0]["samples"][0].update(changes))


def modifier(kind, data, name="a"):
    return sample(modifiers=[{"name": name, "type": kind, "data": data}])


def spectrum(**changes):
    return changed(lambda s: s.update(changes))


def parameters(*settings):
    document = copy.deepcopy(DOCUMENT)
    document["measurements"][0]["config"]["parameters"] = list(settings)
    return document


COVARIANCE = np.array(DOCUMENT["spectra"][0]["covariance"])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (channel(data=[1.0, 2.0]), r"(?s)2 values for 3 bins.*channel 'pt'.*3 bins of the axes, in C order"),
        (
            channel(edges=[], names=[], units=[], data=[1.0, 2.0]),
            r"(?s)data has 3 bins.*sample 'tt'.*2, as the mea",
        ),
        (channel(edges=[[0.0, 2.0, 1.0, 3.0]]), "(?s)edges of axis 0 do not increase.*channel 'pt'"),
        (channel(names=["pt", "eta"]), "(?s)2 names for 1 axes.*one an axis"),
        (channel(units=["GeV", ""]), "2 units for 1 axes"),
        (sample(data=[1.0, 2.0]), r"(?s)data has 2 bins.*channel 'pt', sample 'tt'"),
        (modifier("histosys", {"hi_data": [1.0], "lo_data": [1.0, 2.0, 3.0]}), "a hi_data has 1 bins"),
        (modifier("staterror", [1.0, 2.0]), r"(?s)staterror a has 2 bins.*expected: 3"),
        (modifier("shapesys", [1.0] * 4), "shapesys a has 4 bins"),
        (
            sample(data=[10.0, -20.0, 30.0]),
            r"(?s)staterror 'stat' is relative to the negative prediction -20 of bin 1.*channel 'pt': tt.*histosys",
        ),
        (sample(name="interference"), "(?s)sample 'interference' appears 2 times.*channel 'pt'"),
        (
            sample(modifiers=[{"name": "mu", "type": "normfactor"}] * 2),
            "(?s)modifier 'normfactor mu' appears 2 times.*sample 'tt'",
        ),
        (
            changed(lambda s: s["channels"].append(s["channels"][0])),
            "(?s)channel 'pt' appears 2 times.*spectrum 'unfolded'",
        ),
        (DOCUMENT | {"spectra": DOCUMENT["spectra"] * 2}, "spectrum 'unfolded' appears 2 times"),
        (DOCUMENT | {"measurements": DOCUMENT["measurements"] * 2}, "measurement 'first' appears 2 times"),
        (
            spectrum(covariance=(COVARIANCE + np.eye(3, k=1)).tolist()),
            r"(?s)not symmetric: bin 0 of pt with bin 1 of pt is 1.2 one way and 0.2 the other.*of 'unfolded'",
        ),
        (
            spectrum(covariance=[[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
            r"(?s)not positive definite: the smallest eigenvalue .* is -1\n.*'unfolded': bin 0 of pt, bin 1 of pt\n",
        ),
        (spectrum(covariance=COVARIANCE[:2].tolist()), r"(?s)has shape \(2, 3\).*'unfolded'.*\(3, 3\)"),
        (spectrum(covariance=[[1.0], [1.0, 2.0]]), "row 0 of the matrix has 1 entries"),
        (
            spectrum(sources={"data": (COVARIANCE - np.diag([0.5, 0.0, 0.0])).tolist()}),
            r"(?s)do not add up to the covariance of bin 0 of pt and bin 0 of pt: 0.5, not 1.*sources data",
        ),
        (spectrum(sources={"data": [[1.0]]}), "(?s)row 0 of the matrix has 1 entries.*source 'data'"),
        (
            parameters({"name": "muu", "fixed": True}),
            "(?s)no sample carries 'muu', of which there are settings.*measurement 'first'.*nearest names: mu",
        ),
    ],
)
def test_documents_that_do_not_fit_together(tmp_path, document, message):
    with pytest.raises(WorkspaceError, match=message):
        Gaussian.model_validate(document)
    (tmp_path / "gaussian.json").write_text(json.dumps(document))
    with pytest.raises(WorkspaceError, match=message) as raised:
        Likelihood.load(tmp_path)
    assert str(tmp_path / "gaussian.json") in raised.value.where
    (only,) = validate(tmp_path)
    assert not only.passed
    assert re.search(message, only.detail)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (channel(dta=[1.0]), r"(?s)Extra inputs are not permitted.*spectra/0/channels/0/dta"),
        (channel(data=[1.0, float("nan"), 2.0]), r"(?s)finite number.*spectra/0/channels/0/data/1"),
        (
            spectrum(covariance=[[float("nan")] * 3] * 3),
            r"(?s)finite number.*spectra/0/covariance/0/0",
        ),
        (modifier("normsys", {"hi": -1.0, "lo": 1.0}), r"(?s)greater than 0.*modifiers/0/normsys/data/hi"),
        (modifier("staterror", [1.0, -1.0, 1.0]), r"(?s)greater than or equal to 0.*0/staterror/data/1"),
        (modifier("polynomial", None), r"(?s)does not match any of the expected tags.*samples/0/modifiers/0"),
        (modifier("normfactor", [1.0]), r"(?s)should be None.*modifiers/0/normfactor/data"),
        (DOCUMENT | {"format": "other"}, r"(?s)should be 'neyman-gaussian'.*format"),
        (DOCUMENT | {"spectra": []}, r"(?s)at least 1 item.*spectra"),
    ],
)
def test_documents_that_do_not_fit_the_schema(tmp_path, document, message):
    with pytest.raises(ValidationError):
        Gaussian.model_validate(document)
    (tmp_path / "gaussian.json").write_text(json.dumps(document))
    with pytest.raises(WorkspaceError, match=message) as raised:
        Likelihood.load(tmp_path)
    assert raised.value.what.startswith("gaussian.json does not fit its schema: ")


def test_validate_finds_damage_and_a_covariance_that_is_nearly_singular(folder):
    assert all(check.passed for check in validate(folder))
    document = json.loads((folder / "gaussian.json").read_text())
    near = 1.0 - 1e-10
    document["spectra"][0] |= {
        "covariance": [[1.0, near, 0.0], [near, 1.0, 0.0], [0.0, 0.0, 1.0]],
        "sources": {},
    }
    (folder / "gaussian.json").write_text(json.dumps(document))
    failed = {c.name: c.detail for c in validate(folder) if not c.passed}
    assert set(failed) == {"digest of gaussian.json", "unfolded: covariance"}
    assert "nearly singular in bin 0 of pt, bin 1 of pt" in failed["unfolded: covariance"]
    (folder / "manifest.json").write_text('{"files": {}}')
    assert "does not record gaussian.json" in {c.name: c.detail for c in validate(folder)}["manifest"]


# From arrays and histograms -----------------------------------------------------------------------------------

CORRELATED = np.array([[2.0, 0.5, 0.1], [0.5, 3.0, 0.2], [0.1, 0.2, 4.0]])
MU = {"tt": SampleModel(("mu",))}


def test_arrays_become_a_document_that_fits_to_least_squares(tmp_path):
    measured, template = np.array([11.0, 21.0, 28.0]), np.array([10.0, 20.0, 30.0])
    document = from_unfolded({"pt": Measured(measured, CORRELATED)}, {"pt": {"tt": template}}, MU)
    lh = Likelihood.load(Draft(gaussian=document).write(tmp_path / "ws").folder)
    result = fit(lh)
    information = template @ np.linalg.solve(CORRELATED, template)
    assert result.names == ("mu",)
    assert result.values["mu"] == pytest.approx(
        template @ np.linalg.solve(CORRELATED, measured) / information, rel=1e-8
    )
    assert result.errors["mu"] == pytest.approx(information**-0.5, rel=1e-8)


class Unfolded:
    """A spectrum as another package makes it."""

    values = np.arange(6.0) + 1.0
    covariance = np.eye(6)
    edges = (np.array([0.0, 1.0, 2.0]), np.array([0.0, 10.0, 20.0, 30.0]))
    names = ("x", "y")
    units = ("", "GeV")
    sources = {"data": 0.25 * np.eye(6), "simulation": 0.75 * np.eye(6)}  # noqa: RUF012


def two_axes(y=(0, 10, 20, 30), storage=None):
    h = hist.Hist(
        hist.axis.Variable([0, 1, 2], name="x"),
        hist.axis.StrCategory(["nominal", "jesUp", "jesDown"], name="variation"),
        hist.axis.Variable(y, name="y"),
        storage=storage or hist.storage.Weight(),
    )
    shape = np.arange(6.0).reshape(2, 3) + 2.0
    contents = np.stack([shape, 1.1 * shape + [0.0, 0.5, 0.0], 0.9 * shape], axis=1)
    if storage is None:
        h.view()["value"], h.view()["variance"] = contents, 0.01 * contents
    else:
        h.view()[...] = contents
    return h, contents


def test_a_spectrum_of_two_axes_with_histograms_of_variations():
    h, contents = two_axes()
    document = from_unfolded({"xy": Unfolded()}, {"xy": {"tt": h}}, MU)
    (found,) = document.spectra
    (one,) = found.channels
    assert one.names == ("x", "y")
    assert one.units == ("", "GeV")
    assert one.edges == ((0.0, 1.0, 2.0), (0.0, 10.0, 20.0, 30.0))
    assert one.data == tuple(Unfolded.values)
    assert set(found.sources) == {"data", "simulation"}
    (tt,) = one.samples
    assert tt.data == tuple(contents[:, 0].ravel())
    modifiers = {m.type: m for m in tt.modifiers}
    assert set(modifiers) == {"normfactor", "normsys", "histosys", "staterror"}
    up = np.array(modifiers["histosys"].data.hi_data) * modifiers["normsys"].data.hi
    assert up == pytest.approx(contents[:, 1].ravel())
    assert modifiers["staterror"].data == pytest.approx(0.1 * np.sqrt(contents[:, 0].ravel()))
    without = from_unfolded({"xy": Unfolded()}, {"xy": {"tt": h}}, MU, staterror=False)
    assert {m.type for m in without.spectra[0].channels[0].samples[0].modifiers} == set(modifiers) - {
        "staterror"
    }


def test_contents_without_variances_have_no_staterror():
    h, contents = two_axes(storage=hist.storage.Double())
    document = from_unfolded({"xy": Unfolded()}, {"xy": {"tt": h}}, MU)
    (tt,) = document.spectra[0].channels[0].samples
    assert tt.data == tuple(contents[:, 0].ravel())
    assert "staterror" not in {m.type for m in tt.modifiers}


def test_variations_of_an_interference_are_histosys_alone():
    h = hist.Hist(
        hist.axis.StrCategory(["nominal", "jesUp", "jesDown"], name="variation"),
        hist.axis.Regular(3, 0, 3, name="pt"),
    )
    contents = np.array([[-2.0, 1.0, 1.5], [-2.2, 1.0, 1.4], [-1.7, 0.9, 1.6]])
    h.view()[...] = contents
    predictions = {"pt": {"sm": [10.0, 20.0, 30.0], "linear": h}}
    models = {"sm": SampleModel(normsys={"xsec": (1.05, 0.95)}), "linear": SampleModel(("c",))}
    report = []
    document = from_unfolded(
        {"pt": Measured([9.0, 21.0, 33.0], CORRELATED, [[0, 1, 2, 3]])},
        predictions,
        models,
        poi="c",
        parameters=[{"name": "c", "bounds": [[-5.0, 5.0]]}, {"name": "absent", "fixed": True}],
        treatment=Treatment(prune_shape=0.01),
        report=report,
    )
    linear = document.spectra[0].channels[0].samples[1]
    assert linear.data == tuple(contents[0])
    assert [m.type for m in linear.modifiers] == ["normfactor", "histosys"]
    assert linear.modifiers[1].data.hi_data == tuple(contents[1])
    assert [p.name for p in document.measurements[0].config.parameters] == ["c"]
    assert report == []
    floored = from_unfolded(
        {"pt": Measured([9.0, 21.0, 33.0], CORRELATED)},
        predictions,
        models,
        poi="c",
        treatment=Treatment(floor_negative=0.1),
        report=report,
    )
    assert floored.spectra[0].channels[0].samples[1].data[0] == 0.1
    assert {r.what for r in report} == {"floored"}


def test_several_spectra_have_a_covariance_in_common():
    spectra = {"pt": Measured([11.0, 21.0], CORRELATED[:2, :2]), "eta": Measured([30.0], CORRELATED[2:, 2:])}
    predictions = {"eta": {"tt": [29.0]}, "pt": {"tt": [10.0, 20.0]}}
    parts = {"data": 0.5 * CORRELATED, "simulation": 0.5 * CORRELATED}
    document = from_unfolded(
        spectra, predictions, MU, covariance=CORRELATED, sources=parts, name="both", poi=""
    )
    (found,) = document.spectra
    assert found.name == "both"
    assert [c.name for c in found.channels] == ["pt", "eta"]
    assert np.array_equal(found.covariance, CORRELATED)
    assert set(found.sources) == {"data", "simulation"}
    with pytest.raises(
        WorkspaceError,
        match=r"(?s)2 spectra have no covariance in common.*pt, eta.*covariance=3 x 3.*block_diag",
    ):
        from_unfolded(spectra, predictions, MU)


ONE = {"pt": Measured([11.0, 21.0, 28.0], CORRELATED, [[0, 1, 2, 3]], ["pt"], ["GeV"])}


@pytest.mark.parametrize(
    ("spectra", "predictions", "options", "message"),
    [
        (
            ONE,
            {"pt": {"tt": [1.0, 2.0]}},
            {},
            r"(?s)prediction has 2 bins.*channel pt, sample tt.*3, as the mea",
        ),
        (
            ONE,
            {"pt": {"tt": [1.0, np.nan, 2.0]}},
            {},
            r"(?s)bin 1 of 'nominal' is not finite.*channel pt, sample tt",
        ),
        (ONE, {"pt": {"tt": [1.0] * 3}}, {"poi": "mv"}, r"(?s)parameter of interest 'mv'.*nearest: mu"),
        (
            ONE,
            {"pt": {"tt": [1.0] * 3}},
            {"parameters": [{"name": "mu", "bound": [[0.0, 1.0]]}]},
            r"(?s)does not fit its schema: Extra inputs.*measurements/0/config/parameters/0/bound",
        ),
        (ONE, {"pt": {"t": [1.0] * 3}}, {}, r"(?s)sample 't' of channel 'pt' has no model.*nearest: tt"),
        (ONE, {"pT": {"tt": [1.0] * 3}}, {}, r"(?s)channel 'pT' has no spectrum.*nearest: pt"),
        ({**ONE, "eta": ONE["pt"]}, {"pt": {"tt": [1.0] * 3}}, {}, r"channel 'eta' has no prediction"),
        (
            ONE,
            {"pt": {"tt": two_axes()[0]}},
            {},
            r"(?s)prediction has 2 axes.*channel pt, sample tt.*expected: 1",
        ),
        (
            ONE,
            {"pt": {"tt": hist.Hist(hist.axis.Regular(3, 0, 4, name="pt"))}},
            {},
            r"(?s)edges of axis 0 of the prediction are not those of the measured.*expected: 0, 1, 2, 3",
        ),
        (
            ONE,
            {"pt": {"tt": [1.0] * 3}},
            {"covariance": np.eye(2)},
            r"(?s)matrix has shape \(2, 2\).*\(3, 3\)",
        ),
        (
            {"pt": Measured([1.0, 2.0], [[1.0, 1.0], [1.0, 1.0]])},
            {"pt": {"tt": [1.0] * 2}},
            {},
            r"(?s)not positive definite.*'unfolded': bin 0 of pt, bin 1 of pt",
        ),
        (
            {"pt": Measured([1.0, np.inf], np.eye(2))},
            {"pt": {"tt": [1.0] * 2}},
            {},
            r"(?s)measured value of bin 1 is inf.*channel pt",
        ),
    ],
)
def test_arrays_that_do_not_fit(spectra, predictions, options, message):
    with pytest.raises(WorkspaceError, match=message):
        from_unfolded(spectra, predictions, MU, **options)


# Commands -----------------------------------------------------------------------------------------------------


def test_commands_on_a_folder(folder):
    found = json.loads(run("fit", folder, "--json"))
    expected = fit(Likelihood.load(folder))
    assert found["valid"]
    assert found["values"]["mu"] == pytest.approx(expected.values["mu"], rel=1e-9)
    assert found["errors"]["mu"] == pytest.approx(expected.errors["mu"], rel=1e-9)
    assert json.loads(run("validate", folder, "--json"))["passed"]
    sections = json.loads(run("inspect", folder, "--json"))["sections"]
    assert sections["Gaussian channels"] == [
        {
            "channel": "pt",
            "spectrum": "unfolded",
            "bins": 3,
            "expected": 60.0,
            "observed": 60.0,
            "samples": "tt, interference",
        }
    ]
    assert {row["parameter"]: row["types"] for row in sections["parameters"]} == {
        "mu": "normfactor",
        "norm": "normsys",
        "tune": "histosys",
        "stat": "staterror",
    }
    goodness = json.loads(run("gof", folder, "--json"))
    assert goodness["ndof"] == 3 + 5 - 6
