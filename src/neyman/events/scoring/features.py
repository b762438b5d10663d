"""How a scorer gets features from events: a specification of its own, the one in the model file, or names."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from neyman.errors import ConfigError, InputError, WorkspaceError
from neyman.events.scoring.reference import Reference, once
from neyman.events.scoring.signature import Signature
from neyman.files import digest


class Features(Protocol):
    """What a scorer needs of a :class:`neyman.events.features.FeatureSpec`."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names, in order."""

    @property
    def digest(self) -> str:
        """Digest of the specification."""

    def branches(self, available: Any = None) -> tuple[str, ...]:
        """Names of the branches."""

    def __call__(self, events: Any) -> Any:
        """Compute the features, float32 ``(n_events,)`` each, by name."""


@dataclass(frozen=True)
class Names:
    """Fields of the events, by name."""

    features: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Digest of the names."""
        return digest(*self.features)

    def branches(self, available: Any = None) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(n for n in self.features if available is None or n in available)

    def __call__(self, events: Any) -> Any:
        """Return the events as they are."""
        return events


def resolve(features: Any) -> Features:
    """Return the specification of features that is given as an object, a document, a file, or names.

    Raises
    ------
    ConfigError
        When it is something else.
    """
    if isinstance(features, Mapping):
        return _specification().from_dict(features)  # type: ignore[no-any-return]
    if isinstance(features, str | os.PathLike):
        return _specification().load(Path(features))  # type: ignore[no-any-return]
    if isinstance(features, Sequence) and features and all(isinstance(name, str) for name in features):
        return Names(tuple(features))
    if callable(features) and hasattr(features, "branches"):
        return features  # type: ignore[no-any-return]
    raise ConfigError(
        f"features are a {type(features).__name__}",
        expected="a FeatureSpec, its document or file, or names of fields",
    )


def embedded(signature: Signature, reference: Reference) -> Features | None:
    """Return the specification in a model file, None where there is none.

    Raises
    ------
    WorkspaceError
        When it is broken.
    """
    if signature.inputs is None:
        return None
    document = signature.inputs

    def make() -> Any:
        return _specification().from_dict(document)

    try:
        return once("description", ("features", *reference.identity), make)  # type: ignore[no-any-return]
    except (ConfigError, InputError) as error:
        raise WorkspaceError(
            f"the features in the file of model {reference.name!r} are broken: {error.what}",
            where=reference.location,
        ) from error


def _specification() -> Any:
    return importlib.import_module("neyman.events.features").FeatureSpec
