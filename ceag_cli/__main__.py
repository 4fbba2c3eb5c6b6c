"""``ceag`` and ``python -m ceag_cli``: the command line, which may be interrupted from here on."""

from ceag_cli.interruptions import in_order


def main() -> None:
    """Carry out a command line."""
    with in_order():
        from ceag_cli.cli import main as command_line

        command_line()


if __name__ == "__main__":
    main()
