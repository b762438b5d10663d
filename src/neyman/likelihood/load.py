"""From a workspace folder to terms: its channels of all kinds with their parameters and events."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from neyman.errors import LikelihoodError, WorkspaceError, nearest
from neyman.likelihood.distributed import WORTH, DistributedEvents
from neyman.likelihood.distributed_client import prepare
from neyman.likelihood.events import Events, EventSource, StreamedEvents
from neyman.likelihood.gaussian import gaussian_terms
from neyman.likelihood.histfactory import binned_term
from neyman.likelihood.loglinear import ExponentialRatio, LinearShape, ReferenceStatistics
from neyman.likelihood.network import ConditionedNetwork
from neyman.likelihood.parameters import Constraint, Parameter
from neyman.likelihood.shapes import Shape, TabulatedNetwork, UpDownRatio
from neyman.likelihood.term import Term
from neyman.likelihood.unbinned import UnbinnedSample, UnbinnedTerm
from neyman.likelihood.yields import NormFactor, NormSys, Polynomial, YieldFactor
from neyman.networks import Model
from neyman.workspace import documents, read
from neyman.workspace.columns import ColumnFile
from neyman.workspace.gaussian import Gaussian
from neyman.workspace.store import GAUSSIAN, UNBINNED, Workspace

_FREE = {"normfactor", "lumi"}  # modifiers whose parameter has no constraint, or one of its own


def load_terms(
    path: str | os.PathLike[str],
    prefer: Literal["unbinned", "binned"],
    measurement: str | None = None,
    memory_budget: int | str | None = None,
    client: Any = None,
) -> tuple[list[Term], Mapping[str, float], str | None]:
    """Return the terms of a workspace, the global observables of its binned part and the parameter of interest.

    The parameter of interest is that of ``unbinned.json``, else of ``binned.json``, else of ``gaussian.json``.

    Channels that exist in both forms over the same events enter once, in the preferred form. Each document gives
    the measurement of this name, its first by default. Where the events of all unbinned channels need more than
    `memory_budget` (bytes, or a text as for `memory_bytes`), the largest files are streamed until the rest fits. With
    a `client`, those worth it are held by its workers.
    """
    if client is not None:
        if memory_budget is not None:
            raise LikelihoodError(
                "a memory budget and a Dask client are given", expected="one of them: workers hold all events"
            )
        prepare(client)
    budget = None if memory_budget is None else memory_bytes(memory_budget)
    workspace = read(path)
    terms: list[Term] = []
    observed: dict[str, float] = {}
    unbinned: tuple[documents.Channel, ...] = ()
    config: documents.MeasurementConfig | None = None
    poi = None
    if workspace.unbinned is not None:
        unbinned = workspace.unbinned.channels
        config = _measurement(workspace.unbinned, measurement, UNBINNED, workspace).config
    if workspace.binned is not None:
        term, observed = binned_term(workspace.binned, measurement=measurement)
        poi = term.poi
        _check_replaced(unbinned, term.channels, workspace)
        replaced = {name for channel in unbinned for name in channel.replaces if prefer == "unbinned"}
        keep = [name for name in term.channels if name not in replaced]
        if keep:
            terms.append(term if len(keep) == len(term.channels) else term.select_channels(keep))
    elif prefer == "binned":
        _check_replaced(unbinned, (), workspace)
    chosen = [channel for channel in unbinned if prefer == "unbinned" or not channel.replaces]
    events = _events(workspace, chosen, budget, client)
    settings = {p.name: p for p in config.parameters} if config else {}
    terms.extend(unbinned_term(workspace, channel, settings, events) for channel in chosen)
    named = [config.poi] if config is not None else []
    if workspace.gaussian is not None:
        of_spectra = _measurement(workspace.gaussian, measurement, GAUSSIAN, workspace).config
        terms.extend(gaussian_terms(workspace.gaussian, of_spectra))
        named.append(of_spectra.poi)
    for name in filter(None, named):
        _check_poi(name, {p.name for term in terms for p in term.parameters}, workspace)
    poi = (config.poi if config is not None else "") or poi or (named[-1] if named else "") or None
    constrained = {p.name for term in terms for p in term.parameters if p.constraint}
    return terms, {name: value for name, value in observed.items() if name in constrained}, poi


def memory_bytes(budget: int | str) -> int:
    """Return a memory budget in bytes, given as a number or as a text such as ``"1 GB"`` or ``"512 MiB"``.

    Raises
    ------
    LikelihoodError
        When the text is not understood or the budget is not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?)(I?)B?\s*", str(budget).upper())
    size = 0
    if found is not None:
        number, prefix, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " "))
    if size <= 0:
        raise LikelihoodError(
            f"the memory budget {budget!r} is not understood",
            expected='a positive number of bytes, or a text such as "1 GB" or "512 MiB"',
        )
    return size


