"""vidcomp ask: one question about one video."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vidcomp.cli.console import Ui, data, printable
from vidcomp.cli.notes import model_notes, summary
from vidcomp.cli.options import ALL_GROUPS, with_config, with_ui
from vidcomp.config import RunConfig

__all__ = ["ask"]


@with_ui
@with_config(*ALL_GROUPS)
def ask(
    video: Annotated[Path, typer.Argument(help="video file", show_default=False)],
    question: Annotated[str, typer.Argument(help="what to ask about it", show_default=False)],
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Answer a question about a video; the answer streams to stdout."""
    from vidcomp.cli.session import open_model

    with open_model(config, ui, video, question) as lm:
        answer = lm.ask(video, question, on_text=None if ui.json else _write)
    if ui.json:
        data({**answer.to_dict(), "notes": model_notes(config.model.model)})
        return
    _write("\n")
    ui.note(summary(answer))


def _write(piece: str) -> None:
    sys.stdout.write(printable(piece))
    sys.stdout.flush()
