"""vidcomp methods: every token-reduction method, with needs and source."""

from __future__ import annotations

import sys
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from vidcomp.cli.console import Ui, data
from vidcomp.cli.options import with_ui

__all__ = ["methods"]


@with_ui
def methods(*, ui: Ui) -> None:
    """List the methods, their parameters, what they need and where they come from."""
    from vidcomp.methods import methods as known

    listed = known()
    if ui.json:
        data([{**asdict(info), "needs": sorted(info.needs)} for info in listed])
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "what it does", "needs", "in the LLM", "parameters", "source"):
        table.add_column(name, overflow="fold")
    for info in listed:
        parameters = ", ".join(f"{key}={value}" for key, value in info.parameters.items())
        table.add_row(info.name, info.summary, ", ".join(sorted(info.needs)), info.inner or "", parameters, info.source)
    Console(file=sys.stdout, highlight=False).print(table)
