"""Declared features of events: :class:`FeatureSpec`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np

from neyman.events.features.compiler import naming
from neyman.events.features.document import Document, check, read_document
from neyman.events.features.program import Array, Program


class FeatureSpec:
    """Features of events, each an expression over their collections, evaluated wherever there are events.

    The same specification gives the same numbers, bit by bit, from NanoEvents (eager or virtual), from records of
    awkward and from flat ntuples, in a training script and in a processor. It pickles as its text.

    Parameters
    ----------
    features
        Expression by name of the feature; see Notes.
    fill
        Values of features where they are missing, such as the momentum of a jet in an event that has none.
    definitions
        Expressions that others use by name: objects such as ``good_jets = "Jet[Jet.pt > 30]"``, or numbers. Their
        order does not matter.
    padded
        Blocks of columns ``jet0_pt``, ``jet0_eta``, ..., ``jet1_pt``, ... for :class:`neyman.networks.PET`, by the
        beginning of their names: ``{"collection": objects, "fields": [names] or {name: expression}, "length": n,
        "fill": 0.0}``. Objects beyond `length` are left out: sort them first.

    Raises
    ------
    ConfigError
        An expression is not of the language below, or a name is used twice.

    Notes
    -----
    ======================================================  =====================================================
    ``MET.pt``, ``PV.npvs``, ``m_vis``                      a field of the event, a column
    ``Tau.pt[0]``, ``Tau[0].pt``, ``Jet[-1]``               the first, the last; missing where there is none
    ``Jet[Jet.pt > 30 and abs(Jet.eta) < 2.4]``             objects that pass, ``Jet[:4]`` the first four
    ``sort(Jet, Jet.btag)``                                 in decreasing order; ``-Jet.btag`` for increasing
    ``concatenate(Electron, Muon)``                         both, electrons first
    ``first_of(MET, PuppiMET)``                             the first whose fields are in the file
    ``count(Jet)``, ``sum max min any all``                 one number for each list
    ``mass(a, b, ...)``, ``pt(a, b, ...)``                  of the sum of objects
    ``combine(a, b).eta``                                   the sum as an object: pt, eta, phi, mass
    ``delta_r(a, b)``, ``delta_phi``, ``delta_eta``         between objects, signed; lists go with lists or with one
    ``mt(lepton, met)``                                     transverse mass
    ``particle(pt_1, eta_1, phi_1, m_1 / 1000)``            an object from numbers
    ``fill(Tau.pt[0], 0)``                                  another value where it is missing
    ``abs sqrt exp log log10 sin cos tan arctan2 hypot``    functions of numbers, ``minimum(a, b)``, ``maximum(a, b)``,
                                                            ``where(condition, a, b)``
    ======================================================  =====================================================

    with ``+ - * / ** %``, comparisons and ``and or not``. ``Tau.pt`` is the field ``pt`` of ``Tau``, or the branch
    ``Tau_pt`` of a flat ntuple, be it a list or a number (which stands for a list of one).

    Comparisons and arithmetic follow numpy, in the precision of the branch, with whole numbers in 64 bits; sums and
    kinematics are computed in float64; features are float32. What is missing stays missing in arithmetic; ``sum``,
    ``count`` and conditions pass over it.

    Units are those of the file: PHYSLITE is in MeV, write ``Jets.pt / 1000``. There is no scaling here either: a
    network of neyman standardises its inputs itself, inside the model file.

    Examples
    --------
    >>> spec = FeatureSpec({"n": "count(Jet)", "pt": "Jet.pt[0]"}, fill={"pt": 0.0})
    >>> spec({"nJet": np.array([1, 0]), "Jet_pt": [[30.5], []]})["pt"].tolist()
    [30.5, 0.0]
    """

    __slots__ = ("_text",)

    _text: str

    def __init__(
        self,
        features: Mapping[str, str],
        fill: Mapping[str, float] | None = None,
        definitions: Mapping[str, str] | None = None,
        padded: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        parts = {"features": features, "fill": fill, "definitions": definitions, "padded": padded}
        self._set(check({name: part for name, part in parts.items() if part is not None}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureSpec:
        """Read a TOML file with tables ``[definitions]``, ``[features]``, ``[fill]`` and ``[padded.NAME]``.

        Raises
        ------
        ConfigError
            The file is missing or broken, a key is unknown (names the nearest), or an expression is not legal.
        """
        document = read_document(path)
        with naming(str(path)):
            return cls._of(document)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> FeatureSpec:
        """Read what :meth:`to_dict` gives, or the content of a TOML file. Safe on documents from anywhere.

        Raises
        ------
        ConfigError
            See :meth:`load`.
        """
        return cls._of(check(document))

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as plain data for JSON; the order of ``features`` is that of the columns."""
        return json.loads(self._text)  # type: ignore[no-any-return]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns: the features, then the padded blocks."""
        return _program(self._text).document.columns

    @property
    def digest(self) -> str:
        """SHA-256 of the specification; spaces in expressions do not matter."""
        return sha256(self._text.encode()).hexdigest()

    def __call__(self, events: Any) -> dict[str, Array]:
        """Compute the features.

        Parameters
        ----------
        events
            NanoEvents, records of awkward, or a mapping from branches to arrays. An object systematic is a changed
            collection in them. A list that is missing is an empty list.

        Returns
        -------
        Columns by name, float32 ``(n_events,)``, finite.

        Raises
        ------
        InputError
            A field is not there; a feature without a fill value is missing, or one is not finite: names the feature,
            the number of events and the first.
        ConfigError
            A feature is a list, not one number per event, or its operands do not fit.
        """
        return _program(self._text).run(events)

    def matrix(self, events: Any) -> Array:
        """Return the features as float32 ``(n_events, n_features)``."""
        return np.stack(list(self(events).values()), axis=1)

    def branches(self, available: Iterable[str] | None = None) -> tuple[str, ...]:
        """Return the branches that the expressions read, sorted.

        Parameters
        ----------
        available
            Branches of a file, to keep those that are there and to decide between alternatives. Without it, the
            names that NanoAOD would have, of all alternatives.

        Returns
        -------
        Names for ``preload`` in a fileset of coffea, which reads them in one go and leaves all else to be read on
        demand, or for the reading of a flat ntuple.
        """
        return _program(self._text).branches(None if available is None else set(available))

    @classmethod
    def _of(cls, document: Document) -> FeatureSpec:
        spec = cls.__new__(cls)
        spec._set(document)
        return spec

    def _set(self, document: Document) -> None:
        text = json.dumps(document.model_dump(mode="json"))
        _program(text)
        object.__setattr__(self, "_text", text)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a FeatureSpec does not change: cannot set {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureSpec.from_dict, (self.to_dict(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeatureSpec) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        names = self.features
        return f"FeatureSpec({len(names)} columns: {', '.join(names[:8])}{', ...' * (len(names) > 8)})"


@lru_cache(maxsize=64)
def _program(text: str) -> Program:
    """Compile once per process: coffea unpickles its processor for every chunk."""
    return Program.compile(Document.model_validate_json(text))
