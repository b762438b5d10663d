"""What a feature specification says, as a checked document: the TOML file, the JSON in a model file, the digest.

Reading one runs no code, and its size is bounded, so that a model file from a stranger is safe to load.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from neyman.errors import ConfigError, nearest
from neyman.events.expression import MAX_LENGTH

MAX_FEATURES = 1000
MAX_COLUMNS = 10_000
MAX_BYTES = 2_000_000

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
Text = Annotated[str, Field(max_length=MAX_LENGTH)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Section(BaseModel):
    """Base: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Padded(Section):
    """``[padded.NAME]``: the same number of objects in every event, as columns ``NAME0_pt``, ...

    Attributes
    ----------
    collection
        Objects, in the order in which they are to be kept; those beyond `length` are left out.
    fields
        Names of fields, or expressions by name, each with a number for each object of the collection.
    length
        Number of objects kept.
    fill
        Value where an event has fewer; :class:`neyman.networks.PET` knows missing objects by 0.
    """

    collection: Text
    fields: (
        Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
        | Annotated[dict[Name, Text], Field(min_length=1, max_length=100)]
    )
    length: Annotated[int, Field(ge=1, le=512)]
    fill: Finite = 0.0

    @field_validator("fields")
    @classmethod
    def _different(cls, fields: Any) -> Any:
        if len(set(fields)) != len(fields):
            raise ValueError("a field is named twice")
        return fields


class Document(Section):
    """A feature specification.

    Attributes
    ----------
    version
        Of the form of the document.
    definitions
        Objects or numbers that several expressions use, by name.
    features
        Expressions with one number per event, by the name of the column.
    fill
        Values of features where they are missing.
    padded
        Blocks of columns for sets of objects.
    """

    version: Literal[1] = 1
    definitions: Annotated[dict[Name, Text], Field(max_length=MAX_FEATURES)] = {}
    features: Annotated[dict[Name, Text], Field(max_length=MAX_FEATURES)] = {}
    fill: dict[Name, Finite] = {}
    padded: Annotated[dict[Name, Padded], Field(max_length=100)] = {}

    @field_validator("definitions", "features")
    @classmethod
    def _one_line(cls, texts: dict[str, str]) -> dict[str, str]:
        # The language has neither text in quotes nor comments, so all blanks are equal.
        return {name: re.sub(r"[ \t\r\n]+", " ", text).strip(" ") for name, text in texts.items()}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, features first."""
        return (*self.features, *(name for block in self.padded for name in self.block(block)))

    def block(self, name: str) -> tuple[str, ...]:
        """Names of the columns of a padded block, object by object."""
        block = self.padded[name]
        return tuple(f"{name}{i}_{field}" for i in range(block.length) for field in block.fields)


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        It is missing, too large, not TOML, or not a feature specification.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file.name} is too large for a feature specification", where=str(file))
        return check(tomllib.loads(file.read_text(encoding="utf-8")), where=str(file))
    except FileNotFoundError as error:
        raise ConfigError(f"{file.name} does not exist", where=str(file)) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file.name} is not readable TOML: {error}", where=str(file)) from error


def check(document: Mapping[str, Any], *, where: str = "the feature specification") -> Document:
    """Return a document; the first thing that is wrong is a :class:`ConfigError`.

    Raises
    ------
    ConfigError
        Naming the key and what was expected, and for an unknown key the nearest valid one.
    """
    try:
        checked = Document.model_validate(document)
    except (ValidationError, RecursionError) as error:
        raise _explain(error, where) from error
    if not checked.columns:
        raise ConfigError("a feature specification has no features", where=where, expected="[features]")
    if len(checked.columns) > MAX_COLUMNS:
        raise ConfigError(f"{len(checked.columns)} columns", where=where, expected=f"at most {MAX_COLUMNS}")
    twice = {name for name in checked.columns if checked.columns.count(name) > 1} if checked.padded else set()
    if twice:
        raise ConfigError(f"two columns are named {min(twice)!r}", where=where)
    for name in checked.fill:
        if name not in checked.features:
            raise ConfigError(
                f"a fill value for {name!r}, which is not a feature",
                where=where,
                expected=nearest(name, checked.features),
            )
    # In one order, so that equal specifications have equal digests.
    return checked.model_copy(
        update={
            "definitions": dict(sorted(checked.definitions.items())),
            "fill": {name: checked.fill[name] for name in checked.features if name in checked.fill},
        }
    )


def _explain(error: ValidationError | RecursionError, where: str) -> ConfigError:
    if isinstance(error, RecursionError):
        return ConfigError("nested too deeply for a feature specification", where=where)
    first = error.errors()[0]
    *parents, key = first["loc"] or ("top level",)
    if first["type"] == "extra_forbidden":
        section = Padded if parents else Document
        return ConfigError(
            f"unknown key {str(key)[:60]!r}",
            where=f"{where}: [{'.'.join(map(str, parents)) or 'top level'}]",
            fix=f"nearest valid keys: {nearest(str(key)[:60], section.model_fields)}",
        )
    place = ".".join(str(part)[:60] for part in first["loc"])
    return ConfigError(first["msg"].removeprefix("Value error, "), where=f"{where}: {place or 'top level'}")
