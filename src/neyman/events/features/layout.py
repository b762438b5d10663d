"""How files name what an expression calls ``Jet.pt``.

========= ======================== ================ ====================================
layout    field of a collection    length           other names of the momentum's fields
========= ======================== ================ ====================================
NanoAOD   ``Jet_pt``               ``nJet``
Delphes   ``Jet.PT``               ``Jet_size``     ``PT`` or ``MET``, ``Eta``, ``Phi``, ``Mass``
PHYSLITE  ``AnalysisJetsAuxDyn.pt`` (``Jets.pt``)   ``m``
========= ======================== ================ ====================================

The other names are tried after ``pt``, ``eta``, ``phi`` and ``mass`` themselves, in files and in records alike.
"""

from __future__ import annotations

from collections.abc import Collection

_ALIASES = {"pt": ("PT", "MET"), "eta": ("Eta",), "phi": ("Phi",), "mass": ("m", "Mass")}


def spellings(field: str) -> tuple[str, ...]:
    """Names that a field may have, the likeliest first."""
    return (field, *_ALIASES.get(field, ()))


def branch(collection: str | None, field: str, available: Collection[str]) -> str | None:
    """Return the branch of a field, or of a plain column when `collection` is None."""
    if collection is None:
        return field if field in available else None
    for name in spellings(field):
        for option in (f"{collection}_{name}", f"{collection}.{name}", f"Analysis{collection}AuxDyn.{name}"):
            if option in available:
                return option
    return None


def counter(collection: str, available: Collection[str]) -> str | None:
    """Return the branch with the number of objects of a collection."""
    return next((name for name in (f"n{collection}", f"{collection}_size") if name in available), None)


def members(collection: str, available: Collection[str]) -> list[str]:
    """Return the branches that look like fields of a collection: the transverse momentum first, then sorted."""
    beginnings = (f"{collection}_", f"{collection}.", f"Analysis{collection}AuxDyn.")
    momentum = branch(collection, "pt", available)
    return sorted(
        (name for name in available if name.startswith(beginnings)), key=lambda name: (name != momentum, name)
    )
