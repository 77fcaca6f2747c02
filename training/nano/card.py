# SPDX-License-Identifier: Apache-2.0
"""Writes the model card from measured reports: ``python -m training.nano.card REPORT.json ... --history H.json``.

No accuracy is typed by hand: the tables come from files that ``python -m training.nano.evaluate --json`` wrote, the
training table from a list of {"stage", "what", "seconds", "processes"} entries taken from the training log.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vidcomp.bench.world import seeds
from vidcomp.bench.world.questions import KINDS, PHRASINGS
from vidcomp.nano import CHECKPOINT

Report = dict[str, Any]

_HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
tags: [video, toy-model, vidcomp]
---

# vidcomp nano

A video-LLM of 1.3 million parameters, trained from scratch on procedurally rendered videos: one or two scenes with one
to three coloured shapes, in each of which an object appears, disappears, turns another colour or moves.
**It understands this little world and nothing else.** On any other video its answers mean nothing. It exists so that
vidcomp works offline right after installation, and so that ways of compressing visual tokens can be compared quickly.

- Architecture: stock `LlavaOnevisionForConditionalGeneration`. SigLIP tower (96 x 96 pixels, patch 8, width 96,
  4 layers), projector, 2x2 pooling, Qwen2 decoder (width 128, 4 layers). 8 frames give 8 x 36 + 1 = 289 visual tokens.
- Frames: 8, uniformly spaced from the first to the last one, squashed to 96 x 96 (bicubic), mean and deviation 0.5.
- Time is read from the positions of the tokens, there are no frame markers. Compressed tokens are answered from best if
  they keep their original positions, which `vidcomp_positions` in `video_preprocessor_config.json` asks for.
- Tokenizer: {words} words, lower case; other words become `<unk>`.
- Decoding: greedy. Answers are phrases such as "the red circle moves left", "it stays still" or "yes".
"""

_ASK = """
## What it can be asked

{rows}

Objects are called by colour ({colors}) and shape ({shapes}).
"""

_TRAINING = """
## How it was made

Recipe: `python -m training.nano.train --stage all --state DIR` (docs/nano.md explains the stages). The sittings
below are those of this very checkpoint; the recipe is what they settled on and has not been run from start to end in
one go.
Hardware: {hardware}. No data from outside, no pretrained weights.
Seeds: {seeds}.

| stage | what | wall-clock seconds | processes |
|---|---|---|---|
{rows}

In four of five batches of the last stage the visual tokens are thinned at random (29 to 289 of 289 kept; chosen by a
random blend of novelty against the previous frame, activity of the place, distinctiveness in the frame and chance;
dropped tokens sometimes averaged into their most similar survivor; positions kept or closed up; in the last layer
sometimes half of them hidden), or what repeats is averaged over random stretches of frames and random clusters of
places, so that a tiny model survives what large ones survive. The visual tokens were also trained to have contrast:
alike where the picture shows the same thing, unlike where an object came, went, moved or turned, as features of large
encoders are. No particular compression method is imitated, but all this makes the model friendlier to compression than
training on complete sequences only.
"""

_LIMITS = """
## Limits

- Anything outside its world: real footage, people, text, numbers, other shapes, more than three objects or two scenes.
- Events shorter than the distance of two sampled frames are guessed from before and after.
- Compare methods and find regressions with it; never quote its accuracy as that of a video-LLM on real videos.
"""


def accuracy_table(reports: list[Report]) -> str:
    """One row per question kind, one column per report, the blind floor of the first report last."""
    names = [f"{'mp4 files' if r['encoded'] else 'rendered'}, {r['tokens']} tokens" for r in reports]
    lines = ["| question | asked | " + " | ".join(names) + " | blind floor |", "|---" * (len(reports) + 3) + "|"]
    first = reports[0]
    for kind, asked in sorted(first["asked"].items(), key=lambda item: list(PHRASINGS).index(item[0])):
        values = " | ".join(f"{r['accuracy'][kind]:.3f}" for r in reports)
        lines.append(f"| {kind} | {asked} | {values} | {first['blind'][kind]:.3f} |")
    values = " | ".join(f"**{r['macro']:.3f}**" for r in reports)
    lines.append(f"| macro mean | {first['questions']} | {values} | {first['blind_macro']:.3f} |")
    return "\n".join(lines)


def _measured(reports: list[Report]) -> str:
    """How the numbers of the table were obtained."""
    first = reports[0]
    text = f"Exact match of the greedy answer, all questions about {first['videos']} videos, "
    text += f"seeds from {first['first_seed']}."
    if any(report["tokens"] < 289 for report in reports):
        text += " Fewer than 289 tokens: that many chosen by chance, the others dropped, positions closed up."
    return text + " The blind floor answers without seeing.\n\n"


def build_card(reports: list[Report], history: list[dict[str, Any]], hardware: str) -> str:
    """The text of README.md."""
    from vidcomp.bench.world.videos import COLORS, SHAPES
    from vidcomp.bench.world.vocabulary import VOCABULARY

    asked = "\n".join(f"- {kind}: " + " / ".join(f'"{text}"' for text in PHRASINGS[kind]) for kind in KINDS)
    rows = "\n".join(f"| {h['stage']} | {h['what']} | {h['seconds']} | {h['processes']} |" for h in history)
    ranges = ", ".join(f"{name.lower()} from {r.start}" for name, r in vars(seeds).items() if isinstance(r, range))
    return (
        _HEAD.format(words=len(VOCABULARY))
        + _ASK.format(rows=asked, colors=", ".join(COLORS), shapes=", ".join(SHAPES))
        + "\n## Accuracy on held-out videos\n\n"
        + _measured(reports)
        + accuracy_table(reports)
        + "\n\nCommands:\n\n"
        + "\n".join(f"    {command_of(report)}" for report in reports)
        + "\n"
        + _TRAINING.format(rows=rows, hardware=hardware, seeds=ranges)
        + _LIMITS
    )


def command_of(report: Report) -> str:
    """The command that made a report."""
    command = f"python -m training.nano.evaluate --split {report['split']} --videos {report['videos']}"
    command += " --mp4" if report["encoded"] else ""
    return command if report["tokens"] == 289 else f"{command} --tokens {report['tokens']}"


def main(arguments: list[str] | None = None) -> None:
    """Read reports, write the card."""
    parser = argparse.ArgumentParser(prog="python -m training.nano.card", description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+", help="JSON files written by training.nano.evaluate")
    parser.add_argument("--history", type=Path, required=True, help="JSON list of training stages")
    parser.add_argument("--hardware", required=True, help="what it was trained on")
    parser.add_argument("--out", type=Path, default=CHECKPOINT / "README.md")
    options = parser.parse_args(arguments)
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in options.reports]
    history = json.loads(options.history.read_text(encoding="utf-8"))
    options.out.write_text(build_card(reports, history, options.hardware), encoding="utf-8")


if __name__ == "__main__":
    main()
