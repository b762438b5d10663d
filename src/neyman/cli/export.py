"""`neyman export`: model files for other engines."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from neyman.cli.output import json_option, reported, write_json


@click.command(name="export")
@click.argument("model", type=click.Path())
@click.argument("output", type=click.Path(), required=False)
@click.option(
    "--to",
    "kind",
    type=click.Choice(["onnx", "pt2"]),
    default="onnx",
    show_default=True,
    help="Kind of file.",
)
@click.option(
    "--aggregate",
    type=click.Choice(["mean", "median", "truncated_mean", "mean_ratio", "truncated_mean_ratio"]),
    help="How members are combined; as the model file says if not given.",
)
@json_option
@reported
def command(model: str, output: str | None, kind: str, aggregate: str | None, as_json: bool) -> None:
    """Write MODEL (a .safetensors file, or all of a folder) as ONNX for CPU workers, or as a torch.export program.

    Scaling, ensemble and calibration are inside, and the file is compared with the model on random events. It goes
    beside the model, where a Scorer finds it, or to OUTPUT.
    """
    from neyman.errors import InputError, WorkspaceError
    from neyman.events.scoring import export_onnx, export_pt2
    from neyman.networks import Aggregate, Model

    place = Path(model)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    if not files:
        raise WorkspaceError("there is no model to export", where=model, expected="*.safetensors")
    if output is not None and len(files) > 1:
        raise InputError(f"{len(files)} models and one output file", fix="leave OUTPUT out")
    export = export_onnx if kind == "onnx" else export_pt2
    written = []
    for file in files:
        target = Path(output) if output is not None else file.with_suffix(f".{kind}")
        written.append(export(Model.load(file), target, aggregate=cast("Aggregate | None", aggregate)))
        if not as_json:
            click.echo(f"{file.name} -> {target}")
    if as_json:
        write_json({"files": [str(path.resolve()) for path in written]})
