"""`neyman gof`: goodness of fit."""

from __future__ import annotations

import math
from typing import Any

import click

from neyman.cli.options import calculated, on_dask, shows_progress
from neyman.cli.workspace import Given, Report, on_workspace


@on_workspace("gof")
@calculated("saturated", toys=1000)
@on_dask
@click.option("--bins", type=click.IntRange(2), help="Bins of each unbinned channel.")
def command(given: Given, calculation: dict[str, Any], bins: int | None, client: Any) -> Report:
    """Compare the best fit with the saturated model, which describes every bin perfectly.

    Take toys for unbinned channels and small counts. Exit code 2 when there is no p-value.
    """
    from neyman import plots
    from neyman.inference import goodness_of_fit

    result = goodness_of_fit(
        given.likelihood,
        bins=bins,
        fixed=given.fixed,
        client=client,
        progress=shows_progress(),
        **calculation,
    )
    rows = [*result.parts.items(), ("total", result.statistic)]
    defined = math.isfinite(result.p_value)
    p_value = f"p = {result.p_value:.4g}" if defined else "p is undefined"
    lines = [f"{result.ndof} degrees of freedom, {p_value}"]
    if result.p_value_interval:
        low, high = result.p_value_interval
        lines.append(f"p from {result.n_toys} toys: {low:.3g} to {high:.3g} at 68.3%")
    return Report(
        result,
        [(f"Goodness of fit ({result.calculator})", ("part", "-2 ln ratio"), rows)],
        lines=lines,
        messages=result.messages,
        valid=defined,
        draw=lambda: plots.goodness_of_fit(result),
    )
