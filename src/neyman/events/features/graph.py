"""What a set of expressions computes, each part once: :class:`Graph`.

An expression becomes nodes that refer to earlier nodes; the same computation is the same node, whichever expressions
it occurs in. Nodes are small and hold no arrays: a :class:`Graph` says what to do, :meth:`Graph.run` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import add, mul, neg, sub
from typing import Any, Protocol

import numpy as np

from neyman.errors import ConfigError, InputError
from neyman.events.expression import ELEMENTWISE
from neyman.events.features import columns
from neyman.events.features.columns import Column, Value
from neyman.events.features.kinematics import PAIRS, TOTALS

MAX_NODES = 50_000
MAX_COPIES = 16

_FUNCTIONS = {
    **ELEMENTWISE,
    **{name: function for name, (_, function) in PAIRS.items()},
    **{f"total {name}": function for name, (_, function) in TOTALS.items()},
}
_EXACT: dict[str, Callable[..., Any]] = {"+": add, "-": sub, "*": mul, "negative": neg}


class Source(Protocol):
    """Where fields are read from."""

    def has(self, collection: str | None, field: str | None) -> bool:
        """Whether it has a field."""

    def read(self, collection: str | None, field: str | None) -> Column:
        """Read a field."""


@dataclass(frozen=True, slots=True)
class Node:
    """An operation on the results of other nodes.

    Parameters
    ----------
    operation
        ``read``, ``number``, ``apply``, ``choose``, or a function of :mod:`neyman.events.features.columns`.
    arguments
        Numbers of the nodes it acts on.
    detail
        What else it needs: the field, the value, the function's name, an index, the name of the choice.
    """

    operation: str
    arguments: tuple[int, ...] = ()
    detail: Any = None


@dataclass
class Graph:
    """Nodes, those that others need before them."""

    nodes: list[Node] = field(default_factory=list)
    _numbers: dict[Any, int] = field(default_factory=dict)
    _copies: list[int] = field(default_factory=list)

    def add(self, operation: str, *arguments: int, detail: Any = None) -> int:
        """Return the number of a node; the same one if it is there already.

        Raises
        ------
        ConfigError
            The graph grows beyond bounds, or a number stands where a column is needed.
        """
        filled = arguments[:1] if operation == "fill" else () if operation == "apply" else arguments
        if any(self.number(argument) is not None for argument in filled):
            raise ConfigError("a number stands where a column of the events is needed")
        node = self._folded(Node(operation, arguments, detail))
        # Python takes 1, 1.0 and True for equal, which they are not to numpy.
        key = (node, type(node.detail))
        if key not in self._numbers:
            copies = [self._copies[argument] for argument in arguments]
            self._copies.append(sum(copies) if operation == "join" else max(copies, default=1))
            if self._copies[-1] > MAX_COPIES or len(self.nodes) >= MAX_NODES:
                raise ConfigError(
                    "the expressions are too large",
                    expected=f"at most {MAX_COPIES} collections concatenated, {MAX_NODES} operations in all",
                )
            self._numbers[key] = len(self.nodes)
            self.nodes.append(node)
        return self._numbers[key]

    def number(self, node: int) -> Any:
        """Return the value of a node that is a number, else None."""
        return self.nodes[node].detail if self.nodes[node].operation == "number" else None

    def needed(self, ends: Iterable[int], choices: dict[str, int] | None = None) -> list[int]:
        """Return, in order, the nodes that `ends` depend on; through all options of what `choices` leaves open."""
        found: set[int] = set()
        waiting = list(ends)
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting += self._followed(current, choices)
        return sorted(found)

    def choose(self, ends: Iterable[int], has: Callable[[Any, Any], bool]) -> dict[str, int]:
        """Return, for each choice between branches, the first option all of whose fields are there.

        A choice without such an option is left out.
        """
        groups: dict[str, list[Node]] = {}
        for number in self.needed(ends):
            node = self.nodes[number]
            if node.operation == "choose":
                groups.setdefault(node.detail, []).append(node)
        chosen: dict[str, int] = {}
        # Choices inside an option come first: its nodes are before it.
        for name, nodes in groups.items():
            for option in range(len(nodes[0].arguments)):
                inside = [
                    self.nodes[n] for n in self.needed([node.arguments[option] for node in nodes], chosen)
                ]
                reads = [node for node in inside if node.operation == "read"]
                open_choices = any(n.operation == "choose" and n.detail not in chosen for n in inside)
                if not open_choices and all(has(*node.detail) for node in reads):
                    chosen[name] = option
                    break
        return chosen

    def run(self, end: int, source: Source, choices: dict[str, int], results: dict[int, Any]) -> Column:
        """Compute a node that is not a number; `results` keeps what was computed before.

        Raises
        ------
        InputError
            A field is missing or unusable, or no option of a choice is there.
        ValueError, TypeError
            numpy cannot combine the operands.
        """
        needed = self.needed([end], choices)
        for node in (self.nodes[number] for number in needed):
            if node.operation == "choose" and node.detail not in choices:
                raise InputError(
                    "the events have none of the alternatives",
                    where=node.detail,
                    expected=f"one of {self._lacks(node, source)}",
                )
        for number in needed:
            if number not in results:
                results[number] = self._result(self.nodes[number], source, choices, results)
        return results[end]  # type: ignore[no-any-return]

    def _result(self, node: Node, source: Source, choices: dict[str, int], results: dict[int, Any]) -> Value:
        arguments: list[Any] = [results.get(argument) for argument in node.arguments]
        match node.operation:
            case "read":
                return source.read(*node.detail)
            case "number":
                return node.detail  # type: ignore[no-any-return]
            case "apply":
                return columns.apply(_FUNCTIONS[node.detail], arguments)
            case "choose":
                return arguments[choices[node.detail]]  # type: ignore[no-any-return]
            case "take":
                return columns.take(arguments[0], node.detail)
            case "cut":
                return columns.cut(arguments[0], *node.detail)
            case "reduce":
                return columns.reduce(node.detail, arguments[0])
            case "join":
                return columns.join(arguments)
        return _PLAIN[node.operation](*arguments)

    def _followed(self, number: int, choices: dict[str, int] | None) -> Sequence[int]:
        node = self.nodes[number]
        if node.operation != "choose" or choices is None or node.detail not in choices:
            return node.arguments
        return (node.arguments[choices[node.detail]],)

    def _folded(self, node: Node) -> Node:
        """Compute what depends on numbers alone."""
        values = [self.number(argument) for argument in node.arguments]
        if node.operation != "apply" or None in values:
            return node
        # Whole numbers of Python do not wrap around.
        function = _EXACT.get(node.detail) or _FUNCTIONS[node.detail]
        try:
            with np.errstate(all="ignore"):
                value = np.asarray(function(*values)).item()
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(f"cannot compute a constant: {str(error).splitlines()[0]}") from error
        if not abs(value) < 2.0**63:
            raise ConfigError(
                f"a constant in an expression is {value}", expected="a finite number below 2**63"
            )
        return Node("number", (), value)

    def _lacks(self, node: Node, source: Source) -> str:
        reads = [
            self.nodes[n].detail for n in self.needed(node.arguments) if self.nodes[n].operation == "read"
        ]
        return ", ".join(".".join(filter(None, d)) for d in reads if not source.has(*d))


_PLAIN: dict[str, Callable[..., Value]] = {
    "select": columns.select,
    "order": columns.order,
    "arrange": columns.arrange,
    "fill": columns.fill,
}
