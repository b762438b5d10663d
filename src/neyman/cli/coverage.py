"""`neyman coverage`: how often intervals hold the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from neyman.cli.options import drawn_at, on_dask, seeded, shows_progress
from neyman.cli.workspace import Given, Report, on_workspace

if TYPE_CHECKING:
    from neyman.inference import FitResult


@on_workspace("coverage")
@click.argument("poi", required=False)
@drawn_at
@click.option("--cl", default=0.683, show_default=True, type=float, help="Confidence level of the intervals.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(["profile", "hesse"]),
    default=("profile", "hesse"),
    show_default=True,
    help="Kind of interval (repeatable).",
)
@click.option(
    "--toys", "n_toys", default=1000, show_default=True, type=click.IntRange(1), help="Number of toys."
)
@seeded
@on_dask
def command(
    given: Given,
    poi: str | None,
    at: dict[str, float] | FitResult,
    cl: float,
    methods: tuple[str, ...],
    n_toys: int,
    seed: int,
    client: Any,
) -> Report:
    """Count in toys how often intervals of POI, the parameter of interest by default, hold its true value."""
    from neyman import plots
    from neyman.inference import coverage

    result = coverage(
        given.likelihood,
        given.parameter(poi),
        n_toys=n_toys,
        seed=seed,
        at=at,
        cl=cl,
        methods=methods,
        fixed=given.fixed,
        client=client,
        progress=shows_progress(),
    )
    intervals = [
        (m.method, f"{m.coverage:.2%}", "{:.2%} to {:.2%}".format(*m.interval), m.width)
        for m in result.methods
    ]
    toys = [
        ("bias", result.bias, result.bias_error),
        ("pull mean", result.pull_mean, result.pull_mean_error),
        ("pull width", result.pull_width, result.pull_width_error),
    ]
    title = f"Coverage of {result.poi} = {result.truth:g} by {result.cl:.1%} intervals, {result.n_toys} toys"
    return Report(
        result,
        [
            (title, ("interval", "coverage", "at 68.3%", "mean width"), intervals),
            ("Estimates", ("", "value", "error"), toys),
        ],
        messages=result.messages,
        draw=lambda: plots.coverage(result),
    )
