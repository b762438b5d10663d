"""A feature specification made ready to run: :class:`Program`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import ConfigError, InputError
from neyman.events.expression import not_computable
from neyman.events.features import layout
from neyman.events.features.columns import Column, LengthError, Offsets, lists
from neyman.events.features.compiler import Compiler, naming
from neyman.events.features.document import Document
from neyman.events.features.graph import Graph
from neyman.events.features.reader import Reader

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Expression:
    """A number per event, or per object of a padded block.

    Parameters
    ----------
    label
        What it is called in messages.
    text
        The expression.
    node
        Its number in the graph.
    """

    label: str
    text: str
    node: int


@dataclass(frozen=True)
class Program:
    """A compiled document.

    Parameters
    ----------
    document
        What was compiled.
    graph
        All computations.
    features
        Expressions by name.
    padded
        Expressions by block and field.
    """

    document: Document
    graph: Graph
    features: dict[str, Expression]
    padded: dict[str, dict[str, Expression]]

    @classmethod
    def compile(cls, document: Document) -> Program:
        """Check and translate all expressions.

        Raises
        ------
        ConfigError
            One is not of the language.
        """
        graph = Graph()
        compiler = Compiler(graph, document.definitions)
        for name in document.definitions:
            with naming(f"definition {name!r}"):
                compiler.check(name)

        def compiled(label: str, text: str) -> Expression:
            with naming(label):
                return Expression(label, text, compiler.value(text))

        features = {name: compiled(f"feature {name}", text) for name, text in document.features.items()}
        padded: dict[str, dict[str, Expression]] = {}
        for name, block in document.padded.items():
            if isinstance(block.fields, dict):
                padded[name] = {f: compiled(f"padded {name}, {f}", text) for f, text in block.fields.items()}
                continue
            with naming(f"padded {name}"):
                objects = compiler.objects(block.collection)
                padded[name] = {
                    f: Expression(f"padded {name}, {f}", f"({block.collection}).{f}", objects(f))
                    for f in block.fields
                }
        return cls(document, graph, features, padded)

    def run(self, events: Any) -> dict[str, Array]:
        """Compute all columns; see :meth:`neyman.events.features.spec.FeatureSpec.__call__`."""
        reader = Reader(events)
        choices = self.graph.choose(self._ends(), reader.has)
        results: dict[int, Any] = {}
        table: dict[str, Array] = {}
        for name, expression in self.features.items():
            column = self._compute(expression, reader, choices, results)
            table[name] = _per_event(expression, column, self.document.fill.get(name), reader)
        for name, block in self.padded.items():
            found = [(each, self._compute(each, reader, choices, results)) for each in block.values()]
            values = _pad(
                name, found, self.document.padded[name].length, self.document.padded[name].fill, reader
            )
            table |= dict(zip(self.document.block(name), values, strict=True))
        return table

    def branches(self, available: Collection[str] | None) -> tuple[str, ...]:
        """Return the branches that are read; see :meth:`neyman.events.features.spec.FeatureSpec.branches`."""
        # Branches inside a branch have paths in uproot; coffea compares the last part.
        names = None if available is None else {name.rpartition("/")[2] for name in available}
        choices = (
            {} if names is None else self.graph.choose(self._ends(), lambda c, f: bool(_present(c, f, names)))
        )
        needed = self.graph.needed(self._ends(), choices)
        nodes = {number: self.graph.nodes[number] for number in needed}
        changed = [n.arguments for n in nodes.values() if n.operation not in ("apply", "choose", "fill")]
        listed = set(self.graph.needed([number for arguments in changed for number in arguments], choices))
        found: set[str] = set()
        for number, node in nodes.items():
            if node.operation == "read":
                collection, field = node.detail
                if names is not None:
                    found |= _present(collection, field, names)
                else:
                    found |= _nanoaod(collection, field, counted=number in listed)
        return tuple(sorted(found))

    def _ends(self) -> list[int]:
        blocks = (expression for block in self.padded.values() for expression in block.values())
        return [expression.node for expression in (*self.features.values(), *blocks)]

    def _compute(
        self, expression: Expression, reader: Reader, choices: dict[str, int], results: dict[int, Any]
    ) -> Column:
        with naming(expression.label), np.errstate(all="ignore"):
            try:
                return self.graph.run(expression.node, reader, choices, results)
            except LengthError as error:
                raise InputError(
                    str(error),
                    where=expression.text,
                    fix="combine lists of the same objects, or one object, such as Jet[0], with a list",
                ) from error
            except (TypeError, ValueError) as error:
                raise not_computable(error, expression.text) from error


def _per_event(expression: Expression, column: Column, fill: float | None, reader: Reader) -> Array:
    """One finite float32 for each event."""
    if column.offsets is not None:
        raise ConfigError(
            f"{expression.label} is a list for each event",
            where=expression.text,
            expected="one number per event",
            fix="take one with [0], or use count, sum, max, min, any or all",
        )
    values = column.values
    if column.valid is not None and not column.valid.all():
        if fill is None:
            missing = np.flatnonzero(~column.valid)
            raise InputError(
                f"{expression.label} is missing in {len(missing)} of {reader.size} events",
                where=f"{expression.text}; first in {reader.where(int(missing[0]))}",
                fix="give it a value under 'fill', or select the events before",
            )
        values = np.where(column.valid, values, fill)
    return _float32(expression, values, reader, None)


def _pad(
    name: str, columns: list[tuple[Expression, Column]], length: int, fill: float, reader: Reader
) -> list[Array]:
    """Columns of a block: all fields of the first object, then of the second, ..."""
    table = np.full((length, len(columns), reader.size), fill, dtype=np.float32)
    first: Offsets | None = None
    present: NDArray[np.bool_] | None = None
    for k, (expression, column) in enumerate(columns):
        values, known, offsets = lists(column)
        if first is not None and not np.array_equal(first, offsets):
            raise InputError(
                f"the fields of padded {name} have lists of different lengths", where=expression.text
            )
        first = offsets
        event = np.repeat(np.arange(reader.size), np.diff(offsets))
        position = np.arange(len(values)) - offsets[event]
        kept = position < length
        if known is not None and not known[kept].all():
            bad = event[kept][~known[kept]]
            raise InputError(
                f"{expression.label} is missing for {len(bad)} objects",
                where=f"{expression.text}; first in {reader.where(int(bad[0]))}",
                fix="write fill(field, value), or select the objects before",
            )
        numbers = _float32(expression, values[kept], reader, event[kept])
        table[position[kept], k, event[kept]] = numbers
        present = numbers != fill if present is None else present | (numbers != fill)
    if present is not None and not present.all():
        raise InputError(
            f"all fields of {int((~present).sum())} objects of padded {name} are {fill:g}, which stands for no object",
            where=f"first in {reader.where(int(event[kept][np.argmin(present)]))}",
            fix="choose another fill value, or add a field that is never that, such as the transverse momentum",
        )
    return [np.ascontiguousarray(table[i, k]) for i in range(length) for k in range(len(columns))]


def _float32(
    expression: Expression, values: NDArray[Any], reader: Reader, event: NDArray[np.int64] | None
) -> Array:
    with np.errstate(all="ignore"):
        numbers = np.asarray(values, dtype=np.float32)
    finite = np.isfinite(numbers)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        events = bad if event is None else np.unique(event[bad])
        raise InputError(
            f"{expression.label} is {values[bad[0]]}, not finite in float32, in {len(events)} of {reader.size} events",
            where=f"{expression.text}; first in {reader.where(int(events[0]))}",
            expected="finite numbers",
            fix="compute it differently for these events, for example with where(condition, a, b)",
        )
    return numbers


def _nanoaod(collection: str | None, field: str | None, *, counted: bool) -> set[str]:
    """Names that NanoAOD would have."""
    if collection is None:
        return {str(field)}
    own = {f"{collection}_{field}"} if field else set()
    return own | {f"n{collection}"} if counted or not field else own


def _present(collection: str | None, field: str | None, names: Collection[str]) -> set[str]:
    """Branches of a file that a field needs; none if the file does not have it."""
    if collection is None:
        return {str(field)} & set(names)
    counter = layout.counter(collection, names)
    own = layout.branch(collection, field, names) if field else counter
    if field is None and own is None:
        own = next(iter(layout.members(collection, names)), None)
    return {name for name in (own, counter) if name} if own else set()
