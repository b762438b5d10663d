"""`neyman feldman-cousins`: an interval constructed from toys."""

from __future__ import annotations

from typing import Any

import click

from neyman.cli.options import on_dask, scan_grid, scanned, seeded, shows_progress
from neyman.cli.workspace import Given, Report, on_workspace


@on_workspace("feldman-cousins")
@click.argument("poi", required=False)
@scanned(points=21, reach=2.5)
@click.option("--cl", default=0.683, show_default=True, type=float, help="Confidence level.")
@click.option(
    "--toys", "n_toys", default=1000, show_default=True, type=click.IntRange(1), help="Toys at each value."
)
@seeded
@on_dask
@click.option(
    "--store", metavar="FILE", help="JSON file that keeps finished values: the same command resumes from it."
)
def command(
    given: Given,
    poi: str | None,
    span: tuple[float, float] | None,
    points: int,
    cl: float,
    n_toys: int,
    seed: int,
    store: str | None,
    client: Any,
) -> Report:
    """Construct an interval of POI, the parameter of interest by default, from toys at every value.

    The bounds of POI are its physical limits. Exit code 2 when no value is accepted.
    """
    from neyman import plots
    from neyman.inference import feldman_cousins

    name = given.parameter(poi)
    grid = scan_grid(given.likelihood, given.fit(), name, span, points, 2.5)
    result = feldman_cousins(
        given.likelihood,
        name,
        grid,
        cl=cl,
        n_toys=n_toys,
        seed=seed,
        fixed=given.fixed,
        store=store,
        client=client,
        progress=shows_progress(),
    )
    columns = (result.grid, result.observed, result.critical, result.critical_error, result.p_values)
    rows = [tuple(map(float, row)) for row in zip(*columns, strict=True)]
    ends = " and ".join(f"{low:.5g} to {high:.5g}" for low, high in result.intervals)
    return Report(
        result,
        [(f"Neyman construction of {name}", (name, "observed t", "critical t", "+-", "p-value"), rows)],
        lines=[f"{cl:.1%} interval: {ends or 'no value is accepted'}"],
        messages=result.messages,
        valid=bool(result.intervals),
        draw=lambda: plots.construction(result),
    )