def _check_poi(poi: str, names: Collection[str], workspace: Workspace) -> None:
    if poi and poi not in names:
        raise LikelihoodError(
            f"the parameter of interest {poi!r} is carried by no sample",
            where=str(workspace.folder),
            fix=f"nearest names: {nearest(poi, names)}",
        )


def _check_replaced(
    unbinned: tuple[documents.Channel, ...], binned: Collection[str], workspace: Workspace
) -> None:
    for name in sorted({name for channel in unbinned for name in channel.replaces} - set(binned)):
        raise LikelihoodError(
            f"an unbinned channel replaces {name!r}, which is not a binned channel",
            where=str(workspace.folder),
            fix=f"nearest names: {nearest(name, binned)}",
        )


def _events(
    workspace: Workspace, channels: Sequence[documents.Channel], budget: int | None, client: Any
) -> dict[str, EventSource]:
    """Open the data and the reference of channels, by channel and kind: within a memory budget, or on workers."""
    wanted = {
        f"{channel.name}/{kind}": (channel, which)
        for channel in channels
        for kind, which in (("data", channel.data), ("reference", channel.reference))
    }
    if client is not None:
        files = {
            key: DistributedEvents(
                client, workspace.path(which.file, folder=True), which.weight, channel.columns
            )
            for key, (channel, which) in wanted.items()
        }
        large = {key for key, file in files.items() if len(file) >= WORTH}
        return {
            key: files[key] if key in large else Events(*workspace.events(*wanted[key])) for key in wanted
        }
    streamed: set[str] = set()
    if budget is not None:
        sizes = {}
        for key, (channel, which) in wanted.items():
            file = ColumnFile(workspace.path(which.file, folder=True), [which.weight, *channel.columns])
            # In memory, three functions are kept of each column of an up/down ratio.
            ratios = {
                name
                for s in channel.samples
                for m in s.modifiers
                if m.type == "ratiosys"
                for name in m.columns
            }
            sizes[key] = file.n_events * sum(
                file.dtype(name).itemsize * (4 if name in ratios else 1) for name in file.names
            )
        for key in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if sum(size for name, size in sizes.items() if name not in streamed) <= budget:
                break
            streamed.add(key)
    return {
        key: StreamedEvents(workspace.path(which.file, folder=True), which.weight, channel.columns)
        if key in streamed
        else Events(*workspace.events(channel, which))
        for key, (channel, which) in wanted.items()
    }


def unbinned_term(
    workspace: Workspace,
    channel: documents.Channel,
    settings: Mapping[str, documents.ParameterConfig],
    events: Mapping[str, EventSource],
) -> UnbinnedTerm:
    """Build the term of one unbinned channel with the measurement's `settings` of the parameters and its events."""
    kinds: dict[str, set[str]] = {}
    parts: list[tuple[documents.Sample, list[YieldFactor], list[Shape]]] = []
    refstats: dict[str, str] = {}
    for sample in channel.samples:
        factors: list[YieldFactor] = []
        shapes: list[Shape] = []
        for modifier in sample.modifiers:
            with _placed(f"channel {channel.name}, sample {sample.name}, modifier {modifier.name}"):
                factors += _factors(modifier)
                shapes += _shapes(modifier, workspace)
            if modifier.type == "refstat":
                refstats[modifier.name] = sample.log_ratio
            for name in modifier.parameters:
                kinds.setdefault(name, set()).add(modifier.type)
        parts.append((sample, factors, shapes))
    reference = events[f"{channel.name}/reference"]
    common: tuple[Shape, ...] = ()
    if refstats:
        with _placed(f"channel {channel.name}"):
            common = (ReferenceStatistics.measure(tuple(refstats), tuple(refstats.values()), reference),)
    samples = [
        UnbinnedSample(sample.name, sample.expected, sample.log_ratio, tuple(factors), (*shapes, *common))
        for sample, factors, shapes in parts
    ]
    return UnbinnedTerm(
        channel.name,
        samples,
        [_parameter(name, kind, _setting(settings, name), samples) for name, kind in kinds.items()],
        data=events[f"{channel.name}/data"],
        reference=reference,
        form=channel.form,
    )


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """Say where in the document an error comes from."""
    try:
        yield
    except LikelihoodError as error:
        where = f"{place}; {error.where}" if error.where else place
        raise LikelihoodError(error.what, where=where, expected=error.expected, fix=error.fix) from error


