"""The README's Python examples run as they stand, beside the output of the (short) main job."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

BLOCKS = ("MyProcessor", "from_pyhf(", "accelerate_pyhf", "SampleModel", "trust")


def block(repository, marker):
    found = [
        b
        for b in re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
        if marker in b
    ]
    return found[0]


RUN_PROCESSOR = """
import dataclasses, hist
from coffea.processor import IterativeExecutor, Runner
from neyman.events.schema import NanoSchema
runner = Runner(executor=IterativeExecutor(status=False), schema=NanoSchema, chunksize=30_000, maxchunks=1)
out = runner({"ztautau": [DATA + "/ztautau.root"]}, MyProcessor(), treename="Events")
assert out["log_ratio"].sum().value > 1000
"""


def test_readme_has_short_python_examples(repository):
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == len(BLOCKS)
    assert all(len(b.splitlines()) <= 22 for b in blocks)


@pytest.mark.parametrize("marker", BLOCKS)
def test_readme_example_runs(repository, short_job, tmp_path, marker):
    code = block(repository, marker)
    if marker == "MyProcessor":
        code += f"\nDATA = {str(repository / 'examples' / 'htautau' / 'data')!r}\n" + RUN_PROCESSOR
    example = repository / "examples" / "htautau"
    (tmp_path / "script.py").write_text(f"import sys; sys.path.insert(0, {str(example)!r})\n" + code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=short_job.output.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
