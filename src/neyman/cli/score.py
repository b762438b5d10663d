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
    """Score EVENTS (Parquet or ROOT, a path or a URL) with MODEL (a file or folder) into the Parquet file OUTPUT.

    A model that was trained with a feature specification computes its features from the collections in EVENTS.
    """
    import awkward as ak
    import pyarrow as pa
    import pyarrow.parquet as pq

    from neyman.analysis.inputs import event_files, event_source
    from neyman.events import Scorer
    from neyman.files import atomic

    scorer = Scorer.load(model)
    z = assignments(values, "--at")
    single = len(scorer.outputs) == 1
    schema = pa.schema([(name, pa.float32()) for name in scorer.outputs])
    n_events = 0
    with atomic(output) as part, pq.ParquetWriter(part, schema, use_dictionary=False) as writer:
        for path in event_files([events], "."):
            source = event_source(path, tree)
            for _, columns in source.chunks([], scorer.branches(source.names) or source.names):
                records = ak.zip(columns, depth_limit=1)
                scores = scorer(records, z)
                table = {name: ak.to_numpy(scores if single else scores[name]) for name in scorer.outputs}
                writer.write_table(pa.table(table, schema=schema))
                n_events += len(records)
    if as_json:
        outputs = list(scorer.outputs)
        write_json({"events": n_events, "outputs": outputs, "file": str(Path(output).resolve())})
    else:
        click.echo(f"{n_events} events scored by {', '.join(scorer.outputs)} into {output}")
