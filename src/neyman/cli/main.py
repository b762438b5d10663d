"""The `neyman` command: finds its subcommands lazily, so that ``neyman --help`` stays fast."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "fit": "Fit a workspace or a pyhf JSON file.",
    "impacts": "Rank the nuisance parameters by their impact on a parameter.",
    "inspect": "Tell what a ROOT file, Parquet file, model or workspace holds.",
    "profile": "Scan the profile likelihood of a parameter.",
    "run": "Run an analysis.toml from ROOT files to the report; resumes.",
    "score": "Evaluate a trained model on a Parquet or ROOT file.",
    "validate": "Check a workspace: schema, digests, ratios, normalisation.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"neyman.cli.{cmd_name}"), "command")  # noqa: B009
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="neyman")
def main() -> None:
    """Neural likelihood ratios and systematics-aware networks for pyhf, iminuit and coffea.

    Every command takes --json for machine-readable output on stdout.
    """
