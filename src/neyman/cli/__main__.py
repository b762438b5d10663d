"""``python -m neyman.cli``."""

from neyman.cli.main import main

main()
