"""`neyman fit`: a fit of a workspace folder or a pyhf JSON file."""

from __future__ import annotations

import sys

import click

from neyman.cli.output import assignments, json_option, reported, table, write_json


@click.command(name="fit")
@click.argument("workspace", type=click.Path())
@click.option("--minos", multiple=True, metavar="NAME", help="MINOS interval of this parameter (repeatable).")
@click.option(
    "--fix", "fixed", multiple=True, metavar="NAME=VALUE", help="Keep a parameter fixed (repeatable)."
)
@click.option(
    "--asimov", is_flag=True, help="Fit the Asimov data at the starting values instead of the data."
)
@click.option("--binned", is_flag=True, help="Use the binned form where a channel exists in both.")
@json_option
@reported
def command(
    workspace: str, minos: tuple[str, ...], fixed: tuple[str, ...], asimov: bool, binned: bool, as_json: bool
) -> None:
    """Fit WORKSPACE with MIGRAD and HESSE; exit code 2 when the fit is not valid."""
    from neyman.inference import fit
    from neyman.likelihood import Likelihood

    values = assignments(fixed, "--fix")
    likelihood = Likelihood.load(workspace, prefer="binned" if binned else "unbinned")
    result = fit(likelihood.asimov() if asimov else likelihood, minos=minos, fixed=values)
    if as_json:
        write_json(result.to_dict())
    else:
        rows = []
        for name in result.names:
            interval = result.minos.get(name)
            shown = f"{interval.lower:+.4g} {interval.upper:+.4g}" if interval else ""
            rows.append(
                (
                    name,
                    result.values[name],
                    result.errors[name],
                    shown,
                    "fixed" if name in result.fixed else "",
                )
            )
        table(f"{workspace}: -2 ln L = {result.fval:.6f}", ("parameter", "value", "error", "MINOS", ""), rows)
        for message in result.messages:
            click.echo(f"note: {message}")
        click.echo("valid" if result.valid else "NOT VALID")
    if not result.valid:
        sys.exit(2)
