"""A ready processor that writes log-ratios, features and weights of selected events: input of unbinned terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from neyman.errors import ConfigError, nearest
from neyman.events.columns import Columns
from neyman.events.processing.chunk import Chunk
from neyman.events.processing.exact import ExactSum, totals
from neyman.events.processing.sink import ParquetSink
from neyman.events.processing.varied import Varied, VariedProcessor

RESERVED = ("entry", "weight")


@dataclass(frozen=True, kw_only=True)
class RatioProcessor(VariedProcessor):
    """Write one row for each event that passes with the nominal or any shifted objects.

    Parameters
    ----------
    sink
        Where to: ``<folder>/<dataset>/<file>-<start>-<stop>.parquet``, with a manifest beside.
    columns
        Features to write; all of them if None.
    features, scorer, selection, weights, corrections, objects, naming
        See :class:`~neyman.events.processing.varied.VariedProcessor`; the scorer's outputs are the log-ratios.

    Notes
    -----
    The columns are, in this order:

    - the features, and each output of the scorer under its name, of the nominal objects (float32);
    - ``<output>_<variation>`` for each shift of objects (float32);
    - ``weight`` (float64), zero where the nominal event does not pass;
    - ``weight_<variation>`` for each weight variation and each shift, zero where the shifted event does not pass;
    - ``entry`` (int64), which identifies the event among all files.

    Such a folder is read by :meth:`neyman.EventTable.from_parquet`, and its files go into an unbinned workspace as
    they are. The result of a run is, for each dataset::

        {"process": name, "n_events": events read, "sumw": their sum of genWeight,
         "selected": {variation: {"n": events that pass, "sumw": sum of weights}}, "files": rows of the manifest}
    """

    sink: ParquetSink
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scorer is None:
            raise ConfigError("there is no scorer, and so no log-ratio to write", expected="a neyman.Scorer")
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))

    def __call__(self, events: Any) -> dict[str, Any]:
        """Process one chunk; called by coffea.

        Raises
        ------
        InputError
            A column or weight is missing or not finite (names column, event and file), a correction is not
            defined for an event, or the table cannot be written.
        ConfigError
            A column, an expression or a function is not as described.
        """
        chunk = Chunk(events)
        varied = self.varied(chunk, select="any")
        first = next(iter(varied))
        table = self._nominal(varied[first], chunk)
        weights: Columns = {}
        selected: dict[str, Any] = {}
        for shift, found in varied.items():
            if shift != first:
                table |= {f"{name}_{shift}": column for name, column in found.scores.items()}
            for name, weight in found.weights.items():
                weights["weight" if name == first else f"weight_{name}"] = weight
                selected[name] = {"n": int(found.passed.sum()), "sumw": ExactSum(weight.sum())}
        row = self.sink.write(chunk, table | weights | {"entry": chunk.entry[varied[first].index]})
        result = {
            "process": {self.process_of(chunk)},
            "n_events": chunk.size,
            "sumw": ExactSum(chunk.weight.sum()),
            "selected": selected,
            "files": [row],
        }
        return {chunk.dataset: result}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """Round the sums, check the tables and write the manifests; called by coffea in the main process."""
        result = {}
        for dataset, summed in sorted(accumulator.items()):
            rows = self.sink.finish(summed["files"])[dataset]
            result[dataset] = totals(summed) | {
                "process": ", ".join(sorted(summed["process"])),
                "files": rows,
            }
        return result

    def _nominal(self, varied: Varied, chunk: Chunk) -> Columns:
        features = varied.features if self.columns is None else dict.fromkeys(self.columns)
        for name in features:
            if name not in varied.features:
                raise ConfigError(
                    f"there is no feature {name!r} to write",
                    where=chunk.where,
                    expected=nearest(name, varied.features),
                )
        table = {name: varied.features[name] for name in features} | varied.scores
        for name in table:
            if name in RESERVED or name.startswith("weight_"):
                raise ConfigError(
                    f"column {name!r} cannot be written under this name",
                    where=chunk.where,
                    expected=f"another name than {', '.join(RESERVED)} and weight_...",
                )
        return table
