# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a checkpoint on held-out videos: ``python -m training.nano.evaluate [--mp4]``.

An answer is right if greedy decoding gives exactly the true answer. The blind floor is what the most common answer
to the same question scores on the same questions.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from training.nano.export import load_exported
from training.nano.join import render_batch
from training.nano.language import WORLDS, Batch, Lesson, count_matches, make_batch
from training.nano.model import FRAMES, VisualPrompt, full_prompt, to_pixels, visual_tokens
from training.nano.packing import SPLIT, forward_packed
from training.nano.thinning import LEAST, random_tokens
from vidcomp.bench.world.files import read_samples, write_mp4
from vidcomp.bench.world.scoring import Tally, blind_floor, rounded
from vidcomp.bench.world.seeds import TEST, VALIDATION
from vidcomp.bench.world.videos import Video
from vidcomp.nano import CHECKPOINT

_BATCH = 8
SPLITS = {"test": TEST, "validation": VALIDATION}


@dataclass
class Report:
    """Result of an evaluation."""

    split: str
    first_seed: int
    videos: int
    encoded: bool
    tokens: int  # visual tokens per video
    seconds: float
    model: Tally
    blind: Tally

    def as_json(self) -> dict[str, object]:
        """Plain values for a file."""
        return {
            "split": self.split,
            "first_seed": self.first_seed,
            "videos": self.videos,
            "questions": self.model.total,
            "encoded": self.encoded,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "macro": round(self.model.macro, 4),
            "blind_macro": round(self.blind.macro, 4),
            "accuracy": rounded(self.model.accuracy(), 4),
            "blind": rounded(self.blind.accuracy(), 4),
            "asked": dict(self.model.asked),
        }


def encoded_batch(videos: list[Video], folder: Path) -> Tensor:
    """Frames as sampled from H.264 files [B, 8, 3, 96, 96]; the files are removed again."""
    pixels = []
    for video in videos:
        path = folder / f"{video.seed}.mp4"
        write_mp4(video, path)
        pixels.append(to_pixels(read_samples(path, FRAMES)))
        path.unlink()
    return torch.stack(pixels)


@torch.no_grad()
def evaluate(
    model: Any,
    split: str = "test",
    videos: int = 150,
    encoded: bool = False,
    tokens: int | None = None,
    lesson: Lesson = WORLDS["small"],
) -> Report:
    """Ask everything about the first videos of a split; `tokens` keeps that many visual tokens, chosen by chance."""
    started, first = time.monotonic(), SPLITS[split].start
    model.model.language_model.set_attn_implementation(SPLIT)
    model.model.vision_tower.set_attn_implementation("eager")
    tally, questions, dice = Tally(), [], random.Random(0)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(first, first + videos, _BATCH):
            batch = make_batch(range(start, min(start + _BATCH, first + videos)), lesson, None)
            reader = encoded_batch if encoded else _rendered(dice)
            prompt = full_prompt(model, visual_tokens(model, reader(batch.videos, Path(folder))))
            _ask(model, prompt if tokens is None else random_tokens(prompt, tokens), batch, tally)
            questions += [question for asked in batch.questions for question in asked]
    blind = blind_floor(questions, lesson.options)
    count = FRAMES * 36 + 1 if tokens is None else tokens
    return Report(split, first, videos, encoded, count, time.monotonic() - started, tally, blind)


def _rendered(dice: random.Random) -> Callable[[list[Video], Path], Tensor]:
    """Reader that renders the sampled moments in memory."""
    times = [i / (FRAMES - 1) for i in range(FRAMES)]
    return lambda videos, _: render_batch(videos, times, dice)


def _ask(model: Any, prompt: VisualPrompt, batch: Batch, tally: Tally) -> None:
    """Add the answers to one batch of questions to the tally."""
    output = forward_packed(model.model.language_model, prompt, batch.packed)
    count_matches(tally, output, batch.packed, batch.questions)


def show(report: Report, console: Console) -> None:
    """Print the table."""
    source = "H.264 files" if report.encoded else "rendered frames"
    title = f"{report.videos} {report.split} videos from {source}, {report.tokens} visual tokens"
    table = Table("question", "asked", "right", "blind floor", title=title)
    right, blind = report.model.accuracy(), report.blind.accuracy()
    for kind, value in right.items():
        table.add_row(kind, str(report.model.asked[kind]), f"{value:.3f}", f"{blind[kind]:.3f}")
    table.add_row("macro mean", str(report.model.total), f"{report.model.macro:.3f}", f"{report.blind.macro:.3f}")
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Evaluate and print, optionally write JSON."""
    parser = argparse.ArgumentParser(prog="python -m training.nano.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--split", choices=list(SPLITS), default="test")
    parser.add_argument("--videos", type=int, default=150, help="videos to ask about (default: 150)")
    parser.add_argument("--world", choices=list(WORLDS), default="small", help="what is in the videos (default: small)")
    parser.add_argument("--mp4", action="store_true", help="encode every video to a file and read that")
    parser.add_argument("--tokens", type=int, help=f"keep this many visual tokens at random, at least {LEAST}")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model, lesson = load_exported(options.checkpoint), WORLDS[options.world]
    report = evaluate(model, options.split, options.videos, options.mp4, options.tokens, lesson)
    show(report, Console())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
