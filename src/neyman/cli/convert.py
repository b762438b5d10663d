"""`neyman convert`: a Combine datacard becomes a pyhf workspace, or the other way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from neyman.cli.output import json_option, reported, table, write_json
from neyman.errors import ConfigError, WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neyman.workspace.notes import Note


@click.command(name="convert")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--poi", metavar="NAME", help="Name of the signal strength of a datacard; r by default.")
@click.option("--mass", type=float, help="For $MASS in a datacard; 120 by default.")
@click.option(
    "--keyword", "keywords", multiple=True, metavar="WORD=VALUE", help="For $WORD in a datacard (repeatable)."
)
@click.option(
    "--floor-negative",
    "floor",
    type=float,
    metavar="EVENTS",
    help="What negative bins of a datacard's histograms become; an error by default.",
)
@click.option("--measurement", metavar="NAME", help="Measurement of a workspace; the first by default.")
@json_option
@reported
def command(
    source: str,
    target: str,
    poi: str | None,
    mass: float | None,
    keywords: tuple[str, ...],
    floor: float | None,
    measurement: str | None,
    as_json: bool,
) -> None:
    """Turn the datacard SOURCE into the pyhf workspace TARGET.json, or a workspace into the datacard TARGET.txt.

    The histograms of a datacard are written beside it, as TARGET.root. What Combine and pyhf model differently is
    listed, with the largest relative difference of a rate.
    """
    suffixes = Path(source).suffix, Path(target).suffix
    if suffixes[1] == ".json" and suffixes[0] != ".json" and not Path(source).is_dir():
        if measurement is not None:
            raise ConfigError("--measurement has no effect on a datacard", fix="leave it out")
        notes = _from_datacard(source, target, poi or "r", 120.0 if mass is None else mass, keywords, floor)
    elif suffixes[1] == ".txt":
        if poi is not None or mass is not None or keywords or floor is not None:
            raise ConfigError(
                "--poi, --mass, --keyword and --floor-negative have no effect on a workspace",
                fix="leave them out",
            )
        notes = _to_datacard(source, target, measurement)
    else:
        raise ConfigError(
            f"cannot tell what {Path(source).name!r} should become as {Path(target).name!r}",
            expected="a datacard and NAME.json, or a workspace and NAME.txt",
        )
    if as_json:
        write_json({"written": target, "notes": [note.to_dict() for note in notes]})
        return
    click.echo(f"wrote {target}")
    if notes:
        rows = [(note.where, note.what, note.size or None, note.detail) for note in notes]
        table("What is not the same, or was left out", ("where", "what", "up to", "detail"), rows)


def _from_datacard(
    source: str, target: str, poi: str, mass: float, keywords: Sequence[str], floor: float | None
) -> Sequence[Note]:
    from neyman.files import write_json as write_file
    from neyman.workspace.combine import read_datacard
    from neyman.workspace.notes import Note
    from neyman.workspace.treatment import Treatment

    pairs = [word.partition("=") for word in keywords]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.BadParameter(f"{name!r} is not WORD=VALUE", param_hint="--keyword")
    words = {name: value for name, _, value in pairs}
    treatment = Treatment(floor_negative=floor)
    card = read_datacard(source, poi=poi, mass=mass, keywords=words, treatment=treatment)
    write_file(target, card.workspace)
    floored = (
        Note(f"channel {t.channel}, sample {t.sample}, {t.parameter}", t.what, t.detail)
        for t in card.treated
        if t.what == "floored"
    )
    return (*card.notes, *floored)


def _to_datacard(source: str, target: str, measurement: str | None) -> Sequence[Note]:
    from neyman.files import read_json
    from neyman.workspace import read
    from neyman.workspace.combine import write_datacard

    document = read(source).binned if Path(source).is_dir() else read_json(source)
    if document is None:
        raise WorkspaceError(f"{source} has no binned channels", expected="binned.json in the folder")
    return write_datacard(document, Path(target).parent, name=Path(target).stem, measurement=measurement)
