"""`neyman unfold`: data unfolded event by event with a simulation, from flat files."""

from __future__ import annotations

import sys
from typing import Any

import click

from neyman.cli.output import complain, json_option, reported, short, table, write_json
from neyman.cli.progress import step_lines


@click.command(name="unfold")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--output", "-o", help="Folder for everything that is made; out/NAME by default.")
@json_option
@reported
def command(config: str, output: str | None, as_json: bool) -> None:
    """Unfold the data described by CONFIG (an unfold.toml).

    The simulated events get weights with which they are the data before the
    detector. Their spectra with covariance are written to spectra.json and as
    HEPData tables, the weights to unfolding/. Finished steps are kept, and an
    unfolding that was stopped goes on when the command is repeated; new bins or
    observables need no new one. Exit code 1 when the closure test fails; the
    spectra are written all the same.
    """
    from neyman.analysis.unfold_job import unfold

    with step_lines(as_json) as reporter:
        done = unfold(config, output=output, reporter=reporter)
    results, refusal = done.results, done.refusal()
    if as_json:
        document: dict[str, Any] = {"output": str(done.output.resolve()), **results}
        if refusal is not None:
            document["error"] = {"type": "TrainingError", "what": refusal.what, "fix": refusal.fix}
        write_json(document)
        sys.exit(0 if refusal is None else 1)
    for note in results["warnings"]:
        click.echo(f"Warning: {note}", err=True)
    closure = results["closure"]
    rows: list[tuple[Any, ...]] = []
    for one in done.config.observables:
        moments = results["moments"][one.name]
        p_value = "" if closure is None else short(closure["observables"][one.name]["p_value"])
        rows.append(
            (
                f"{one.name} [{one.unit}]" if one.unit else one.name,
                len(one.edges) - 1,
                moments["mean"],
                short(moments["mean_error"]),
                moments["width"],
                short(moments["width_error"]),
                p_value,
            )
        )
    columns = ("observable", "bins", "mean", "+-", "std. dev.", "+-", "closure p")
    table("Unfolded observables", columns, rows)
    click.echo(
        f"Yield:     {results['yield']:.6g}, from {results['effective_size']:.4g} effective simulated events"
    )
    for label, name in (
        ("Weights", "unfolding"),
        ("Spectra", "spectra.json"),
        ("HEPData", "hepdata"),
        ("Report", "report/index.html"),
    ):
        click.echo(f"{label + ':':<10} {done.output / name}")
    if refusal is not None:
        complain(refusal)
        sys.exit(1)
