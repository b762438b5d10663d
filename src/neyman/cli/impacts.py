"""`neyman impacts`: ranking of the nuisance parameters."""

from __future__ import annotations

from typing import Any

import click

from neyman.cli.output import json_option, reported, table, write_json


@click.command(name="impacts")
@click.argument("workspace", type=click.Path())
@click.argument("parameter")
@click.option(
    "--kind",
    type=click.Choice(["global_observables", "refit", "covariance"]),
    default="global_observables",
    show_default=True,
    help="Shift the global observables and refit; fix the parameter at +-1 error and refit; or use the covariance.",
)
@click.option("--asimov", is_flag=True, help="Use the Asimov data at the starting values.")
@json_option
@reported
def command(workspace: str, parameter: str, kind: Any, asimov: bool, as_json: bool) -> None:
    """Rank the nuisance parameters of WORKSPACE by their impact on PARAMETER."""
    from neyman.inference import impacts
    from neyman.likelihood import Likelihood

    likelihood = Likelihood.load(workspace)
    result = impacts(likelihood.asimov() if asimov else likelihood, parameter, kind=kind)
    if as_json:
        write_json(result.to_dict())
        return
    rows = [(i.name, i.up, i.down, i.pull, i.constraint) for i in result.impacts]
    table(f"Impacts on {parameter} ({kind})", ("parameter", "up", "down", "pull", "post/pre-fit error"), rows)