def _factors(modifier: documents.Modifier) -> tuple[YieldFactor, ...]:
    if modifier.type in ("normfactor", "lumi"):
        return (NormFactor(modifier.name),)
    if modifier.type == "normsys":
        return (NormSys(modifier.name, modifier.data.hi, modifier.data.lo, modifier.data.code),)
    if modifier.type == "polynomial":
        terms = tuple((term.coefficient, term.powers) for term in modifier.data.terms)
        return (Polynomial(modifier.parameters, terms),)
    return ()


def _shapes(modifier: documents.Modifier, workspace: Workspace) -> tuple[Shape, ...]:
    if modifier.type == "ratiosys":
        kind = UpDownRatio if modifier.data.code == "code4" else ExponentialRatio
        return (kind(modifier.name, modifier.data.hi, modifier.data.lo),)
    if modifier.type == "network":
        if isinstance(modifier.data, documents.NetworkColumns):
            return (TabulatedNetwork(modifier.name, modifier.data.nodes, modifier.data.columns),)
        model = Model.load(workspace.path(modifier.data.file))
        return (ConditionedNetwork(model, modifier.parameters, modifier.data.features),)
    if modifier.type == "spread":
        pairs = zip(modifier.parameters, modifier.data.columns, strict=True)
        return tuple(LinearShape(name, column) for name, column in pairs)
    return ()


def _measurement(
    document: documents.Unbinned | Gaussian, name: str | None, file: str, workspace: Workspace
) -> documents.Measurement:
    measurements = {m.name: m for m in document.measurements}
    if name is None:
        return document.measurements[0]
    if name not in measurements:
        raise WorkspaceError(
            f"{file} has no measurement {name!r}",
            where=str(workspace.folder),
            fix=f"nearest names: {nearest(name, measurements)}",
        )
    return measurements[name]


def _setting(
    settings: Mapping[str, documents.ParameterConfig], name: str
) -> documents.ParameterConfig | None:
    """Return the settings of a parameter; those of a vector hold one value a component, as in pyhf."""
    vector, bracket, index = name.removesuffix("]").rpartition("[")
    if name in settings or not bracket or vector not in settings:
        return settings.get(name)
    lists = settings[vector].model_dump(exclude={"name", "fixed"}, exclude_none=True)
    try:
        chosen = {key: (values[int(index)],) for key, values in lists.items()}
    except (IndexError, ValueError) as error:
        raise LikelihoodError(
            f"the measurement's settings of {vector!r} have no value for component {index}",
            expected="one value a component",
        ) from error
    return documents.ParameterConfig.model_validate({"name": name, "fixed": settings[vector].fixed, **chosen})


def _parameter(
    name: str, kinds: set[str], config: documents.ParameterConfig | None, samples: Sequence[UnbinnedSample]
) -> Parameter:
    """Apply pyhf's defaults of each modifier type, then the measurement's settings.

    A polynomial takes its parameter as it is, and by itself leaves it free.
    """
    kinds = kinds - {"polynomial"} or {"normfactor"}
    if kinds & _FREE and len(kinds) > 1:
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
    trained = _trained(samples, name)
    if trained[0] > high or trained[1] < low:
        raise LikelihoodError(
            f"the bounds {low:g} to {high:g} of {name!r} lie outside the range in which its network was trained",
            expected=f"within {trained[0]:g} to {trained[1]:g}",
        )
    low, high = max(low, trained[0]), min(high, trained[1])
    return Parameter(name, init, low, high, bool(config and config.fixed), constraint)


def _trained(samples: Sequence[UnbinnedSample], parameter: str) -> tuple[float, float]:
    """Return the widest range of a parameter inside which every network with it was trained."""
    low, high = -math.inf, math.inf
    for shape in (shape for sample in samples for shape in sample.shapes):
        if isinstance(shape, ConditionedNetwork) and parameter in shape.parameters:
            low, high = max(low, shape.ranges[parameter][0]), min(high, shape.ranges[parameter][1])
        elif isinstance(shape, TabulatedNetwork) and shape.parameter == parameter:
            low, high = max(low, shape.range[0]), min(high, shape.range[1])
    return low, high
