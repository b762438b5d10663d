"""How branches become ``events.Jet.pt``: coffea's NanoAOD schema, for TTrees and RNTuples alike.

Imports coffea; import it inside functions only.
"""

from __future__ import annotations

from typing import Any

from coffea.nanoevents.schemas import BaseSchema, NanoAODSchema, PHYSLITESchema
from coffea.nanoevents.util import concat

from neyman.errors import ConfigError, nearest

Form = dict[str, Any]


class NanoSchema(NanoAODSchema):  # type: ignore[misc]
    """NanoAOD collections from three layouts of a collection ``Jet``.

    1. ``nJet`` and ``Jet_pt``, as in TTrees;
    2. ``Jet_pt`` alone, each a vector;
    3. ``Jet`` as a vector of records with a field ``pt``, the natural layout of an RNTuple.

    Skimmed files without cross-references or event numbers are accepted, and without a warning.
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


SCHEMAS: dict[str, type] = {"nanoaod": NanoSchema, "physlite": PHYSLITESchema, "base": BaseSchema}


def schema_class(schema: str | type) -> type:
    """Return the schema class of a name, or the class given (a subclass of coffea's BaseSchema)."""
    if isinstance(schema, str):
        if schema not in SCHEMAS:
            raise ConfigError(f"unknown schema {schema!r}", expected=nearest(schema, SCHEMAS))
        return SCHEMAS[schema]
    if not issubclass(schema, BaseSchema):
        raise ConfigError(f"{schema.__name__} is not a coffea schema", expected="a subclass of BaseSchema")
    return schema
