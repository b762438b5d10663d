"""`ShapeFiles`: the histograms that a datacard points to, found as Combine finds them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from neyman.errors import WorkspaceError, nearest
from neyman.naming import Naming
from neyman.workspace.combine.card import Card, Shapes
from neyman.workspace.uhi import Binned, binned

DATA = "data_obs"


class ShapeFiles:
    """Open ROOT files of a card; use it as a context manager.

    Parameters
    ----------
    card
        The card.
    folder
        That its file names are relative to.
    words
        What ``$WORD`` in names is replaced by, beside ``$CHANNEL, $PROCESS, $SYSTEMATIC``.
    """

    def __init__(self, card: Card, folder: Path, words: Mapping[str, str]) -> None:
        self.card, self.folder, self.words = card, folder, words
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def line(self, channel: str, process: str) -> Shapes | None:
        """Return the line about a process in a channel, or None where it is counted only.

        A line of the channel wins over one of ``*``, then one of the process.

        Raises
        ------
        WorkspaceError
            When the card has lines of shapes, and none about it.
        """
        given = {(s.channel, s.process): s for s in self.card.shapes}
        if not given:
            return None
        own = any(s.channel == channel for s in self.card.shapes)
        for key in ((channel, process), (channel, "*"), ("*", process), ("*", "*")):
            if key in given and (own or key[0] == "*"):
                return given[key] if given[key].nominal else None
        raise WorkspaceError(
            f"no line gives the shape of {process!r} in {channel!r}",
            where=self.card.name,
            expected=f"shapes {process} {channel} FILE HISTOGRAM",
        )

    def get(self, shapes: Shapes, channel: str, process: str, systematic: str = "") -> Binned:
        """Return the histogram of a process in a channel; `systematic` is the name with ``Up`` or ``Down``.

        Raises
        ------
        WorkspaceError
            When the file or the histogram does not exist, or is no one-dimensional histogram.
        """
        file, key = self._file(shapes, channel, process), self._key(shapes, channel, process, systematic)
        if not self.has(shapes, channel, process, systematic):
            self.card.error(
                shapes.line,
                f"there is no histogram {key!r} for {process!r} in {channel!r}",
                fix=f"nearest: {nearest(key, file.keys(cycle=False))}",
            )
        where = f"{self.card.name}, line {shapes.line}: {key}"
        if not str(file.classname_of(key)).startswith("TH1"):
            raise WorkspaceError(
                f"{key!r} is a {file.classname_of(key)}",
                where=where,
                expected="a one-dimensional histogram, TH1",
            )
        return binned(file[key], Naming(), where)

    def has(self, shapes: Shapes, channel: str, process: str, systematic: str) -> bool:
        """Return whether the histogram exists."""
        if systematic and not shapes.varied:
            return False
        key = self._key(shapes, channel, process, systematic)
        return key in self._file(shapes, channel, process)

    def _key(self, shapes: Shapes, channel: str, process: str, systematic: str) -> str:
        if systematic and not shapes.varied:
            self.card.error(
                shapes.line,
                f"the line names no histogram with systematics, which {systematic!r} of {process!r} needs",
                expected="shapes PROCESS CHANNEL FILE HISTOGRAM HISTOGRAM_WITH_$SYSTEMATIC",
            )
        return self._replaced(
            shapes, shapes.varied if systematic else shapes.nominal, channel, process, systematic
        )

    def _file(self, shapes: Shapes, channel: str, process: str) -> Any:
        import uproot

        name = self._replaced(shapes, shapes.file, channel, process, "")
        if name not in self._files:
            path = self.folder / name
            if not path.is_file():
                self.card.error(shapes.line, f"there is no file {name!r}", expected=f"it in {self.folder}")
            try:
                self._files[name] = self._stack.enter_context(uproot.open(path))
            except (OSError, ValueError) as error:
                self.card.error(shapes.line, f"{name!r} cannot be read as a ROOT file: {error}")
        return self._files[name]

    def _replaced(self, shapes: Shapes, text: str, channel: str, process: str, systematic: str) -> str:
        words = {**self.words, "CHANNEL": channel, "PROCESS": process, "SYSTEMATIC": systematic}
        for word in sorted(words, key=len, reverse=True):
            text = text.replace(f"${word}", words[word])
        if "$" in text:
            self.card.error(
                shapes.line,
                f"{text!r} has a word that is not given",
                fix="keywords={'WORD': 'value'}",
            )
        return text
