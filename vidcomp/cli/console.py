"""Where words go: data to stdout, everything else to stderr. One error is three lines."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from vidcomp.errors import VidcompError
from vidcomp.video.files import escaped, printable

__all__ = ["Ui", "data", "out_console", "print_error"]


@dataclass(frozen=True)
class Ui:
    """How much a command says.

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
            Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False, style="dim")

    def logging(self) -> None:
        """Set the level of the package's loggers."""
        level = logging.DEBUG if self.debug else logging.INFO if self.verbose else logging.ERROR
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("vidcomp").setLevel(level)


def data(value: str | dict[str, Any] | list[Any]) -> None:
    """One line of data on stdout: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def out_console() -> Console:
    """For tables on stdout: as wide as the terminal, and wide enough for a table in a pipe."""
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=120)


def print_error(error: VidcompError) -> None:
    """What, why, what to try: a line each on stderr."""
    lines = [f"error: {error.what}"]
    lines += [f"  {error.why}"] if error.why else []
    lines += [f"try: {error.hint}"] if error.hint else []
    sys.stderr.writelines(escaped(printable(line.replace("\n", " "))) + "\n" for line in lines)
