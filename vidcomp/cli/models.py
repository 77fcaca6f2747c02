# SPDX-License-Identifier: Apache-2.0
"""vidcomp models: the model families that can be compressed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.options import with_ui
from vidcomp.core.index import FAMILIES, stored

__all__ = ["models"]


@with_ui
def models(
    *, markdown: Annotated[bool, typer.Option("--markdown", help="print docs/models.md")] = False, ui: Ui
) -> None:
    """List the model families, their checkpoints, tokens per frame and limits."""
    if markdown:
        from vidcomp.families import FAMILIES as adapters
        from vidcomp.families.catalog import catalog
        from vidcomp.families.catalog import markdown as page

        data(page(catalog(adapters)).rstrip("\n"))
        return
    infos = [{name: value for name, value in row.items() if name != "stock"} for row in stored(FAMILIES)]
    if ui.json:
        data(infos)
    else:
        for info in infos:
            data(_described(info))


def _described(info: dict[str, Any]) -> str:
    facts = {
        "checkpoints": ", ".join(info["checkpoints"]),
        "tokens": info["tokens"],
        "supports": ", ".join(f"{name}: {words}" for name, words in info["support"].items()),
        "positions": info["positions"],
        "between": info["between"],
        "limits": "; ".join(info["limits"]),
    }
    title = f"{info['title']} ({info['model_type']})"
    return "\n".join([title, *(f"  {name:<11} {text}" for name, text in facts.items())])
