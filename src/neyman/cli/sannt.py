"""`neyman sannt`: a network trained for a measurement, and its workspace, from flat files."""

from __future__ import annotations

import sys
from typing import Any

import click

from neyman.cli.output import json_option, reported, table, write_json
from neyman.cli.progress import step_lines


@click.command(name="sannt")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--output", "-o", help="Folder for everything that is made; out/NAME by default.")
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="Folder or URL to which the files are relative, instead of that of CONFIG.",
)
@json_option
@reported
def command(config: str, output: str | None, data: str | None, as_json: bool) -> None:
    """Train the network and write the workspace described by CONFIG (a sannt.toml).

    The network is trained for the smallest uncertainty of the signal strengths,
    systematics included. Its bins and the control regions become a pyhf
    workspace, which is fitted. Events, training, workspace, fits and report are
    steps that are kept when the command is repeated. Exit code 2 when a fit is
    not valid.
    """
    from neyman.analysis.sannt_job import train_sannt

    with step_lines(as_json) as reporter:
        done = train_sannt(config, output=output, data=data, reporter=reporter)
    invalid = done.invalid
    if as_json:
        write_json({"output": str(done.output.resolve()), "invalid_fits": invalid, **done.results})
        sys.exit(2 if invalid else 0)
    for note in done.results["warnings"]:
        click.echo(f"Warning: {note}", err=True)
    names = {"pretrained": "cross-entropy (CENNT)", "trained": "systematics-aware (SANNT)"}
    rows: list[tuple[Any, ...]] = []
    for signal, strength in done.config.signals.items():
        for stage, label in names.items():
            found = done.results["fits"][stage]
            low, high = found["minos"][signal]
            rows.append(
                (strength, label, found["statistical"][signal], found["hesse"][signal], interval(low, high))
            )
    table(
        "Expected uncertainty of the signal strength",
        ("strength", "network", "stat.", "total", "MINOS"),
        rows,
    )
    observed = done.results["observed"]
    if observed is None:
        click.echo("Observed:  no data; the workspace holds the expectation.")
    else:
        for strength in done.config.strengths:
            value, error = observed["values"][strength], observed["errors"][strength]
            bounds = interval(*observed["minos"][strength])
            click.echo(f"Observed:  {strength} = {value:.3g} +- {error:.3g} (MINOS {bounds})")
        if (goodness := observed["goodness_of_fit"]) is not None:
            click.echo(
                f"Goodness:  chi2 = {goodness['statistic']:.1f} for {goodness['ndof']} degrees of freedom, "
                f"p = {goodness['p_value']:.2g}"
            )
    click.echo(f"Workspace: {done.output / 'workspace'}")
    click.echo(f"Report:    {done.output / 'report' / 'index.html'}")
    if invalid:
        click.echo(f"NOT VALID: the fits {'; '.join(invalid)}.", err=True)
        sys.exit(2)


def interval(low: float | None, high: float | None) -> str:
    """Return the distances of MINOS as text, a dash where there is none."""
    return " ".join("-" if side is None else f"{side:+.3g}" for side in (low, high))
