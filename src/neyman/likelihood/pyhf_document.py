"""Reading a pyhf document: JSON or objects to a model's configuration and the observed data.

pyhf's own ``Model`` is built once for its configuration (parameter names, order, starts, bounds, constraints),
which are plain lists; nothing is computed with pyhf's tensors and its backend is left alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyhf
from numpy.typing import ArrayLike, NDArray

from neyman.errors import InputError, LikelihoodError, WorkspaceError, nearest
from neyman.files import read_json
from neyman.likelihood.interpolation import ADDITIVE, MULTIPLICATIVE
from neyman.workspace.pyhf_schema import check_schema

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Document:
    """A pyhf document, opened.

    Parameters
    ----------
    model
        ``pyhf.Model`` of the chosen measurement.
    observations
        Observed counts by channel; None for a model, which has no data.
    poi
        Parameter of interest; None where the model does not have it, as in a background-only workspace.
    normsys, histosys
        Interpolation codes.
    """

    model: Any
    observations: Mapping[str, Any] | None
    poi: str | None
    normsys: str
    histosys: str


def read(
    spec: Any, measurement: str | None = None, *, normsys: str | None = None, histosys: str | None = None
) -> Document:
    """Open a pyhf document; arguments as for :func:`neyman.likelihood.histfactory.binned_term`."""
    settings: Mapping[str, Any] = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    observations = None
    if isinstance(spec, pyhf.Model):
        model, poi, settings = spec, spec.config.poi_name, spec.config.modifier_settings
        _refuse_clipping(spec)
    else:
        document = _load(spec) if isinstance(spec, str | os.PathLike) else spec
        if not isinstance(document, Mapping):
            raise WorkspaceError(
                f"a pyhf document is a JSON object, got {type(document).__name__}",
                where=str(spec) if isinstance(spec, str | os.PathLike) else None,
                fix="apply a JSON patch to its background-only workspace first",
            )
        workspace = bool({"measurements", "observations", "version"} & set(document))
        if not isinstance(spec, pyhf.Workspace):
            check_schema(document, "workspace" if workspace else "model")
        poi, parameters = "mu", document.get("parameters", [])
        if workspace:
            chosen = _measurement(document["measurements"], measurement)
            poi, parameters = chosen["config"]["poi"], chosen["config"]["parameters"]
            observations = {entry["name"]: entry["data"] for entry in document["observations"]}
        model = _build({"channels": document["channels"], "parameters": parameters})
    if measurement is not None and observations is None:
        raise WorkspaceError(
            f"measurement {measurement!r} was asked for, but the specification is a model and has no measurements",
            fix="pass the workspace, or leave out the measurement",
        )
    # pyhf's modifiers fall back to these codes where a model's settings do not name one.
    normsys = normsys or settings.get("normsys", {}).get("interpcode", "code1")
    histosys = histosys or settings.get("histosys", {}).get("interpcode", "code0")
    for kind, code, known in (("normsys", normsys, MULTIPLICATIVE), ("histosys", histosys, ADDITIVE)):
        if code not in known:
            raise LikelihoodError(f"unknown {kind} interpolation code {code!r}", expected=", ".join(known))
    return Document(model, observations, poi if poi in model.config.par_names else None, normsys, histosys)


def observed(document: Document, data: ArrayLike | None = None) -> tuple[Array, dict[str, float]]:
    """Return the main counts in the model's order and the global observables by parameter name."""
    config = document.model.config
    n_main, n_auxiliary = int(config.nmaindata), len(config.auxdata)
    if data is not None:
        values = np.asarray(data, dtype=np.float64)
        if values.shape != (n_main + n_auxiliary,):
            raise LikelihoodError(
                f"the data have shape {values.shape}",
                expected=f"({n_main + n_auxiliary},): {n_main} main counts in the order of the channels "
                f"{', '.join(config.channels)}, then {n_auxiliary} auxiliary data",
                fix="append model.config.auxdata to the main counts",
            )
        counts, auxiliary = values[:n_main], values[n_main:]
    else:
        if document.observations is None:
            raise LikelihoodError(
                "a model specification has no data",
                fix="pass data=(main counts followed by model.config.auxdata), or a workspace",
            )
        counts = np.concatenate([_counts(document, channel) for channel in config.channels])
        auxiliary = np.asarray(config.auxdata, dtype=np.float64)
    if not np.isfinite(auxiliary).all():
        raise LikelihoodError("the auxiliary data are not finite", expected=f"{n_auxiliary} finite numbers")
    return counts, dict(zip(_constrained(config), auxiliary.tolist(), strict=True))


