# SPDX-License-Identifier: Apache-2.0
"""vidcomp makes video-LLMs fast without training them.

    import vidcomp

    lm = vidcomp.load("nano")                                    # or a Hugging Face hub id, or a folder
    out = lm.ask("movie.mp4", "what happens at the end?", keep=0.1, method="holitom")
    print(out.text, out.ledger.tokens)

    with vidcomp.attach(model, keep=0.1):                      # a stock model that you loaded yourself
        model.generate(**inputs)

Names are imported on first use, so that ``import vidcomp`` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidcomp._version import __version__
from vidcomp.core.lazy import lazily

if TYPE_CHECKING:
    from vidcomp.core.ledger import StageLedger
    from vidcomp.core.tokens import CompressedTokens, Reduction, Span, TokenView, apply_reduction
    from vidcomp.engine.attach import attach
    from vidcomp.engine.film import Segment, find, segments
    from vidcomp.engine.run import VideoLM, load
    from vidcomp.engine.videos import CompressedVideo, EncodedVideo
    from vidcomp.errors import VidcompError
    from vidcomp.methods import get_method, list_methods
    from vidcomp.result import Answer
    from vidcomp.video.given import FrameSequence
    from vidcomp.video.names import path_from_record

__all__ = [
    "Answer",
    "CompressedTokens",
    "CompressedVideo",
    "EncodedVideo",
    "FrameSequence",
    "Reduction",
    "Segment",
    "Span",
    "StageLedger",
    "TokenView",
    "VidcompError",
    "VideoLM",
    "__version__",
    "apply_reduction",
    "attach",
    "find",
    "get_method",
    "list_methods",
    "load",
    "path_from_record",
    "segments",
]

__getattr__ = lazily(
    __name__,
    {
        "attach": "engine.attach",
        "VidcompError": "errors",
        "StageLedger": "core.ledger",
        "get_method": "methods",
        "list_methods": "methods",
        "path_from_record": "video.names",
        "CompressedVideo": "engine.videos",
        "EncodedVideo": "engine.videos",
        "FrameSequence": "video.given",
        "VideoLM": "engine.run",
        "Segment": "engine.film",
        "find": "engine.film",
        "segments": "engine.film",
        "load": "engine.run",
        "Answer": "result",
        "CompressedTokens": "core.tokens",
        "Reduction": "core.tokens",
        "Span": "core.tokens",
        "TokenView": "core.tokens",
        "apply_reduction": "core.tokens",
    },
    renamed={"compress": "attach"},
)


def __dir__() -> list[str]:
    return sorted(__all__)
