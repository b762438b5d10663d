"""`neyman fit`: a fit of a workspace folder or a pyhf JSON file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from neyman.cli.workspace import Given, Report, on_workspace
from neyman.errors import ConfigError

if TYPE_CHECKING:
    from neyman.inference import FitResult


@on_workspace("fit")
@click.option("--minos", multiple=True, metavar="NAME", help="MINOS interval of this parameter (repeatable).")
@click.option("--blind", multiple=True, metavar="NAME", help="Hide this parameter's value (repeatable).")
@click.option(
    "--seed",
    metavar="TEXT",
    envvar="NEYMAN_BLIND_SEED",
    show_envvar=True,
    help="Passphrase that blinds, and that unblinds again.",
)
@click.option(
    "--scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Largest offset of a hidden value: several times the expected error.",
)
def command(
    given: Given, minos: tuple[str, ...], blind: tuple[str, ...], seed: str | None, scale: float
) -> Report:
    """Fit WORKSPACE with MIGRAD and HESSE; exit code 2 when the fit is not valid.

    The figure is the correlation matrix.
    """
    if blind:
        return _blinded(given, blind, minos, seed, scale)
    from neyman import plots
    from neyman.inference import fit

    result = fit(given.likelihood, minos=minos, fixed=given.fixed)
    rows = [
        (name, result.values[name], result.errors[name], _minos(result, name), _state(result, name))
        for name in result.names
    ]
    title = f"{given.workspace}: -2 ln L = {result.fval:.6f}"
    return Report(
        result,
        [(title, ("parameter", "value", "error", "MINOS", ""), rows)],
        lines=["valid"] if result.valid else [],
        messages=result.messages,
        valid=result.valid,
        draw=lambda: plots.correlation(result),
    )


def _blinded(
    given: Given, names: tuple[str, ...], minos: tuple[str, ...], seed: str | None, scale: float
) -> Report:
    if not seed:
        raise ConfigError("blinding needs a seed", fix="--seed PASSPHRASE, or the variable NEYMAN_BLIND_SEED")
    if given.draws:
        raise ConfigError("a blinded fit has no correlation matrix to draw", fix="leave out --plot")
    from neyman.inference import blind, fit

    hidden = tuple(given.parameter(name) for name in names)
    fitted = fit(given.likelihood, minos=minos, fixed=given.fixed)
    result = blind(fitted, hidden, seed=seed, scale=scale, likelihood=given.likelihood)
    rows = [
        (
            name,
            "hidden" if name in result.blinded else f"{result.values[name]:.5g}",
            result.errors[name],
            f"{result.pulls[name]:+.2f}" if name in result.pulls else "",
            "fixed" if name in result.fixed else "",
        )
        for name in result.names
    ]
    return Report(
        result,
        [(f"{given.workspace}: blinded", ("parameter", "value", "error", "pull", ""), rows)],
        lines=["valid"] if result.valid else [],
        messages=[f"{result.n_hidden_messages} message(s) hidden"] if result.n_hidden_messages else [],
        valid=result.valid,
    )


def _minos(result: FitResult, name: str) -> str:
    interval = result.minos.get(name)
    return f"{interval.lower:+.4g} {interval.upper:+.4g}" if interval else ""


def _state(result: FitResult, name: str) -> str:
    return "fixed" if name in result.fixed else "at bound" if name in result.at_bounds else ""
