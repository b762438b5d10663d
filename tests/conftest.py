"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker: more would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# The same examples in every run, and no deadline: a loaded machine must not fail a test.
settings.register_profile("neyman", deadline=None, derandomize=True)
settings.load_profile("neyman")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real files beside the repository (or NEYMAN_TEST_DATA); skips where it is missing."""
    folder = Path(os.environ.get("NEYMAN_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real test data not found at {folder}; set NEYMAN_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return ROOT
