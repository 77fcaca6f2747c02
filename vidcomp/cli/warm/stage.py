# SPDX-License-Identifier: Apache-2.0
"""A command line run in this process as if in the one that asked: its streams, folder, environment and mask."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vidcomp.cli import console, signals
from vidcomp.cli.app import outcome
from vidcomp.cli.streams import flushed, guard_streams

__all__ = ["as_there", "run_command"]


def run_command(args: Sequence[str]) -> int:
    """Run a command line with the streams of this process, and return its exit status."""
    guard_streams()
    try:
        status = outcome(args)
    except KeyboardInterrupt:  # after the work
        status = signals.INTERRUPTED
    except signals.Terminated as end:
        status = end.status
    return flushed(status)


@contextmanager
def as_there(descriptors: Sequence[int], environment: dict[str, str], mask: int) -> Iterator[None]:
    """Stand where a client stands.

    Args:
        descriptors: its input, output, messages and current folder.
        environment: its variables.
        mask: of the files that it makes.
    """
    ours = [os.dup(number) for number in range(3)]
    kept, streams = dict(os.environ), (sys.stdin, sys.stdout, sys.stderr)
    folder, mask = os.open(".", os.O_RDONLY), os.umask(mask)
    try:
        for number in range(3):
            os.dup2(descriptors[number], number)
        os.fchdir(descriptors[3])
        sys.stdin = open(0, closefd=False)
        _environ(environment)
        with warnings.catch_warnings():  # what was said once is said again
            yield
    finally:
        for number in range(3):
            os.dup2(ours[number], number)
            os.close(ours[number])
        os.fchdir(folder)
        os.close(folder)
        os.umask(mask)
        sys.stdin, sys.stdout, sys.stderr = streams
        _environ(kept)
        _forget()


def _environ(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None  # asked for again
    if hasattr(time, "tzset"):
        time.tzset()
    console.forget()


def _forget() -> None:
    """Undo what a command sets for its process."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(False)
    logging.getLogger("vidcomp").setLevel(logging.NOTSET)
