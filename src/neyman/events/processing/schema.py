"""How branches become ``events.Jet.pt``: coffea's schemas of NanoAOD, PHYSLITE, Delphes and flat trees.

Imports coffea; import it inside functions only.
"""

from __future__ import annotations

from typing import Any

from coffea.nanoevents.schemas import BaseSchema, DelphesSchema, NanoAODSchema, PHYSLITESchema
from coffea.nanoevents.util import concat

from neyman.errors import ConfigError, nearest

Form = dict[str, Any]


class NanoSchema(NanoAODSchema):  # type: ignore[misc]
    """NanoAOD collections from three layouts of a collection ``Jet``.

    1. ``nJet`` and ``Jet_pt``, as in TTrees;
    2. ``Jet_pt`` alone, each a vector;
    3. ``Jet`` as a vector of records with a field ``pt``, the natural layout of an RNTuple.

    Skimmed files without cross-references or event numbers are accepted, and without a warning. Photons have mass and
    charge 0, as in coffea, also where the file has a ``Photon_mass``: it holds rounding errors of 1e-6 GeV.
    """

    warn_missing_crossrefs = False
    event_ids: tuple[str, ...] = ()

    def _build_collections(self, names: list[str], contents: list[Form]) -> tuple[list[str], list[Form]]:
        branches: dict[str, Form] = {}
        for name, form in zip(names, contents, strict=True):
            if _is_list(form) and form["content"]["class"] == "RecordArray":
                members = zip(form["content"]["fields"], form["content"]["contents"], strict=True)
                branches |= {f"{name}_{member}": {**form, "content": content} for member, content in members}
            else:
                branches[name] = form
        offsets = _missing_offsets(branches)
        for name, (_, (source, _)) in self.full_like_items.items():
            if source in offsets or "n" + source[1:] in branches:
                branches.pop(name, None)  # coffea replaces it, with a warning
        fields, forms = super()._build_collections(
            [*branches, *offsets], [*branches.values(), *offsets.values()]
        )
        kept = [(field, form) for field, form in zip(fields, forms, strict=True) if field not in offsets]
        return [field for field, _ in kept], [form for _, form in kept]


def _missing_offsets(branches: dict[str, Form]) -> dict[str, Form]:
    """Offsets ``oJet`` of collections whose branches are all lists and that have no counter ``nJet``.

    The NanoAOD schema needs them under this name to complete a collection (``Jet_charge``) and to zip it.
    """
    found: dict[str, Form] = {}
    for name in sorted({branch.split("_")[0] for branch in branches if "_" in branch}):
        members = [form for branch, form in branches.items() if branch.startswith(name + "_")]
        if name not in branches and "n" + name not in branches and all(map(_is_list, members)):
            found["o" + name] = {
                "class": "NumpyArray",
                "itemsize": 8,
                "format": "i",
                "primitive": "int64",
                "parameters": {},
                "form_key": concat(members[0]["form_key"], "!offsets"),
            }
    return found


def _is_list(form: Form) -> bool:
    return bool(form["class"] == "ListOffsetArray")


class PhysliteSchema(PHYSLITESchema):  # type: ignore[misc]
    """PHYSLITE collections ``Electrons``, ``Muons``, ``Jets``, ... with pt, eta, phi and m, in MeV.

    Simulated particles keep their mass and lose their energy: coffea refuses a momentum that has both.
    """

    def _build_collections(self, branch_forms: dict[str, Form]) -> dict[str, Form]:
        collections: dict[str, Form] = super()._build_collections(branch_forms)
        for name in set(self.truth_collections) & collections.keys():
            record = collections[name].get("content", collections[name])
            if {"e", "m"} <= set(record["fields"]):
                index = record["fields"].index("e")
                del record["fields"][index], record["contents"][index]
        return collections


SCHEMAS: dict[str, type] = {
    "nanoaod": NanoSchema,
    "physlite": PhysliteSchema,
    "delphes": DelphesSchema,
    "flat": BaseSchema,
}


def schema_class(schema: str | type) -> type:
    """Return the schema class of a name, or the class given (a subclass of coffea's BaseSchema)."""
    if isinstance(schema, str):
        if schema not in SCHEMAS:
            raise ConfigError(f"unknown schema {schema!r}", expected=nearest(schema, SCHEMAS))
        return SCHEMAS[schema]
    if not issubclass(schema, BaseSchema):
        raise ConfigError(f"{schema.__name__} is not a coffea schema", expected="a subclass of BaseSchema")
    return schema
