"""`validate`: is a workspace folder complete, unchanged and sane?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import NeymanError, WorkspaceError, nearest
from neyman.files import sha256
from neyman.networks import Model
from neyman.workspace.columns import Column
from neyman.workspace.covariance import involved, smallest_eigenvalue
from neyman.workspace.documents import Channel, NetworkFile, NetworkModifier, Sample
from neyman.workspace.gaussian import Gaussian
from neyman.workspace.pyhf_schema import check_schema
from neyman.workspace.store import BINNED, GAUSSIAN, MANIFEST, UNBINNED, Workspace, read

Array = NDArray[np.float64]
_NORMALISATION_TOLERANCE = 0.1
_LARGEST_SPREAD = 1.0
_SMALLEST_EIGENVALUE = 1e-8


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
    of a channel are positive, that a sample carries the parameter of interest, the columns and weights of the event
    files, that networks fit their features and parameters, that every ratio is finite and positive, and that its
    mean over the reference sample is near 1 (a fit renormalises it; a mean far from 1 shows that a network was
    badly trained or the wrong reference is used), and that no covariance is nearly singular.

    Returns
    -------
    One `Check` each; none is raised. A folder that cannot be read at all gives a single failed check.
    """
    try:
        workspace = read(path)
    except NeymanError as error:
        return [Check("documents", False, str(error))]
    checks = [Check("documents", True, "readable, neyman's own documents fit their schemas")]
    binned = workspace.binned
    if binned is not None:
        checks.extend(found := list(_binned(binned)))
        binned = binned if found[0].passed else None
    if Path(path).is_dir():
        checks.append(_manifest(workspace))
        checks.extend(_digests(workspace))
    checks.extend(_interest(workspace, binned))
    if workspace.gaussian is not None:
        checks.extend(_covariances(workspace.gaussian))
    if workspace.unbinned is not None:
        for channel in workspace.unbinned.channels:
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


def _interest(workspace: Workspace, binned: dict[str, Any] | None) -> Iterator[Check]:
    unbinned, gaussian = workspace.unbinned, workspace.gaussian
    channels = unbinned.channels if unbinned is not None else ()
    carried = {p for c in channels for s in c.samples for m in s.modifiers for p in m.parameters}
    carried |= {
        m["name"] for c in (binned or {}).get("channels", ()) for s in c["samples"] for m in s["modifiers"]
    }
    carried |= gaussian.parameters if gaussian is not None else set()
    seen = set()
    for measurement in (m for d in (unbinned, gaussian) if d is not None for m in d.measurements):
        poi = measurement.config.poi
        if poi and (measurement.name, poi) not in seen:
            seen.add((measurement.name, poi))
            yield Check(
                f"parameter of interest of {measurement.name}",
                poi in carried,
                poi if poi in carried else f"no sample carries {poi!r}; nearest: {nearest(poi, carried)}",
            )


def _covariances(gaussian: Gaussian) -> Iterator[Check]:
    for spectrum in gaussian.spectra:
        value, vector = smallest_eigenvalue(np.asarray(spectrum.covariance))
        passed = value > _SMALLEST_EIGENVALUE
        yield Check(
            f"{spectrum.name}: covariance",
            passed,
            f"{len(spectrum.bins)} bins, smallest eigenvalue of the correlation matrix {value:.3g}"
            + ("" if passed else f": nearly singular in {involved(vector, spectrum.bins)}"),
        )


def _manifest(workspace: Workspace) -> Check:
    if workspace.manifest is None:
        return Check("manifest", False, f"{MANIFEST} is missing: changes of the files would go unnoticed")
    named = {BINNED} if workspace.binned is not None else set()
    if workspace.gaussian is not None:
        named.add(GAUSSIAN)
    if workspace.unbinned is not None:
        named.add(UNBINNED)
        for channel in workspace.unbinned.channels:
            named |= {channel.data.file, channel.reference.file}
            named |= {s.network for s in channel.samples if s.network}
            named |= {m.file for s in channel.samples for m in s.modifiers if m.file}
    # Of a folder of event files, the manifest records the files.
    recorded = {str(part) for file in workspace.manifest.files for part in (file, PurePosixPath(file).parent)}
    missing = sorted(named - recorded)
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
    for sample in channel.samples:
        for modifier in sample.modifiers:
            if modifier.type == "network" and isinstance(modifier.data, NetworkFile):
                yield _network(
                    workspace, f"{channel.name}: network of {sample.name}", modifier, modifier.data
                )
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
            ratios = {c: np.exp(columns[c].astype(np.float64)) for c in channel.log_ratios}
        bad = [c for c, ratio in ratios.items() if not ((ratio > 0.0) & np.isfinite(ratio)).all()]
        yield Check(
            f"{name}: ratios positive",
            not bad,
            f"all {len(ratios)} ratio columns are positive and finite"
            if not bad
            else f"not positive and finite: {', '.join(bad)}",
        )
        if others := [c for c in channel.columns if c not in ratios]:
            broken = [c for c in others if not np.isfinite(columns[c]).all()]
            yield Check(
                f"{name}: features and spreads finite",
                not broken,
                f"not finite: {', '.join(broken)}" if broken else f"all {len(others)} columns are finite",
            )
        if label == "reference" and good and not bad:
            for sample in channel.samples:
                yield from _normalisation(channel, sample, weight, ratios[sample.log_ratio], columns)


def _normalisation(
    channel: Channel, sample: Sample, weight: Array, ratio: Array, columns: Mapping[str, Column]
) -> Iterator[Check]:
    """The mean ratio of a sample over the reference, with its statistical error, and the size of its spread."""
    mean = float(np.average(ratio, weights=weight))
    error = float(np.sqrt(np.sum((weight * (ratio - mean)) ** 2)) / weight.sum())
    yield Check(
        f"{channel.name}: normalisation of {sample.name}",
        abs(mean - 1.0) < _NORMALISATION_TOLERANCE,
        f"mean ratio over the reference {mean:.4f} +- {error:.4f}, expected 1 within {_NORMALISATION_TOLERANCE}",
    )
    if spreads := [m.data.columns for m in sample.modifiers if m.type == "spread"]:
        variance = sum(columns[c].astype(np.float64) ** 2 for names in spreads for c in names)
        size = float(np.sqrt(np.average(variance, weights=np.abs(weight))))
        yield Check(
            f"{channel.name}: spread of {sample.name}",
            size < _LARGEST_SPREAD,
            f"log-ratio uncertain by {size:.3g} (root mean square), expected below {_LARGEST_SPREAD:g}",
        )


def _network(workspace: Workspace, name: str, modifier: NetworkModifier, data: NetworkFile) -> Check:
    try:
        model = Model.load(workspace.path(data.file))
    except WorkspaceError as error:
        return Check(name, False, str(error))
    features = tuple(column.removeprefix("x:") for column in data.features)
    if features != model.features:
        return Check(name, False, f"takes {', '.join(model.features)}, not {', '.join(features)}")
    if unknown := [p for p in modifier.parameters if p not in model.parameters]:
        inputs = ", ".join(model.parameters) or "none"
        return Check(name, False, f"has no input {', '.join(unknown)}; its nuisance parameters: {inputs}")
    return Check(name, True, f"{data.file} takes these features and {', '.join(modifier.parameters)}")
