"""Unfolded spectra as a HEPData submission: ``submission.yaml`` and a table of values and of covariance for each.

Files are JSON, which is YAML.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neyman.errors import InputError
from neyman.files import atomic
from neyman.unfolding.spectrum import Spectrum

_LABELS = {"data": "stat,data", "simulation": "stat,simulation", "training": "sys,training"}


def to_hepdata(
    spectra: Spectrum | Sequence[Spectrum],
    folder: str | os.PathLike[str],
    *,
    comment: str = "",
    keywords: Sequence[tuple[str, Sequence[str]]] = (),
) -> Path:
    """Write a folder that HEPData takes as a submission (its schema 1.1).

    Parameters
    ----------
    spectra
        One or several.
    folder
        Where; written atomically.
    comment
        Abstract of the record.
    keywords
        Names and values, such as ``("cmenergies", ["13000"])``.

    Raises
    ------
    InputError
        When there is no spectrum, two would have the same files, or a number is not finite.
    """
    several = [spectra] if isinstance(spectra, Spectrum) else list(spectra)
    names = [_file_name(spectrum) for spectrum in several]
    if not several or len(set(names)) != len(names):
        raise InputError(
            "there is no spectrum to write"
            if not several
            else f"two spectra have the name {_twice(names)!r}",
            fix="give every spectrum names of its own" if several else None,
        )
    documents: list[dict[str, Any]] = [
        {"comment": comment or "Unfolded with OmniFold", "additional_resources": []}
    ]
    place = Path(folder)
    with atomic(place) as part:
        part.mkdir()
        for name, spectrum in zip(names, several, strict=True):
            if not all(np.isfinite(a).all() for a in (spectrum.values, spectrum.covariance)):
                raise InputError(f"the spectrum of {name} has values that are not finite")
            tables = [(f"{name}.yaml", _values(spectrum), "Unfolded spectrum")]
            covariances = {"": spectrum.covariance, **(spectrum.sources if len(spectrum.sources) > 1 else {})}
            for source, covariance in covariances.items():
                file = f"{name}-covariance{'-' * bool(source)}{_plain(source)}.yaml"
                what = f"Covariance ({source})" if source else "Total covariance"
                tables.append((file, _covariance(covariance), f"{what} of the unfolded spectrum"))
            for file, table, text in tables:
                (part / file).write_text(
                    json.dumps(table, indent=1, allow_nan=False) + "\n", encoding="utf-8"
                )
                documents.append(
                    {
                        "name": file.removesuffix(".yaml"),
                        "description": f"{text} of {', '.join(spectrum.names)}",
                        "keywords": [{"name": key, "values": list(values)} for key, values in keywords],
                        "data_file": file,
                    }
                )
        text = "".join(f"---\n{json.dumps(document, indent=1)}\n" for document in documents)
        (part / "submission.yaml").write_text(text, encoding="utf-8")
    return place


def _values(spectrum: Spectrum) -> dict[str, Any]:
    errors = [
        (_LABELS.get(name, f"sys,{name}"), np.sqrt(np.diag(own)))
        for name, own in (spectrum.sources or {"simulation": spectrum.covariance}).items()
    ]
    values = [
        {
            "value": float(value),
            "errors": [{"symerror": float(own[i]), "label": label} for label, own in errors],
        }
        for i, value in enumerate(spectrum.values)
    ]
    what = "1/N dN/d" if spectrum.density else "Events in bins of "
    header: dict[str, Any] = {"name": what + " ".join(spectrum.names)}
    units = [unit for unit in spectrum.units if unit]
    if spectrum.density and units:
        header["units"] = f"1/({' '.join(units)})" if len(units) > 1 else f"1/{units[0]}"
    return {
        "independent_variables": [_axis(spectrum, axis) for axis in range(len(spectrum.names))],
        "dependent_variables": [{"header": header, "values": values}],
    }


def _axis(spectrum: Spectrum, axis: int) -> dict[str, Any]:
    """The bin of this axis for every flattened bin."""
    bins = product(*(range(n) for n in spectrum.shape))
    edges = spectrum.edges[axis].tolist()
    header = {"name": spectrum.names[axis]}
    if spectrum.units[axis]:
        header["units"] = spectrum.units[axis]
    return {"header": header, "values": [{"low": edges[b[axis]], "high": edges[b[axis] + 1]} for b in bins]}


def _covariance(covariance: NDArray[np.float64]) -> dict[str, Any]:
    n = len(covariance)
    first, second = (index.reshape(-1) for index in np.indices((n, n)))
    variables = [
        {"header": {"name": f"Bin {label}"}, "values": [{"value": int(i)} for i in index]}
        for label, index in (("i", first), ("j", second))
    ]
    values = [{"value": float(value)} for value in covariance.reshape(-1)]
    return {
        "independent_variables": variables,
        "dependent_variables": [{"header": {"name": "Covariance"}, "values": values}],
    }


def _file_name(spectrum: Spectrum) -> str:
    return _plain("_".join(spectrum.names)) or "spectrum"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")


def _twice(names: Sequence[str]) -> str:
    return next(name for k, name in enumerate(names) if name in names[:k])
