"""Atomic writes and what JSON can hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neyman.errors import InputError
from neyman.files import atomic, jsonable


@pytest.mark.parametrize("stop", [OSError("full"), KeyboardInterrupt()])
def test_a_folder_survives_a_stop_between_the_two_renames(tmp_path, monkeypatch, stop):
    final = tmp_path / "ws"
    final.mkdir()
    (final / "old").touch()
    rename = Path.rename

    def stopping(self, target):
        if self.suffix == ".part":
            raise stop
        return rename(self, target)

    def write():
        with atomic(final) as part:
            part.mkdir()

    monkeypatch.setattr(Path, "rename", stopping)
    with pytest.raises((InputError, KeyboardInterrupt)):
        write()
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["ws", "ws/old"]
    monkeypatch.undo()
    write()
    assert list(tmp_path.rglob("*")) == [final]


def test_jsonable_has_none_for_what_is_not_finite():
    document = {1: np.array([1.0, np.nan]), "b": (np.float32(np.inf), np.int64(3), True, None, "x")}
    assert jsonable(document) == {"1": [1.0, None], "b": [None, 3, True, None, "x"]}
    assert json.dumps(jsonable(document), allow_nan=False)
