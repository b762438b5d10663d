"""Progress of commands that run in steps, a line for each, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def step_lines(quiet: bool) -> Iterator[Any]:
    """Give a reporter (`neyman.analysis.run.Reporter`) that shows the steps with rich."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:28}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        yield _Shown(progress)


class _Shown:
    """One progress line a step."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._lines: dict[str, Any] = {}
        self._current: Any = None

    def step(self, name: str, state: str) -> None:
        self._finish()
        self._current = self._lines[name] = self._progress.add_task(
            f"{name} (kept)" if state == "kept" else name, total=1 if state == "kept" else None
        )
        if state == "kept":
            self._finish()

    def progress(self, name: str, done: int, total: int) -> None:
        # By its name: a step may go on when others, which it is made of, have been shown in between.
        self._progress.update(self._lines[name], completed=done, total=total)

    def _finish(self) -> None:
        if self._current is not None:
            total = self._progress.tasks[self._current].total or 1
            self._progress.update(self._current, completed=total, total=total)
            self._current = None
