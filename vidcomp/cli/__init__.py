"""The command line: parses into config, calls the library, prints."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``vidcomp`` script."""
    import sys

    try:
        from vidcomp.cli.app import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the command itself
        status = 130
    sys.exit(status)
