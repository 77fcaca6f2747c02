# SPDX-License-Identifier: Apache-2.0
"""vidcomp ask: one question about one video, or several for one encode."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.console import Ui, data
from vidcomp.cli.notes import model_notes, summary
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.cli.warm.command import NoWarm
from vidcomp.config import RunConfig
from vidcomp.video.files import printable

if TYPE_CHECKING:
    from vidcomp.result import Answer

__all__ = ["ask", "write_piece"]


@with_ui
@with_config(*ALL_GROUPS)
def ask(
    video: Annotated[Path, path_argument("video file")],
    question: Annotated[str, typer.Argument(help="what to ask about it", show_default=False)],
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="one more question for the same encode; repeatable", metavar="QUESTION"),
    ] = None,
    no_warm: NoWarm = False,
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Answer a question about a video; the answer streams to stdout. With --also, one line per answer."""
    from vidcomp.cli.session import check_names, open_model

    on_text = None if ui.json else write_piece
    for more in also or ():
        check_names(config, more)
    with open_model(config, ui, video, question) as lm:
        if not also:
            _show(lm.ask(video, question, on_text=on_text), config, ui)
            return
        from vidcomp.engine.conversation import Conversation

        talk = Conversation(lm, video, remember=False)
        for each in (question, *also):
            _show(talk.ask(each, on_text), config, ui)


def write_piece(piece: str) -> None:
    """A piece of an answer on stdout, at once."""
    sys.stdout.write(printable(piece))
    sys.stdout.flush()


def _show(answer: Answer, config: RunConfig, ui: Ui) -> None:
    if ui.json:
        data({**answer.to_dict(), "notes": [*model_notes(config.model.model), *answer.notes]})
        return
    write_piece("\n")
    for line in (summary(answer), *(f"note: {note}" for note in answer.notes)):
        ui.note(line)
