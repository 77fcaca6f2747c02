"""The command line: parses into config, calls the library, prints."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``vidcomp`` script."""
    import sys

    from vidcomp.cli.app import run

    sys.exit(run(sys.argv[1:]))
