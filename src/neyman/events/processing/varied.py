"""What :class:`HistProcessor` and :class:`RatioProcessor` share: from a chunk to columns for every variation.

Objects are shifted, features computed, events selected, networks evaluated in one call for all shifts, and weights
varied. What is then done with the columns is the business of the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, nearest
from neyman.events import expression
from neyman.events.columns import Columns, as_numbers, check_finite
from neyman.events.processing.chunk import Chunk
from neyman.events.processing.corrections import CorrectionWeight
from neyman.events.processing.source import PythonRef
from neyman.events.processing.systematics import category, weight_variations
from neyman.naming import Naming

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Varied:
    """The events of a chunk with one shift of objects.

    Parameters
    ----------
    features, scores
        Columns by name, (n_events,) each.
    weights
        By category, float64, (n_events,): that of the shift itself comes first, and alone but for the nominal, which
        has all weight variations. Zero where an event does not pass.
    passed
        bool, (n_events,): whether an event passes the selection.
    index
        Positions of the events in the chunk.
    """

    features: Columns
    scores: Columns
    weights: dict[str, NDArray[np.float64]]
    passed: NDArray[np.bool_]
    index: NDArray[np.int64]

    @property
    def columns(self) -> Columns:
        """Features and scores."""
        return self.features | self.scores


@dataclass(frozen=True, kw_only=True)
class VariedProcessor:
    """Settings of a processor with systematic variations.

    Parameters
    ----------
    features
        A :class:`~neyman.events.features.FeatureSpec`, or any function of the events that returns a dictionary of
        arrays with one number an event. None if only scores are wanted and the scorer has its own features.
    scorer
        A :class:`~neyman.events.Scorer` of networks that read these features. Each of its outputs becomes a column
        of its name; one with several numbers an event becomes ``<output>_0``, ``<output>_1``, ...
    selection
        An expression of features that events have to pass, after every shift of objects anew; it is applied
        before the scorer.
    weights
        Function of the events that returns coffea's ``Weights`` of all events of the chunk, an array, or a
        dictionary of arrays; or a column of the events by its name. ``genWeight`` if None, 1 without it.
    corrections
        Further weights from correctionlib, of the selected events and from their features.
    objects
        Function of the events that returns events with shifted objects by the name of the variation,
        ``{"jesUp": events1, "jesDown": events2}``.
    naming
        Style of the variations; see :class:`~neyman.naming.Naming`.

    Notes
    -----
    Functions may be a :class:`~neyman.events.PythonRef`. Metadata of the fileset are used: ``process`` (the
    dataset if not given) and ``variation``, with which all events of a dataset are that variation and nothing else
    is varied.
    """

    features: Function | PythonRef | None = None
    scorer: Any = None
    selection: str | None = None
    weights: Function | PythonRef | str | None = None
    corrections: tuple[CorrectionWeight, ...] = ()
    objects: Function | PythonRef | None = None
    naming: Naming | str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "naming", Naming.of(self.naming))
        object.__setattr__(self, "corrections", tuple(self.corrections))
        if self.features is None and self.scorer is None:
            raise ConfigError("there are no columns", expected="features, a scorer, or both")
        if self.selection is not None:
            expression.names(self.selection)

    @property
    def style(self) -> Naming:
        """The naming, resolved."""
        return Naming.of(self.naming)

    def branches(self, available: Any = None) -> tuple[str, ...]:
        """Branches that features and scorer need, for coffea's ``preload``; see ``FeatureSpec.branches``.

        Raises
        ------
        ConfigError
            The features are a function, which does not say what it reads.
        """
        source = self.scorer if self.features is None else self.features
        if not hasattr(source, "branches"):
            raise ConfigError(
                "the features are a function, which does not say which branches it reads",
                expected="a FeatureSpec",
            )
        return tuple(source.branches(available))

    def varied(self, chunk: Chunk, *, select: Literal["each", "any"]) -> dict[str, Varied]:
        """Columns and weights for each shift of objects, the nominal first.

        Parameters
        ----------
        chunk
            What to process.
        select
            Keep of each shift the events that pass then (``"each"``), or the same events of all shifts, those that
            pass with any (``"any"``).
        """
        shifted = self._shifted(chunk)
        tables = {name: self._features(events) for name, events in shifted.items()}
        passed = {name: selected(self.selection, table, chunk.size) for name, table in tables.items()}
        index = {name: np.flatnonzero(mask) for name, mask in passed.items()}
        if select == "any":
            index = dict.fromkeys(passed, np.unique(np.concatenate(list(index.values()))))
        features = {name: {c: v[index[name]] for c, v in table.items()} for name, table in tables.items()}
        scores = self._scores(chunk, shifted, features, index)
        result = {}
        for name, events in shifted.items():
            one = Varied(features[name], scores.get(name, {}), {}, passed[name][index[name]], index[name])
            result[name] = replace(one, weights=self._weights(chunk, events, one, name))
        return result

    def process_of(self, chunk: Chunk) -> str:
        """Name of the physical process that the dataset belongs to."""
        return str(chunk.metadata.get("process", chunk.dataset))

    def _shifted(self, chunk: Chunk) -> dict[str, Any]:
        style = self.style
        whole = category(str(chunk.metadata.get("variation", style.nominal)), style)
        shifted = {whole: chunk.events}
        if self.objects is None or whole != style.nominal:
            return shifted
        for name, events in sorted(_function(self.objects)(chunk.events).items()):
            found = category(name, style)
            if found in shifted:
                raise ConfigError(f"variation {found!r} comes twice", where=f"objects, on {chunk.where}")
            if len(events) != chunk.size:
                raise ConfigError(
                    f"variation {name!r} has {len(events)} of {chunk.size} events",
                    where=f"objects, on {chunk.where}",
                    expected="all events; the selection is applied afterwards",
                )
            shifted[found] = events
        return shifted

    def _features(self, events: Any) -> Columns:
        if self.features is None:
            return {}
        return {name: np.asarray(column) for name, column in _function(self.features)(events).items()}

    def _scores(
        self,
        chunk: Chunk,
        shifted: dict[str, Any],
        columns: dict[str, Columns],
        index: dict[str, NDArray[np.int64]],
    ) -> dict[str, Columns]:
        """Scores of the selected events with every shift, from one call."""
        if self.scorer is None:
            return {}
        given: dict[str, Any]
        if self.features is None:
            given = {name: events[index[name]] for name, events in shifted.items()}
        else:  # entry: networks trained on folds score the events that they have not seen
            given = {name: own | {"entry": chunk.entry[index[name]]} for name, own in columns.items()}
        found: dict[str, Columns] = {}
        outputs = self.scorer.outputs
        for name, scores in self.scorer.many(given).items():
            found[name] = {}
            for output in outputs:
                values = np.asarray(scores if len(outputs) == 1 else scores[output])
                several = {f"{output}_{i}": column for i, column in enumerate(values.T)}
                found[name] |= {output: values} if values.ndim == 1 else several
        return found

    def _weights(
        self, chunk: Chunk, events: Any, varied: Varied, name: str
    ) -> dict[str, NDArray[np.float64]]:
        """Weights of events that pass: factors multiply, and one of them is varied at a time."""
        style = self.style
        passed = varied.passed
        index = varied.index[passed]
        if isinstance(self.weights, str):
            if self.weights not in events.fields:
                raise ConfigError(
                    f"the events have no column {self.weights!r} for the weight",
                    where=chunk.where,
                    expected=nearest(self.weights, events.fields),
                )
            given: Any = as_numbers(events[self.weights], self.weights, chunk.where, chunk.start)
        else:
            given = chunk.weight if self.weights is None else _function(self.weights)(events)
        base = weight_variations(given, chunk.size, style)
        factors = [{variation: weight[index] for variation, weight in base.items()}]
        columns = {column: values[passed] for column, values in varied.columns.items()}
        for correction in self.corrections:
            found = correction.evaluate(columns, f"the selected events of {chunk.where}")
            factors.append({category(key, style): weight for key, weight in found.items()})
        nominals = [factor[style.nominal] for factor in factors]
        total = {name: np.prod(nominals, axis=0)}
        for i, factor in enumerate(factors if name == style.nominal else ()):
            others = nominals[:i] + nominals[i + 1 :]
            for variation in [key for key in factor if key != style.nominal]:
                if variation in total:
                    raise ConfigError(f"two weights are variation {variation!r}", where=chunk.where)
                total[variation] = np.prod([factor[variation], *others], axis=0)
        for variation, weight in total.items():
            check_finite(weight, "weight", f"{chunk.where}, variation {variation}", chunk.start + index)
        return {variation: _spread(weight, passed) for variation, weight in total.items()}


def _spread(weight: NDArray[np.float64], passed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of all events, of those that pass."""
    spread = np.zeros(len(passed))
    spread[passed] = weight
    return spread


def selected(text: str | None, columns: Columns, size: int) -> NDArray[np.bool_]:
    """Evaluate a cut; all events pass None.

    Raises
    ------
    ConfigError
        The expression is not legal, names an unknown column, or is not true or false.
    """
    if text is None:
        return np.ones(size, dtype=bool)
    mask = np.asarray(expression.evaluate(text, columns))
    if mask.dtype != bool:
        raise ConfigError(
            f"the selection gives {mask.dtype}, not true or false", where=text, fix="compare it: 'n_jets > 0'"
        )
    return np.broadcast_to(mask, (size,))


def _function(given: Function | PythonRef) -> Function:
    return given.resolve() if isinstance(given, PythonRef) else given
