# SPDX-License-Identifier: Apache-2.0
"""vidcomp methods: what can reduce tokens, before and inside the networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.options import with_ui
from vidcomp.errors import UsageError

if TYPE_CHECKING:
    from vidcomp.report.listing import StageRows

__all__ = ["methods", "show_names"]


@with_ui
def methods(
    name: Annotated[str | None, typer.Argument(help="one of them, in full", show_default=False)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="print docs/methods.md")] = False,
    *,
    ui: Ui,
) -> None:
    """List the methods: what they do, what they need, whether their budget is exact and how they are proven."""
    from vidcomp.core.arguments import suggest
    from vidcomp.report.listing import described_method, methods_page

    if markdown:
        data(methods_page(_stages(built_in=True, fresh=True)).rstrip("\n"))
        return
    stages = _stages()
    rows = [row for stage in stages.values() for row in stage if name in (None, row.name)]
    if not rows:
        names = sorted({row.name for stage in stages.values() for row in stage})
        raise UsageError(f"no method named {name!r}", hint=suggest(str(name), names, "vidcomp methods"),
                         code="unknown_method")  # fmt: skip
    if ui.json:
        data([row.to_dict() for row in rows])
    elif name:
        data("\n\n".join(map(described_method, rows)))
    else:
        for stage in stages:
            show_names(stage)


def show_names(stage: str) -> None:
    """Print the table of one stage."""
    from vidcomp.report.listing import methods_table

    out_console().print(methods_table(stage, _stages()[stage]))


def _stages(built_in: bool = False, fresh: bool = False) -> StageRows:
    from vidcomp.methods import list_methods
    from vidcomp.schedules import list_schedules
    from vidcomp.tower import list_mergers

    return {
        "outer": list_methods(built_in, fresh),
        "inner": list_schedules(built_in, fresh),
        "encoder": list_mergers(built_in, fresh),
    }
