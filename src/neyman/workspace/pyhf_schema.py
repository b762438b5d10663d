"""pyhf's JSON schema, checked without pyhf's own validator, which warns of a deprecated resolver."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pyhf

from neyman.errors import WorkspaceError, nearest

MODIFIERS = ("histosys", "lumi", "normfactor", "normsys", "shapefactor", "shapesys", "staterror")


@cache
def _validator(kind: str) -> Any:
    definitions = pyhf.schema.load_schema(f"{pyhf.schema.version}/defs.json")["definitions"]
    # As pyhf does, accept arrays where JSON has lists.
    types = jsonschema.Draft6Validator.TYPE_CHECKER.redefine_many(
        {
            "array": lambda _, value: isinstance(value, list | tuple | np.ndarray),
            "number": lambda _, value: isinstance(value, numbers.Real) and not isinstance(value, bool),
        }
    )
    schema = {"definitions": definitions, "allOf": [{"$ref": f"#/definitions/{kind}"}]}
    return jsonschema.validators.extend(jsonschema.Draft6Validator, type_checker=types)(schema)


def check_schema(document: Mapping[str, Any], kind: str) -> None:
    """Raise :class:`WorkspaceError` where a document does not fit pyhf's schema.

    Parameters
    ----------
    document
        JSON object; arrays may stand for lists.
    kind
        ``workspace`` or ``model``.
    """
    error = next(_validator(kind).iter_errors(document), None)
    if error is None:
        return
    if error.validator == "anyOf":
        # The only choice in the schema is between the types of a modifier.
        modifier = error.instance.get("type") if isinstance(error.instance, Mapping) else None
        if modifier not in MODIFIERS:
            raise WorkspaceError(
                f"unknown modifier type {modifier!r}",
                where=_place(error),
                expected=", ".join(MODIFIERS),
                fix=f"nearest: {nearest(str(modifier), MODIFIERS)}",
            )
        branch = MODIFIERS.index(modifier)
        error = next(part for part in error.context if part.schema_path[0] == branch)
    message = error.message if len(error.message) < 160 else f"{error.message[:60]} ... {error.message[-90:]}"
    raise WorkspaceError(f"the {kind} fails pyhf's schema: {message}", where=_place(error))


def _place(error: Any) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
    return "".join(steps).lstrip(".") or "the top level"
