"""`neyman significance`: a test of the background-only hypothesis."""

from __future__ import annotations

import math
from typing import Any

import click

from neyman.cli.options import calculated, on_dask, shows_progress
from neyman.cli.workspace import Given, Report, on_workspace


@on_workspace("significance")
@click.argument("poi", required=False)
@click.option(
    "--expected-at",
    type=float,
    default=1.0,
    show_default=True,
    help="Value of POI behind the expected significance.",
)
@calculated("asymptotic", toys=10_000)
@on_dask
def command(
    given: Given, poi: str | None, expected_at: float, calculation: dict[str, Any], client: Any
) -> Report:
    """Test the hypothesis that POI, the parameter of interest by default, is 0."""
    from neyman import plots
    from neyman.inference import significance

    name = given.parameter(poi)
    result = significance(
        given.likelihood,
        name,
        expected_at=expected_at,
        fixed=given.fixed,
        client=client,
        progress=shows_progress(),
        **calculation,
    )
    rows: list[tuple[Any, ...]] = [
        ("observed", result.z if math.isfinite(result.z) else None, result.p_value)
    ]
    if result.expected_z is not None:
        z = result.expected_z if math.isfinite(result.expected_z) else None
        rows.append((f"expected for {name} = {expected_at:g}", z, result.expected_p_value))
    lines = [f"q0 = {result.q0:.5g}, best fit {name} = {result.best.values[name]:.5g}"]
    if result.p_value_interval:
        low, high = result.p_value_interval
        lines.append(f"p from {result.n_toys} toys: {low:.3g} to {high:.3g} at 68.3%")
    return Report(
        result,
        [(f"Background only ({result.calculator})", ("", "Z", "p-value"), rows)],
        lines=lines,
        messages=result.messages,
        draw=lambda: plots.significance(result),
    )
