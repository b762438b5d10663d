"""What the commands on a workspace share: its likelihood, the options around it, and how a result is shown.

`on_workspace` turns a function of a `Given` that returns a `Report` into a command.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neyman.cli.output import Table, assignments, complain, reported, table, write_json
from neyman.errors import ConfigError, InferenceError, InputError, NeymanError, nearest, optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neyman.inference import FitResult
    from neyman.likelihood import Likelihood

Function = Callable[..., Any]


@dataclass(frozen=True)
class Given:
    """What a command works on.

    Parameters
    ----------
    workspace
        Path of the workspace.
    likelihood
        Its likelihood, with the data or the Asimov data that were asked for.
    fixed
        Parameters that are not fitted, with their values.
    draws
        Whether a figure is wanted.
    """

    workspace: str
    likelihood: Likelihood
    fixed: Mapping[str, float]
    draws: bool

    def parameter(self, name: str | None) -> str:
        """Return a parameter's name, the parameter of interest when none is given.

        Raises
        ------
        InferenceError
            When there is no such parameter, or the workspace has no parameter of interest.
        """
        known = self.likelihood.names
        name = name or self.likelihood.poi
        if name is None:
            raise InferenceError(
                "the workspace names no parameter of interest that a sample carries",
                where=self.workspace,
                fix="name the parameter on the command line, or add the signal (for pyhf: apply its patch)",
            )
        if name not in known:
            raise InferenceError(
                f"there is no parameter {name!r}", fix=f"nearest names: {nearest(name, known)}"
            )
        return name

    def fit(self) -> FitResult:
        """Fit the likelihood."""
        from neyman.inference import fit

        return fit(self.likelihood, fixed=self.fixed)


@dataclass(frozen=True)
class Report:
    """A result, as tables and lines for people or as one JSON document.

    Parameters
    ----------
    document
        The result record, or what is written as JSON.
    tables
        What is printed.
    lines
        Lines under the tables.
    messages
        Notes of the result.
    valid
        Whether the result can be used; exit code 2 when not.
    draw
        Makes the figure; None where there is none.
    """

    document: Any
    tables: Sequence[Table]
    lines: Sequence[str] = ()
    messages: Sequence[str] = ()
    valid: bool = True
    draw: Callable[[], Figure] | None = None

    def show(self, as_json: bool) -> None:
        """Write the result to stdout."""
        if as_json:
            write_json(self.document)
            return
        for one in self.tables:
            table(*one)
        for line in (*self.lines, *(f"note: {message}" for message in self.messages)):
            click.echo(line)
        if not self.valid:
            click.echo("NOT VALID")

    def draw_to(self, file: Path) -> NeymanError | None:
        """Write the figure; return the error when it cannot be drawn."""
        from neyman.plots import style

        try:
            if self.draw is not None:
                style.save(self.draw(), file)
        except NeymanError as error:
            return error
        return None


def on_workspace(name: str) -> Callable[[Function], click.Command]:
    """Turn ``function(given, **own_options) -> Report`` into the command `name` with all shared options."""

    def decorate(function: Function) -> click.Command:
        own = list(reversed(getattr(function, "__click_params__", [])))

        @reported
        def callback(
            workspace: str,
            measurement: str | None,
            binned: bool,
            memory_budget: str | None,
            asimov: bool,
            asimov_at: tuple[str, ...],
            fixed: tuple[str, ...],
            plot: str | None,
            as_json: bool,
            **options: Any,
        ) -> None:
            from neyman.likelihood import Likelihood

            held, point = assignments(fixed, "--fix"), assignments(asimov_at, "--asimov-at")
            figure = None if plot is None else figure_file(plot)
            likelihood = Likelihood.load(
                workspace,
                prefer="binned" if binned else "unbinned",
                measurement=measurement,
                memory_budget=memory_budget,
            )
            if asimov or point:
                likelihood = likelihood.asimov(point)
            given = Given(workspace, likelihood, held, figure is not None)
            report: Report = function(given, **options)
            problem = report.draw_to(figure) if figure is not None else None
            report.show(as_json)
            if problem is not None:
                # The result is on stdout already: the error of the figure must not take its place.
                complain(problem)
            if not report.valid:
                sys.exit(2)
            if problem is not None:
                sys.exit(1)

        text = inspect.getdoc(function)
        return click.Command(name, callback=callback, params=[_WORKSPACE, *own, *_SHARED], help=text)

    return decorate


_WORKSPACE = click.Argument(["workspace"], type=click.Path())
_SHARED = (
    click.Option(
        ["--fix", "fixed"], multiple=True, metavar="NAME=VALUE", help="Keep a parameter fixed (repeatable)."
    ),
    click.Option(
        ["--asimov"], is_flag=True, help="Use the Asimov data at the starting values, not the data."
    ),
    click.Option(
        ["--asimov-at"],
        multiple=True,
        metavar="NAME=VALUE",
        help="Use Asimov data with this parameter at VALUE (repeatable).",
    ),
    click.Option(["--measurement"], metavar="NAME", help="Measurement; the first by default."),
    click.Option(["--binned"], is_flag=True, help="Use the binned form where a channel exists in both."),
    click.Option(
        ["--memory-budget"], metavar="SIZE", help='Stream the events that need more memory, as "1 GB".'
    ),
    click.Option(
        ["--plot"],
        metavar="FILE",
        help="Draw the result; the suffix chooses .png or .pdf.",
        type=click.Path(),
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="Write JSON to stdout, and nothing else."),
)


# Files ----------------------------------------------------------------------------------------------------


def figure_file(path: str) -> Path:
    """Return the file of a figure when it can be written, before the work begins."""
    from neyman.plots.style import FORMATS

    for module in ("matplotlib", "mplhep"):
        optional(module, "plot")
    return writable(path, FORMATS)


def writable(path: str, suffixes: Sequence[str]) -> Path:
    """Return a file that can be written.

    Raises
    ------
    ConfigError
        When it has none of the suffixes.
    InputError
        When its place is a folder, or its folder is not writable.
    """
    file = Path(path).absolute()
    if file.suffix.lower() not in suffixes:
        raise ConfigError(
            f"cannot write {file.name!r}: the suffix {file.suffix!r} is of no known format",
            expected=f"a file name that ends in {' or '.join(suffixes)}",
        )
    folder = next(parent for parent in file.parents if parent.exists())
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        problem = "it is a folder" if file.is_dir() else f"{folder} is not a folder that can be written"
        raise InputError(f"cannot write {file.name!r}: {problem}", fix="choose another file")
    return file
