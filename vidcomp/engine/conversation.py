# SPDX-License-Identifier: Apache-2.0
"""A video and the questions about it, one after the other; settings may change in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vidcomp.config import RunConfig, newer_budget
from vidcomp.core.arguments import check_question, checked, expect
from vidcomp.engine.inner import chosen_schedule
from vidcomp.engine.outer import reads_question, signals_to_collect
from vidcomp.engine.record import Recorder
from vidcomp.engine.run import VideoLM
from vidcomp.engine.settings import configured
from vidcomp.engine.videos import CompressedVideo, EncodedVideo
from vidcomp.errors import UsageError
from vidcomp.families.base import Turn
from vidcomp.hub import EMBEDDED
from vidcomp.methods import Method
from vidcomp.result import Answer
from vidcomp.video.given import VideoInput

__all__ = ["Conversation"]


class Conversation:
    """Questions about one video: it is read and encoded once, and the language model reads it once per setting.

    Attributes:
        encoded: the video behind the vision tower, None before the first question.
        compressed: what is left of it under the current settings.
        turns: what was said so far, as the model will read it again.
        last: the newest answer.
    """

    @checked
    def __init__(self, lm: VideoLM, video: VideoInput, *, remember: bool | None = None, **settings: Any) -> None:
        """Open a conversation; nothing is read yet.

        Args:
            lm: the loaded model.
            video: a file, its bytes, an open file or frames.
            remember: whether a question may refer to earlier ones. None is yes, except for the embedded model, which
                has learnt single questions.
            settings: as in :meth:`VideoLM.ask`.
        """
        expect("lm", lm, isinstance(lm, VideoLM), "what vidcomp.load() returned")
        self.lm, self.video, self.settings = lm, video, settings
        _, self._method = _configured(lm, settings)
        self.remember = lm.family.checkpoint.name not in EMBEDDED if remember is None else remember
        self.encoded: EncodedVideo | None = None
        self.compressed: CompressedVideo | None = None
        self.turns: list[Turn] = []
        self.last: Answer | None = None

    @checked
    def ask(
        self,
        question: str,
        on_text: Callable[[str], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Answer:
        """Answer the next question; arguments and errors as in :meth:`VideoLM.ask`.

        When the conversation grows longer than the model can place, the oldest turns are forgotten.
        """
        check_question(question)
        compressed = self.open()
        while True:
            try:
                answer = self.lm.ask(
                    compressed.encoded if reads_question(self._method) else compressed,
                    question,
                    on_text=on_text,
                    stop=stop,
                    history=tuple(self.turns),
                    **(self.settings if reads_question(self._method) else {}),
                )
                break
            except UsageError as error:
                if error.code != "too_long" or not self.turns:
                    raise
                del self.turns[0]
        if self.remember:
            self.turns.append((question, answer.text))
        self.last = answer
        return answer

    def open(self) -> CompressedVideo:
        """Read and encode the video unless that was done."""
        if self.compressed is None:
            self.encoded = self.lm.encode(self.video, **self.settings)
            self.compressed = self.lm.compress(self.encoded, **self.settings)
        return self.compressed

    def change(self, **settings: Any) -> None:
        """Go on with other settings, ``keep=0.2`` or ``method="uniform"``.

        The vision tower runs again only when a method asks for a signal that was not collected. After an error the
        old settings hold.
        """
        wanted = newer_budget(self.settings, settings)
        config, method = _configured(self.lm, wanted)
        schedule = chosen_schedule(method, config.outer, self.lm.family)
        needs = signals_to_collect(method, self.lm.family, schedule)
        if self.encoded is not None:
            collected = {name for name in needs if getattr(self.encoded.view, name) is not None}
            if needs <= collected:  # earlier answers have paid for it
                encoded = self.encoded
                paid = replace(encoded, ledger=Recorder(encoded.ledger, reused=True).ledger)
            else:
                encoded = paid = self.lm.encode(self.video, **wanted)
            self.compressed, self.encoded = self.lm.compress(paid, **wanted), encoded
        self.settings, self._method = wanted, method

    def forget(self) -> None:
        """The next question stands alone."""
        self.turns.clear()


def _configured(lm: VideoLM, settings: dict[str, Any]) -> tuple[RunConfig, Method]:
    named = {name: value for name, value in settings.items() if name != "method"}
    return configured(lm.config, settings.get("method"), named)
