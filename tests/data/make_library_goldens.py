# SPDX-License-Identifier: Apache-2.0
"""How library_goldens.json was made: the processors of transformers themselves, on replicas and on made-up clips.

Needs Pillow, num2words and a torchvision that imports beside the installed torch; neither vidcomp nor its tests need
them. Where the compiled part of torchvision does not fit the installed torch, its operators are declared by name, which
is enough for the pure Python transforms.

    python tests/data/make_library_goldens.py REPLICAS   (written by: cd tests; python -m replicas REPLICAS)
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

CLIPS = {"wide": (4, 96, 144, 5), "tall": (3, 150, 61, 12), "large": (2, 480, 640, 3), "square": (1, 384, 384, 8)}
"""Frames, height, width, and the step between sampled frames of a video with FPS frames per second."""
FPS = 8.0
QUESTION = "What happens at the end?"


def made_up_clip(frames: int, height: int, width: int, step: int = 1) -> np.ndarray:
    """uint8 [T, h, w, 3] from integer arithmetic, the same on every machine."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    return ((x * (3 + c) + y * (5 - c) + t * 17 + (x * y) // (7 + c)) % 256).astype(np.uint8)


def times_of(frames: int, step: int) -> tuple[list[float], float]:
    """Seconds of each frame, and of the whole video."""
    return [index * step / FPS for index in range(frames)], frames * step / FPS


def run_lengths(ids: list[int]) -> list[list[int]]:
    return [[value, len(list(run))] for value, run in groupby(ids)]


def declare_torchvision() -> None:
    root = Path(find_spec("torchvision").origin).parent
    source = (root / "_meta_registrations.py").read_text()
    found = re.findall(r'register_fake\("torchvision::(\w+)"\)|register_meta\("(\w+)"\)', source)
    declare_torchvision.kept = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted({one or other for one, other in found}):
        declare_torchvision.kept.define(f"{name}(Tensor a) -> Tensor")


def golden(processor, shape: tuple[int, int, int, int]) -> dict:
    from transformers.video_utils import VideoMetadata

    frames, height, width, step = shape
    indices, total = [index * step for index in range(frames)], frames * step
    meta = VideoMetadata(
        total_num_frames=total, fps=FPS, frames_indices=indices, duration=total / FPS, height=height, width=width
    )
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    extra = {"use_token_compression": False} if "VideoLlama3" in type(processor).__name__ else {}
    out = processor(
        text=[text], videos=[made_up_clip(*shape)], video_metadata=[meta], do_sample_frames=False,
        return_tensors="pt", **extra,
    )  # fmt: skip
    pixels = out["pixel_values_videos" if "pixel_values_videos" in out else "pixel_values"].float().contiguous()
    facts = {
        "sha256": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
        "values": pixels.numel(),
        "sample": pixels.flatten()[::101][:8].tolist(),
        "ids": run_lengths(out["input_ids"][0].tolist()),
    }
    if "second_per_grid_ts" in out:
        facts["seconds_per_slice"] = float(out["second_per_grid_ts"][0])
    return facts


def main(folder: str) -> None:
    declare_torchvision()
    import transformers
    from transformers import AutoProcessor

    found: dict = {"made_with": f"transformers {transformers.__version__}, torch {torch.__version__}"}
    for replica in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
        processor = AutoProcessor.from_pretrained(replica)
        found[replica.name] = {}
        for name, shape in CLIPS.items():
            try:
                found[replica.name][name] = golden(processor, shape)
            except ValueError as error:  # Qwen3-VL takes no single frame
                print(replica.name, name, error)
    Path(__file__).with_name("library_goldens.json").write_text(json.dumps(found, indent=None) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
