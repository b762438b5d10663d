"""Workspace folders: schema, atomic writing, digests, refusal of what points outside."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from neyman import Likelihood
from neyman.errors import LikelihoodError, NeymanError, WorkspaceError
from neyman.workspace import Draft, documents, read, validate


def channel(**changes):
    base = {
        "name": "SR",
        "data": {"file": "data.parquet"},
        "reference": {"file": "reference.parquet"},
        "replaces": ["SR_binned"],
        "samples": [
            {
                "name": "sig",
                "yield": 20.0,
                "log_ratio": "sig",
                "modifiers": [{"name": "mu", "type": "normfactor"}, {"name": "lumi", "type": "lumi"}],
            },
            {
                "name": "bkg",
                "yield": 100.0,
                "log_ratio": "bkg",
                "modifiers": [
                    {"name": "jes", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
                    {"name": "jes", "type": "ratiosys", "data": {"hi": "bkg:up", "lo": "bkg:down"}},
                    {
                        "name": "tes",
                        "type": "network",
                        "data": {"nodes": [-2, 0, 2], "columns": ["b-", "bkg", "b+"]},
                    },
                ],
            },
        ],
    }
    return base | changes


MEASUREMENT = {
    "name": "m",
    "config": {
        "poi": "mu",
        "parameters": [
            {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "bounds": [[0.5, 1.5]], "inits": [1.0]},
            {"name": "mu", "bounds": [[-1.0, 5.0]]},
        ],
    },
}
BINNED = {
    "channels": [
        {
            "name": name,
            "samples": [
                {
                    "name": "bkg",
                    "data": [50.0, 60.0],
                    "modifiers": [{"name": "jes", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}}],
                },
                {
                    "name": "sig",
                    "data": [5.0, 9.0],
                    "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                },
            ],
        }
        for name in ("SR_binned", "CR")
    ],
    "observations": [{"name": "SR_binned", "data": [55.0, 69.0]}, {"name": "CR", "data": [53.0, 62.0]}],
    "measurements": [
        {"name": "m", "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-1.0, 5.0]]}]}}
    ],
    "version": "1.0.0",
}


def table(path, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) + rng.integers(0, 2, n)  # the equal mixture of both samples
    a = np.logaddexp(-0.5 * (x - 1) ** 2, -0.5 * x**2) - np.log(2)
    sig, bkg = -0.5 * (x - 1) ** 2 - a, -0.5 * x**2 - a
    columns = {"weight": np.ones(n), "sig": sig, "bkg": bkg, "bkg:up": 0.05 * x, "bkg:down": -0.05 * x}
    columns |= {"b-": bkg - 0.1 * x, "b+": bkg + 0.1 * x}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def folder(tmp_path):
    unbinned = documents.Unbinned.model_validate({"channels": [channel()], "measurements": [MEASUREMENT]})
    draft = Draft(
        binned=BINNED,
        unbinned=unbinned,
        files={
            "data.parquet": table(tmp_path / "d", 120, 1),
            "reference.parquet": table(tmp_path / "r", 3000, 2),
        },
        seed=7,
        configuration={"a": 1},
    )
    draft.write(tmp_path / "ws")
    return tmp_path / "ws"


def rewrite(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_published_schema_is_the_one_of_the_models():
    assert documents.unbinned_schema() == json.loads(json.dumps(documents.generated_schema()))


def test_written_document_fits_the_published_schema(folder):
    jsonschema.validate(json.loads((folder / "unbinned.json").read_text()), documents.unbinned_schema())


MODIFIERS = [
    {
        "name": "coupling",
        "type": "polynomial",
        "data": {"parameters": ["a", "b"], "terms": [{"coefficient": -0.5, "powers": [1, 2]}]},
    },
    {"name": "c", "type": "polynomial", "data": {"terms": [{"coefficient": 1.0, "powers": [2]}]}},
    {"name": "jes", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9, "code": "code1"}},
    {"name": "jes", "type": "ratiosys", "data": {"hi": "up", "lo": "down", "code": "code4"}},
    {"name": "tes", "type": "network", "data": {"nodes": [-1.0, 1.0], "columns": ["t-", "t+"]}},
    {
        "name": "scales",
        "type": "network",
        "data": {"file": "n.safetensors", "features": ["x:pt"], "parameters": ["tes", "ees"]},
    },
    {"name": "spread_s", "type": "spread", "data": {"columns": ["s#0", "s#1"]}},
    {"name": "refstat_SR_s", "type": "refstat"},
]


def test_all_modifiers_fit_the_schema_and_say_what_they_read():
    document = {
        "channels": [channel(form="fraction", samples=[channel()["samples"][0] | {"modifiers": MODIFIERS}])],
        "measurements": [MEASUREMENT],
        "version": "1.0.0",
    }
    jsonschema.validate(document, documents.unbinned_schema())
    model = documents.Unbinned.model_validate(document)
    (sample,) = model.channels[0].samples
    assert [m.parameters for m in sample.modifiers] == [
        ("a", "b"),
        ("c",),
        ("jes",),
        ("jes",),
        ("tes",),
        ("tes", "ees"),
        ("spread_s[0]", "spread_s[1]"),
        ("refstat_SR_s",),
    ]
    assert model.channels[0].log_ratios == ("sig", "up", "down", "t-", "t+")
    assert model.channels[0].columns == ("sig", "up", "down", "t-", "t+", "x:pt", "s#0", "s#1")
    assert [m.file for m in sample.modifiers if m.file] == ["n.safetensors"]
    again = documents.Unbinned.model_validate(model.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert again == model


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nodes": [-1.0, 1.0], "columns": ["a"]}, "2 items|2 nodes but 1 columns|at least 2"),
        ({"nodes": [-1.0, 0.0, 1.0], "columns": ["a", "b"]}, "3 nodes but 2 columns"),
        ({"file": "n.safetensors"}, r"(?s)direct\.features.*Field required"),
        (
            {"file": "n.safetensors", "features": ["a"], "columns": ["b"]},
            r"(?s)direct\.columns.*Extra inputs",
        ),
        ({"file": "/n.safetensors", "features": ["a"]}, "must be a relative path"),
    ],
)
def test_a_network_is_tabulated_or_direct(data, message):
    with pytest.raises(ValidationError, match=message):
        documents.NetworkModifier.model_validate({"name": "tes", "type": "network", "data": data})


def test_round_trip(folder, tmp_path):
    workspace = read(folder)
    assert workspace.binned == BINNED
    assert workspace.manifest.seed == 7
    assert set(workspace.manifest.files) == {
        "binned.json",
        "unbinned.json",
        "data.parquet",
        "reference.parquet",
    }
    files = {name: folder / name for name in ("data.parquet", "reference.parquet")}
    Draft(binned=workspace.binned, unbinned=workspace.unbinned, files=files).write(tmp_path / "again")
    for name in workspace.manifest.files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_unbinned_channel_replaces_the_binned_one(folder):
    lh = Likelihood.load(folder)
    assert [t.name for t in lh.terms] == ["binned", "SR"]
    assert tuple(lh.terms[0].channels) == ("CR",)
    assert set(lh.names) == {"mu", "jes", "lumi", "tes"}
    assert lh.names.count("jes") == 1
    assert lh.bounds[lh.index("mu")].tolist() == [-1.0, 5.0]
    assert lh.bounds[lh.index("tes")].tolist() == [-2.0, 2.0]
    binned = Likelihood.load(folder, prefer="binned")
    assert [t.name for t in binned.terms] == ["binned"]
    assert set(binned.terms[0].channels) == {"CR", "SR_binned"}


def test_a_shared_constraint_counts_once(folder):
    lh = Likelihood.load(folder)
    x = lh.vector({"jes": 0.7, "tes": -0.4, "lumi": 1.01})
    parts = sum(
        float(t.evaluate(__import__("torch").tensor([x[lh.index(p.name)] for p in t.parameters])).value)
        for t in lh.terms
    )
    constraints = 0.7**2 + 0.4**2 + (0.01 / 0.02) ** 2 + 2 * np.log(2 * np.pi) + np.log(2 * np.pi * 0.02**2)
    assert lh.value(x) == pytest.approx(parts + constraints, rel=1e-12)


def test_binned_part_alone_opens_in_pyhf(folder):
    import pyhf

    model = pyhf.Workspace(json.loads((folder / "binned.json").read_text())).model()
    assert model.config.poi_name == "mu"


def test_validate_passes_and_finds_damage(folder):
    checks = validate(folder)
    assert all(c.passed for c in checks), [c for c in checks if not c.passed]
    assert any("normalisation of bkg" in c.name for c in checks)
    rewrite(folder / "binned.json", lambda d: d["observations"][0]["data"].__setitem__(0, 99.0))
    failed = [c for c in validate(folder) if not c.passed]
    assert [c.name for c in failed] == ["digest of binned.json"]


def test_validate_finds_wrong_ratios(folder, tmp_path):
    broken = pq.read_table(folder / "reference.parquet")
    i = broken.schema.get_field_index("sig")
    shifted = broken.set_column(i, "sig", pa.array(broken["sig"].to_numpy() + 0.5))
    pq.write_table(shifted, folder / "reference.parquet")
    failed = {c.name: c.detail for c in validate(folder) if not c.passed}
    assert set(failed) == {"digest of reference.parquet", "SR: normalisation of sig"}
    assert "mean ratio over the reference 1.6" in failed["SR: normalisation of sig"]


def test_validate_reports_what_cannot_be_read(tmp_path):
    (only,) = validate(tmp_path / "nowhere")
    assert not only.passed
    assert "does not exist" in only.detail


def test_validate_finds_ratios_that_underflow(folder):
    events = pq.read_table(folder / "data.parquet")
    tiny = events["sig"].to_numpy().copy()
    tiny[3] = -800.0
    pq.write_table(
        events.set_column(events.schema.get_field_index("sig"), "sig", pa.array(tiny)),
        folder / "data.parquet",
    )
    failed = {c.name: c.detail for c in validate(folder) if not c.passed}
    assert failed["SR: data: ratios positive"] == "not positive and finite: sig"


def test_validate_wants_expected_events(folder):
    def unbinned(document):
        for sample in document["channels"][0]["samples"]:
            sample["yield"] = 0.0

    def binned(document):
        for sample in document["channels"][1]["samples"]:
            sample["data"] = [0.0, 0.0]

    rewrite(folder / "unbinned.json", unbinned)
    rewrite(folder / "binned.json", binned)
    failed = {c.name for c in validate(folder) if not c.passed}
    assert failed == {"SR: yield", "CR: yield", "digest of unbinned.json", "digest of binned.json"}


def test_validate_wants_every_file_in_the_manifest(folder):
    rewrite(folder / "manifest.json", lambda d: d.__setitem__("files", {}))
    (failed,) = (c for c in validate(folder) if not c.passed)
    assert failed.name == "manifest"
    assert failed.detail == "does not record binned.json, data.parquet, reference.parquet, unbinned.json"
    rewrite(
        folder / "unbinned.json",
        lambda d: d["channels"][0]["samples"][0].__setitem__("network", "n.safetensors"),
    )
    assert "n.safetensors" in next(c for c in validate(folder) if c.name == "manifest").detail
    (folder / "manifest.json").unlink()
    (failed,) = (c for c in validate(folder) if not c.passed)
    assert failed.name == "manifest"
    assert "is missing" in failed.detail
    assert all(c.passed for c in validate(folder / "binned.json"))


@pytest.mark.parametrize("bad", ["../data.parquet", "/etc/passwd", "a/../../b", "..", "a\\b"])
def test_paths_stay_inside(bad):
    with pytest.raises(ValueError, match="must be a relative path inside the workspace folder"):
        documents.Channel.model_validate(channel(data={"file": bad}))


def test_symbolic_links_do_not_lead_outside(folder, tmp_path):
    (folder / "data.parquet").unlink()
    (folder / "data.parquet").symlink_to(table(tmp_path / "outside", 10, 1))
    with pytest.raises(WorkspaceError, match="points outside the workspace folder"):
        Likelihood.load(folder)


def test_missing_event_file(folder):
    (folder / "data.parquet").unlink()
    with pytest.raises(WorkspaceError, match=r"data\.parquet is missing from the workspace"):
        Likelihood.load(folder)


def test_missing_column(folder):
    rewrite(
        folder / "unbinned.json", lambda d: d["channels"][0]["samples"][0].__setitem__("log_ratio", "sgi")
    )
    with pytest.raises(WorkspaceError, match=r"(?s)no column 'sgi'.*nearest: .*sig"):
        Likelihood.load(folder)


def test_schema_failure_names_the_place(folder):
    rewrite(folder / "unbinned.json", lambda d: d["channels"][0]["samples"][0].__setitem__("yield", -1))
    with pytest.raises(WorkspaceError, match=r"(?s)does not fit its schema.*channels/0/samples/0/yield"):
        Likelihood.load(folder)


def test_unknown_modifier_type(folder):
    rewrite(
        folder / "unbinned.json",
        lambda d: d["channels"][0]["samples"][0]["modifiers"][0].__setitem__("type", "magic"),
    )
    with pytest.raises(WorkspaceError, match=r"(?s)does not match any of the expected tags.*modifiers/0"):
        Likelihood.load(folder)


def test_replaced_channel_must_exist(folder):
    rewrite(folder / "unbinned.json", lambda d: d["channels"][0].__setitem__("replaces", ["SR_bind"]))
    with pytest.raises(
        LikelihoodError, match=r"(?s)replaces 'SR_bind', which is not a binned channel.*SR_binned"
    ):
        Likelihood.load(folder)


@pytest.mark.parametrize("binned", [True, False])
def test_the_signal_region_never_vanishes(folder, binned):
    rewrite(folder / "unbinned.json", lambda d: d["channels"][0].__setitem__("replaces", ["SR_bind"]))
    if not binned:
        (folder / "binned.json").unlink()
    with pytest.raises(LikelihoodError, match="replaces 'SR_bind', which is not a binned channel"):
        Likelihood.load(folder, prefer="binned")


def bounds_of_tes(*bounds):
    setting = {"name": "tes", "bounds": [bounds]}
    return lambda d: d["measurements"][0]["config"]["parameters"].append(setting)


def test_bounds_stay_within_the_trained_range(folder):
    rewrite(folder / "unbinned.json", bounds_of_tes(-1.0, 5.0))
    lh = Likelihood.load(folder)
    assert lh.bounds[lh.index("tes")].tolist() == [-1.0, 2.0]


def test_bounds_outside_the_trained_range(folder):
    rewrite(folder / "unbinned.json", bounds_of_tes(3.0, 5.0))
    with pytest.raises(LikelihoodError, match=r"(?s)bounds 3 to 5 of 'tes' lie outside.*within -2 to 2"):
        Likelihood.load(folder)


def test_measurement_by_name(folder):
    other = json.loads(json.dumps(MEASUREMENT)) | {"name": "wide"}
    other["config"]["parameters"][1]["bounds"] = [[-2.0, 7.0]]
    for name in ("binned.json", "unbinned.json"):
        rewrite(folder / name, lambda d: d["measurements"].append(other))
    lh = Likelihood.load(folder, measurement="wide")
    assert lh.bounds[lh.index("mu")].tolist() == [-2.0, 7.0]
    assert Likelihood.load(folder).bounds[lh.index("mu")].tolist() == [-1.0, 5.0]
    with pytest.raises(WorkspaceError, match=r"(?s)no measurement 'wied'.*nearest names: wide"):
        Likelihood.load(folder, measurement="wied")
    (folder / "binned.json").unlink()
    with pytest.raises(WorkspaceError, match=r"(?s)unbinned.json has no measurement 'wied'.*wide"):
        Likelihood.load(folder, measurement="wied")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([{"a": 1.0}] * 120), r"column 'sig' is struct<a: double>"),
        (pa.array(["x"] * 120), r"column 'sig' is string"),
        (pa.array([[1.0]] * 120), r"column 'sig' is list<"),
        (pa.array([None] + [1.0] * 119), r"column 'sig' \(double\) is empty in 1 of 120 events"),
    ],
)
def test_columns_hold_one_number_an_event(folder, values, message):
    events = pq.read_table(folder / "data.parquet")
    pq.write_table(
        events.set_column(events.schema.get_field_index("sig"), "sig", values), folder / "data.parquet"
    )
    with pytest.raises(WorkspaceError, match=message):
        Likelihood.load(folder)


def test_conflicting_constraints(folder):
    def change(document):
        document["measurements"][0]["config"]["parameters"].append(
            {"name": "jes", "sigmas": [2.0], "auxdata": [0.0]}
        )

    rewrite(folder / "unbinned.json", change)
    with pytest.raises(LikelihoodError, match="'jes' is declared twice with different constraints"):
        Likelihood.load(folder)


def test_lumi_needs_its_auxiliary_measurement(folder):
    rewrite(folder / "unbinned.json", lambda d: d["measurements"][0]["config"]["parameters"].pop(0))
    with pytest.raises(LikelihoodError, match="gives no auxdata and sigmas for the luminosity"):
        Likelihood.load(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "", '{"a": ' * 100_000, "\x00"])
def test_broken_json(tmp_path, text):
    (tmp_path / "binned.json").write_text(text)
    with pytest.raises(NeymanError, match=r"binned\.json"):
        Likelihood.load(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(WorkspaceError, match=r"holds neither binned\.json nor unbinned\.json"):
        read(tmp_path)


def test_a_failed_write_leaves_the_old_workspace(folder, tmp_path):
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(NeymanError, match="cannot write ws"):
        Draft(binned=BINNED, files={"x.parquet": tmp_path / "absent"}).write(folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]
