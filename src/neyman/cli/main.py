"""The `neyman` command: finds its subcommands lazily, so that ``neyman --help`` stays fast."""

from __future__ import annotations

import importlib

import click

from neyman.errors import nearest

COMMANDS = {
    "contour": "Find the joint confidence regions of two parameters.",
    "convert": "Turn a Combine datacard into a pyhf workspace, or back.",
    "coverage": "Count how often intervals hold the truth, in toys.",
    "export": "Write a model as ONNX or torch.export, checked against it.",
    "feldman-cousins": "Construct an interval from toys at every value.",
    "fit": "Fit a workspace or a pyhf JSON file.",
    "gof": "Compare the best fit with the saturated model.",
    "impacts": "Rank the nuisance parameters by their impact on a parameter.",
    "inspect": "Tell what a ROOT file, Parquet file, model or workspace holds.",
    "limit": "Find the CLs upper limit on a parameter.",
    "profile": "Scan the profile likelihood of a parameter.",
    "run": "Run an analysis.toml from ROOT files to the report; resumes.",
    "sannt": "Train a network for a measurement from flat files; export to pyhf.",
    "score": "Evaluate a trained model on a Parquet or ROOT file.",
    "significance": "Test the background-only hypothesis.",
    "toys": "Draw and fit pseudo-experiments; write them to Parquet.",
    "train": "Train a density ratio from two samples; export it if checks pass.",
    "unfold": "Unfold data from flat files; spectra, covariance, HEPData.",
    "validate": "Check a workspace: schema, digests, ratios, normalisation.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            ctx.fail(f"there is no command {cmd_name!r}; nearest: {nearest(cmd_name, COMMANDS)}")
        module = importlib.import_module(f"neyman.cli.{cmd_name.replace('-', '_')}")
        command = getattr(module, "command")  # noqa: B009
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="neyman")
def main() -> None:
    """Neural likelihood ratios and systematics-aware networks for pyhf, iminuit and coffea.

    Every command takes --json for machine-readable output on stdout; those on a workspace take --plot for a
    figure. Exit codes: 0 done, 1 error, 2 result not valid or wrong usage.
    """
