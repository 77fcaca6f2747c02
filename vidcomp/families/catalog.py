# SPDX-License-Identifier: Apache-2.0
"""The supported families in words, and docs/models.md, made from the adapter classes themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vidcomp.families.base import Family

__all__ = ["TESTED", "FamilyInfo", "catalog", "markdown"]

TESTED = ("5.17", "5.23", "5.24")
"""Releases of transformers whose own outputs every family is compared with."""

_HEAD = """\
# Models

Made by `vidcomp models --markdown` from the adapters in `vidcomp/families/`; a test compares this page with them.

Every family runs on the stock classes of transformers, tested with {versions}. Proven on replicas with the hub's file
layout and random weights: pixels bit-equal and prompt ids identical to the library's own processor, with keep 1 every
logit bit-equal to stock `generate` (sdpa and eager, 8 decode steps), pruned logits within 1e-4 of a masked reference
that hides rows instead of cutting them. **Not verified: real checkpoints and their answers, GPUs, flash attention.**

In all families: reduction before the language model; reduction inside it before any layer from 1 on, with the kernels
sdpa, eager and flash attention; one encode for many questions; frames that show the same picture again are not encoded
(`--skip-repeats auto`); the tower runs in chunks, so its memory does not grow with the clip.

- A *slice* is what the tower turns into one grid of tokens: a frame, or a pair of frames. Where it is a pair, an odd
  last frame is doubled, as the stock processor does.
- *Positions* is what `--positions auto` means for the family: `compact` renumbers the rows that are left; `keep` leaves
  every row the ids that it has in the uncompressed sequence, for models that read time and place from three rotary
  axes. Text goes on where the installed library goes on.
- *Between frames*: markers of a slice that lost all its tokens are not read; the report counts them
  (`markers`, `markers_dropped`). Slices that lose their last token inside the language model keep theirs.
"""


@dataclass(frozen=True)
class FamilyInfo:
    """One supported family: what a user wants to know before choosing it.

    Attributes:
        model_type: as config.json names it.
        title: name for people.
        checkpoints: published checkpoints, by their names on the hub.
        tokens: tokens of a frame, in words.
        positions: the position ids, in words.
        between: what stands between the frames, in words.
        signals: signals that its tower gives to methods.
        support: parts of vidcomp to how far they work with it.
        limits: what does not work, a sentence each.
    """

    model_type: str
    title: str
    checkpoints: tuple[str, ...]
    tokens: str
    positions: str
    between: str
    signals: tuple[str, ...]
    support: Mapping[str, str]
    limits: tuple[str, ...]


def catalog(families: Mapping[str, type[Family]]) -> tuple[FamilyInfo, ...]:
    """The families of a registry, in its order."""
    return tuple(_info(kind) for kind in families.values())


def markdown(infos: Iterable[FamilyInfo]) -> str:
    """The page docs/models.md."""
    return _HEAD.format(versions=f"{', '.join(TESTED[:-1])} and {TESTED[-1]}") + "\n" + "\n".join(_page(tuple(infos)))


def _info(kind: type[Family]) -> FamilyInfo:
    about = kind.about
    return FamilyInfo(
        kind.model_type, about.title, about.checkpoints, about.tokens, kind.default_positions, about.between,
        tuple(sorted(kind.signals)), _support(kind), about.limits,
    )  # fmt: skip


def _support(kind: type[Family]) -> dict[str, str]:
    """Support that the interface gives every family; only the unit of skipping differs."""
    skipped = "per frame" if kind.frames_per_slice == 1 else f"per {kind.frames_per_slice} frames"
    return {"outer": "yes", "inner": "layers from 1", "many questions": "yes", "skips the tower": skipped}


def _page(infos: tuple[FamilyInfo, ...]) -> Iterator[str]:
    names = ("family", "`model_type`", "visual tokens", *infos[0].support, "positions", "tower tells", "transformers")
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    for info in infos:
        first = (info.title, f"`{info.model_type}`", info.tokens, *info.support.values())
        yield f"| {' | '.join((*first, info.positions, ', '.join(info.signals), ', '.join(TESTED)))} |"
    for info in infos:
        yield f"\n## {info.title}\n"
        yield f"Checkpoints: {', '.join(info.checkpoints)}.\n"
        yield f"- Between frames: {info.between}."
        yield from (f"- {limit[0].upper()}{limit[1:]}." for limit in info.limits)
    yield "\nTo add a family: one file with a subclass of `Family`, one line in the registry, one row in the tests."
    yield ""
