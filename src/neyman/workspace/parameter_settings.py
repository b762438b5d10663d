"""The parameters of a pyhf measurement with explicit starts and bounds, so that every tool fits the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neyman.errors import WorkspaceError, nearest

POI_BOUNDS = (-10.0, 10.0)  # an observed strength may be negative
FACTOR_BOUNDS = (0.0, 10.0)
_LUMI_REACH = 5.0  # uncertainties
_KINDS = {"normsys": "systematic", "histosys": "systematic", "normfactor": "free factor"}


def parameter_settings(
    channels: Sequence[Mapping[str, Any]],
    poi: str,
    parameters: Sequence[Mapping[str, Any]],
    bounds: Mapping[str, tuple[float, float]],
    lumi: float | None,
) -> list[dict[str, Any]]:
    """Return pyhf's settings of the free factors and the luminosity of some channels, and the given ones.

    Parameters
    ----------
    channels
        Of a pyhf workspace.
    poi
        Parameter of interest.
    parameters
        Given settings; those of parameters that the channels do not have are left out.
    bounds
        Of free factors.
    lumi
        Relative uncertainty of the luminosity.

    Raises
    ------
    WorkspaceError
        When bounds are not in order or of an unknown factor, a start is outside them, one name is that of parameters of
        two kinds, or the luminosity has no uncertainty.
    """
    modifiers = [m for c in channels for s in c["samples"] for m in s["modifiers"]]
    names = {m["name"] for m in modifiers}
    _check_kinds(channels)
    factors = list(dict.fromkeys(m["name"] for m in modifiers if m["type"] == "normfactor"))
    for name, pair in bounds.items():
        if name not in factors:
            raise WorkspaceError(
                f"bounds are given for {name!r}, which is no free factor",
                fix=f"nearest: {nearest(name, factors)}",
            )
        if not (np.isfinite(pair).all() and pair[0] < pair[1]):
            raise WorkspaceError(f"the bounds of {name!r} are {pair}", expected="a lower and an upper number")
    settings = {p["name"]: dict(p) for p in parameters if p["name"] in names}
    for name in factors:
        given = settings.setdefault(name, {"name": name, "inits": [1.0]})
        start = float(given.get("inits", [1.0])[0])  # pyhf's own, where only bounds are given
        low, high = bounds.get(name) or default_bounds(start, poi=name == poi)
        given.setdefault("bounds", [[float(low), float(high)]])
        low, high = given["bounds"][0]
        if not low <= start <= high:
            raise WorkspaceError(
                f"{name!r} starts at {start:g}, outside its bounds {low:g} to {high:g}",
                fix=f"other bounds, or parameters=[{{'name': {name!r}, 'inits': [START]}}]",
            )
    if any(m["type"] == "lumi" for m in modifiers):
        settings["lumi"] = {**_luminosity(lumi, settings.get("lumi", {})), **settings.get("lumi", {})}
    return list(settings.values())


def default_bounds(start: float, *, poi: bool) -> tuple[float, float]:
    """Return the bounds of a free factor without given ones; below 0 too for the POI and where it starts there."""
    low, high = POI_BOUNDS if poi or start < 0.0 else FACTOR_BOUNDS
    return low * max(1.0, abs(start)), high * max(1.0, abs(start))


def _check_kinds(channels: Sequence[Mapping[str, Any]]) -> None:
    """Refuse one name for parameters of two kinds, which pyhf cannot build."""
    seen: dict[str, str] = {}
    for channel in channels:
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                kind = _KINDS.get(modifier["type"], modifier["type"])
                if seen.setdefault(modifier["name"], kind) != kind:
                    raise WorkspaceError(
                        f"{modifier['name']!r} is a {seen[modifier['name']]} elsewhere and a {kind} here",
                        where=f"channel {channel['name']}, sample {sample['name']}",
                        fix="give the two different names",
                    )


def _luminosity(lumi: float | None, given: Mapping[str, Any]) -> dict[str, Any]:
    uncertainty = given.get("sigmas", [lumi])[0]
    if uncertainty is None:
        raise WorkspaceError(
            "samples carry the luminosity, whose uncertainty is not given",
            fix="lumi=0.02, or parameters=[{'name': 'lumi', 'auxdata': [1.0], 'sigmas': [0.02], ...}]",
        )
    if not 0.0 < uncertainty < 1.0:
        raise WorkspaceError(
            f"the relative uncertainty of the luminosity is {uncertainty}", expected="between 0 and 1"
        )
    reach = _LUMI_REACH * uncertainty
    return {
        "name": "lumi",
        "auxdata": [1.0],
        "sigmas": [uncertainty],
        "inits": [1.0],
        "bounds": [[max(1.0 - reach, 0.0), 1.0 + reach]],
    }
