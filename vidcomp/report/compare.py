# SPDX-License-Identifier: Apache-2.0
"""Several methods on one video and one question, over one pass of the vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vidcomp.core.trace import TokenTrace
from vidcomp.engine.inner import chosen_schedule
from vidcomp.engine.outer import signals_to_collect, split_pair
from vidcomp.engine.settings import configured
from vidcomp.engine.trace import traced
from vidcomp.errors import VidcompError
from vidcomp.report.lines import Report, make_report
from vidcomp.result import Answer

if TYPE_CHECKING:
    from vidcomp.engine.run import VideoLM
    from vidcomp.engine.videos import EncodedVideo
    from vidcomp.video.given import VideoInput

__all__ = ["PLAIN", "Comparison", "Run", "compare"]

PLAIN = "all tokens"
"""Name of the uncompressed run."""


@dataclass(frozen=True)
class Run:
    """One method beside others.

    Attributes:
        name: as it was asked for, with its parameters.
        answer: None where the method failed.
        trace: what became of every token, None where the method failed.
        report: its stages with their costs, None where the method failed.
        error: why it failed.
    """

    name: str
    answer: Answer | None = None
    trace: TokenTrace | None = None
    report: Report | None = None
    error: VidcompError | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of this method's own stages; ``prefill`` is the language model's, with the stages inside it."""
        spent = dict.fromkeys(("compress", "prefill", "generate"), 0.0)
        for stage in self.answer.ledger.stages if self.answer else ():
            name = "prefill" if stage.name.startswith("llm layer") else stage.name
            if name in spent:
                spent[name] += stage.seconds
        return spent

    def to_dict(self) -> dict[str, Any]:
        """An entry of ``methods`` in ``compare --json``."""
        if self.answer is None or self.report is None or self.trace is None:
            error = self.error.to_dict() if self.error else {}
            return {"name": self.name, "status": "failed", "error": error}
        whole = self.answer.to_dict()
        taken = ("answer", "finish", "method", "inner", "keep", "tokens", "spans", "notes")
        return {
            "name": self.name,
            "status": self.answer.status,
            **{name: whole[name] for name in taken},
            "seconds": {stage: round(seconds, 6) for stage, seconds in self.seconds.items()},
            "prefill": self.report.to_dict()["prefill"]["actual"],
            "tokens_by_fate": self.trace.counts(),
        }


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Attributes:
        question: what was asked.
        encoded: the video, read once and encoded once.
        plain: the uncompressed run.
        runs: one per method, in the order asked for.
    """

    question: str
    encoded: EncodedVideo
    plain: Run
    runs: tuple[Run, ...]

    def agrees(self, run: Run) -> bool | None:
        """True where the answer is that of the uncompressed run; None where one of them is missing."""
        return run.answer.text == self.plain.answer.text if run.answer and self.plain.answer else None

    def to_dict(self) -> dict[str, Any]:
        """The object of ``compare --json``."""
        first = next((run.answer for run in (self.plain, *self.runs) if run.answer), None)
        whole = first.to_dict() if first else {}
        stages = {stage.name: round(stage.seconds, 6) for stage in self.encoded.ledger.stages}
        return {
            "schema": 1,
            "question": self.question,
            **{name: whole[name] for name in ("video", "model", "frames", "versions", "seed") if name in whole},
            "seconds": stages,
            "plain": self.plain.to_dict(),
            "methods": [{**run.to_dict(), "same_answer": self.agrees(run)} for run in self.runs],
        }


def compare(lm: VideoLM, video: VideoInput, question: str, methods: Sequence[str], **settings: Any) -> Comparison:
    """Answer a question with several methods and without any; the video is read and encoded once.

    Args:
        lm: the model.
        video: a file, its bytes, an open file or frames.
        question: plain text.
        methods: names with parameters; ``holitom+fastv:k=2`` names the schedule inside the language model as well.
        settings: as in :meth:`~vidcomp.VideoLM.ask`, for all of them.

    Returns:
        All of them. What a method cannot do here stands in its place and does not end the others.

    Raises:
        InputError: the video cannot be read. UsageError: an unknown method or a wrong setting.
    """
    asked = {name: dict(zip(("method", "inner"), split_pair(name), strict=True)) for name in methods}
    signals, failed = frozenset[str](), dict[str, VidcompError]()
    for name, named in asked.items():
        config, method = configured(lm.config, None, {**settings, **named})
        try:
            schedule = chosen_schedule(method, config.outer, lm.family)
            signals |= signals_to_collect(method, lm.family, schedule)
        except VidcompError as error:
            failed[name] = error
    encoded = lm.encode(video, method="none", signals=signals, **settings)
    plain = _run(lm, encoded, question, PLAIN, method="none", inner="none", keep=1.0)
    runs = (
        Run(name, error=failed[name]) if name in failed else _run(lm, encoded, question, name, **settings, **named)
        for name, named in asked.items()
    )
    return Comparison(question, encoded, plain, tuple(runs))


def _run(lm: VideoLM, encoded: EncodedVideo, question: str, name: str, **settings: Any) -> Run:
    try:
        answer, trace = traced(lm, encoded, question, **settings)
    except VidcompError as error:
        return Run(name, error=error)
    return Run(name, answer, trace, make_report(answer.ledger, lm.family.shape))
