"""Progress lines of commands that run in steps."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress

from neyman.cli.progress import _Shown


def test_a_step_goes_on_while_its_parts_are_shown():
    progress = Progress(console=Console(file=io.StringIO()))
    shown = _Shown(progress)
    shown.step("workers", "run")
    shown.progress("workers", 1, 4)
    shown.step("part", "run")
    shown.progress("workers", 2, 4)
    workers, part = progress.tasks
    assert (workers.completed, workers.total) == (2, 4)
    assert (part.completed, part.total) == (0, None)
    shown.step("next", "kept")
    assert part.finished
    assert progress.tasks[2].finished
