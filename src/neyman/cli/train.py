"""`neyman train`: one density ratio from two samples."""

from __future__ import annotations

import sys

import click

from neyman.cli.output import complain, json_option, reported, table, write_json
from neyman.cli.progress import step_lines


@click.command(name="train")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--output", "-o", help="Folder for everything that is made; out/NAME by default.")
@click.option("--allow-failed-checks", is_flag=True, help="Export the model even if a check failed.")
@json_option
@reported
def command(config: str, output: str | None, allow_failed_checks: bool, as_json: bool) -> None:
    """Train the density ratio described by CONFIG (a ratio.toml).

    The ratio is trained, calibrated if asked for, and checked on events that the
    training has not seen. model.safetensors is written only if every check
    passes; otherwise the exit code is 1, and the training is kept: with
    --allow-failed-checks the model is then exported at once. Finished steps are
    kept, and a training that was stopped goes on when the command is repeated.
    """
    from neyman.analysis.ratio_job import train_ratio

    with step_lines(as_json) as reporter:
        done = train_ratio(config, output=output, allow_failed_checks=allow_failed_checks, reporter=reporter)
    refusal, checks = done.refusal(), done.checks["checks"]
    if as_json:
        document = {
            "output": str(done.output.resolve()),
            "model": None if done.model is None else str(done.model.resolve()),
            "passed": done.checks["passed"],
            "checks": [{key: one[key] for key in ("name", "passed", "reason")} for one in checks],
            "log_normalisation": done.checks["log_normalisation"],
            "warnings": done.warnings,
        }
        if refusal is not None:
            document["error"] = {"type": "TrainingError", "what": refusal.what, "fix": refusal.fix}
        write_json(document)
        sys.exit(0 if refusal is None else 1)
    for note in done.warnings:
        click.echo(f"Warning: {note}", err=True)
    rows = [(one["name"], "passed" if one["passed"] else "FAILED", one["reason"]) for one in checks]
    table(f"Checks of {' over '.join(done.config.names())}", ("check", "", "figures"), rows)
    click.echo(f"Report: {done.output / 'report' / 'index.html'}")
    if refusal is not None:
        complain(refusal)
        sys.exit(1)
    click.echo(f"Model:  {done.model}")
    if done.failed:
        click.echo(f"Exported although {len(done.failed)} of {len(checks)} checks failed.", err=True)
