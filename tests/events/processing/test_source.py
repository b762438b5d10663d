"""References to the user's functions travel as text and fail with the line that is wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys
import traceback

import pytest

from neyman.errors import ConfigError
from neyman.events import PythonRef

GOOD = "import numpy as np\ncalls = []\n\ndef build(x):\n    return np.sum(x) / 2\n"


def parse(tmp_path, source=GOOD, name="build"):
    (tmp_path / "processor.py").write_text(source)
    return PythonRef.parse(f"processor.py:{name}", tmp_path)


def test_resolves_once_in_a_process(tmp_path):
    first, second = parse(tmp_path), parse(tmp_path)
    assert first == second
    assert first.resolve()([1, 2]) == 1.5
    assert first.resolve() is second.resolve()
    changed = parse(tmp_path, GOOD.replace("/ 2", "/ 3"))
    assert changed.sha256 != first.sha256
    assert changed.resolve()([1, 2]) == 1.0
    assert first.resolve()([1, 2]) == 1.5


def test_runs_where_the_file_is_not(tmp_path):
    reference = parse(tmp_path)
    data = pickle.dumps(reference)
    assert len(data) < 1000
    (tmp_path / "processor.py").unlink()
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).resolve()([3, 4]))"
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.strip() == b"3.5"


def test_traceback_shows_the_line(tmp_path):
    function = parse(tmp_path).resolve()
    with pytest.raises(TypeError) as caught:
        function([None])
    assert "return np.sum(x) / 2" in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("text", ["processor.py", "processor.py:", ":build", "processor.py:a.b", "p.py:1"])
def test_form_of_a_reference(tmp_path, text):
    with pytest.raises(ConfigError, match=r"not a reference to a function[\s\S]*processor.py:build"):
        PythonRef.parse(text, tmp_path)


def test_missing_file_names_what_is_beside_it(tmp_path):
    (tmp_path / "processor.py").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"cannot read procesor.py: No such file[\s\S]*processor.py"):
        PythonRef.parse("procesor.py:build", tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read a\.py"):
        PythonRef.parse("nowhere/a.py:build", tmp_path)
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read binary.py: 'utf-8'"):
        PythonRef.parse("binary.py:build", tmp_path)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (GOOD + "\ndef f(:\n", "build", r"not valid Python[\s\S]*processor.py, line 7: def f\(:"),
        (GOOD, "biuld", r"no function 'biuld'[\s\S]*expected: build"),
        (GOOD, "calls", "no function 'calls'"),
        ("import nowhere_at_all\n", "build", r"fails when it is imported[\s\S]*line 1[\s\S]*travels alone"),
        ("x = 1\ny = x / 0\n", "build", r"ZeroDivisionError[\s\S]*processor.py, line 2"),
    ],
)
def test_resolve_errors(tmp_path, source, name, message):
    reference = parse(tmp_path, source, name)
    for _ in range(2):
        with pytest.raises(ConfigError, match=message):
            reference.resolve()
