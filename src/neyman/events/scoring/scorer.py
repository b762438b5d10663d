"""`Scorer`: trained networks inside a processor, batched, picklable, loaded once per process.

coffea unpickles a processor for every chunk. A scorer therefore pickles as a small reference (path and digest)
and keeps its loaded networks in a cache of this module, which lives as long as the worker process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError, WorkspaceError, nearest
from neyman.files import sha256
from neyman.networks import Aggregate, Model, match_features

Array = NDArray[np.float32]
_CACHE: dict[str, Model] = {}
_LOCK = threading.Lock()


class Scorer:
    """Evaluates one or several trained models on awkward events or on a matrix.

    Parameters
    ----------
    models
        Model files by the name of their output.
    aggregate
        How the members of an ensemble are combined; as each model's file says if not given.
    digests
        Expected SHA-256 of the files; taken from the files when not given.

    Raises
    ------
    WorkspaceError
        When there is no model, or a file is not the one that the scorer was made with.

    Examples
    --------
    In a coffea processor::

        scorer = neyman.Scorer.load("out/model")  # in __init__
        events["nn"] = scorer(events)             # in process
    """

    def __init__(
        self,
        models: Mapping[str, str | os.PathLike[str]],
        *,
        aggregate: Aggregate | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        if not models:
            raise WorkspaceError("a scorer needs at least one model file")
        self.paths = {name: str(Path(path).resolve()) for name, path in models.items()}
        self.aggregate: Aggregate | None = aggregate
        for name, path in self.paths.items():
            if not Path(path).is_file():
                raise WorkspaceError(f"the file of model {name!r} does not exist", where=path)
        self.digests = dict(digests or {name: sha256(path) for name, path in self.paths.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, aggregate: Aggregate | None = None) -> Scorer:
        """Read a model file, or all ``*.safetensors`` files of a folder (outputs named after the files)."""
        place = Path(path)
        files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
        if not files:
            raise WorkspaceError(
                f"there is no model at {place.name!r}",
                where=str(place),
                expected="a .safetensors file or a folder of them",
            )
        return cls({file.name.removesuffix(".safetensors"): file for file in files}, aggregate=aggregate)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self.paths)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of all features that the models read."""
        return tuple(dict.fromkeys(f for name in self.paths for f in self._model(name).features))

    def __call__(self, events: Any, z: Mapping[str, float] | None = None) -> Any:
        """Score events.

        Parameters
        ----------
        events
            Awkward array (or mapping of arrays) with a field for every feature, one number an event; or a matrix
            ``(n_events, n_features)`` in the order of a single model's features.
        z
            Values of the nuisance-parameter inputs of conditioned models; 0 (nominal) where not given.

        Returns
        -------
        float32 array ``(n_events,)`` for one model, an awkward record array with a field a model for several.

        Raises
        ------
        InputError
            When a feature is missing, masked, jagged or not finite (with the number of events and the first), or
            a nuisance parameter is unknown to all models or outside the range in which one was trained.
        """
        if z is not None and not isinstance(z, Mapping):
            raise InputError(f"z is a {type(z).__name__}", expected="values by name, such as {'tes': 0.5}")
        known = {parameter for name in self.paths for parameter in self._model(name).parameters}
        for parameter in z or {}:
            if parameter not in known:
                raise InputError(
                    f"no model is conditioned on {parameter!r}",
                    fix=f"nearest names: {nearest(parameter, known)}",
                )
        scores = {name: self._score(self._model(name), events, z or {}) for name in self.paths}
        if len(scores) == 1:
            return next(iter(scores.values()))
        import awkward as ak

        return ak.Array(scores)

    def _score(self, model: Model, events: Any, z: Mapping[str, float]) -> Array:
        x = matrix(events, model.features)
        if len(x) == 0:
            return np.zeros(0, dtype=np.float32)
        values = [z.get(name, 0.0) for name in model.parameters]
        return model(x, values or None, aggregate=self.aggregate)

    def _model(self, name: str) -> Model:
        digest = self.digests[name]
        with _LOCK:
            if digest not in _CACHE:
                path = self.paths[name]
                if Path(path).is_file() and sha256(path) != digest:
                    raise WorkspaceError(
                        f"the file of model {name!r} is not the one that this scorer was made with",
                        where=path,
                    )
                _CACHE[digest] = Model.load(path)
            return _CACHE[digest]

    def __repr__(self) -> str:
        return f"Scorer({', '.join(self.outputs)})"


def matrix(events: Any, features: tuple[str, ...]) -> Array:
    """Return the features of `events` as a finite float32 matrix ``(n_events, n_features)``."""
    if _is_matrix(events):
        x = np.asarray(events, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != len(features):
            raise InputError(
                f"expected a matrix of shape (n_events, {len(features)}), got {x.shape}",
                expected=f"columns {', '.join(features)}",
            )
    else:
        available = list(events) if isinstance(events, Mapping) else list(events.fields)
        match_features(features, available, "fields of the events")
        columns = [_flat(events[name], name) for name in features]
        x = np.stack(columns, axis=1) if columns else np.zeros((0, 0), dtype=np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        event, column = bad[0]
        raise InputError(
            f"feature {features[column]!r} is not finite",
            where=f"event {event}; {len(np.unique(bad[:, 0]))} of {len(x)} events have such features",
            fix="fill or drop these events before scoring",
        )
    return x


def _is_matrix(events: Any) -> bool:
    if isinstance(events, np.ndarray):
        return events.dtype.names is None
    return not isinstance(events, Mapping) and not events.fields


def _flat(values: ArrayLike, name: str) -> Array:
    import awkward as ak

    array = ak.Array(values) if not isinstance(values, ak.Array) else values
    if array.ndim != 1:
        raise InputError(
            f"feature {name!r} is jagged: {array.ndim} dimensions",
            expected="one number an event",
            fix="take e.g. [:, 0]",
        )
    missing = int(ak.sum(ak.is_none(array)))
    if missing:
        raise InputError(
            f"feature {name!r} is missing (masked) in {missing} of {len(array)} events",
            fix="use ak.fill_none",
        )
    try:
        return np.asarray(ak.to_numpy(ak.fill_none(array, np.nan), allow_missing=False), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"feature {name!r} is not a number an event: {array.type}") from error
