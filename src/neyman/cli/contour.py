"""`neyman contour`: joint confidence regions of two parameters."""

from __future__ import annotations

import click

from neyman.cli.workspace import Given, Report, on_workspace


@on_workspace("contour")
@click.argument("first")
@click.argument("second")
@click.option(
    "--cl",
    multiple=True,
    type=float,
    default=(0.683, 0.955),
    show_default=True,
    help="Confidence level (repeatable).",
)
@click.option("--points", default=40, show_default=True, type=click.IntRange(8), help="Points on each curve.")
def command(given: Given, first: str, second: str, cl: tuple[float, ...], points: int) -> Report:
    """Find the joint confidence regions of the parameters FIRST and SECOND.

    The table gives the extent of each region, --json all points. Exit code 2 when a point could not be found.
    """
    from neyman import plots
    from neyman.inference import contour

    names = given.parameter(first), given.parameter(second)
    result = contour(given.likelihood, *names, cl=cl, points=points, fixed=given.fixed)
    rows = []
    for curve in result.levels:
        found = curve.points[curve.valid]
        for name, low, high in zip(names, found.min(axis=0), found.max(axis=0), strict=True):
            rows.append((f"{curve.cl:.1%}", curve.level, name, float(low), float(high)))
    columns = ("CL", "-2 Delta ln L", "parameter", "from", "to")
    best = ", ".join(f"{name} = {result.best.values[name]:.5g}" for name in names)
    return Report(
        result,
        [(f"Contours of {' and '.join(names)}", columns, rows)],
        lines=[f"best fit: {best}"],
        messages=(*result.best.messages, *result.messages),
        valid=all(curve.valid.all() for curve in result.levels),
        draw=lambda: plots.contours(result),
    )
