"""`validate`: is a workspace folder complete, unchanged and sane?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neyman.errors import NeymanError, WorkspaceError
from neyman.files import sha256
from neyman.workspace.documents import Channel, NetworkModifier
from neyman.workspace.pyhf_schema import check_schema
from neyman.workspace.store import BINNED, MANIFEST, UNBINNED, Workspace, read

_NORMALISATION_TOLERANCE = 0.1


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Parameters
    ----------
    name
        What was checked.
    passed
        Whether it holds.
    detail
        Numbers or the reason, one sentence.
    """

    name: str
    passed: bool
    detail: str


def validate(path: str | os.PathLike[str]) -> list[Check]:
    """Check a workspace folder or a pyhf JSON file.

    Checks the schemas, that the manifest records every file that the documents name, the digests, that the yields
    of a channel are positive, the columns and weights of the event files, that every ratio is finite and positive,
    and that its mean over the reference sample is near 1 (a fit renormalises it; a mean
    far from 1 shows that a network was badly trained or the wrong reference is used).

    Returns
    -------
    One `Check` each; none is raised. A folder that cannot be read at all gives a single failed check.
    """
    try:
        workspace = read(path)
    except NeymanError as error:
        return [Check("documents", False, str(error))]
    checks = [Check("documents", True, "readable, unbinned.json and manifest.json fit their schemas")]
    if workspace.binned is not None:
        checks.extend(_binned(workspace.binned))
    if Path(path).is_dir():
        checks.append(_manifest(workspace))
        checks.extend(_digests(workspace))
    for channel in workspace.unbinned.channels if workspace.unbinned else ():
        checks.extend(_channel(workspace, channel))
    return checks


def _binned(spec: dict[str, Any]) -> Iterator[Check]:
    try:
        check_schema(spec, "workspace")
    except WorkspaceError as error:
        yield Check("pyhf schema", False, str(error))
        return
    yield Check("pyhf schema", True, "binned.json is a valid pyhf workspace")
    for channel in spec["channels"]:
        yield _yield(channel["name"], sum(float(np.sum(s["data"])) for s in channel["samples"]))


def _yield(channel: str, expected: float) -> Check:
    return Check(f"{channel}: yield", 0.0 < expected < np.inf, f"{expected:.6g} events expected")


def _manifest(workspace: Workspace) -> Check:
    if workspace.manifest is None:
        return Check("manifest", False, f"{MANIFEST} is missing: changes of the files would go unnoticed")
    named = {BINNED} if workspace.binned is not None else set()
    if workspace.unbinned is not None:
        named.add(UNBINNED)
        for channel in workspace.unbinned.channels:
            named |= {channel.data.file, channel.reference.file}
            named |= {s.network for s in channel.samples if s.network}
            modifiers = (m for s in channel.samples for m in s.modifiers)
            named |= {m.data.file for m in modifiers if isinstance(m, NetworkModifier) and m.data.file}
    missing = sorted(named - set(workspace.manifest.files))
    detail = f"does not record {', '.join(missing)}" if missing else f"records all {len(named)} files in use"
    return Check("manifest", not missing, detail)


def _digests(workspace: Workspace) -> Iterator[Check]:
    files = workspace.manifest.files if workspace.manifest else {}
    for name, expected in files.items():
        try:
            found = sha256(workspace.path(name))
        except WorkspaceError as error:
            yield Check(f"digest of {name}", False, error.what)
            continue
        same = found == expected
        yield Check(
            f"digest of {name}",
            same,
            "as recorded" if same else f"changed: {found[:12]}, not {expected[:12]}",
        )


def _channel(workspace: Workspace, channel: Channel) -> Iterator[Check]:
    yield _yield(channel.name, sum(s.expected for s in channel.samples))
    for label, which in (("data", channel.data), ("reference", channel.reference)):
        name = f"{channel.name}: {label}"
        try:
            weight, columns = workspace.events(channel, which)
        except WorkspaceError as error:
            yield Check(name, False, str(error))
            continue
        good = bool(np.isfinite(weight).all() and weight.sum() > 0.0)
        yield Check(name, good, f"{len(weight)} events, sum of weights {weight.sum():.6g}")
        with np.errstate(all="ignore"):
            ratios = {name: np.exp(column) for name, column in columns.items()}
        bad = [name for name, ratio in ratios.items() if not ((ratio > 0.0) & np.isfinite(ratio)).all()]
        yield Check(
            f"{name}: ratios positive",
            not bad,
            f"all {len(columns)} ratio columns are positive and finite"
            if not bad
            else f"not positive and finite: {', '.join(bad)}",
        )
        if label == "reference" and good and not bad:
            for sample in channel.samples:
                mean = float(np.average(ratios[sample.log_ratio], weights=weight))
                yield Check(
                    f"{channel.name}: normalisation of {sample.name}",
                    abs(mean - 1.0) < _NORMALISATION_TOLERANCE,
                    f"mean ratio over the reference {mean:.4f}, expected 1 within {_NORMALISATION_TOLERANCE}",
                )
