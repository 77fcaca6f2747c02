# SPDX-License-Identifier: Apache-2.0
"""vidcomp models: the model families that can be compressed."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from vidcomp.cli.console import Ui, data, out_console
from vidcomp.cli.options import with_ui
from vidcomp.core.index import FAMILIES, stored
from vidcomp.errors import UsageError

__all__ = ["models"]


@with_ui
def models(
    *,
    memory: Annotated[
        str | None,
        typer.Option("--for", metavar="8GB", help="which checkpoints, formats and frames fit into this memory"),
    ] = None,
    keep: Annotated[
        float, typer.Option("--keep", help="with --for: the share of the visual tokens that is kept", min=0.001, max=1)
    ] = 0.1,
    markdown: Annotated[bool, typer.Option("--markdown", help="print docs/models.md")] = False,
    ui: Ui,
) -> None:
    """List the model families, their checkpoints, tokens per frame and limits; with --for what fits a memory."""
    if memory is not None:
        _show_fits(_bytes(memory), keep, ui)
        return
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


def _bytes(text: str) -> int:
    """``8GB``, ``8 GiB``, ``512M`` or ``8`` (GB) as bytes, in units of 1024."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mgt]?)i?b?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise UsageError(f"no memory: {text!r}", why="it is a number and a unit", hint="--for 8GB, or --for 512MB")
    return int(float(found[1]) * 1024 ** {"m": 2, "g": 3, "t": 4}[found[2].lower() or "g"])


def _show_fits(memory: int, keep: float, ui: Ui) -> None:
    """The table, the largest model first, or a JSON list."""
    from vidcomp.report.fits import fits
    from vidcomp.report.sheet import Sheet
    from vidcomp.report.table import size

    found = list(fits(memory, keep))
    if ui.json:
        data([fit.to_dict() for fit in found])
        return
    table = Sheet("model", "weights in", "weights", "frames, all tokens", f"frames, --keep {keep:g}")
    for fit in found:
        table.add_row(fit.model, fit.format, size(fit.weight_bytes), str(fit.frames or "-"), str(fit.frames_compressed))
    out_console().print(table if found else f"no published model fits into {size(memory)}")
    ui.note("estimated from sizes, for clips of 1280 x 720; not measured on such a device")


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
