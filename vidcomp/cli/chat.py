# SPDX-License-Identifier: Apache-2.0
"""vidcomp chat: questions about one video, one after the other."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidcomp.cli.ask import write_piece
from vidcomp.cli.console import Ui, data, out_console, print_error
from vidcomp.cli.notes import summary
from vidcomp.cli.options import ALL_GROUPS, path_argument, with_config, with_ui
from vidcomp.cli.signals import raise_exceptions
from vidcomp.config import OuterConfig, RunConfig
from vidcomp.core.options import option_of
from vidcomp.errors import UsageError, VidcompError

if TYPE_CHECKING:
    from vidcomp.engine.conversation import Conversation

__all__ = ["chat"]

_HELP = """/keep 0.2       go on with another share of the tokens
/method NAME    go on with another method
/report         what the last answer cost, stage by stage
/forget         the next question stands alone
/quit           leave (or Ctrl-D); Ctrl-C stops an answer"""


@with_ui
@with_config(*ALL_GROUPS)
def chat(
    video: Annotated[Path, path_argument("video file")],
    *,
    config: RunConfig,
    ui: Ui,
) -> None:
    """Talk about a video, encoded once; answers stream, /help lists the commands, questions may come from a pipe."""
    from vidcomp.cli.session import open_model

    with open_model(config, ui, video) as lm:
        from vidcomp.engine.conversation import Conversation

        talk = _Talk(Conversation(lm, video), ui)
        talk.conversation.open()
        if sys.stdin.isatty():
            ui.note("ask about the video; /help lists the commands, /quit leaves")
        for line in _lines():
            if not talk.hear(line):
                break
    if talk.failure and not sys.stdin.isatty():
        raise typer.Exit(talk.failure)


class _Talk:
    """Hears lines: commands and questions.

    Attributes:
        failure: exit status of the first line that failed, 0 for none.
    """

    def __init__(self, conversation: Conversation, ui: Ui) -> None:
        self.conversation, self.ui, self.failure = conversation, ui, 0
        self.commands: dict[str, Callable[[str], None]] = {
            "/keep": self._keep,
            "/method": self._method,
            "/report": lambda _: self._report(),
            "/forget": lambda _: self.conversation.forget(),
            "/help": lambda _: self._help(),
        }

    def hear(self, line: str) -> bool:
        """Act on one line; False when it says to leave."""
        word, _, rest = line.strip().partition(" ")
        if word in ("/quit", "/exit"):
            return False
        try:
            if word.startswith("/"):
                self._command(word, rest.strip())
            elif word:
                self._answer(line.strip())
        except KeyboardInterrupt:
            raise_exceptions()
            sys.stderr.write("\nstopped; /quit leaves\n")
        except VidcompError as error:
            self.failure = self.failure or error.status
            print_error(error)
        return True

    def _command(self, word: str, rest: str) -> None:
        if word not in self.commands:
            raise UsageError(f"no command {word}", why=f"there are {', '.join(self.commands)}, /quit", hint="/help")
        self.commands[word](rest)

    def _answer(self, question: str) -> None:
        answer = self.conversation.ask(question, None if self.ui.json else write_piece)
        if self.ui.json:
            data(answer.to_dict())
            return
        data("")
        for line in (summary(answer), *(f"note: {note}" for note in answer.notes)):
            self.ui.note(line)

    def _keep(self, text: str) -> None:
        try:
            value = float(text)
        except ValueError:
            raise UsageError(f"/keep {text}", why="it takes a share, /keep 0.2", code="bad_option") from None
        option_of(OuterConfig.__dataclass_fields__["keep"]).check(value)
        self.conversation.change(keep=value)
        self._settled()

    def _method(self, text: str) -> None:
        if not text:
            raise UsageError("/method takes a name", hint="vidcomp methods lists them", code="bad_option")
        self.conversation.change(method=text)
        self._settled()

    def _help(self) -> None:
        sys.stderr.write(f"{_HELP}\n")

    def _settled(self) -> None:
        compressed = self.conversation.open()
        tokens = compressed.ledger.tokens
        self.ui.note(f"{compressed.method}: {tokens.kept} of {tokens.uncompressed} visual tokens")

    def _report(self) -> None:
        from vidcomp.report import make_report, render_report

        last = self.conversation.last
        if last is None:
            raise UsageError("nothing was answered yet", hint="ask first", code="bad_option")
        made = make_report(last.ledger, self.conversation.lm.family.shape)
        if self.ui.json:
            data({**last.to_dict(), "report": made.to_dict()})
        else:
            out_console().print(render_report(made, last.ledger))


def _lines() -> Iterator[str]:
    """Typed lines, with line editing where there is a terminal; Ctrl-C at the prompt clears the line."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are a fault of their line alone
    if not sys.stdin.isatty():
        for line in sys.stdin:  # noqa: UP028 - `yield from` would close it with this generator
            yield line
        return
    with contextlib.suppress(ImportError):  # not on every system
        import readline  # noqa: F401
    while True:
        try:
            if sys.stdout.isatty():
                yield input("> ")
            else:
                sys.stderr.write("> ")
                sys.stderr.flush()
                yield input()
        except EOFError:
            sys.stderr.write("\n")
            return
        except KeyboardInterrupt:
            raise_exceptions()
            sys.stderr.write("\n/quit or Ctrl-D leaves\n")
