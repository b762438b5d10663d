"""Freed memory stays with the process inside the context, and goes back at its end."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from neyman.training import memory

STEPS = """
import resource, numpy as np
from neyman.training.memory import kept

def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        blocks = [np.ones(6_000_000) for _ in range(3)]  # 48 MB: more than the largest threshold
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

np.multiply(1.0, 1.0)
before = faults(4)
with kept():
    faults(1)
    inside = faults(4)
print(before, inside, faults(4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of Linux")
def test_freed_memory_is_used_again() -> None:
    out = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True).stdout
    before, inside, after = (int(word) for word in out.split())
    assert inside < 0.05 * before
    assert after > 0.5 * before


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with memory.kept():
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt >= 0
