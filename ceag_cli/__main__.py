"""``python -m ceag_cli``: the command line, for ``torchrun`` and environments without scripts."""

from ceag_cli.cli import main

main()
