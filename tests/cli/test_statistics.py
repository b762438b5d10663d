"""The statistical commands on a pyhf file and on a folder: tables, JSON, figures, exit codes, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from neyman.cli import main
from neyman.cli.main import COMMANDS
from neyman.inference import breakdown, fit, profile, significance, upper_limit
from neyman.inference.results import BlindFit
from neyman.likelihood import Likelihood

ON_WORKSPACE = {
    "fit": ("--minos", "mu"),
    "profile": ("--points", 5),
    "contour": ("mu", "norm", "--points", 8),
    "limit": ("--points", 4),
    "significance": (),
    "impacts": (),
    "toys": (6, "--seed", 2),
    "gof": (),
    "coverage": ("--toys", 5),
    "feldman-cousins": ("--toys", 10, "--points", 5),
}


def arguments(command, workspace):
    return (command, workspace, *ON_WORKSPACE[command])


@pytest.mark.parametrize("command", ON_WORKSPACE)
@pytest.mark.parametrize("kind", ["pyhf_file", "folder"])
def test_table_and_figure(command, kind, call, tmp_path, request):
    """Every line fits a terminal of 80 columns, and the figure is a picture that is not empty."""
    figure = tmp_path / "new" / "figure.png"
    text = call(*arguments(command, request.getfixturevalue(kind)), "--plot", figure).stdout
    assert text.strip()
    assert all(len(line) <= 80 for line in text.splitlines() if line[:1] in "┏┃┡│└")
    with Image.open(figure) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(1 << 16)) > 5
    assert [p.name for p in figure.parent.iterdir()] == [figure.name]


@pytest.mark.parametrize("command", ON_WORKSPACE)
def test_json_is_all_of_stdout(command, as_json, pyhf_file):
    """Nothing but one JSON object, without NaN, on stdout."""
    document = as_json(*arguments(command, pyhf_file))
    assert isinstance(document, dict)
    assert "NaN" not in json.dumps(document)


@pytest.mark.parametrize("command", ON_WORKSPACE)
def test_help_names_the_shared_options(command, call):
    text = call(command, "--help").stdout
    shared = ("--fix", "--asimov", "--asimov-at", "--measurement", "--binned", "--memory-budget", "--plot")
    assert all(option in text for option in (*shared, "--json"))
    assert max(map(len, text.splitlines())) <= 80


def test_help_lists_all_commands(call):
    text = call("--help").stdout
    assert set(ON_WORKSPACE) < set(COMMANDS)
    assert all(f"\n  {name} " in text for name in COMMANDS)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom neyman.cli import main\n"
        "from neyman.cli.main import COMMANDS\n"
        "for name in COMMANDS: assert CliRunner().invoke(main, [name, '--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'pyhf', 'matplotlib', 'scipy', 'coffea') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_figure_as_pdf(call, pyhf_file, tmp_path):
    call("profile", pyhf_file, "--points", 5, "--plot", tmp_path / "a.PDF")
    assert (tmp_path / "a.PDF").read_bytes().startswith(b"%PDF-1.")


# What the options do -------------------------------------------------------------------------------------


def test_commands_agree_with_the_functions(as_json, pyhf_file):
    likelihood = Likelihood.load(pyhf_file)
    best = fit(likelihood)
    assert as_json("fit", pyhf_file)["values"] == pytest.approx(dict(best.values))
    limit = upper_limit(likelihood, "mu", cl=0.9)
    found = as_json("limit", pyhf_file, "--cl", 0.9)
    assert found["observed"] == pytest.approx(limit.observed, rel=1e-6)
    assert found["expected"] == pytest.approx(limit.expected, rel=1e-6)
    assert as_json("significance", pyhf_file)["z"] == pytest.approx(significance(likelihood, "mu").z)
    scan = profile(likelihood, "norm", [-1.0, 0.0, 1.0])
    shown = as_json("profile", pyhf_file, "norm", "--range", -1, 1, "--points", 3)
    assert shown["delta"] == pytest.approx(scan.delta)


def test_parameter_of_interest_is_that_of_the_measurement(as_json, call, pyhf_file, folder):
    assert as_json("profile", pyhf_file, "--points", 3)["parameter"] == "mu"
    assert as_json("profile", folder, "--points", 3)["parameter"] == "mu"
    second = as_json("profile", pyhf_file, "--measurement", "second", "--points", 3)
    assert second["parameter"] == "norm"
    assert "mu" in second["best"]["fixed"]
    assert as_json("profile", pyhf_file, "acceptance", "--points", 3)["parameter"] == "acceptance"
    call("coverage", pyhf_file, "--toys", 2, "--measurement", "second")


def test_points_count_without_a_range(as_json, pyhf_file):
    """The default range is three errors around the best fit, within the bounds."""
    document = as_json("profile", pyhf_file, "--points", 7)
    best = document["best"]
    low, high = (best["values"]["mu"] + sign * 3.0 * best["errors"]["mu"] for sign in (-1, 1))
    assert document["grid"] == pytest.approx(np.linspace(max(low, 0.0), high, 7))


def test_asimov_data(as_json, pyhf_file):
    assert as_json("fit", pyhf_file, "--asimov")["values"]["mu"] == pytest.approx(1.0, abs=1e-4)
    moved = as_json("fit", pyhf_file, "--asimov-at", "mu=2.5", "--asimov-at", "norm=0.5")
    assert moved["values"]["mu"] == pytest.approx(2.5, abs=1e-3)
    assert moved["values"]["norm"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("command", ON_WORKSPACE)
def test_fixed_parameters_stay_fixed_in_every_command(command, as_json, pyhf_file):
    document = as_json(*arguments(command, pyhf_file), "--fix", "acceptance=0.7")
    if command == "toys":
        assert document["truth"]["acceptance"] == 0.7
        assert "acceptance" not in [one["parameter"] for one in document["pulls"]]
    elif command != "coverage":
        best = document if command == "fit" else document["best"]
        assert "acceptance" in best["fixed"]
        assert best["values"]["acceptance"] == 0.7


def test_binned_form_and_memory_budget(as_json, folder):
    """Both channels are in the folder, and streamed events give the same fit."""
    names = as_json("fit", folder)["names"]
    assert {"mu", "norm", "acceptance", "staterror_SR[0]"} == {n for n in names if n != "staterror_SR[1]"}
    streamed = as_json("fit", folder, "--memory-budget", "1 kB")
    assert streamed["values"] == pytest.approx(as_json("fit", folder)["values"], abs=1e-6)


def test_fit_shows_what_is_fixed_at_a_bound_and_by_minos(call, changed):
    path = changed(lambda d: d["observations"][0].update(data=[40.0, 30.0]))
    text = call("fit", path, "--fix", "norm=0.5", "--minos", "mu").stdout
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
    assert "at bound" in lines["mu"]
    assert "fixed" in lines["norm"]
    assert "+" in lines["mu"].replace("+-", "")
    assert "note: at a bound: mu" in text
    assert "MINOS" not in call("fit", path).stdout.split("note")[0]  # an empty column is left out


def test_blind_fit(as_json, call, pyhf_file):
    arguments = ("fit", pyhf_file, "--blind", "mu", "--seed", "open sesame", "--scale", 3, "--minos", "mu")
    document, truth = as_json(*arguments), as_json("fit", pyhf_file)
    assert abs(document["values"]["mu"] - truth["values"]["mu"]) > 1e-3
    assert document["values"]["norm"] == truth["values"]["norm"]
    opened = BlindFit.from_dict(document).unblind("open sesame")
    assert opened.values["mu"] == truth["values"]["mu"]
    assert opened.minos["mu"].valid
    text = call(*arguments).stdout
    line = next(line for line in text.splitlines() if line.startswith("│ mu "))
    assert "hidden" in line
    assert f"{truth['values']['mu']:.4g}" not in text


def test_blinding_by_environment(call, pyhf_file, monkeypatch):
    monkeypatch.setenv("NEYMAN_BLIND_SEED", "from outside")
    assert "hidden" in call("fit", pyhf_file, "--blind", "mu").stdout


def test_impacts_of_groups(as_json, call, pyhf_file, tmp_path):
    groups = ("--group", "yields=norm,acceptance", "--group", "statistics=staterror*")
    document = as_json("impacts", pyhf_file, *groups)
    assert [(g["name"], len(g["parameters"])) for g in document["groups"]] == [
        ("yields", 2),
        ("statistics", 2),
    ]
    text = call("impacts", pyhf_file, *groups, "--plot", tmp_path / "a.png").stdout
    parts = breakdown(Likelihood.load(pyhf_file), "mu")
    assert f"statistical {parts.statistical:.5g}, systematic {parts.systematic:.5g}" in text
    default = as_json("impacts", pyhf_file)
    assert [g["name"] for g in default["groups"]] == ["systematic", "bin-by-bin"]


def test_limit_with_toys(as_json, call, pyhf_file):
    arguments = ("limit", pyhf_file, "--toys", 40, "--range", 0.2, 4, "--points", 4)
    document = as_json(*arguments)
    assert document["calculator"] == "toys"
    assert [t["value"] for t in document["tests"]] == pytest.approx(np.linspace(0.2, 4, 4))
    assert document == as_json(*arguments, "--seed", 1)
    assert document["tests"] != as_json(*arguments, "--seed", 2)["tests"]
    assert "CLs" in call(*arguments).stdout


def test_significance_and_gof_with_toys(as_json, call, pyhf_file, tmp_path):
    found = as_json("significance", pyhf_file, "--toys", 30, "--seed", 4)
    assert found["n_toys"] == len(found["toys"]) == 30
    text = call("gof", pyhf_file, "--calculator", "toys", "--toys", 25, "--plot", tmp_path / "a.png").stdout
    assert "p from 25 toys" in text
    assert as_json("gof", pyhf_file, "--calculator", "toys", "--toys", 25)["n_toys"] == 25


def test_toys_are_written_as_parquet(as_json, call, pyhf_file, tmp_path):
    file = tmp_path / "deep" / "toys.parquet"
    document = as_json("toys", pyhf_file, 8, "--at", "mu=2", "--seed", 3, "-o", file)
    table = pq.read_table(file)
    assert table.num_rows == document["n_toys"] == 8
    names = as_json("fit", pyhf_file)["names"]
    assert set(table.column_names) == {
        *(f"{kind}:{name}" for kind in ("value", "error") for name in names), "fval", "valid"
    }  # fmt: skip
    about = json.loads(table.schema.metadata[b"neyman"])
    assert about["seed"] == 3
    assert about["truth"]["mu"] == document["truth"]["mu"] == 2.0
    values, errors = (table[f"{kind}:mu"].to_numpy() for kind in ("value", "error"))
    pull = next(one for one in document["pulls"] if one["parameter"] == "mu")
    assert pull["mean"] == pytest.approx(float(((values - 2.0) / errors).mean()))
    assert [p.name for p in file.parent.iterdir()] == ["toys.parquet"]
    again = tmp_path / "again.parquet"
    call("toys", pyhf_file, 8, "--at", "mu=2", "--seed", 3, "-o", again)
    assert pq.read_table(again).equals(table)


def test_toys_at_the_fit(as_json, pyhf_file):
    document = as_json("toys", pyhf_file, 2, "--at-fit", "--at", "mu=0.4")
    held = as_json("fit", pyhf_file, "--fix", "mu=0.4")["values"]
    assert document["truth"] == pytest.approx(held)
    assert document["truth"]["mu"] == 0.4


def test_coverage_of_chosen_intervals(as_json, pyhf_file):
    document = as_json("coverage", pyhf_file, "--toys", 4, "--method", "hesse", "--at", "mu=1.5", "--cl", 0.9)
    assert [m["method"] for m in document["methods"]] == ["hesse"]
    assert (document["truth"], document["cl"], document["n_toys"]) == (1.5, 0.9, 4)


def test_feldman_cousins_resumes(as_json, pyhf_file, tmp_path):
    store = tmp_path / "store.json"
    arguments = ("feldman-cousins", pyhf_file, "--toys", 4, "--points", 3, "--range", 0, 2)
    first = as_json(*arguments, "--store", store)
    assert len(json.loads(store.read_text())["points"]) == 3
    assert as_json(*arguments, "--store", store) == first == as_json(*arguments)


# Results that are not valid ------------------------------------------------------------------------------


def test_exit_code_2_for_a_result_that_is_not_valid(call, as_json, changed, pyhf_file, tmp_path):
    def degenerate(document):
        for sample in document["channels"][0]["samples"]:
            sample["modifiers"] = [{"name": "mu", "type": "normfactor", "data": None}]
        document["channels"][0]["samples"][0]["modifiers"].append(
            {"name": "scale", "type": "normfactor", "data": None}
        )
        document["channels"][0]["samples"][1]["modifiers"].append(
            {"name": "scale", "type": "normfactor", "data": None}
        )
        document["measurements"] = document["measurements"][:1]

    path = changed(degenerate)
    figure = tmp_path / "a.png"
    result = call("fit", path, "--plot", figure, code=2)
    assert result.stdout.rstrip().endswith("NOT VALID")
    assert "note:" in result.stdout
    assert "no covariance" in result.stderr
    assert not figure.exists()
    assert as_json("fit", path, code=2)["valid"] is False
    outside = ("feldman-cousins", pyhf_file, "--toys", 5, "--range", 8, 9, "--points", 2)
    assert "no value is accepted" in call(*outside, code=2).stdout
    above = ("limit", pyhf_file, "--toys", 20, "--range", 0, 0.1, "--points", 2)
    assert "NOT VALID" in call(*above, code=2).stdout


def test_without_degrees_of_freedom_there_is_no_p_value(call, changed, tmp_path):
    def saturate(document):
        document["channels"][0]["samples"].pop()
        document["channels"][0]["samples"][0]["data"] = [3.0]
        document["channels"][0]["samples"][0]["modifiers"].pop()
        document["observations"][0]["data"] = [6.0]
        document["measurements"] = document["measurements"][:1]

    result = call("gof", changed(saturate), "--plot", tmp_path / "a.png", code=2)
    assert "0 degrees of freedom, p is undefined" in result.stdout
    assert "no distribution to draw" in result.stderr


def test_a_figure_that_cannot_be_drawn_does_not_cost_the_result(call, pyhf_file, tmp_path):
    """Two pulls are needed for a histogram: the table is printed, the error goes to stderr."""
    result = call("toys", pyhf_file, 1, "--plot", tmp_path / "a.png", "--json", code=1)
    assert json.loads(result.stdout)["n_toys"] == 1
    assert "there are 1 pulls of 'mu' to draw" in result.stderr


# Refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("fit", "--plot", "a.jpg"), r"'.jpg' is of no known format[\s\S]*ends in .png or .pdf"),
        (("fit", "--plot", "figure"), r"suffix '' is of no known format"),
        (("fit", "--plot", "folder.png"), r"'folder.png': it is a folder"),
        (("fit", "--plot", "file.txt/a.png"), r"not a folder that can be written"),
        (("toys", 3, "-o", "a.npz"), r"'.npz' is of no known format[\s\S]*ends in .parquet"),
        (("fit", "--fix", "nrom=1"), r"no parameter 'nrom'[\s\S]*nearest names: norm"),
        (("fit", "--fix", "mu=-3"), r"fixed value -3.0 of parameter 'mu' is outside its bounds"),
        (("fit", "--minos", "mv"), r"no parameter 'mv'[\s\S]*nearest names: mu"),
        (("fit", "--asimov-at", "mv=1"), r"no parameter 'mv'[\s\S]*nearest names: mu"),
        (("fit", "--measurement", "frist"), r"no measurement 'frist'[\s\S]*nearest names: first"),
        (("fit", "--memory-budget", "much"), r"memory budget 'much' is not understood"),
        (("fit", "--blind", "mu"), r"blinding needs a seed[\s\S]*--seed PASSPHRASE"),
        (("fit", "--blind", "mv", "--seed", "x"), r"no parameter 'mv'"),
        (("fit", "--blind", "mu", "--seed", "x", "--scale", "-1"), r"scale of 'mu' is -1"),
        (("fit", "--blind", "mu", "--seed", "x", "--plot", "a.png"), r"no correlation matrix"),
        (("profile", "mv"), r"no parameter 'mv'[\s\S]*nearest names: mu"),
        (("profile", "--range", "-1", "2"), r"grid of 'mu' is not usable: -1 is outside the bounds"),
        (("profile", "--range", "2", "1"), r"range 2 to 1 is empty"),
        (("profile", "--fix", "mu=1"), r"no error of 'mu' to choose a range by[\s\S]*--range LOW HIGH"),
        (("contour", "mu", "nrom"), r"no parameter 'nrom'[\s\S]*nearest names: norm"),
        (("contour", "mu", "mu"), r"two parameters, got 'mu' twice"),
        (("contour", "mu", "norm", "--cl", "68"), r"confidence level is 68"),
        (("limit", "mv"), r"no parameter 'mv'"),
        (("limit", "--cl", "95"), r"confidence level is 95"),
        (("limit", "--range", "3", "1"), r"range 3 to 1 is empty"),
        (("limit", "--range", "0", "11", "--points", "2"), r"11 is outside the bounds"),
        (("limit", "--seed", "3"), r"--seed have no effect with --calculator asymptotic"),
        (("limit", "--toys", "9", "--calculator", "asymptotic"), r"--toys and --seed have no effect"),
        (("limit", "--fix", "mu=1"), r"parameter of interest 'mu' is fixed"),
        (("significance", "--expected-at", "40"), r"40 is outside the bounds"),
        (("gof", "--seed", "1"), r"no effect with --calculator saturated"),
        (("impacts", "mv"), r"no parameter 'mv'"),
        (("impacts", "--group", "g=nothing"), r"group 'g': no nuisance parameter matches 'nothing'"),
        (("impacts", "--fix", "mu=1"), r"'mu' is fixed"),
        (("toys", 3, "--at", "mv=1"), r"no parameter 'mv'"),
        (("toys", 3, "--parameter", "mv", "--plot", "a.png"), r"no parameter 'mv'"),
        (("coverage", "--at", "mu=-1"), r"-1.0 of parameter 'mu' is outside its bounds"),
        (("coverage", "--cl", "0"), r"confidence level is 0"),
        (("feldman-cousins", "--range", "-2", "1"), r"-2 is outside the bounds"),
    ],
)
def test_refusals_are_messages(options, message, call, pyhf_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").touch()
    command, *rest = options
    printed = call(command, pyhf_file, *rest, code=1).stderr
    assert re.search(message, printed), printed
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("fit", "w", "--fix", "mu"), "'mu' is not NAME=VALUE"),
        (("fit", "w", "--asimov-at", "mu=x"), "'mu=x' is not NAME=VALUE"),
        (("coverage", "w", "--at", "=1"), "'=1' is not NAME=VALUE"),
        (("impacts", "w", "--group", "g"), "'g' is not NAME=PATTERN,PATTERN"),
        (("impacts", "w", "--group", "g=,"), "'g=,' is not NAME=PATTERN,PATTERN"),
        (("limit", "w", "--calculator", "toy"), "'toy' is not one of 'asymptotic', 'toys'"),
        (("gof", "w", "--calculator", "asymptotic"), "is not one of 'saturated', 'toys'"),
        (("coverage", "w", "--method", "minos"), "'minos' is not one of 'profile', 'hesse'"),
        (("toys", "w", 0), "0 is not in the range x>=1"),
        (("toys", "w"), "Missing argument 'N'"),
        (("contour", "w", "mu"), "Missing argument 'SECOND'"),
        (("limt", "w"), "there is no command 'limt'; nearest: limit"),
    ],
)
def test_wrong_usage(options, message, call, pyhf_file):
    options = [pyhf_file if option == "w" else option for option in options]
    assert message in " ".join(call(*options, code=2).stderr.split())


def test_errors_as_json(as_json, pyhf_file):
    error = as_json("profile", pyhf_file, "nrom", code=1)["error"]
    assert error["type"] == "InferenceError"
    assert error["what"] == "there is no parameter 'nrom'"
    assert error["fix"] == "nearest names: norm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("{", "is not readable JSON"),
        ("[1]", "must hold a JSON object"),
        ("{}", "schema"),
    ],
)
def test_files_that_are_no_workspace(text, message, call, tmp_path):
    path = tmp_path / "broken.json"
    if text is not None:
        path.write_text(text)
    assert message in call("limit", path, code=1).stderr


def test_workspace_without_a_signal(call, changed):
    def background(document):
        document["channels"][0]["samples"].pop(0)
        document["measurements"] = document["measurements"][:1]

    path = changed(background)
    for command in ("limit", "coverage", "impacts"):
        error = call(command, path, code=1).stderr
        assert "no parameter of interest that a sample carries" in error
        assert "for pyhf: apply its patch" in error
    assert "valid" in call("fit", path).stdout


def test_a_missing_plot_extra_is_named_before_the_work(call, pyhf_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mplhep", None)
    error = call("fit", pyhf_file, "--plot", tmp_path / "a.png", code=1).stderr
    assert "mplhep is not installed" in error
    assert "pip install 'neyman[plot]'" in error


def test_long_names_are_wrapped_not_cut(call, changed):
    name = "EL_EFF_" + "TOTAL_1NPCOR_PLUS_UNCOR_" * 4

    def rename(document):
        for sample in document["channels"][0]["samples"]:
            for modifier in sample["modifiers"]:
                if modifier["name"] == "norm":
                    modifier["name"] = name
        document["measurements"] = document["measurements"][:1]

    path = changed(rename)
    for command in ("fit", "impacts"):
        text = call(command, path).stdout
        rows = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
        assert name in "".join(rows)


def test_commands_are_found_by_their_names():
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert Path(command.callback.__code__.co_filename).is_file()
