"""The main job on a small analysis: results, resuming, determinism, faults."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from analysis_toy import Recorder, write_root

import neyman as ny
from neyman import Likelihood
from neyman.analysis import run
from neyman.errors import ConfigError, InputError, NeymanError

STEPS = [
    "events",
    *(f"train {name}" for name in ("sig", "sig offset", "bkg", "bkg offset")),
    "workspace",
    "fit",
    "report",
]
SCRIPT = "import sys; from neyman.analysis import run; run(sys.argv[1], output=sys.argv[2])"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def contents(folder):
    """Every result file but figures and time stamps."""
    names = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix in (".safetensors", ".parquet")]
    files = {str(p.relative_to(folder)): p.read_bytes() for p in names}
    return files | {"fit.json": (folder / "fit.json").read_text()}


def partial_files(folder):
    return [p for p in folder.rglob(".*") if p.name.endswith((".part", ".old"))]


def test_all_steps_ran(toy_run):
    assert list(toy_run.stamps) == STEPS
    for name in ("results.json", "report/index.html", "workspace/manifest.json", "model/sig.safetensors"):
        assert (toy_run.output / name).is_file()


def test_asimov_fit_returns_the_truth(toy_run):
    expected = toy_run.results["expected"]
    error = expected["errors"]["mu"]
    assert expected["valid"]
    assert abs(expected["values"]["mu"] - 1.0) < 1e-3 * error
    for row in toy_run.results["comparison"]:
        assert row["valid"]
        assert 0 < row["stat"] <= row["syst"] <= row["with_simulation"]


def test_ratios_gain_over_one_histogram(toy_run):
    stat = {row["kind"]: row["stat"] for row in toy_run.results["comparison"]}
    assert stat["unbinned"] < 0.95 * stat["single"]
    assert stat["classifier"] < 0.95 * stat["single"]


def test_yields_are_cross_section_times_luminosity(toy_run):
    yields = toy_run.results["workspace"]["yields"]
    rng = np.random.default_rng(1)
    x = rng.normal(1.0, 1.0, 4000).astype(np.float32)
    rng.normal(size=4000)
    tag = rng.random(4000) < 0.2
    accepted = np.mean((x > -2.5) & ~tag)
    assert yields["sig"]["nominal"] == pytest.approx(200.0 * accepted, rel=1e-6)


def test_ratios_close_on_every_variation(toy_run):
    found = {(c["variation"], c["process"]) for c in toy_run.results["closure_systematics"]}
    names = ("scaleUp", "scaleDown", "offsetUp", "offsetDown")
    assert found == {(v, p) for v in names for p in ("sig", "bkg")}
    worst = min(c["p_value"] for c in toy_run.results["closure"] + toy_run.results["closure_systematics"])
    assert worst > 1e-6


def test_every_ratio_is_checked(toy_run):
    checks = {check["name"]: check for check in toy_run.results["checks"]}
    assert list(checks) == [
        "closure",
        *(f"{k}, {s}" for s in ("sig", "bkg") for k in ("weights", "ensemble spread")),
    ]
    assert checks["closure"]["passed"]
    assert all("effective events" in checks[f"weights, {s}"]["reason"] for s in ("sig", "bkg"))
    page = (toy_run.output / "report" / "index.html").read_text()
    assert all(check["name"] in page for check in checks.values())


def test_simulation_fit_agrees_within_its_noise(toy_run):
    check = toy_run.results["simulation_check"]
    assert check["valid"]
    assert abs(check["value"] - 1.0) < 4.0 * check["noise"] + 0.2
    assert check["claimed"] == pytest.approx(toy_run.results["expected"]["errors"]["mu"], rel=1e-6)
    assert check["spread"] == pytest.approx(check["claimed"], rel=0.25)


def test_finished_steps_are_kept(toy_config, toy_run):
    recorder = Recorder()
    again = run(toy_config, output=toy_run.output, reporter=recorder)
    assert set(recorder.steps.values()) == {"kept"}
    assert again.results["expected"] == toy_run.results["expected"]


def test_only_what_changed_runs_again(toy_config, toy_run, tmp_path):
    shutil.copytree(toy_config.parent, tmp_path / "a")
    shutil.copytree(toy_run.output, tmp_path / "out")
    edit(tmp_path / "a" / "analysis.toml", "profile_points = 5", "profile_points = 4")
    recorder = Recorder()
    run(tmp_path / "a" / "analysis.toml", output=tmp_path / "out", reporter=recorder)
    changed = [name for name, state in recorder.steps.items() if state == "run"]
    assert changed == ["workspace", "fit", "report"]


def test_stopped_and_resumed_gives_the_same(toy_config, toy_run, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(toy_config, output=out, reporter=Recorder(stop_in="train bkg"))
    assert not partial_files(out)
    assert not (out / "model" / "bkg.safetensors").exists()
    recorder = Recorder()
    run(toy_config, output=out, reporter=recorder)
    kept = [name for name, state in recorder.steps.items() if state == "kept"]
    assert kept == ["events", "train sig", "train sig offset"]
    assert contents(out) == contents(toy_run.output)


def test_killed_run_resumes(toy_config, toy_run, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(toy_config), str(out)])
    deadline = time.monotonic() + 120
    while not (out / ".neyman" / "train sig.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "results.json").exists()
    run(toy_config, output=out)
    assert not partial_files(out)
    assert contents(out) == contents(toy_run.output)


def test_full_disk(toy_config, toy_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(toy_run.output, out)
    shutil.rmtree(out / "workspace")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    command = [sys.executable, "-m", "neyman.cli", "run", str(toy_config), "--output", str(out)]
    found = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert found.returncode == 1
    assert "cannot write" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (out / "workspace").exists()
    assert not partial_files(out)
    run(toy_config, output=out)
    assert contents(out) == contents(toy_run.output)


@pytest.mark.parametrize("executor", ["threads", "dask"])
def test_executors_give_the_same_events(toy_config, toy_run, tmp_path, executor):
    with pytest.raises(KeyboardInterrupt):
        run(toy_config, output=tmp_path / "out", executor=executor, reporter=Recorder(stop_in="train sig"))
    names = [
        p.relative_to(toy_run.output) for p in sorted((toy_run.output / "events").rglob("*")) if p.is_file()
    ]
    assert len(names) > 10
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (toy_run.output / name).read_bytes()


def test_incomplete_events_are_noticed(toy_config, toy_run, tmp_path):
    shutil.copytree(toy_run.output, tmp_path / "out")
    next((tmp_path / "out" / "events" / "bkg" / "SR" / "nominal").glob("*.parquet")).unlink()
    shutil.rmtree(tmp_path / "out" / "workspace")
    with pytest.raises(
        InputError, match=r"(?s)processed events of 'bkg', 'nominal' are incomplete.*delete this folder"
    ):
        run(toy_config, output=tmp_path / "out")


def test_luminosity_does_not_retrain(toy_config, toy_run, tmp_path):
    shutil.copytree(toy_config.parent, tmp_path / "a")
    shutil.copytree(toy_run.output, tmp_path / "out")
    edit(tmp_path / "a" / "analysis.toml", "luminosity = 2.0", "luminosity = 3.0")
    recorder = Recorder()
    again = run(tmp_path / "a" / "analysis.toml", output=tmp_path / "out", reporter=recorder)
    assert [name for name, state in recorder.steps.items() if state == "run"] == [
        "workspace",
        "fit",
        "report",
    ]
    for name, yields in again.results["workspace"]["yields"].items():
        assert yields["nominal"] == pytest.approx(
            1.5 * toy_run.results["workspace"]["yields"][name]["nominal"]
        )


def test_a_renamed_sample_leaves_no_model(toy_config, toy_run, tmp_path):
    shutil.copytree(toy_config.parent, tmp_path / "a")
    shutil.copytree(toy_run.output, tmp_path / "out")
    edit(tmp_path / "a" / "analysis.toml", 'name = "sig"', 'name = "signal"')
    edit(tmp_path / "a" / "data" / "samples.json", '"sig"', '"signal"')
    run(tmp_path / "a" / "analysis.toml", output=tmp_path / "out")
    assert sorted(p.stem for p in (tmp_path / "out" / "model").glob("*.safetensors")) == ["bkg", "signal"]


def test_signed_weights(toy):
    rng = np.random.default_rng(8)
    weight = np.where(rng.random(4000) < 0.1, -1.0, 1.0).astype(np.float32)
    write_root(toy.parent / "data" / "sig.root", 1.0, 4000, 1, genWeight=weight)
    fails(toy, r"(?s)pseudo-data cannot be drawn from sample 'sig': \d+ events of negative weight.*weighted")
    edit(toy, "luminosity = 2.0", 'luminosity = 2.0\ndata = "weighted"')
    done = run(toy, output=toy.parent / "out")
    observed = done.results["observed"]["classifier"]
    assert observed["valid"]
    assert observed["values"]["mu"] == pytest.approx(1.0, abs=1e-3)


def test_a_weak_measurement_with_bounds_still_reports(toy_config, toy_run, tmp_path):
    shutil.copytree(toy_config.parent, tmp_path / "a")
    shutil.copytree(toy_run.output, tmp_path / "out")
    edit(tmp_path / "a" / "analysis.toml", "luminosity = 2.0", "luminosity = 0.02")
    edit(tmp_path / "a" / "analysis.toml", "bounds = { mu = [-1.0, 10.0] }", "")
    done = run(tmp_path / "a" / "analysis.toml", output=tmp_path / "out")
    lower = [row["minos"][0] for row in done.results["comparison"]]
    assert None in lower or min(lower) >= -1.0
    assert (done.output / "report" / "index.html").is_file()


def test_two_runs_in_one_folder(toy_config, tmp_path):
    class Nested(Recorder):
        def step(self, name, state):
            with pytest.raises(ConfigError, match="another run is using this output folder"):
                run(toy_config, output=tmp_path / "out")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(toy_config, output=tmp_path / "out", reporter=Nested())


def test_output_that_cannot_be_made(toy_config, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="cannot write to the output folder"):
        run(toy_config, output=tmp_path / "out")


def test_workspace_refits_alone(toy_run):
    lh = Likelihood.load(toy_run.output / "workspace")
    assert {"mu", "scale", "offset", "bkg_norm", "lumi"} <= set(lh.names)
    assert lh.bounds[lh.index("scale")].tolist() == [-3.0, 3.0]
    names = [p.name for t in lh.terms for p in t.parameters]
    assert names.count("offset") == 2


# Bad input -----------------------------------------------------------------------------------------------------


def fails(toy, message, kind=NeymanError, **options):
    with pytest.raises(kind, match=message):
        run(toy, output=toy.parent / "out", **options)
    assert not partial_files(toy.parent / "out")


def test_missing_file(toy):
    (toy.parent / "data" / "sig.root").unlink()
    fails(toy, r"(?s)sample 'sig': no file matches sig\.root.*nearest: .*bkg_a\.root", InputError)


def test_missing_data_folder(toy):
    fails(toy, "data folder 'elsewhere' does not exist", InputError, data=toy.parent / "elsewhere")


def test_missing_branch(toy):
    write_root(toy.parent / "data" / "sig.root", 1.0, 500, 1, x=None, xx=np.ones(500, dtype=np.float32))
    fails(toy, r"(?s)no field 'x'.*xx", InputError)


def test_nan_feature(toy):
    y = np.ones(500, dtype=np.float32)
    y[17] = np.nan
    write_root(toy.parent / "data" / "sig.root", 1.0, 500, 1, y=y)
    fails(toy, r"(?s)y.*(NaN|not finite)", InputError)


def test_empty_selection(toy):
    write_root(toy.parent / "data" / "sig.root", -50.0, 500, 1)
    fails(toy, r"(?s)sig.*(no event|empty|0 events)", NeymanError)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_useless_weights(toy, weight):
    write_root(
        toy.parent / "data" / "sig.root", 1.0, 500, 1, genWeight=np.full(500, weight, dtype=np.float32)
    )
    fails(toy, r"(?s)sig.*weight", NeymanError)


def test_not_a_root_file(toy):
    (toy.parent / "data" / "sig.root").write_text("hello")
    fails(toy, r"(?s)not a readable ROOT file.*sig\.root", InputError)


def test_metadata_without_the_sample(toy):
    (toy.parent / "data" / "samples.json").write_text(json.dumps({"sig": {"events_per_inverse_fb": 3}}))
    fails(toy, r"(?s)no positive 'events_per_inverse_fb' for sample 'bkg'.*samples\.json", ConfigError)


def test_broken_processor(toy):
    (toy.parent / "processor.py").write_text("def build(events, shifts):\n    return 1 +\n")
    fails(toy, r"(?s)processor\.py", ConfigError)


def test_failing_processor_names_the_line(toy):
    edit(toy.parent / "processor.py", "events.y +", "events.y + 1 / 0 *")
    fails(toy, r"(?s)division by zero.*processor\.py.*line 8", ConfigError)


def test_the_spread_of_bootstrap_members_becomes_nuisance_parameters(toy_config, toy_run, tmp_path):
    """They widen the error beyond that of the systematics, and a workspace with them is complete."""
    shutil.copytree(toy_config.parent, tmp_path / "a")
    toml = tmp_path / "a" / "analysis.toml"
    edit(toml, "[training.nominal]", "[training]\nspread = true\nspread_components = 3\n\n[training.nominal]")
    edit(toml, "hidden = [16, 16]\nensemble = 2", "hidden = [16, 16]\nensemble = 5\nbootstrap = true")
    done = run(toml, output=tmp_path / "out")
    lh = Likelihood.load(done.output / "workspace")
    assert {f"spread_{s}[{k}]" for s in ("sig", "bkg") for k in range(3)} <= set(lh.names)
    row = next(r for r in done.results["comparison"] if r["kind"] == "unbinned")
    asimov = lh.asimov()
    full = ny.fit(asimov)
    held = ny.fit(asimov, fixed=[n for n in lh.names if n.startswith(("spread_", "staterror_"))])
    assert full.values["mu"] == pytest.approx(1.0, abs=1e-6)
    assert full.errors["mu"] > 1.001 * held.errors["mu"]
    assert row["syst"] == pytest.approx(held.errors["mu"], rel=1e-6)
    assert row["with_simulation"] > full.errors["mu"]
    assert all(check["passed"] for check in done.results["validation"])


def test_more_components_than_members_are_refused(toy):
    edit(toy, "[training.nominal]", "[training]\nspread = true\n\n[training.nominal]")
    fails(toy, r"spread_components = 4 needs an ensemble of more members than 2")
