"""`neyman limit`: upper limits by CLs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from neyman.cli.options import calculated, on_dask, shows_progress
from neyman.cli.output import Table, short
from neyman.cli.workspace import Given, Report, on_workspace
from neyman.errors import ConfigError

if TYPE_CHECKING:
    from neyman.inference import HypothesisTest

BAND = ("-2σ", "-1σ", "median", "+1σ", "+2σ")


@on_workspace("limit")
@click.argument("poi", required=False)
@click.option("--cl", default=0.95, show_default=True, type=float, help="Confidence level.")
@click.option(
    "--statistic",
    type=click.Choice(["qtilde", "q"]),
    default="qtilde",
    show_default=True,
    help="Test statistic; q for a signal that may be negative.",
)
@calculated("asymptotic", toys=2000)
@on_dask
@click.option(
    "--range", "span", nargs=2, type=float, metavar="LOW HIGH", help="Also test values of POI in this range."
)
@click.option("--points", default=41, show_default=True, type=click.IntRange(2), help="How many values.")
def command(
    given: Given,
    poi: str | None,
    cl: float,
    statistic: Any,
    calculation: dict[str, Any],
    span: tuple[float, float] | None,
    points: int,
    client: Any,
) -> Report:
    """Find the CLs upper limit on POI, the parameter of interest by default.

    With toys the limit is interpolated between the tested values. The figure shows CLs against POI. Exit code 2
    when the limit is not reached.
    """
    import numpy as np

    from neyman import plots
    from neyman.inference import upper_limit

    name = given.parameter(poi)
    settings = {"cl": cl, "test_statistic": statistic, "fixed": given.fixed, "client": client, **calculation}
    settings["progress"] = shows_progress()
    if span is not None and not span[0] < span[1]:
        raise ConfigError(f"the range {span[0]:g} to {span[1]:g} is empty", expected="--range LOW HIGH")
    grid = None if span is None else np.linspace(*span, points)
    result = upper_limit(given.likelihood, name, grid=grid, **settings)
    if given.draws and not result.tests:
        end = min(1.3 * np.nanmax([result.observed, *(result.expected or ())]), _upper(given, name))
        result = upper_limit(given.likelihood, name, grid=np.linspace(0.0, end, points), **settings)
    expected = [
        (f"expected {k}", short(one, 5), None) for k, one in zip(BAND, result.expected or (), strict=False)
    ]
    rows = [("observed", short(result.observed, 5), short(result.error or None)), *expected]
    title = f"Upper limit on {name} at {100.0 * cl:.4g}% CL ({statistic}, {result.calculator})"
    shown = result.tests if grid is not None or calculation["calculator"] == "toys" else ()
    return Report(
        result,
        [(title, ("", name, "error"), rows), *_tests(name, shown)],
        messages=result.messages,
        valid=math.isfinite(result.observed),
        draw=lambda: plots.cls_scan(result),
    )


def _upper(given: Given, name: str) -> float:
    return float(given.likelihood.bounds[given.likelihood.index(name), 1])


def _tests(name: str, tests: Sequence[HypothesisTest]) -> list[Table]:
    rows = [
        (short(t.value, 4), *(short(one) for one in (t.cls, t.cls_error or None, *(t.expected or ()))))
        for t in tests
    ]
    return [("CLs", (name, "observed", "+-", *(BAND if tests[0].expected else ())), rows)] if rows else []
