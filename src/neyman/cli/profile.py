"""`neyman profile`: a profile-likelihood scan."""

from __future__ import annotations

import click

from neyman.cli.output import json_option, reported, table, write_json


@click.command(name="profile")
@click.argument("workspace", type=click.Path())
@click.argument("parameter")
@click.option(
    "--range", "span", nargs=2, type=float, help="Lower and upper end; the best fit +-3 errors by default."
)
@click.option("--points", default=31, show_default=True, type=click.IntRange(3), help="Number of points.")
@click.option("--asimov", is_flag=True, help="Scan the Asimov data at the starting values.")
@click.option("--binned", is_flag=True, help="Use the binned form where a channel exists in both.")
@json_option
@reported
def command(
    workspace: str,
    parameter: str,
    span: tuple[float, float] | None,
    points: int,
    asimov: bool,
    binned: bool,
    as_json: bool,
) -> None:
    """Scan the profile likelihood of PARAMETER in WORKSPACE."""
    import numpy as np

    from neyman.inference import profile
    from neyman.likelihood import Likelihood

    likelihood = Likelihood.load(workspace, prefer="binned" if binned else "unbinned")
    grid = np.linspace(*span, points) if span else None
    result = profile(likelihood.asimov() if asimov else likelihood, parameter, grid)
    if as_json:
        write_json(result.to_dict())
        return
    rows = [(float(x), float(y)) for x, y in zip(result.grid, result.delta, strict=True)]
    table(f"Profile of {parameter}", (parameter, "2 Delta NLL"), rows)
    low, high = result.interval()
    click.echo(
        f"68.3% interval: {low if low is None else round(low, 5)} to {high if high is None else round(high, 5)}"
    )
