"""Compiling a pyhf model: its specification and configuration to channels and parameters.

Semantics of the modifiers as in pyhf 0.7: a staterror or shapesys has one component for each bin of the channels
it covers, a shapefactor one for each bin of a channel, shared by bins of the same number in other channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import WorkspaceError
from neyman.likelihood.parameters import Constraint, Parameter
from neyman.likelihood.pyhf_document import component_names
from neyman.likelihood.rates import Channel, Variation

Array = NDArray[np.float64]


def compile_model(model: Any) -> tuple[tuple[Channel, ...], tuple[Parameter, ...]]:
    """Return the channels and the parameters of a ``pyhf.Model``, in its order.

    Raises
    ------
    WorkspaceError
        When a number is not finite, a normsys factor is not positive, a parameter has no pair of bounds, or a
        shapefactor has too few components.
    """
    config = model.config
    documents = {channel["name"]: channel for channel in model.spec["channels"]}
    offsets = _offsets(config, documents)
    channels = tuple(_Compiler(config, offsets, documents[name]).channel() for name in config.channels)
    return channels, _parameters(config)


def _parameters(config: Any) -> tuple[Parameter, ...]:
    parameters: list[Parameter] = []
    auxiliary = iter(config.auxdata)
    for name in config.par_order:
        parameter = config.param_set(name)
        for i, component in enumerate(component_names(config, name)):
            constraint = None
            if parameter.constrained:
                normal = parameter.pdf_type == "normal"
                scale = parameter.width()[i] if normal else parameter.factors[i]
                constraint = Constraint(
                    "normal" if normal else "poisson", float(next(auxiliary)), float(scale)
                )
            bounds = tuple(float(bound) for bound in parameter.suggested_bounds[i])
            if len(bounds) != 2:
                raise WorkspaceError(f"parameter {component!r} has {len(bounds)} bounds", expected="two")
            init, fixed = float(parameter.suggested_init[i]), bool(parameter.suggested_fixed[i])
            parameters.append(Parameter(component, init, *bounds, fixed, constraint))
    return tuple(parameters)


def _offsets(config: Any, documents: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Return the first component of each staterror and shapesys in each channel that it covers."""
    offsets: dict[tuple[str, str], int] = {}
    covered: dict[str, int] = {}
    for channel in config.channels:
        names = {
            modifier["name"]
            for sample in documents[channel]["samples"]
            for modifier in sample["modifiers"]
            if modifier["type"] in ("staterror", "shapesys")
        }
        for name in names:
            offsets[name, channel] = covered.get(name, 0)
            covered[name] = offsets[name, channel] + config.channel_nbins[channel]
    return offsets


class _Compiler:
    """Compiles one channel; every message names the channel, sample and modifier concerned."""

    def __init__(
        self, config: Any, offsets: Mapping[tuple[str, str], int], document: Mapping[str, Any]
    ) -> None:
        self._config, self._offsets, self._document = config, offsets, document
        self._name = document["name"]
        self._bins = np.arange(config.channel_nbins[self._name])
        self._shifts: list[Variation] = []
        self._scalings: list[Variation] = []

    def channel(self) -> Channel:
        samples = self._document["samples"]
        where = f"channel {self._name!r}, sample "
        nominal = [self._finite(s["data"], f"{where}{s['name']!r}") for s in samples]
        factors = [
            self._sample(i, sample, nominal[i], f"{where}{sample['name']!r}")
            for i, sample in enumerate(samples)
        ]
        slots = np.full((len(samples), len(self._bins), max(map(len, factors))), -1, dtype=np.int64)
        for i, columns in enumerate(factors):
            for j, column in enumerate(columns):
                slots[i, :, j] = column
        return Channel(
            self._name,
            tuple(sample["name"] for sample in samples),
            np.array(nominal),
            tuple(self._shifts),
            tuple(self._scalings),
            slots,
        )

    def _sample(
        self, index: int, sample: Mapping[str, Any], nominal: Array, where: str
    ) -> list[NDArray[np.int64]]:
        factors: list[NDArray[np.int64]] = []
        modifiers = {(m["type"], m["name"]): m for m in sample["modifiers"]}
        for (kind, name), modifier in modifiers.items():
            place = f"{where}, {kind} {name!r}"
            parameter, data = int(self._config.par_slice(name).start), modifier["data"]
            match kind:
                case "histosys":
                    up, down = (self._finite(data[key], place) - nominal for key in ("hi_data", "lo_data"))
                    self._shifts.append(Variation(parameter, index, up, down))
                case "normsys":
                    hi, lo = (self._positive(data[key], place) for key in ("hi", "lo"))
                    self._scalings.append(Variation(parameter, index, hi, lo))
                case "normfactor" | "lumi":
                    factors.append(np.full_like(self._bins, parameter))
                case "shapefactor":
                    factors.append(parameter + self._components(name, place))
                case "staterror" | "shapesys":
                    factors.append(parameter + self._offsets[name, self._name] + self._bins)
                case _:
                    raise WorkspaceError(f"modifier type {kind!r} is not part of HistFactory", where=where)
        return factors

    def _finite(self, values: Any, where: str) -> Array:
        array = np.asarray(values, dtype=np.float64)
        if not np.isfinite(array).all():
            raise WorkspaceError("a number is not finite", where=where)
        return array

    def _positive(self, value: float, where: str) -> float:
        if not 0.0 < value < np.inf:
            raise WorkspaceError(
                f"a normsys factor is {value}", where=where, expected="positive: it is raised to a power"
            )
        return float(value)

    def _components(self, name: str, where: str) -> NDArray[np.int64]:
        n_components = self._config.param_set(name).n_parameters
        if n_components < len(self._bins):
            raise WorkspaceError(
                f"the shapefactor has {n_components} components for {len(self._bins)} bins",
                where=where,
                expected="channels that share a shapefactor have no more bins than the first, by name",
            )
        return self._bins
