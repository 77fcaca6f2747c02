# SPDX-License-Identifier: Apache-2.0
"""A process that stays: it keeps one model loaded, and runs the commands that need it as if they ran in their own.

A command line finds the socket in the user's runtime folder, hands over its words, streams, folder and environment,
and ends with the exit status that comes back. Importing this package, and being a client, loads nothing heavy: an
answer of the embedded model takes less time than loading it. Without a socket nothing of it is imported.
"""

from __future__ import annotations

from collections.abc import Sequence

from vidcomp.cli.warm.place import standing_socket

__all__ = ["COMMANDS", "served"]

COMMANDS = ("ask", "caption", "report")
"""Commands that need a loaded model, and ask for nothing on the way."""


def served(args: Sequence[str]) -> int | None:
    """Have a command line run by the process that keeps the model; None when this process has to run it."""
    if not args or args[0] not in COMMANDS or "--no-warm" in args:
        return None
    path = standing_socket()
    if path is None:
        return None
    from vidcomp.cli.warm.client import run_there

    return run_there(list(args), path)
