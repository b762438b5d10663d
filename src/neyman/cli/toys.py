"""`neyman toys`: pseudo-experiments and their fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from neyman.cli.options import drawn_at, on_dask, seeded, shows_progress
from neyman.cli.output import short
from neyman.cli.workspace import Given, Report, on_workspace, writable

if TYPE_CHECKING:
    from neyman.inference import FitResult, ToyFits


@on_workspace("toys")
@click.argument("n", type=click.IntRange(1))
@drawn_at
@seeded
@on_dask
@click.option("--output", "-o", metavar="FILE", help="Parquet file of the fits, one row a toy.")
@click.option("--parameter", metavar="NAME", help="Parameter of the figure; the one of interest by default.")
def command(
    given: Given,
    n: int,
    at: dict[str, float] | FitResult,
    seed: int,
    output: str | None,
    parameter: str | None,
    client: Any,
) -> Report:
    """Draw N toys and fit them; the table has the pulls of all parameters.

    The figure shows the pulls of one. Exit code 2 when no toy could be fitted.
    """
    from neyman import plots
    from neyman.inference import fit_toys, toys

    file = None if output is None else writable(output, (".parquet",))
    shown = given.parameter(parameter) if given.draws else ""
    drawn = toys(given.likelihood, n, at=at, seed=seed)
    fits = fit_toys(given.likelihood, drawn, fixed=given.fixed, client=client, progress=shows_progress())
    rows = [
        (name, drawn.truth[name], *_moments(fits, name)) for name in fits.names if name not in given.fixed
    ]
    failed = n - int(fits.valid.sum())
    lines = [f"{n} toys, {failed} without a valid fit, {len(fits.refitted)} refitted by MIGRAD"]
    if file is not None:
        _write(file, fits, seed)
        lines.append(f"written to {output}")
    summary = [
        dict(zip(("parameter", "truth", "mean", "mean_error", "width", "width_error", "n"), row, strict=True))
        for row in rows
    ]
    document = {
        "n_toys": n,
        "n_failed": failed,
        "seed": seed,
        "file": None if file is None else str(file),
        "truth": drawn.truth,
        "pulls": summary,
        "failures": dict(fits.failures),
        "lower_minima": dict(fits.lower),
    }
    return Report(
        document,
        [
            (
                "Pulls",
                ("parameter", "truth", "mean", "+-", "width", "+-", "toys"),
                [_short(row) for row in rows],
            )
        ],
        lines=lines,
        messages=[
            f"toy {i}: MIGRAD alone found a minimum lower by {fall:.3g}" for i, fall in fits.lower.items()
        ],
        valid=bool(fits.valid.any()),
        draw=lambda: plots.toy_pulls(fits, shown),
    )


def _short(row: tuple[Any, ...]) -> tuple[Any, ...]:
    name, truth, *moments, n = row
    return name, truth, *(short(one, 3) for one in moments), n


def _moments(fits: ToyFits, name: str) -> tuple[float | None, float | None, float | None, float | None, int]:
    pulls = fits.pulls(name)
    if len(pulls) < 2:
        return None, None, None, None, len(pulls)
    width = float(pulls.std(ddof=1))
    return float(pulls.mean()), width / len(pulls) ** 0.5, width, width / (2 * len(pulls)) ** 0.5, len(pulls)


def _write(file: Path, fits: ToyFits, seed: int) -> None:
    """Write the columns ``value:NAME``, ``error:NAME``, ``fval`` and ``valid``, with truth and seed as metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from neyman.files import atomic, jsonable

    columns: dict[str, Any] = {}
    for k, name in enumerate(fits.names):
        columns |= {f"value:{name}": fits.values[:, k], f"error:{name}": fits.errors[:, k]}
    described = json.dumps({"truth": jsonable(fits.truth), "seed": seed})
    rows = pa.table({**columns, "fval": fits.fvals, "valid": fits.valid})
    with atomic(file) as part:
        pq.write_table(rows.replace_schema_metadata({"neyman": described}), part, use_dictionary=False)
