# SPDX-License-Identifier: Apache-2.0
"""A table that becomes lines where the terminal is too narrow for it: figures are never cut."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

__all__ = ["Sheet"]

_WIDEST = 1 << 14
_PROSE_CELLS = 30  # least width of a column that wraps
_GAP = "  "


class Sheet(Table):
    """Rows of text under headings.

    Args:
        first: heading of the column that names the rows.
        figures: headings of the others, flush right.
        prose: heading of a last column that wraps, none when None.
        title: printed above.
    """

    def __init__(self, first: str, *figures: str, prose: str | None = None, title: str | None = None) -> None:
        super().__init__(
            title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        self._prose = prose is not None
        self.add_column(first, no_wrap=True)
        for name in figures:
            self.add_column(name, no_wrap=True, justify="left" if self._prose else "right")
        if prose is not None:
            self.add_column(prose, ratio=1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield Text("\n".join(self._lines(options.max_width)), overflow="fold")

    def _least(self, console: Console, options: ConsoleOptions) -> int:
        natural = super().__rich_measure__(console, options.update(width=_WIDEST)).maximum
        if not self._prose:
            return natural
        prose = max(map(cell_len, self._cells()[-1]), default=0)
        return natural - prose + min(prose, _PROSE_CELLS)

    def _cells(self) -> list[list[str]]:
        return [[str(cell) for cell in (column.header, *column.cells)] for column in self.columns]

    def _lines(self, width: int) -> Iterator[str]:
        """Each row as its name and ``heading value`` below it, as many on a line as there is room for."""
        if self.title:
            yield f"{self.title}\n"
        (first, *names), *columns = self._cells()
        for number, name in enumerate(names, 1):
            yield f"{first} {name}" if name.isdecimal() else name
            yield from _filled([f"{cells[0]} {cells[number]}" for cells in columns if cells[number]], width)


def _filled(parts: list[str], width: int) -> Iterator[str]:
    line = ""
    for part in parts:
        if line and cell_len(line) + len(_GAP) + cell_len(part) > width:
            yield line
            line = ""
        line = f"{line}{_GAP}{part}"
    if line:
        yield line
