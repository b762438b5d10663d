"""An unfolding as a folder: weights and replicas as Parquet, the rest as JSON, networks as safetensors."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neyman.errors import InputError
from neyman.events.columns import write_parquet
from neyman.files import atomic, jsonable, read_json, write_json
from neyman.networks import Model
from neyman.unfolding.inputs import Support
from neyman.unfolding.iterate import Iteration
from neyman.unfolding.result import Unfolding
from neyman.unfolding.steps import StepRecord

FORMAT = "neyman-unfolding-1"
PUSH = "push.safetensors"


def save(result: Unfolding, folder: str | os.PathLike[str]) -> Path:
    """Write a result to a folder, atomically."""
    place = Path(folder)
    with atomic(place) as part:
        part.mkdir()
        result.to_parquet(part / "weights.parquet")
        several = {
            f"{kind}/{name}/{k}": row
            for kind, group in (("replicas", result.replicas), ("systematics", result.systematics))
            for name, rows in group.items()
            for k, row in enumerate(rows)
        }
        for k, own in enumerate(result.iterations):
            several |= {f"iterations/{k}/pull_{m}": row for m, row in enumerate(own.pull)}
            several |= {f"iterations/{k}/push_{m}": row for m, row in enumerate(own.push)}
        write_parquet(part / "replicas.parquet", several)
        for level, model in result.models.items():
            model.save(part / f"{level}.safetensors")
        if "particle" in result.models:
            result.model.save(part / PUSH)  # what a Scorer or a Reweighter evaluates
        document = {"format": FORMAT, "iterations": len(result.iterations), "networks": sorted(result.models)}
        write_json(part / "unfolding.json", document | jsonable(result.to_dict()))
    return place


def load(folder: str | os.PathLike[str]) -> Unfolding:
    """Read a folder written by :func:`save`."""
    place = Path(folder)
    document = read_json(place / "unfolding.json")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(
            "this is not an unfolding", where=str(place), expected=f"unfolding.json of format {FORMAT}"
        )
    weights, several = (_columns(place / name) for name in ("weights.parquet", "replicas.parquet"))
    try:
        members = range(int(document["members"]))

        def group(kind: str) -> dict[str, NDArray[np.float32]]:
            return {
                str(name): np.stack([several[f"{kind}/{name}/{k}"] for k in range(int(n))])
                for name, n in document[kind].items()
            }

        iterations = tuple(
            Iteration(
                np.stack([several[f"iterations/{k}/pull_{m}"] for m in members]),
                np.stack([several[f"iterations/{k}/push_{m}"] for m in members]),
            )
            for k in range(int(document["iterations"]))
        )
        result = Unfolding(
            weights["weight"],
            np.stack([weights[f"push_{m}"] for m in members]),
            np.stack([weights[f"pull_{m}"] for m in members]),
            weights["passes_truth"],
            weights["passes_reconstruction"],
            weights["factor"],
            document["aggregate"],
            document["mode"],
            tuple(StepRecord.from_dict(own) for own in document["steps"]),
            Support.from_dict(document["support"]),
            iterations,
            group("replicas"),
            group("systematics"),
        )
        levels = [str(level) for level in document["networks"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the files of an unfolding do not fit each other: {error!r}", where=str(place)
        ) from error
    models = {level: Model.load(place / f"{level}.safetensors") for level in levels}
    return replace(result, models=models).aggregated_by(result.aggregate)


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    try:
        table = pq.read_table(path)
        return {name: table[name].to_numpy() for name in table.column_names}
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path.name} is not a readable Parquet file: {error}", where=str(path)) from error
