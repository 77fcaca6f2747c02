# SPDX-License-Identifier: Apache-2.0
"""SmolVLM2: SigLIP-like tower, pixel shuffle, a sentence about the video, a time before every frame, Llama.

The stock processor ignores the repository's chat template when there is a video, and so does this adapter. Frames are
enlarged first and squashed to the tower's square afterwards, as the stock processor does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from torch import Tensor

from vidcomp.core.pixels import resize
from vidcomp.core.published import SMOLVLM_RULE
from vidcomp.families.base import About, Encoded, Turn
from vidcomp.families.layout import Layout
from vidcomp.families.prompt import Markers
from vidcomp.families.square import SquareFamily, frame_rows

__all__ = ["SmolVLM", "in_words"]

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_LARGEST_SIDE = 4096  # of the enlarged frame, as in the stock processor


class SmolVLM(SquareFamily):
    """Adapter for ``smolvlm`` checkpoints."""

    model_type = "smolvlm"
    stock = SMOLVLM_RULE
    visual = "<image>"
    visual_key = "image_token_id"
    frame_line = r"Frame from \d+:\d\d: ?<fake_token_around_image><global-img>$"
    first_frame = r"You are provided the following series of"
    about = About(
        "SmolVLM2",
        tuple(f"HuggingFaceTB/SmolVLM2-{size}-Instruct" for size in ("256M-Video", "500M-Video", "2.2B")),
        tokens="64 per frame (81 in the 2.2B model)",
        between="a sentence with the number of frames and the duration, which always stays, and `Frame from MM:SS:` "
        "per frame, which leaves with a frame that lost all its tokens",
        limits=("frames are squashed to a square",),
    )

    def tokens_per_side(self) -> int:
        """32 patches become 8 tokens, 27 become 9."""
        return self.patches_per_side // int(self.model.config.scale_factor)

    def squared(self, frames: Tensor, mode: str) -> Tensor:
        """Longer side to ``size.longest_edge``, the other one even, then squashed."""
        height, width = frames.shape[-2:]
        longest = min(_LARGEST_SIDE, int(self.settings["size"]["longest_edge"]))
        if width >= height:
            other = int(longest / (width / height))
            enlarged = (other + other % 2, longest)
        else:
            other = int(longest * (width / height))
            enlarged = (longest, other + other % 2)
        square = int(self.settings["max_image_size"]["longest_edge"])
        return resize(resize(frames, (max(enlarged[0], 1), max(enlarged[1], 1)), mode), (square, square), mode)

    def features(self, pixels: Tensor, layout: Layout) -> Encoded:
        """[t, N, D]; a list with one tensor per video in newer releases, a tensor in older ones."""
        out = self.model.base_model.get_image_features(pixels[None], return_dict=True).pooler_output
        return Encoded(frame_rows(out, layout))

    def markers(self, layout: Layout) -> Markers:
        """Minutes and seconds of every frame, cut to whole seconds."""
        fake = "<fake_token_around_image>"
        clock = (f"{int(time // 60):02d}:{int(time % 60):02d}" for time in layout.times)
        length = timedelta(seconds=int(layout.duration))
        intro = f"You are provided the following series of {in_words(layout.frames)} frames from a {length} [H:MM:SS]"
        return Markers(
            tuple(f"\nFrame from {time}:{fake}<global-img>" for time in clock), closing=fake, intro=f"{intro} video.\n",
            outro="\n\n",
        )  # fmt: skip

    def render(self, question: str, history: Sequence[Turn] = ()) -> str:
        """The library's own form for videos."""
        end = "<end_of_utterance>\n"
        before = "".join(f"{asked}{end}Assistant: {answered}{end}User: " for asked, answered in history)
        return f"<|im_start|>User: {self.slot}{before}{question}{end}Assistant:"


def in_words(number: int) -> str:
    """A whole number below ten thousand in English words, as the stock processor spells the number of frames."""
    if number < 20:
        return _UNITS[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_UNITS[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = number % size
    link = "" if not rest else ", " if rest >= 100 else " and "
    return f"{_UNITS[number // size]} {name}{link}{in_words(rest) if rest else ''}"
