"""vidcomp models: the model families that can be compressed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.options import with_ui

if TYPE_CHECKING:
    from vidcomp.models.catalog import FamilyInfo

__all__ = ["models"]


@with_ui
def models(
    *, markdown: Annotated[bool, typer.Option("--markdown", help="print docs/models.md")] = False, ui: Ui
) -> None:
    """List the model families, their checkpoints, tokens per frame and limits."""
    from vidcomp.models import FAMILIES
    from vidcomp.models.catalog import catalog
    from vidcomp.models.catalog import markdown as page

    infos = catalog(FAMILIES)
    if ui.json:
        data([asdict(info) for info in infos])
    elif markdown:
        data(page(infos).rstrip("\n"))
    else:
        for info in infos:
            data(_described(info))


def _described(info: FamilyInfo) -> str:
    facts = {
        "checkpoints": ", ".join(info.checkpoints),
        "tokens": info.tokens,
        "supports": ", ".join(f"{name}: {words}" for name, words in info.support.items()),
        "positions": info.positions,
        "between": info.between,
        "limits": "; ".join(info.limits),
    }
    return "\n".join([f"{info.title} ({info.model_type})", *(f"  {name:<11} {text}" for name, text in facts.items())])
