# SPDX-License-Identifier: Apache-2.0
"""A film asked about window by window: the next window is decoded while the model works on this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vidcomp.core.arguments import check_question, checked, expect
from vidcomp.engine.run import VideoLM
from vidcomp.engine.verdict import Verdict, judged
from vidcomp.errors import VidcompError
from vidcomp.result import Answer
from vidcomp.video.given import StrPath, read_video
from vidcomp.video.names import local_path
from vidcomp.video.options import readers_of, sampling_of
from vidcomp.video.types import Frames
from vidcomp.video.windows import Every, Window, plan_windows

__all__ = ["PROMPT", "Segment", "continued", "find", "read_ahead", "segments"]

PROMPT = "describe the video."


@dataclass(frozen=True)
class Segment:
    """The answer about one window of a film.

    Attributes:
        window: with exact times of the film.
        answer: None where the window cannot be read or answered.
        error: the reason for that.
        verdict: how probable a yes is, of :func:`find`.
    """

    window: Window
    answer: Answer | None
    error: VidcompError | None = None
    verdict: Verdict | None = None

    @property
    def text(self) -> str:
        """The answer in words; empty where there is none."""
        return self.answer.text if self.answer else ""


@checked
def segments(
    lm: VideoLM,
    video: StrPath,
    question: str = PROMPT,
    *,
    every: str = "auto",
    least: str | None = None,
    most: str | None = None,
    context: bool = False,
) -> Iterator[Segment]:
    """Ask about every window of a film; each is yielded as soon as it is answered.

    Args:
        lm: the loaded model, whose settings hold.
        video: a file.
        question: plain text, the same for all windows.
        every: ``scene`` (a window per stretch between cuts), ``auto`` (likewise, of 2 to 30 seconds) or seconds.
        least: seconds; shorter windows are joined with the next one.
        most: seconds; longer windows are divided into equal parts.
        context: each window is told the answer about the one before.

    Raises:
        InputError: the file cannot be read at all; a window that cannot is a segment with its error.
    """
    check_question(question)
    path, windows = _planned(lm, video, every, least, most)
    before = ""
    for window, read in read_ahead(lm, path, windows):
        try:
            answer = lm.ask(read.result(), continued(question, before))
        except VidcompError as error:
            before = ""
            yield Segment(window, None, error)
        else:
            before = answer.text if context else ""
            yield Segment(window, answer)


@checked
def find(
    lm: VideoLM, video: StrPath, question: str, *, every: str = "auto", least: str | None = None,
    most: str | None = None,
) -> Iterator[Segment]:  # fmt: skip
    """Ask a yes-or-no question about every window of a film, in their order; the verdicts say how probable a yes is.

    Args:
        lm, video, every, least, most: as in :func:`segments`.
        question: to be answered by yes or no.
    """
    check_question(question)
    path, windows = _planned(lm, video, every, least, most)
    for window, read in read_ahead(lm, path, windows):
        try:
            verdict = judged(lm, read.result(), question)
        except VidcompError as error:
            yield Segment(window, None, error)
        else:
            yield Segment(window, verdict.answer, verdict=verdict)


def read_ahead(
    lm: VideoLM, path: Path, windows: Iterable[Window]
) -> Iterator[tuple[Window, Future[Frames]]]:  # fmt: skip
    """Windows with their frames; those of the next one are decoded meanwhile, and no others are in memory."""
    with ThreadPoolExecutor(1, "vidcomp-windows") as thread:
        waiting: tuple[Window, Future[Frames]] | None = None
        for window in windows:
            now, waiting = waiting, (window, thread.submit(read_window, lm, path, window))
            if now is not None:
                yield now
                del now
        if waiting is not None:
            yield waiting


def read_window(lm: VideoLM, path: Path, window: Window) -> Frames:
    """Frames of one window, chosen as the model's settings say."""
    config = lm.config.replace(**window.settings()).video
    return read_video(path, config, sampling_of(config, lm.family.default_frames, lm.family.stock_rule))


def continued(question: str, before: str) -> str:
    """The question, after what was said about the window before."""
    return f"just before this: {' '.join(before.split())}\n{question}" if before else question


def _planned(
    lm: VideoLM, video: StrPath, every: str, least: str | None, most: str | None
) -> tuple[Path, list[Window]]:  # fmt: skip
    expect("lm", lm, isinstance(lm, VideoLM), "what vidcomp.load() returned")
    path, config = local_path(video), lm.config.video
    divided = Every.parse(every, least, most)
    return path, plan_windows(path, divided, config.window, config.deadline, readers_of(config))[1]
