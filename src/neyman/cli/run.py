"""`neyman run`: the whole analysis."""

from __future__ import annotations

import sys
from typing import Any

import click

from neyman.cli.options import dask_option
from neyman.cli.output import json_option, reported, table, write_json
from neyman.cli.progress import step_lines


@click.command(name="run")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--output", "-o", default="out", show_default=True, help="Folder for everything that is made.")
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="Folder or URL of the ROOT files, instead of the configured one.",
)
@click.option("--executor", type=click.Choice(["iterative", "threads"]), help="coffea executor without Dask.")
@click.option("--workers", type=click.IntRange(1), help="Threads without Dask.")
@dask_option
@click.option("--gpus", is_flag=True, help="Every Dask worker has a GPU of its own.")
@json_option
@reported
def command(
    config: str,
    output: str,
    data: str | None,
    executor: Any,
    workers: int | None,
    dask: str | None,
    gpus: bool,
    as_json: bool,
) -> None:
    """Run the analysis described by CONFIG (an analysis.toml).

    Events, training, workspace, fits and report are steps. A finished step is kept as long as its configuration,
    inputs and code do not change: stop with Ctrl-C at any time and run the same command again. Exit code 2 when
    a fit is not valid.
    """
    from neyman.analysis import run

    with step_lines(as_json) as reporter:
        done = run(
            config,
            output=output,
            data=data,
            executor=executor,
            workers=workers,
            dask=dask,
            gpus=gpus,
            reporter=reporter,
        )
    invalid = [r["label"] for r in done.results["comparison"] if not r["valid"]]
    invalid += [name for name in ("expected",) if not done.results[name]["valid"]]
    invalid += [f"observed, {kind}" for kind, one in done.results["observed"].items() if not one["valid"]]
    if as_json:
        write_json({"output": str(done.output.resolve()), "invalid_fits": invalid, **done.results})
        sys.exit(2 if invalid else 0)
    rows = [(r["label"], r["stat"], r["syst"], r["with_simulation"]) for r in done.results["comparison"]]
    poi = done.config.analysis.poi
    table(
        f"Expected uncertainty of {poi} from the same events",
        ("description", "stat.", "+ syst.", "+ MC stat."),
        rows,
    )
    click.echo(f"Report:    {done.output / 'report' / 'index.html'}")
    click.echo(f"Workspace: {done.output / 'workspace'}")
    for check in done.results["checks"]:
        if not check["passed"]:
            click.echo(f"CHECK FAILED: {check['name']}: {check['reason']}", err=True)
    if invalid:
        click.echo(f"NOT VALID: the fits of {', '.join(invalid)}; the report says why.", err=True)
        sys.exit(2)
