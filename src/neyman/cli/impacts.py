"""`neyman impacts`: ranking of the nuisance parameters."""

from __future__ import annotations

from typing import Any

import click

from neyman.cli.output import short
from neyman.cli.workspace import Given, Report, on_workspace


@on_workspace("impacts")
@click.argument("parameter", required=False)
@click.option(
    "--kind",
    type=click.Choice(["global_observables", "refit", "covariance"]),
    default="global_observables",
    show_default=True,
    help="Shift the global observables and refit; fix the parameter at +-1 error and refit; or use the covariance.",
)
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME=PATTERN,...",
    help="A group: names, or names with * and ? (repeatable). The figure then shows the groups.",
)
def command(given: Given, parameter: str | None, kind: Any, groups: tuple[str, ...]) -> Report:
    """Rank the nuisance parameters by their impact on PARAMETER, the parameter of interest by default.

    Exit code 2 when a fit is not valid.
    """
    from neyman import plots
    from neyman.inference import breakdown, impacts

    name = given.parameter(parameter)
    result = impacts(given.likelihood, name, kind=kind, groups=_groups(groups), best=given.fit())
    parts = breakdown(given.likelihood, name, best=result.best)
    ranking = [
        (
            i.name,
            short(i.up),
            short(i.down),
            short(i.pull),
            short(i.constraint),
            "" if i.valid else "not valid",
        )
        for i in result.impacts
    ]
    grouped = [(g.name, g.size, len(g.parameters), g.kind, len(g.left_out)) for g in result.groups]
    left_out = [
        f"{g.name} leaves out {', '.join(g.left_out)}: no global observable"
        for g in result.groups
        if g.left_out
    ]
    return Report(
        result,
        [
            (f"Impacts on {name} ({kind})", ("parameter", "up", "down", "pull", "post/pre", ""), ranking),
            ("Groups", ("group", "impact", "parameters", "computed as", "left out"), grouped),
        ],
        lines=[
            f"error {parts.total:.5g}: statistical {parts.statistical:.5g}, systematic {parts.systematic:.5g}"
        ],
        messages=(*result.best.messages, *left_out),
        valid=result.best.valid and all(impact.valid for impact in result.impacts),
        draw=lambda: plots.group_impacts(result) if groups else plots.pulls_and_impacts(result),
    )


def _groups(texts: tuple[str, ...]) -> dict[str, list[str]] | None:
    groups = {}
    for text in texts:
        name, equals, patterns = text.partition("=")
        groups[name] = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
        if not (name and equals and groups[name]):
            raise click.BadParameter(f"{text!r} is not NAME=PATTERN,PATTERN", param_hint="--group")
    return groups or None
