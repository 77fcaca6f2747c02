# SPDX-License-Identifier: Apache-2.0
"""The input of a stock model: which rows of its prompt are the frames of a video, and which run of the vision tower
read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidcomp.errors import UsageError
from vidcomp.families import Family, Layout, Prompt

__all__ = [
    "TowerRun",
    "VideoRows",
    "find_video",
    "frame_rows",
    "fullest",
    "one_prompt",
    "prompt_around",
    "split_levels",
    "videos_given",
]


@dataclass(frozen=True)
class TowerRun:
    """One call of the vision tower.

    Attributes:
        arguments: by name; of pixels only how many pictures there were, as ``pictures``.
        signals: the signals of all slices of the call, once it has ended.
    """

    arguments: Mapping[str, Any]
    signals: Callable[[Layout], dict[str, Tensor]]


@dataclass(frozen=True)
class VideoRows:
    """The rows of a prompt that show video.

    Attributes:
        visual: [S] bool on the CPU; pictures beside the video are not among them.
        pictures: [T] int64, which of the tower's pictures each slice is; None when the tower read the video alone.
        videos: how many videos the text announces, None when it does not say.
    """

    visual: Tensor
    pictures: Tensor | None = None
    videos: int | None = None


def frame_rows(family: Family, tokenizer: Any, ids: Tensor) -> VideoRows:
    """Tell frames from pictures in the ids [S] of a prompt, on the CPU.

    Most families have a token of their own for video. In the others the stock processor writes a line before every
    frame, and that line is looked for.
    """
    visual = ids == family.visual_id
    if family.frame_line is None:
        return VideoRows(visual)
    edges = torch.diff(visual.int(), prepend=torch.zeros(1, dtype=torch.int32))
    starts, run = (edges == 1).nonzero()[:, 0].tolist(), (edges == 1).cumsum(0) - 1
    if not starts:
        return VideoRows(visual, torch.zeros(0, dtype=torch.long), 0)
    before = [tokenizer.decode(ids[last:start][~visual[last:start]].tolist(), skip_special_tokens=False)
              for last, start in zip([0, *starts], starts, strict=False)]  # fmt: skip
    frames = torch.tensor([re.search(family.frame_line, text) is not None for text in before])
    first = [re.search(str(family.first_frame), text) is not None for text in before]
    shows = visual & frames[run.clamp(min=0)]
    size = int(visual.sum()) if not frames.any() else int(shows.sum()) // int(frames.sum())
    place = (visual.cumsum(0)[torch.tensor(starts)] - 1) // max(size, 1)  # whole pictures of as many tokens each
    return VideoRows(shows, place[frames], sum(first))


def videos_given(kwargs: Mapping[str, Any]) -> int | None:
    """Number of videos in the model's own arguments, copies of a batch counted; None when they do not say."""
    encoded = (kwargs.get("mm_encoder_outputs") or {}).get("video")
    if encoded is not None:
        return len(encoded.pooler_output)
    if isinstance(grid := kwargs.get("video_grid_thw"), Tensor):
        return len(grid)
    pixels = kwargs.get("pixel_values_videos")
    return len(pixels) if isinstance(pixels, Tensor) and pixels.dim() == 5 else None


def find_video(
    family: Family, rows: VideoRows, runs: Sequence[TowerRun], given: int | None, copies: int
) -> tuple[Layout, TowerRun]:
    """The layout of the one video of a prompt, and the call of the tower that read it.

    Args:
        family: knows how many tokens a slice has.
        rows: those that show video.
        runs: calls of the tower since the last prompt, pictures and video apart or together.
        given: how many videos the model was given, copies counted.
        copies: sequences of the batch, all alike.

    Raises:
        UsageError: there is not exactly one whole video.
    """
    if not runs:
        raise UsageError("a video whose features were made elsewhere",
                         why="the tower did not run for it in this block; prefill_chunk_size does that, too",
                         hint="give the model the processor's own inputs", code="dropin")  # fmt: skip
    videos = rows.videos if rows.videos is not None else given and given // copies
    if videos is not None and videos > 1:
        raise UsageError(f"{videos} videos in a prompt", why="tokens are chosen within one video",
                         hint="one video per prompt; pictures beside it are fine", code="dropin")  # fmt: skip
    count = int(rows.visual.sum())
    for run in reversed(runs):  # stock models read pictures before the video
        layout = family.layout_seen(run.arguments, count - len(family.separators()))
        if layout is not None and (rows.pictures is None or len(rows.pictures) == layout.slices):
            return layout, run
    raise UsageError(
        f"{count} visual tokens are not those of one whole video",
        why="several videos, a prompt in pieces (prefill_chunk_size), or a processor that drops tokens by itself",
        hint="one video per prompt, read in one piece; VideoLLaMA3: use_token_compression=False",
        code="dropin",
    )


def fullest(ids: Tensor, visual: int) -> int:
    """The sequence of a batch [B, S] with the most visual rows; in what can be compressed all have the same."""
    return int((ids == visual).sum(1).argmax()) if len(ids) > 1 else 0


def split_levels(
    kwargs: dict[str, Any], visual: Tensor
) -> tuple[list[Tensor], tuple[Tensor, tuple[Tensor, ...]] | None]:
    """Take the DeepStack levels out of the decoder's call: those of the video [T * N, D] each.

    Where pictures stand beside it, also the places of their rows in the prompt [P], and their own levels [P, D].
    """
    levels, masks = kwargs.pop("deepstack_visual_embeds", None) or (), kwargs.pop("visual_pos_masks", None)
    if not levels or masks is None:
        return [], None
    rows = masks[0].nonzero()[:, 0].cpu()  # a batch repeats one prompt, its first copy comes first
    of_video = visual[rows]
    apart = [(level[: len(rows)], of_video.to(level.device)) for level in levels]
    video = [level[mine] for level, mine in apart]
    if bool(of_video.all()):
        return video, None
    return video, (rows[~of_video], tuple(level[~mine] for level, mine in apart))


def one_prompt(ids: Tensor, embeds: Tensor) -> Tensor:
    """The rows [S, D] of a batch whose sequences are all the same: beams, or several samples of one prompt."""
    if len(ids) > 1 and not (bool((ids == ids[:1]).all()) and bool((embeds == embeds[:1]).all())):
        raise UsageError(f"a batch of {len(ids)} different prompts",
                         why="which rows stay, and where they stand, is planned for one prompt",
                         hint="one prompt per call; beams and several samples of one work",
                         code="dropin")  # fmt: skip
    return embeds[0]


def prompt_around(ids: Tensor, visual: Tensor, layout: Layout) -> Prompt:
    """The text around the visual tokens, all of it as the prompt proper."""
    places, tokens = visual.nonzero()[:, 0], layout.tokens
    first = places[: layout.slices * tokens : tokens]
    last = places[tokens - 1 : layout.slices * tokens : tokens]
    if not torch.equal(last - first, torch.full_like(first, tokens - 1)):
        raise UsageError("visual tokens that are not in one piece per frame", hint="the processor's own inputs",
                         code="dropin")  # fmt: skip
    text = ids[~visual]
    return Prompt(text, (~visual).cumsum(0)[first], torch.full_like(text, -1), torch.zeros_like(text, dtype=torch.bool))
