"""What all commands share: errors as one readable message, JSON on stdout, tables with rich."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from neyman.errors import NeymanError
from neyman.files import jsonable

Table = tuple[str, Sequence[str], Sequence[Sequence[Any]]]


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a `NeymanError` into a message and exit code 1, and Ctrl-C into exit code 130.

    With ``--json`` the error is a JSON object on stdout.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except NeymanError as error:
            if kwargs.get("as_json"):
                write_json({"error": {"type": type(error).__name__, **_parts(error)}})
            else:
                complain(error)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("Stopped. Finished steps are kept; run the same command again to go on.", err=True)
            sys.exit(130)

    return wrapper


def complain(error: NeymanError) -> None:
    """Write an error to stderr."""
    from rich.console import Console

    Console(stderr=True).print(f"[bold red]Error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout, and nothing else.")


def write_json(document: Any) -> None:
    """Write one JSON document to stdout; what is not finite is null."""
    click.echo(json.dumps(jsonable(document), indent=1, allow_nan=False, default=str))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: numbers right-aligned, long names wrapped and never cut, columns without text left out."""
    from rich.console import Console
    from rich.table import Table

    out = Table(title=_escape(title) or None, title_justify="left", title_style="bold")
    kept = [i for i in range(len(columns)) if not rows or any(row[i] not in ("", None) for row in rows)]
    for i, column in ((i, columns[i]) for i in kept):
        numeric = all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        out.add_column(_escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        out.add_row(*(_escape(_text(row[i])) for i in kept))
    Console().print(out)


def short(value: float | None, digits: int = 3) -> float | None:
    """Return a number rounded to some significant digits, for a table with many columns; None if not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def assignments(values: Sequence[str], option: str) -> dict[str, float]:
    """Parse repeated ``NAME=VALUE`` options."""
    out = {}
    for text in values:
        name, equals, number = text.partition("=")
        try:
            out[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
    return out


def _parts(error: NeymanError) -> Mapping[str, str | None]:
    return {"what": error.what, "where": error.where, "expected": error.expected, "fix": error.fix}


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.5g}" if isinstance(cell, float) else str(cell)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
