"""`inspect`: what a ROOT file, Parquet file, model, workspace folder or one of its documents holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neyman.errors import InputError, NeymanError
from neyman.events.columns import open_root
from neyman.events.remote import is_remote, opened, patiently
from neyman.files import read_json
from neyman.networks import Description, Model, Part
from neyman.workspace import Workspace, read
from neyman.workspace.pyhf_schema import check_schema
from neyman.workspace.store import UNBINNED

_OTHERS = {
    "manifest of a workspace": {"files", "versions", "configuration"},
    "results of an analysis": {"comparison", "expected", "observed"},
}


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Parameters
    ----------
    kind
        One phrase.
    sections
        Title to rows; the rows of a section have the same keys.
    """

    kind: str
    sections: Mapping[str, Sequence[Mapping[str, Any]]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Tell what `path` holds; a ROOT or Parquet file may be at a URL, of which no events are read.

    Raises
    ------
    InputError
        When it does not exist or is of no known kind.
    WorkspaceError
        When it is a broken model or workspace.
    """
    if is_remote(path):
        return _at_url(os.fspath(path))
    place = Path(path)
    if not place.exists():
        raise InputError(f"{place.name!r} does not exist", where=str(place))
    if place.is_dir():
        files = sorted(place.glob("*.safetensors"))
        return _models(files) if files else _workspace(read(place))
    kinds: dict[str, Callable[[Path], Inspection]] = {
        ".root": _root,
        ".parquet": _parquet,
        ".safetensors": lambda p: _models([p]),
        ".json": _json,
    }
    if place.suffix not in kinds:
        raise InputError(
            f"{place.name!r} is of no known kind",
            where=str(place),
            expected=f"a folder or one of {', '.join(kinds)}",
        )
    return kinds[place.suffix](place)


def _at_url(url: str) -> Inspection:
    kinds = {".root": _root, ".parquet": _parquet}
    suffix = Path(url.partition("?")[0]).suffix
    if suffix not in kinds:
        raise InputError(
            f"{url.rpartition('/')[2]!r} is of no known kind",
            where=url,
            expected=f"a {' or '.join(kinds)} file at a URL",
        )
    return kinds[suffix](url)


def _root(path: str | Path) -> Inspection:
    with open_root(os.fspath(path)) as file:
        try:
            classes = file.classnames()
            contents = [{"name": key.partition(";")[0], "class": classes[key]} for key in classes]
            sections: dict[str, list[dict[str, Any]]] = {"contents": contents}
            for key, kind in classes.items():
                if kind in ("TTree", "ROOT::RNTuple"):
                    tree = file[key]
                    sections[f"{key.partition(';')[0]}: {tree.num_entries} entries"] = [
                        {"branch": name, "type": str(getattr(tree[name], "typename", ""))}
                        for name in tree.keys()  # noqa: SIM118
                    ]
        except NeymanError:
            raise
        except Exception as error:
            raise InputError(
                f"{Path(path).name} is not a readable ROOT file: {error}", where=os.fspath(path)
            ) from error
    return Inspection("ROOT file", sections)


def _parquet(path: str | Path) -> Inspection:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if is_remote(path):
        return patiently(lambda: _schema(os.fspath(path)), os.fspath(path))
    try:
        file = pq.ParquetFile(path)
        rows = []
        for field in file.schema_arrow:
            row = {"column": field.name, "type": str(field.type), "mean": None, "min": None, "max": None}
            if pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
                values = file.read([field.name]).column(0).to_numpy()
                if len(values):
                    row |= {
                        "mean": float(np.mean(values)),
                        "min": float(np.min(values)),
                        "max": float(np.max(values)),
                    }
            rows.append(row)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{Path(path).name} is not a readable Parquet file: {error}", where=os.fspath(path)
        ) from error
    return Inspection(f"Parquet file, {file.metadata.num_rows} rows", {"columns": rows})


def _schema(url: str) -> Inspection:
    import pyarrow.parquet as pq

    with opened(url) as remote, pq.ParquetFile(remote) as file:
        rows = [{"column": field.name, "type": str(field.type)} for field in file.schema_arrow]
        return Inspection(f"Parquet file, {file.metadata.num_rows} rows", {"columns": rows})


def _models(paths: Sequence[Path]) -> Inspection:
    descriptions = {path.name.removesuffix(".safetensors"): Model.load(path).description for path in paths}
    if len(descriptions) == 1:
        ((name, d),) = descriptions.items()
        rows = [{"property": k, "value": v} for k, v in _model(name, d).items() if k != "notes"]
        notes = [{"note": k, "text": v} for k, v in d.notes.items()]
        parts = [_part(part) for part in d.parts]
        return Inspection("trained network", {"model": rows, "parts": parts, "notes": notes})
    columns = ("model", "output", "members", "networks", "nuisance inputs", "features", "notes")
    rows = [{key: _model(name, d)[key] for key in columns} for name, d in descriptions.items()]
    return Inspection("trained networks", {"models": rows})


def _model(name: str, d: Description) -> dict[str, Any]:
    ranges = zip(d.parameters, d.parameter_range, strict=True)
    calibration = d.calibration
    return {
        "model": name,
        "output": d.kind,
        "members": d.members,
        "combined by": d.aggregate.replace("_", " "),
        "networks": "".join(f" {'+-'[part.sign < 0]} {part.network.kind}" for part in d.parts).removeprefix(
            " + "
        ),
        "calibration": calibration.method if calibration is not None else "none",
        "nuisance inputs": ", ".join(f"{name} ({low:.4g} to {high:.4g})" for name, (low, high) in ranges)
        or "none",
        "features": ", ".join(d.features),
        "notes": "; ".join(f"{k}: {v}" for k, v in d.notes.items()),
    }


def _part(part: Part) -> dict[str, Any]:
    network = {key: value for key, value in asdict(part.network).items() if key != "kind"}
    return {
        "sign": "+-"[part.sign < 0],
        "network": part.network.kind,
        "members": part.members,
        "link": part.link,
        "settings": ", ".join(f"{key} {value}" for key, value in network.items()),
    }


def _json(path: Path) -> Inspection:
    document = read_json(path)
    keys = set(document) if isinstance(document, dict) else set()
    if "channels" in keys:
        pyhf_model = path.name != UNBINNED and not keys & {"measurements", "observations", "version"}
        return _workspace(read(path), "model" if pyhf_model else "workspace")
    if "spectra" in keys:
        return _workspace(read(path))
    for kind, expected in _OTHERS.items():
        if expected <= keys:
            sizes = [
                {"part": key, "entries": len(part)}
                for key, part in document.items()
                if hasattr(part, "__len__")
            ]
            return Inspection(kind, {"parts": sizes})
    raise InputError(
        f"{path.name!r} is JSON of no known kind",
        where=str(path),
        expected="a pyhf workspace or model, or a document of a workspace folder or of an analysis",
    )


def _workspace(workspace: Workspace, kind: Literal["workspace", "model"] = "workspace") -> Inspection:
    sections: dict[str, list[dict[str, Any]]] = {}
    if workspace.binned is not None:
        check_schema(workspace.binned, kind)
        observed = {o["name"]: o["data"] for o in workspace.binned.get("observations", [])}
        sections["binned channels"] = [
            {
                "channel": c["name"],
                "bins": len(c["samples"][0]["data"]),
                "expected": float(sum(sum(s["data"]) for s in c["samples"])),
                "observed": float(sum(observed[c["name"]])) if c["name"] in observed else None,
                "samples": ", ".join(s["name"] for s in c["samples"]),
            }
            for c in workspace.binned.get("channels", [])
        ]
    if workspace.unbinned is not None:
        sections["unbinned channels"] = [
            {
                "channel": c.name,
                "events": len(workspace.events(c, c.data)[0]),
                "reference events": len(workspace.events(c, c.reference)[0]),
                "expected": float(sum(s.expected for s in c.samples)),
                "samples": ", ".join(s.name for s in c.samples),
                "replaces": ", ".join(c.replaces),
            }
            for c in workspace.unbinned.channels
        ]
    if workspace.gaussian is not None:
        sections["Gaussian channels"] = [
            {
                "channel": c.name,
                "spectrum": spectrum.name,
                "bins": len(c.data),
                "expected": float(sum(sum(s.data) for s in c.samples)),
                "observed": float(sum(c.data)),
                "samples": ", ".join(s.name for s in c.samples),
            }
            for spectrum in workspace.gaussian.spectra
            for c in spectrum.channels
        ]
    sections["parameters"] = _parameters(workspace)
    if workspace.manifest is not None:
        sections["versions"] = [{"package": k, "version": v} for k, v in workspace.manifest.versions.items()]
    return Inspection("workspace" if kind == "workspace" else "pyhf model", sections)


def _parameters(workspace: Workspace) -> list[dict[str, Any]]:
    acting: dict[str, dict[str, set[str]]] = {}
    binned = workspace.binned or {"channels": []}
    uses = [
        (m["name"], m["type"], f"{c['name']}/{s['name']}")
        for c in binned.get("channels", [])
        for s in c["samples"]
        for m in s["modifiers"]
    ]
    if workspace.unbinned is not None:
        uses += [
            (m.name, m.type, f"{c.name}/{s.name}")
            for c in workspace.unbinned.channels
            for s in c.samples
            for m in s.modifiers
        ]
    if workspace.gaussian is not None:
        uses += [
            (m.name, m.type, f"{c.name}/{s.name}")
            for c in workspace.gaussian.channels
            for s in c.samples
            for m in s.modifiers
        ]
    for name, kind, place in uses:
        entry = acting.setdefault(name, {"types": set(), "places": set()})
        entry["types"].add(kind)
        entry["places"].add(place)
    return [
        {"parameter": name, "types": ", ".join(sorted(e["types"])), "acts on": ", ".join(sorted(e["places"]))}
        for name, e in acting.items()
    ]
