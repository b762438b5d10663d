"""From a workspace folder to terms: the binned and unbinned channels with their parameters."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Literal

from neyman.errors import LikelihoodError, WorkspaceError, nearest
from neyman.likelihood.histfactory import binned_term
from neyman.likelihood.parameters import Constraint, Parameter
from neyman.likelihood.shapes import Shape, TabulatedNetwork, UpDownRatio
from neyman.likelihood.term import Term
from neyman.likelihood.unbinned import Events, UnbinnedSample, UnbinnedTerm, tabulated_range
from neyman.likelihood.yields import NormFactor, NormSys, YieldFactor
from neyman.workspace import documents, read
from neyman.workspace.store import Workspace


def load_terms(
    path: str | os.PathLike[str], prefer: Literal["unbinned", "binned"], measurement: str | None = None
) -> tuple[list[Term], Mapping[str, float]]:
    """Return the terms of a workspace and the global observables of its binned part.

    Channels that exist in both forms over the same events enter once, in the preferred form. Each document gives
    the measurement of this name, its first by default.
    """
    workspace = read(path)
    terms: list[Term] = []
    observed: dict[str, float] = {}
    unbinned: tuple[documents.Channel, ...] = ()
    settings: dict[str, documents.ParameterConfig] = {}
    if workspace.unbinned is not None:
        unbinned = workspace.unbinned.channels
        settings = _settings(workspace.unbinned, measurement, str(workspace.folder))
    if workspace.binned is not None:
        term, observed = binned_term(workspace.binned, measurement=measurement)
        _check_replaced(unbinned, term.channels, workspace)
        replaced = {name for channel in unbinned for name in channel.replaces if prefer == "unbinned"}
        keep = [name for name in term.channels if name not in replaced]
        if keep:
            terms.append(term if len(keep) == len(term.channels) else term.select_channels(keep))
    elif prefer == "binned":
        _check_replaced(unbinned, (), workspace)
    terms.extend(
        unbinned_term(workspace, channel, settings)
        for channel in unbinned
        if prefer == "unbinned" or not channel.replaces
    )
    constrained = {p.name for term in terms for p in term.parameters if p.constraint}
    return terms, {name: value for name, value in observed.items() if name in constrained}


def _check_replaced(
    unbinned: tuple[documents.Channel, ...], binned: Collection[str], workspace: Workspace
) -> None:
    for name in sorted({name for channel in unbinned for name in channel.replaces} - set(binned)):
        raise LikelihoodError(
            f"an unbinned channel replaces {name!r}, which is not a binned channel",
            where=str(workspace.folder),
            fix=f"nearest names: {nearest(name, binned)}",
        )


def unbinned_term(
    workspace: Workspace, channel: documents.Channel, settings: Mapping[str, documents.ParameterConfig]
) -> UnbinnedTerm:
    """Build the term of one unbinned channel with the measurement's `settings` of the parameters; its events are
    read from the workspace."""
    samples = [
        UnbinnedSample(
            name=sample.name,
            expected=sample.expected,
            log_ratio=sample.log_ratio,
            factors=tuple(f for m in sample.modifiers if (f := _factor(m)) is not None),
            shapes=tuple(s for m in sample.modifiers if (s := _shape(m)) is not None),
        )
        for sample in channel.samples
    ]
    kinds: dict[str, set[str]] = {}
    for sample in channel.samples:
        for modifier in sample.modifiers:
            kinds.setdefault(modifier.name, set()).add(modifier.type)
    parameters = [_parameter(name, kind, settings.get(name), samples) for name, kind in kinds.items()]
    data, reference = (
        Events(*workspace.events(channel, which)) for which in (channel.data, channel.reference)
    )
    return UnbinnedTerm(channel.name, samples, parameters, data=data, reference=reference)


def _settings(
    document: documents.Unbinned, measurement: str | None, where: str
) -> dict[str, documents.ParameterConfig]:
    measurements = {m.name: m for m in document.measurements}
    name = document.measurements[0].name if measurement is None else measurement
    if name not in measurements:
        raise WorkspaceError(
            f"unbinned.json has no measurement {name!r}",
            where=where,
            fix=f"nearest names: {nearest(name, measurements)}",
        )
    return {p.name: p for p in measurements[name].config.parameters}


def _factor(modifier: documents.Modifier) -> YieldFactor | None:
    if modifier.type in ("normfactor", "lumi"):
        return NormFactor(modifier.name)
    if modifier.type == "normsys":
        return NormSys(modifier.name, up=modifier.data.hi, down=modifier.data.lo)
    return None


def _shape(modifier: documents.Modifier) -> Shape | None:
    if modifier.type == "ratiosys":
        return UpDownRatio(modifier.name, up=modifier.data.hi, down=modifier.data.lo)
    if modifier.type == "network":
        return TabulatedNetwork(modifier.name, modifier.data.nodes, modifier.data.columns)
    return None


def _parameter(
    name: str, kinds: set[str], config: documents.ParameterConfig | None, samples: list[UnbinnedSample]
) -> Parameter:
    """Apply pyhf's defaults of each modifier type, then the measurement's settings."""
    if len(kinds & {"normfactor", "lumi"}) and len(kinds) > 1:
        raise LikelihoodError(
            f"parameter {name!r} is declared twice with different constraints",
            where=f"as {' and '.join(sorted(kinds))}",
            fix="rename one of the two",
        )
    init, (low, high), constraint = 0.0, (-5.0, 5.0), None
    if "normfactor" in kinds:
        init, (low, high) = 1.0, (0.0, 10.0)
    elif "lumi" in kinds:
        if config is None or not config.auxdata or not config.sigmas:
            raise LikelihoodError(
                f"the measurement gives no auxdata and sigmas for the luminosity parameter {name!r}",
                expected='{"name": "lumi", "auxdata": [1.0], "sigmas": [0.017]}',
            )
        init, (low, high) = config.auxdata[0], (0.0, 10.0)
        constraint = Constraint("normal", config.auxdata[0], config.sigmas[0])
    else:
        aux = config.auxdata[0] if config and config.auxdata else 0.0
        sigma = config.sigmas[0] if config and config.sigmas else 1.0
        constraint = Constraint("normal", aux, sigma)
    if config is not None:
        if config.inits:
            init = config.inits[0]
        if config.bounds:
            low, high = config.bounds[0]
    trained = tabulated_range(samples, name)
    if trained[0] > high or trained[1] < low:
        raise LikelihoodError(
            f"the bounds {low:g} to {high:g} of {name!r} lie outside the range in which its network was trained",
            expected=f"within {trained[0]:g} to {trained[1]:g}",
        )
    low, high = max(low, trained[0]), min(high, trained[1])
    return Parameter(name, init, low, high, bool(config and config.fixed), constraint)
