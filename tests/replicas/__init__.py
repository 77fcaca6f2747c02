# SPDX-License-Identifier: Apache-2.0
"""Tiny stand-ins for the checkpoints that vidcomp supports.

Every replica is a folder that `AutoConfig`, `AutoTokenizer`, `AutoProcessor` and `AutoModelForImageTextToText` accept
like the hub repository it imitates: the same file names, the same (old style) configuration keys, the same order and
role of special tokens, the same processor settings, picture geometry, token arithmetic, tensor names and dtype. Smaller
are hidden sizes, layer and head counts and the vocabulary. The weights are noise from a fixed seed, so outputs mean
nothing and repeat. Written from the published configurations; nothing of the checkpoints is in here.

    python -m replicas OUT [FAMILY ...]      (from the folder tests)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from replicas.llava import llava_next_video, llava_onevision
from replicas.others import internvl, smolvlm2, video_llama_3
from replicas.qwen import qwen2_5_vl, qwen3_vl

__all__ = ["FAMILIES", "make"]

FAMILIES: dict[str, Callable[[Path, int], int]] = {
    "llava_onevision": partial(llava_onevision, tied=False),  # llava-hf/llava-onevision-qwen2-7b-ov-hf
    "llava_onevision_tied": partial(llava_onevision, tied=True),  # llava-hf/llava-onevision-qwen2-0.5b-ov-hf
    "llava_next_video": llava_next_video,  # llava-hf/LLaVA-NeXT-Video-7B-hf
    "qwen2_5_vl": partial(qwen2_5_vl, tied=False),  # Qwen/Qwen2.5-VL-7B-Instruct
    "qwen2_5_vl_tied": partial(qwen2_5_vl, tied=True),  # Qwen/Qwen2.5-VL-3B-Instruct
    "qwen3_vl": partial(qwen3_vl, tied=False),  # Qwen/Qwen3-VL-8B-Instruct
    "qwen3_vl_tied": partial(qwen3_vl, tied=True),  # Qwen/Qwen3-VL-4B-Instruct
    "internvl3": partial(internvl, qwen3=False),  # OpenGVLab/InternVL3-8B-hf
    "internvl3_5": partial(internvl, qwen3=True),  # OpenGVLab/InternVL3_5-8B-HF
    "smolvlm2": partial(smolvlm2, big=False),  # HuggingFaceTB/SmolVLM2-500M-Video-Instruct
    "smolvlm2_2b": partial(smolvlm2, big=True),  # HuggingFaceTB/SmolVLM2-2.2B-Instruct
    "video_llama_3": video_llama_3,  # lkhl/VideoLLaMA3-7B-Image-HF
}


def make(root: Path, name: str, seed: int = 0) -> Path:
    """Write the replica of a family under ``root`` and return its folder."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = root / name
    folder.mkdir(parents=True)
    FAMILIES[name](folder, seed)
    return folder