def component_names(config: Any, name: str) -> list[str]:
    """Return the names of a parameter's components, bracketed as in ``config.par_names``."""
    parameter = config.param_set(name)
    return [name] if parameter.is_scalar else [f"{name}[{i}]" for i in range(parameter.n_parameters)]


def _constrained(config: Any) -> list[str]:
    return [component for name in config.auxdata_order for component in component_names(config, name)]


def _counts(document: Document, channel: str) -> Array:
    observations, n_bins = document.observations or {}, document.model.config.channel_nbins[channel]
    if channel not in observations:
        raise WorkspaceError(
            f"the workspace has no observation of channel {channel!r}",
            expected=f"observations of {', '.join(document.model.config.channels)}",
        )
    counts = np.asarray(observations[channel], dtype=np.float64)
    if counts.shape != (n_bins,):
        raise WorkspaceError(
            f"the observation of channel {channel!r} has {counts.size} bins",
            expected=f"{n_bins}, as its samples",
        )
    return counts


def _load(path: str | os.PathLike[str]) -> Any:
    try:
        return read_json(path)
    except InputError as error:
        raise WorkspaceError(error.what, where=error.where, expected="a pyhf workspace or model") from error


def _measurement(measurements: Sequence[Any], name: str | None) -> Any:
    names = [entry["name"] for entry in measurements]
    if name is None:
        return measurements[0]
    if name not in names:
        raise WorkspaceError(
            f"the workspace has no measurement {name!r}", fix=f"nearest names: {nearest(name, names)}"
        )
    return measurements[names.index(name)]


def _build(spec: dict[str, Any]) -> Any:
    _refuse_repeats(spec["channels"])
    _require_luminosity(spec)
    try:
        with np.errstate(all="ignore"):
            return pyhf.Model(spec, validate=False, poi_name=None)
    except AssertionError as error:
        raise WorkspaceError(
            "samples share a staterror but not in the same channels, so its bins are ambiguous",
            fix="give the staterror of each channel its own name",
        ) from error
    except Exception as error:  # pyhf's exceptions have no common base
        raise WorkspaceError(f"pyhf cannot build the model: {error}") from error


def _refuse_repeats(channels: Sequence[Any]) -> None:
    groups = [("channel", "the specification", channels)]
    groups += [("sample", f"channel {channel['name']!r}", channel["samples"]) for channel in channels]
    for kind, where, entries in groups:
        name, times = Counter(entry["name"] for entry in entries).most_common(1)[0]
        if times > 1:
            raise WorkspaceError(
                f"{kind} {name!r} appears {times} times", where=where, fix="rename them or add them up"
            )


def _require_luminosity(spec: Mapping[str, Any]) -> None:
    samples = (sample for channel in spec["channels"] for sample in channel["samples"])
    if not any(modifier["type"] == "lumi" for sample in samples for modifier in sample["modifiers"]):
        return
    given: Mapping[str, Any] = next((entry for entry in spec["parameters"] if entry["name"] == "lumi"), {})
    missing = [key for key in ("auxdata", "sigmas", "inits", "bounds") if key not in given]
    if missing:
        raise WorkspaceError(
            f"the luminosity parameter has no {', '.join(missing)}",
            where="the parameters of the measurement",
            expected='{"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.5, 1.5]]}',
        )


def _refuse_clipping(model: Any) -> None:
    if model.main_model.clip_sample_data is not None or model.main_model.clip_bin_data is not None:
        raise LikelihoodError(
            "the pyhf model clips its expectations, which breaks the derivatives",
            fix="build the model without clip_sample_data and clip_bin_data",
        )
