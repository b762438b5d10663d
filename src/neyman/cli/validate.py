"""`neyman validate`: is a workspace complete, unchanged and sane?"""

from __future__ import annotations

import sys

import click

from neyman.cli.output import json_option, reported, table, write_json


@click.command(name="validate")
@click.argument("workspace", type=click.Path())
@json_option
@reported
def command(workspace: str, as_json: bool) -> None:
    """Check WORKSPACE (a folder or a pyhf JSON file); exit code 1 when a check fails."""
    from neyman.workspace import validate

    checks = validate(workspace)
    if as_json:
        write_json({"passed": all(c.passed for c in checks), "checks": [vars(c) for c in checks]})
    else:
        table(
            workspace,
            ("", "check", "detail"),
            [("ok" if c.passed else "FAILED", c.name, c.detail) for c in checks],
        )
    if not all(c.passed for c in checks):
        sys.exit(1)
