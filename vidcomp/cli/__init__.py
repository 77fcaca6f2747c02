# SPDX-License-Identifier: Apache-2.0
"""The command line: parses into config, calls the library, prints."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``vidcomp`` script."""
    from vidcomp.cli import signals

    signals.end_at_once()  # first of all: the libraries of the command line take a while
    import os
    import sys

    from vidcomp.cli.warm import served

    if (status := served(sys.argv[1:])) is not None:
        os._exit(status)
    from vidcomp.cli.app import run
    from vidcomp.cli.streams import finish, guard_streams

    guard_streams()
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # after the work, while the decoding process was being ended
        status = signals.INTERRUPTED
    except signals.Terminated as end:
        status = end.status
    signals.end_at_once()
    finish(status)
