"""What a processor returned, as JSON and back, exactly and without running any code.

Written are dictionaries, lists, tuples, sets (also coffea's accumulators of these kinds), text, bytes, numbers,
numpy arrays, ``hist.Hist``, :class:`~neyman.events.processing.exact.ExactSum` and the work items that coffea adds;
anything else is refused. Reading builds these types only. Histograms come back bit by bit, but for the variances of
Mean and WeightedMean storage, which are rounded.
"""

from __future__ import annotations

import base64
import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

import hist
import numpy as np
from boost_histogram import serialization

from neyman.errors import ConfigError
from neyman.events.processing.exact import ExactSum

_ARRAYS = "biufcSUMm"
_FACTORIES = {kind.__name__: kind for kind in (int, float, list, set, dict)}


def encode(value: Any, place: str = "output") -> Any:
    """Return `value` made of what JSON knows: lists stay, everything else becomes ``[kind, content]`` in a dictionary.

    Raises
    ------
    ConfigError
        Something in it cannot be written (names the place, such as ``output['cutflow']``).
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    kind = _kind(value)
    content: Any = None
    match value:
        case float() if kind == "float":
            return value if math.isfinite(value) else {"float": repr(value)}
        case bytes():
            content = base64.b64encode(value).decode()
        case np.ndarray() | np.generic() if value.dtype.kind in _ARRAYS:
            text = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
            content = [value.dtype.str, list(value.shape), text]
        case hist.Hist():
            content = encode(value._to_uhi_(), place)
        case ExactSum():
            content = encode(value.__getstate__(), place)
        case list() | tuple():
            content = [encode(item, f"{place}[{i}]") for i, item in enumerate(value)]
            if kind == "list":
                return content
        case set() | frozenset():
            content = sorted((encode(item, place) for item in value), key=json.dumps)
        case dict():
            content = [[encode(k, place), encode(v, f"{place}[{k!r}]")] for k, v in value.items()]
            if isinstance(value, defaultdict):
                factory = getattr(value.default_factory, "__name__", "")
                if _FACTORIES.get(factory) is not value.default_factory:
                    raise _refused(f"{place}, a {kind} of {value.default_factory!r},")
                content = [factory, content]
        case _ if kind == "column_accumulator":
            content = encode(value.value, place)
        case _ if kind == "WorkItem":
            content = encode({field.name: getattr(value, field.name) for field in fields(value)}, place)
        case _:
            raise _refused(f"{place}, a {type(value).__module__}.{type(value).__qualname__},")
    return {kind: content}


def decode(document: Any) -> Any:
    """Return what was encoded; a broken document raises ``ValueError``, ``TypeError`` or ``KeyError``."""
    if isinstance(document, list):
        return [decode(item) for item in document]
    if not isinstance(document, dict):
        return document
    ((kind, content),) = document.items()
    match kind:
        case "float":
            return float(content)
        case "bytes":
            return base64.b64decode(content)
        case "ndarray" | "generic":
            dtype, shape, text = content
            array = np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape).copy()
            return array if kind == "ndarray" else array[()]
        case "Hist":
            return hist.Hist(serialization.from_uhi(decode(content)))
        case "ExactSum":
            made = ExactSum.__new__(ExactSum)
            made.__dict__ |= decode(content)
            return made
        case "defaultdict" | "defaultdict_accumulator":
            factory, items = content
            return _types()[kind](_FACTORIES[factory], _pairs(items))
        case "dict" | "dict_accumulator":
            return _types()[kind](_pairs(content))
        case "WorkItem":
            return _types()[kind](**decode(content))
        case "column_accumulator":
            return _types()[kind](decode(content))
        case _:
            return _types()[kind](map(decode, content))


def _pairs(items: Any) -> dict[Any, Any]:
    return {decode(key): decode(value) for key, value in items}


@cache
def _types() -> dict[str, Callable[..., Any]]:
    from coffea.processor import accumulator
    from coffea.processor.executor import WorkItem

    ours = (dict, defaultdict, list, tuple, set, frozenset, WorkItem)
    theirs = ("dict", "defaultdict", "list", "set", "column")
    found = [getattr(accumulator, f"{name}_accumulator") for name in theirs]
    return {kind.__name__: kind for kind in (*ours, *found)}


def _kind(value: Any) -> str:
    """Name of the type, if it is one that is written; subclasses that are not known are not."""
    for kind in (bytes, float, np.ndarray, hist.Hist, ExactSum, *_types().values()):
        if type(value) is kind:
            return kind.__name__
    return "generic" if isinstance(value, np.generic) else ""


def _refused(what: str) -> ConfigError:
    return ConfigError(
        f"{what} is not kept by a checkpoint",
        expected="dictionaries, lists, sets, numbers, text, numpy arrays, hist.Hist or ExactSum",
        fix="return such values from the processor; write arrays of events with a ParquetSink",
    )
