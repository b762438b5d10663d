"""`neyman inspect`: what a file or folder holds."""

from __future__ import annotations

from typing import Any

import click

from neyman.cli.output import json_option, reported, table, write_json


@click.command(name="inspect")
@click.argument("path", type=click.Path())
@json_option
@reported
def command(path: str, as_json: bool) -> None:
    """Tell what PATH holds: a ROOT file, Parquet file, model, pyhf JSON or workspace folder."""
    from neyman.analysis.inspection import inspect

    found = inspect(path)
    if as_json:
        write_json(found.to_dict())
        return
    click.echo(f"{path}: {found.kind}")
    for title, rows in found.sections.items():
        columns: tuple[str, ...] = tuple(rows[0]) if rows else ("(empty)",)
        cells: list[tuple[Any, ...]] = [tuple(row.values()) for row in rows]
        table(title, columns, cells)
