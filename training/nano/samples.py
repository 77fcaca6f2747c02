# SPDX-License-Identifier: Apache-2.0
"""Writes the sample videos: ``python -m training.nano.samples``.

Candidates come from the sample seeds, in order. A video is kept if the shipped model, asked through vidcomp on the
encoded file, says rightly what happens at the end with all visual tokens and after compression, and answers enough
other questions rightly as well. Only those questions are listed, so the samples are chosen, not representative.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcomp.bench.world.files import WIDTH, write_mp4
from vidcomp.bench.world.questions import PHRASINGS, Question, event_sentence, make_questions
from vidcomp.bench.world.seeds import SAMPLES
from vidcomp.bench.world.videos import Options, Video, make_video

logger = logging.getLogger(__name__)

KEEPS = (0.1, 0.25, 1.0)
"""Keep ratios at which every listed question must be answered rightly, the hardest first."""

INDEX = "samples.json"
_OPTIONS = Options(aspects=(4 / 3,))
_LEAST, _MOST = 4, 6  # questions listed for one video
_LARGEST = 150_000  # bytes
_SAME_ENDING = 2  # videos that end with the same kind of event


@dataclass(frozen=True)
class Sample:
    """A chosen video."""

    file: str
    questions: tuple[Question, ...]

    def as_json(self) -> dict[str, object]:
        """Entry of samples.json."""
        asked = [{"question": q.text, "answer": q.answer} for q in self.questions]
        return {"file": self.file, "questions": asked}


def canonical_questions(video: Video) -> list[Question]:
    """Questions in their first phrasing, "what happens at the end?" first, every kind at most once."""
    chosen: dict[str, Question] = {}
    for attempt in range(40):
        for question in make_questions(video, random.Random(video.seed + attempt)):
            if question.kind not in chosen and _is_canonical(question):
                chosen[question.kind] = question
    return sorted(chosen.values(), key=lambda q: list(PHRASINGS).index(q.kind))


def _is_canonical(question: Question) -> bool:
    """True if the text follows the first phrasing of its kind."""
    start, _, rest = PHRASINGS[question.kind][0].partition("{")
    end = rest.rpartition("}")[2] if rest else start
    return question.text.startswith(start) and question.text.endswith(end) and (bool(rest) or question.text == start)


def file_name(video: Video) -> str:
    """A name that tells what happens."""
    sentences = [event_sentence(scene).removeprefix("the ").replace(" ", "_") for scene in video.scenes]
    return "_then_".join(sentences) + ".mp4"


def answered(model: Any, path: Path, questions: list[Question]) -> list[Question]:
    """The questions that the model answers rightly at every keep ratio, asked through vidcomp.

    Nothing if the first one, about the end, is not among them.
    """
    for keep in KEEPS:
        encoded = model.compress(path, keep=keep)
        right: list[Question] = []
        for question in questions:
            if model.ask(encoded, question.text).text.strip() == question.answer:
                right.append(question)
            elif question.kind == "end":
                return []
        questions = right
    return questions


def choose(model: Any, folder: Path, count: int, tries: int) -> tuple[list[Sample], int]:
    """Up to `count` samples, written into `folder`, and the number of candidates that were looked at."""
    samples: list[Sample] = []
    endings: Counter[tuple[str, int]] = Counter()
    for seed in range(SAMPLES.start, SAMPLES.start + tries):
        video = make_video(seed, _OPTIONS)
        event = video.scenes[-1].event
        ending = (event.kind if event else "", len(video.scenes))
        if endings[ending] >= 1 or sum(n for key, n in endings.items() if key[0] == ending[0]) >= _SAME_ENDING:
            continue
        path = folder / file_name(video)
        write_mp4(video, path)
        right = answered(model, path, canonical_questions(video)) if path.stat().st_size <= _LARGEST else []
        if len(right) < _LEAST:
            path.unlink()
            continue
        others = random.Random(seed).sample(right[1:], min(len(right), _MOST) - 1)
        listed = tuple(q for q in right if q is right[0] or q in others)
        samples.append(Sample(path.name, listed))
        endings[ending] += 1
        logger.info("%s: %d of the questions listed", path.name, len(listed))
        if len(samples) == count:
            break
    return samples, seed - SAMPLES.start + 1


def _remove_listed(folder: Path) -> None:
    """Delete the videos that an earlier run wrote into this folder."""
    index = folder / INDEX
    if index.exists():
        for entry in json.loads(index.read_text(encoding="utf-8")):
            (folder / entry["file"]).unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Choose, write and list the samples."""
    import vidcomp

    parser = argparse.ArgumentParser(prog="python -m training.nano.samples", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("samples"), help="folder to write into (default: samples)")
    parser.add_argument("--count", type=int, default=10, help="videos to keep (default: 10)")
    parser.add_argument("--tries", type=int, default=200, help="candidates to look at, at most (default: 200)")
    parser.add_argument("--model", default="nano", help="model that must answer rightly (default: nano)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    _remove_listed(options.out)
    samples, looked = choose(vidcomp.load(options.model), options.out, options.count, options.tries)
    text = json.dumps([sample.as_json() for sample in samples], indent=2)
    (options.out / INDEX).write_text(text + "\n", encoding="utf-8")
    logger.info("%d samples of %d pixels width out of %d candidates", len(samples), WIDTH, looked)


if __name__ == "__main__":
    main()
