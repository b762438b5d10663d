"""The command line: one file a command, each calling one public function."""

from neyman.cli.main import main

__all__ = ["main"]
