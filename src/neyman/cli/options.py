"""Options that several statistical commands have: scans, toys, where toys are drawn."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from neyman.cli.output import assignments
from neyman.cli.workspace import Given
from neyman.errors import ConfigError, InferenceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neyman.inference import FitResult
    from neyman.likelihood import Likelihood

Function = Callable[..., Any]


def scanned(points: int, reach: float) -> Callable[[Function], Function]:
    """Add ``--range`` and ``--points``; the function gets ``span`` and ``points``, see `scan_grid`."""

    def decorate(function: Function) -> Function:
        span = click.option(
            "--range",
            "span",
            nargs=2,
            type=float,
            metavar="LOW HIGH",
            help=f"Ends of the scan; the best fit +-{reach:g} errors by default.",
        )
        number = click.option(
            "--points", default=points, show_default=True, type=click.IntRange(2), help="Number of points."
        )
        return span(number(function))

    return decorate


def scan_grid(
    likelihood: Likelihood,
    best: FitResult,
    parameter: str,
    span: tuple[float, float] | None,
    points: int,
    reach: float,
) -> NDArray[Any]:
    """Return evenly spaced values between the ends, by default `reach` errors around the best fit within the bounds."""
    import numpy as np

    if span is None:
        lower, upper = likelihood.bounds[likelihood.index(parameter)]
        value, error = best.values[parameter], best.errors[parameter]
        if not error > 0.0:
            raise InferenceError(
                f"the best fit has no error of {parameter!r} to choose a range by",
                where="; ".join(best.messages) or None,
                fix="--range LOW HIGH",
            )
        span = max(lower, value - reach * error), min(upper, value + reach * error)
    elif not span[0] < span[1]:
        raise ConfigError(f"the range {span[0]:g} to {span[1]:g} is empty", expected="--range LOW HIGH")
    return np.linspace(*span, points)


def calculated(analytic: str, toys: int) -> Callable[[Function], Function]:
    """Add ``--calculator``, ``--toys`` and ``--seed``; the function gets the keyword arguments as `calculation`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(
            *args: Any, calculator: str | None, n_toys: int | None, seed: int | None, **kwargs: Any
        ) -> Any:
            chosen = calculator or ("toys" if n_toys else analytic)
            if chosen != "toys" and (n_toys or seed is not None):
                raise ConfigError(
                    f"--toys and --seed have no effect with --calculator {chosen}",
                    fix="--calculator toys",
                )
            calculation: dict[str, Any] = {"calculator": chosen}
            if chosen == "toys":
                calculation |= {"n_toys": n_toys or toys, "seed": 1 if seed is None else seed}
            return function(*args, calculation=calculation, **kwargs)

        options = (
            click.option(
                "--calculator",
                type=click.Choice([analytic, "toys"]),
                help=f"{analytic} by default, toys where --toys is given.",
            ),
            click.option(
                "--toys", "n_toys", type=click.IntRange(1), help=f"Number of toys; {toys} by default."
            ),
            click.option("--seed", type=click.IntRange(0), help="Seed of the toys; 1 by default."),
        )
        return functools.reduce(lambda f, option: option(f), reversed(options), wrapper)

    return decorate


def seeded(function: Function) -> Function:
    """Add ``--seed`` of toys."""
    return click.option(
        "--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the toys."
    )(function)


def drawn_at(function: Function) -> Function:
    """Add ``--at`` and ``--at-fit``, where toys are drawn; the function gets them as `at`, see `truth`."""

    @functools.wraps(function)
    def wrapper(given: Given, *, at: tuple[str, ...], at_fit: bool, **kwargs: Any) -> Any:
        values = {**given.fixed, **assignments(at, "--at")}
        if not at_fit:
            return function(given, at=values, **kwargs)
        from neyman.inference import fit

        best = fit(given.likelihood, fixed=values)
        if not best.valid:
            raise InferenceError(
                "the fit that toys were to be drawn at is not valid", where="; ".join(best.messages) or None
            )
        return function(given, at=best, **kwargs)

    values = click.option(
        "--at",
        multiple=True,
        metavar="NAME=VALUE",
        help="True value of a parameter (repeatable); the others have their starting values.",
    )
    fitted = click.option("--at-fit", is_flag=True, help="The others have the values of the fit to the data.")
    return values(fitted(wrapper))


dask_option = click.option(
    "--dask",
    metavar="CLUSTER",
    help="Dask workers: local:N processes, htcondor:N or slurm:N jobs, or a scheduler's address.",
)


def on_dask(function: Function) -> Function:
    """Add ``--dask``; the function gets a client of that cluster as `client`, None without one."""

    @functools.wraps(function)
    def wrapper(*args: Any, dask: str | None, **kwargs: Any) -> Any:
        if dask is None:
            return function(*args, client=None, **kwargs)
        from neyman.cluster import connect

        with connect(dask) as client:
            return function(*args, client=client, **kwargs)

    return dask_option(wrapper)


def shows_progress() -> bool:
    """Whether a progress bar on standard error would be seen."""
    return sys.stderr.isatty()
