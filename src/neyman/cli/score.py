"""`neyman score`: a trained model on a file of events."""

from __future__ import annotations

from pathlib import Path

import click

from neyman.cli.output import assignments, json_option, reported, write_json


@click.command(name="score")
@click.argument("model", type=click.Path())
@click.argument("events", type=click.Path())
@click.argument("output", type=click.Path(dir_okay=False))
@click.option("--tree", default="Events", show_default=True, help="Tree of a ROOT file.")
@click.option(
    "--at", "values", multiple=True, metavar="NAME=VALUE", help="Value of a nuisance-parameter input."
)
@json_option
@reported
def command(model: str, events: str, output: str, tree: str, values: tuple[str, ...], as_json: bool) -> None:
    """Score EVENTS (Parquet or flat ROOT) with MODEL (a file or folder) into the Parquet file OUTPUT."""
    import awkward as ak
    import pyarrow as pa
    import pyarrow.parquet as pq

    from neyman.events import EventTable, Scorer
    from neyman.files import atomic

    scorer = Scorer.load(model)
    features = scorer.features
    if events.endswith(".root"):
        table = EventTable.from_root(events, features=features, tree=tree)
    else:
        table = EventTable.from_parquet(events, features=features)
    scores = scorer({name: table.column(name) for name in features}, assignments(values, "--at"))
    single = len(scorer.outputs) == 1
    columns = {name: ak.to_numpy(scores if single else scores[name]) for name in scorer.outputs}
    with atomic(output) as part:
        pq.write_table(pa.table(columns), part, use_dictionary=False)
    if as_json:
        write_json({"events": len(table), "outputs": list(columns), "file": str(Path(output).resolve())})
    else:
        click.echo(f"{len(table)} events scored by {', '.join(columns)} into {output}")
