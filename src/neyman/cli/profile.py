"""`neyman profile`: a profile-likelihood scan."""

from __future__ import annotations

from typing import Any

import click

from neyman.cli.options import on_dask, scan_grid, scanned
from neyman.cli.workspace import Given, Report, on_workspace


@on_workspace("profile")
@click.argument("parameter", required=False)
@scanned(points=31, reach=3.0)
@on_dask
def command(
    given: Given, parameter: str | None, span: tuple[float, float] | None, points: int, client: Any
) -> Report:
    """Scan the profile likelihood of PARAMETER, the parameter of interest by default.

    Exit code 2 when a fit of the scan is not valid.
    """
    from neyman import plots
    from neyman.inference import profile

    name = given.parameter(parameter)
    best = given.fit()
    grid = scan_grid(given.likelihood, best, name, span, points, 3.0)
    result = profile(given.likelihood, name, grid, best=best, client=client)
    rows = [
        (float(x), float(y), "" if good else "not valid")
        for x, y, good in zip(result.grid, result.delta, result.valid, strict=True)
    ]
    return Report(
        result,
        [(f"Profile of {name}", (name, "-2 Delta ln L", ""), rows)],
        lines=[
            f"{cl}% interval: {_ends(result.interval(level))}" for cl, level in ((68.3, 1.0), (95.0, 3.841))
        ],
        messages=result.best.messages,
        valid=result.best.valid and bool(result.valid.all()),
        draw=lambda: plots.profile_scan(result),
    )


def _ends(interval: tuple[float | None, float | None]) -> str:
    return " to ".join("beyond the scan" if end is None else f"{end:.5g}" for end in interval)
