"""Imports follow the order of the layers, function-level imports included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "neyman"
ORDER = [
    {"errors"},
    {"files"},
    {"naming"},
    {"cluster"},
    {"networks"},
    {"events"},
    {"training"},
    {"ratios", "sannt", "unfolding"},
    {"workspace"},
    {"likelihood"},
    {"inference"},
    {"diagnostics"},
    {"plots"},
    {"analysis"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
# A likelihood must be usable without any training code, so it may not even reach below `workspace` for it.
TRAINING = {"training", "ratios", "sannt", "unfolding", "events"}
FORBIDDEN = dict.fromkeys(("workspace", "likelihood", "inference"), TRAINING)


def layer(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {n.split(".")[1] for n in names if n.startswith("neyman.")}


FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_layers(path):
    own = layer(path)
    for name in imported(path) - {own}:
        assert LEVEL[name] < LEVEL[own], f"{own} must not import {name}"
        assert name not in FORBIDDEN.get(own, set()), f"{own} must not import {name}"


def test_every_folder_is_a_layer():
    assert {layer(p) for p in FILES} == set(LEVEL)


def test_nobody_imports_the_command_line():
    assert not [p for p in FILES if "cli" in imported(p) and layer(p) != "cli"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_loading_never_runs_code(path):
    tree = ast.parse(path.read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"eval", "pickle.load", "pickle.loads", "torch.load", "np.load"}
    assert not [name for name in called if name.startswith("torch.jit")]  # deprecated: torch.export is used


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_pyhf_keeps_its_state(path):
    """One file may set pyhf's optimizer, because the user asks for it by `accelerate_pyhf`."""
    assert "pyhf.set_backend(" not in path.read_text() or path.name == "pyhf_optimizer.py"
