# SPDX-License-Identifier: Apache-2.0
"""Output streams: data to stdout, everything else to stderr, around the one status line. One error is three lines."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from rich.console import Console
from rich.text import Text

from vidcomp.errors import VidcompError
from vidcomp.video.names import escaped, printable

__all__ = ["STATUS", "Ui", "data", "forget", "out_console", "print_error"]

_ERASE = "\r\x1b[2K"


@cache
def _err_console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def forget() -> None:
    """Look at the terminal and its settings anew: the streams of this process are others now."""
    _err_console.cache_clear()


def _columns() -> int:
    """Width of the terminal on stderr."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _err_console().width
    except (OSError, ValueError):
        return _err_console().width


class StatusLine:
    """The last line of the terminal on stderr, redrawn in place. It steps aside while anything else is written."""

    def __init__(self) -> None:
        self._text = ""

    def show(self, text: str) -> None:
        """Put this line in the place of the one before; an empty one ends it."""
        self._erase()
        self._text = text
        self._draw()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Off the screen inside the block."""
        self._erase()
        try:
            yield
        finally:
            self._draw()

    def _erase(self) -> None:
        if self._text:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()

    def _draw(self) -> None:
        if self._text:
            line = Text(self._text)
            line.truncate(_columns() - 1, overflow="ellipsis")
            sys.stderr.write(line.plain)
            sys.stderr.flush()


STATUS = StatusLine()
"""The status line of this process."""


class _Notes(logging.Handler):
    """Log records, around the status line."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(self.format(record))


@dataclass(frozen=True)
class Ui:
    """Verbosity of a command.

    Attributes:
        json: data as JSON.
        quiet: nothing on stderr but errors.
        verbose: settings and warnings of the libraries as well.
        debug: tracebacks.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    def note(self, text: str) -> None:
        """One line on stderr, unless quiet."""
        if not self.quiet:
            with STATUS.aside():
                _err_console().print(escaped(printable(text)), markup=False, style="dim")

    def detail(self, text: str) -> None:
        """One line on stderr for those who asked for more."""
        if self.verbose:
            self.note(text)

    def failure(self, text: str) -> None:
        """One line on stderr about an input that failed, also when quiet."""
        _say(escaped(printable(text)))

    def logging(self) -> None:
        """Send log records through the console; those of other packages only to those who asked for more."""
        level = logging.DEBUG if self.debug else logging.INFO if self.verbose else logging.ERROR
        more = logging.WARNING if self.verbose or self.debug else logging.ERROR
        logging.basicConfig(level=more, format="%(levelname)s %(name)s: %(message)s", handlers=[_Notes()])
        logging.captureWarnings(True)
        logging.getLogger("vidcomp").setLevel(level)


def data(value: str | dict[str, Any] | list[Any]) -> None:
    """One line of data on stdout: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    with STATUS.aside():
        sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()


def out_console() -> Console:
    """For tables on stdout: as wide as the terminal, and wide enough for a table in a pipe."""
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=120)


def print_error(error: VidcompError) -> None:
    """Print what, why, what to try: a line each on stderr."""
    lines = [f"error: {error.what}"]
    lines += [f"  {error.why}"] if error.why else []
    lines += [f"try: {error.hint}"] if error.hint else []
    for line in lines:
        _say(escaped(printable(line.replace("\n", " "))))


def _say(line: str) -> None:
    with STATUS.aside():
        sys.stderr.write(line + "\n")
