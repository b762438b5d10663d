"""`Scorer`: trained networks inside a processor, batched, picklable, opened once a process.

Nothing heavy is imported before a model is evaluated, and of awkward arrays only what versions 1 and 2 share is used:
a scorer works in coffea 0.7 as in today's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, WorkspaceError
from neyman.events.scoring.bins import Bins, sigmoid
from neyman.events.scoring.choice import SUFFIXES, Backend, choose
from neyman.events.scoring.features import Features, embedded, resolve
from neyman.events.scoring.folds import check_folds, in_second_fold
from neyman.events.scoring.reference import Options, Reference, check_inline, signature
from neyman.events.scoring.signature import AGGREGATES, Signature, check_known
from neyman.events.scoring.variations import Tables, evaluate
from neyman.files import digest

if TYPE_CHECKING:
    from neyman.networks import Aggregate

Array = NDArray[np.float32]
Output = Literal["log_ratio", "score", "bin"]
Location = str | os.PathLike[str]


class Scorer:
    """Evaluates one or several trained models on awkward events or on a matrix.

    Parameters
    ----------
    models
        Model files (``.safetensors``, ``.onnx``, ``.pt2``) or addresses (``triton://host:8000/name?version=1``) by the
        name of their output.
    aggregate
        How the members of an ensemble are combined; as each model's file says if not given.
    backend
        ``torch`` evaluates ``.safetensors``, ``onnx`` and ``pt2`` the exported files beside them. ``auto`` is ONNX
        runtime where it is installed, the model's own ``.onnx`` stands beside it and no GPU is asked for or seen, else
        torch. It is decided here, once: copies of the scorer on workers use the same. Backends differ by
        float32 rounding.
    device
        ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: a GPU where the worker has one.
    features
        How features are computed from events: a :class:`neyman.events.features.FeatureSpec`, its document or file.
        Names alone say which fields the columns of a model are that does not name them itself. If not given,
        the document in the model file holds, and without one the fields of the events have the features' names.
    output
        ``log_ratio``: what the model gives, a log-ratio, log-density or raw network output. ``score``: its sigmoid in
        [0, 1]. ``bin``: the bin of the fit, int64, for a network that :mod:`neyman.sannt` trained; with several
        channels ``(n_events, 2)``, channel and bin. Two networks trained on folds become one output for the latter
        two, which needs the integer field ``entry``.
    inline
        Carry the models' bytes (8 MB at most) to workers that do not see the files.
    batch_size
        Events of one evaluation; if not given, what is fast on the device.
    threads
        Threads of one evaluation; if not given, one wherever several run side by side.
    trusted
        Open ``.pt2`` files, which can run code when they are opened; copies of the scorer open only the same bytes.

    Raises
    ------
    ConfigError
        When options do not fit the models.
    WorkspaceError
        When there is no model, or a file is missing or broken.

    Examples
    --------
    In a coffea processor::

        scorer = neyman.Scorer.load("out/model")  # in __init__
        events["nn"] = scorer(events)             # in process
        scorer.many({"nominal": events, "jesUp": shifted})  # all systematic variations in one evaluation
    """

    def __init__(
        self,
        models: Mapping[str, Location],
        *,
        aggregate: Aggregate | None = None,
        backend: Backend = "auto",
        device: str = "auto",
        features: Any = None,
        output: Output = "log_ratio",
        inline: bool | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        trusted: bool = False,
    ) -> None:
        if not models:
            raise WorkspaceError("a scorer needs at least one model file")
        _check_options(backend, device, output, aggregate, batch_size, threads)
        self._output: Output = output
        self._options = Options(aggregate, device, batch_size, threads)
        self._references = tuple(
            choose(name, path, backend, self._options, inline=bool(inline), trusted=trusted)
            for name, path in models.items()
        )
        check_inline(self._references)
        self._spec = None if features is None else resolve(features)
        self._check_models()

    @classmethod
    def load(cls, path: Location, **options: Any) -> Scorer:
        """Make a scorer of a model file, an address, or all models of a folder (outputs named after the files).

        Parameters
        ----------
        path
            The file, address or folder.
        options
            As in the constructor.
        """
        if str(path).startswith(("triton://", "tritons://")):
            from neyman.events.scoring.triton import Address

            return cls({Address.parse(str(path)).model: path}, **options)
        place = Path(path)
        files = [place] if place.is_file() else sorted(p for s in SUFFIXES for p in place.glob(f"*{s}"))
        if not files:
            raise WorkspaceError(
                f"there is no model at {place.name!r}",
                where=str(place),
                expected="a .safetensors file or a folder of them",
            )
        models: dict[str, Location] = {}
        for suffix in reversed(list(SUFFIXES)):  # the first of the suffixes wins: others are exported from it
            models |= {file.stem: file for file in files if file.suffix == suffix}
        if place.is_file():
            models = {place.stem: place}
        return cls(dict(sorted(models.items())), **options)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        if folds := self._folds():
            return (folds[0].region,)
        return tuple(reference.name for reference in self._references)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all features that the models read."""
        return tuple(dict.fromkeys(name for r in self._references for name in self._names(r)))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the nuisance-parameter inputs of all models."""
        return tuple(dict.fromkeys(p for r in self._references for p in self._signature(r).parameters))

    @property
    def backends(self) -> dict[str, str]:
        """What evaluates each model."""
        return {reference.name: reference.kind for reference in self._references}

    @property
    def bins(self) -> dict[str, Bins]:
        """The bins of each model that has any."""
        found = ((r, Bins.of_notes(self._signature(r).notes, r.location)) for r in self._references)
        return {reference.name: own for reference, own in found if own is not None}

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the scores but for rounding: models, aggregate, output and features."""
        models = [[r.name, r.kind, r.sha256] for r in self._references]
        spec = None if self._spec is None else self._spec.digest
        return digest("neyman-scorer-1", models, self._options.aggregate, self._output, spec)

    def branches(self, available: Iterable[str] | None = None) -> tuple[str, ...]:
        """Return the names of the branches that the features need, for coffea's ``preload``.

        Parameters
        ----------
        available
            Branches of the file; those that it lacks are left out.
        """
        own = None if available is None else tuple(available)
        found: list[str] = []
        for reference in self._references:
            spec = self._features_of(reference)
            found += spec.branches(own) if spec is not None else self._names(reference)
        return tuple(dict.fromkeys(found))

    def __call__(self, events: Any, z: Mapping[str, float] | None = None) -> Any:
        """Score events.

        Parameters
        ----------
        events
            Awkward array (NanoEvents, virtual or eager, or plain records), from which the features are computed or
            which has a field for every feature; a mapping of computed features, one number an event; or a matrix
            ``(n_events, n_features)`` in the order of :attr:`features`.
        z
            Values of the nuisance-parameter inputs of conditioned models; 0 (nominal) where not given.

        Returns
        -------
        float32 array ``(n_events,)`` for one model, ``(n_events, n_outputs)`` if it has several outputs; an awkward
        record array with a field a model for several. int64 for bins.

        Raises
        ------
        InputError
            When a feature is missing, masked, jagged or not finite (with the number of events and the first), an
            output is not finite, or a nuisance parameter is unknown to all models or outside the trained range.
        WorkspaceError
            When a model is missing on this machine or is another one than the scorer was made with.
        """
        return self._scores({"": events}, z)[""]

    def many(self, variations: Mapping[str, Any], z: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Score all variations of the same or different events in one evaluation.

        Rows that equal those of the variation ``nominal`` (or the first one), bit by bit and at the same place, are
        scored once. The scores are those of separate calls: the same bits for torch on a CPU with layers of up to 700
        units, else up to float32 rounding (1e-6), as sums depend on the shape of a batch.

        Parameters
        ----------
        variations
            Events by the name of the variation.
        z
            As for a single call, the same for all variations.
        """
        return self._scores(variations, z)

    def _scores(self, variations: Mapping[str, Any], z: Mapping[str, float] | None) -> dict[str, Any]:
        values = check_known(z, self.parameters)
        tables = Tables(variations)
        folds = self._folds()
        results: dict[str, dict[str, NDArray[Any]]] = {}
        if folds:
            results[folds[0].region] = self._folded(tables, folds, values)
        else:
            for reference in self._references:
                results[reference.name] = self._transformed(
                    reference, self._matrices(reference, tables), values
                )
        out = {}
        for variation in variations:
            scores = {name: own[variation] for name, own in results.items()}
            out[variation] = next(iter(scores.values())) if len(scores) == 1 else _records(scores)
        return out

    def _matrices(self, reference: Reference, tables: Tables) -> dict[str, Array]:
        spec, names, own = self._features_of(reference), self._names(reference), self._signature(reference)
        width = own.width - len(own.parameters)
        return tables.matrices(spec, names, width)

    def _transformed(
        self, reference: Reference, x: dict[str, Array], z: Mapping[str, float]
    ) -> dict[str, NDArray[Any]]:
        """Evaluate a model on the matrices of all variations."""
        own = self._signature(reference)
        raw = evaluate(reference, self._options, own, x, own.values(z))
        bins = Bins.of_notes(own.notes, reference.location) if self._output != "log_ratio" else None
        return {name: _squeezed(self._as_output(y, bins)) for name, y in raw.items()}

    def _as_output(self, raw: Array, bins: Bins | None) -> NDArray[Any]:
        if self._output == "log_ratio":
            return raw
        if self._output == "bin" and bins is not None:
            places = bins.index(raw)
            return places if len(bins.channels) > 1 else places[:, 1:]
        return bins.scores(raw) if bins is not None else sigmoid(raw)

    def _folded(self, tables: Tables, folds: list[Bins], z: Mapping[str, float]) -> dict[str, NDArray[Any]]:
        """Evaluate two networks, each on the events of the fold that it has not seen."""
        second = {name: in_second_fold(events, folds[0].seed) for name, events in tables.variations.items()}
        out: dict[str, NDArray[Any]] = {}
        for reference, bins in zip(self._references, folds, strict=True):
            rows = {name: own if bins.fold == 0 else ~own for name, own in second.items()}
            x = {name: own[rows[name]] for name, own in self._matrices(reference, tables).items()}
            for name, y in self._transformed(reference, x, z).items():
                if name not in out:
                    out[name] = np.empty((len(rows[name]), *y.shape[1:]), dtype=y.dtype)
                out[name][rows[name]] = y
        return out

    def _folds(self) -> list[Bins]:
        """The bins of two networks trained on folds, when they make one output."""
        if self._output == "log_ratio":
            return []
        bins = list(self.bins.values())
        return bins if bins and bins[0].folds == 2 else []

    def _signature(self, reference: Reference) -> Signature:
        return signature(reference, self._options)

    def _features_of(self, reference: Reference) -> Features | None:
        return self._spec if self._spec is not None else embedded(self._signature(reference), reference)

    def _names(self, reference: Reference) -> tuple[str, ...]:
        """Names of the columns of a model; empty where nothing names them."""
        own = self._signature(reference).features
        return own if own or self._spec is None else tuple(self._spec.features)

    def _check_models(self) -> None:
        for reference in self._references:
            own = self._signature(reference)
            own.check_aggregate(self._options.aggregate, reference.kind, reference.name, reference.location)
            names = self._names(reference)
            if names and len(names) != own.width - len(own.parameters):
                raise ConfigError(
                    f"{len(names)} features are described, but the model {reference.name!r} takes {own.width}",
                    where=reference.location,
                )
            lacking = [n for n in names if self._spec is not None and n not in self._spec.features]
            if lacking:
                raise ConfigError(
                    f"the features do not describe {lacking[0]!r} of the model {reference.name!r}",
                    where=reference.location,
                    expected=f"all of {', '.join(names)}",
                )
            bins = Bins.of_notes(own.notes, reference.location) if self._output != "log_ratio" else None
            if bins is not None and bins.outputs != own.outputs:
                raise WorkspaceError(
                    f"the model {reference.name!r} has {own.outputs} outputs for {bins.outputs}",
                    where=reference.location,
                    expected="one output a class, or a bin",
                )
            if bins is None and (
                self._output == "bin" or (self._output == "score" and own.kind != "log_ratio")
            ):
                raise ConfigError(
                    f"the model {reference.name!r} has no {self._output}s: it gives a {own.kind}",
                    where=reference.location,
                    fix='output="log_ratio" gives what the network gives',
                )
        if folds := self._folds():
            check_folds(folds, [self._signature(r) for r in self._references], self._references[0].location)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._references, self._options, self._spec, self._output

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._references, self._options, self._spec, self._output = state

    def __repr__(self) -> str:
        return f"Scorer({', '.join(self.outputs)})"


def _squeezed(values: NDArray[Any]) -> NDArray[Any]:
    return values[:, 0] if values.shape[1] == 1 else values


def _records(scores: Mapping[str, NDArray[Any]]) -> Any:
    import awkward as ak

    return ak.zip(dict(scores), depth_limit=1)


def _check_options(
    backend: str, device: object, output: str, aggregate: str | None, batch_size: object, threads: object
) -> None:
    for what, given, known in (
        ("backend", backend, get_args(Backend)),
        ("output", output, get_args(Output)),
        ("aggregate", aggregate or AGGREGATES[0], AGGREGATES),
    ):
        if given not in known:
            raise ConfigError(f"unknown {what} {given!r}", expected=f"one of {', '.join(known)}")
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"unknown device {device!r}", expected="cpu, cuda, cuda:0, ... or auto")
    for what, number in (("batch_size", batch_size), ("threads", threads)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ConfigError(f"{what} is {number!r}", expected="a positive integer, or None")
