# SPDX-License-Identifier: Apache-2.0
"""An answer with everything that is needed to believe it, and its JSON form."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vidcomp._version import __version__
from vidcomp.core.endings import Finish
from vidcomp.core.ledger import StageLedger
from vidcomp.core.tokens import Span
from vidcomp.video import Frames

__all__ = ["SCHEMA", "Answer", "versions"]

SCHEMA = 1


@dataclass(frozen=True)
class Answer:
    """A model's answer about a video.

    Attributes:
        text: the answer.
        question: what was asked.
        path: the video file.
        model: name of the checkpoint.
        method: name of the method, with its parameters.
        frames: the sampled frames.
        spans: the spans the method worked on.
        ledger: tokens, seconds and rows of every stage.
        seed: seed of the run.
        inner: the schedule inside the language model, with its parameters.
        encoder: the merger inside the vision tower, with its parameters.
        finish: how the answer ended: ``stop`` (by itself), ``length`` (cut at the limit), ``loop`` (cut at the limit
            while it repeated itself) or ``interrupted`` (``stop=`` said so).
        settings: all settings of the run by name, to repeat it.
    """

    text: str
    question: str
    path: Path
    model: str
    method: str
    frames: Frames
    spans: tuple[Span, ...]
    ledger: StageLedger
    seed: int
    inner: str = "none"
    encoder: str = "none"
    finish: Finish = "stop"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """``ok``, or ``degraded`` when part of the video could not be decoded."""
        return self.frames.status

    @property
    def notes(self) -> tuple[str, ...]:
        """Things that the caller would not expect of the video or of this run, a line each."""
        return (*self.frames.info.notes, *self.ledger.notes)

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, schema 1."""
        ledger = self.ledger
        record = {
            "schema": SCHEMA,
            "status": self.status,
            "video": self.frames.info.to_dict(),
            "question": self.question,
            "answer": self.text,
            "finish": self.finish,
            "model": self.model,
            "method": self.method,
            "inner": self.inner,
            "encoder": self.encoder,
            "keep": {"requested": ledger.keep_requested, "actual": round(ledger.keep_actual, 6)},
            "tokens": ledger.tokens.to_dict(),
            "frames": {**self.frames.to_dict(), "encoded": ledger.frames_encoded},
            "tower_rows": {"share": round(ledger.tower_share, 6), "by_layer": ledger.tower_rows},
            "spans": [[span.start, span.end] for span in ledger.spans],
            "segmentation": ledger.segmentation.to_dict(),
            "stages": [stage.to_dict() for stage in ledger.stages],
            "seconds": {"total": round(ledger.seconds, 6), "time_to_first_token": round(ledger.time_to_first_token, 6)},
            "versions": versions(),
            "seed": self.seed,
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }
        if self.frames.degraded:
            record["degraded"] = self.frames.degraded
        return record


@cache
def versions() -> dict[str, str]:
    """Versions of what an answer depends on."""
    return {
        "vidcomp": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
