"""How library_goldens.safetensors was made: the processor of transformers itself, on a replica and on made-up clips.

Needs Pillow and a torchvision that imports beside the installed torch; neither is needed by vidcomp or by its tests.

    python tests/data/make_library_goldens.py REPLICA_FOLDER   (a llava_onevision folder of make_replicas.py, seed 0)
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

CLIPS = {"wide": (4, 96, 144), "tall": (3, 150, 61), "large": (2, 480, 640), "square": (1, 384, 384)}
QUESTION = "What happens at the end?"


def made_up_clip(frames: int, height: int, width: int) -> np.ndarray:
    """uint8 [T, h, w, 3] from integer arithmetic, the same on every machine."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    return ((x * (3 + c) + y * (5 - c) + t * 17 + (x * y) // (7 + c)) % 256).astype(np.uint8)


def main(folder: str) -> None:
    import transformers
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    tensors, facts = {}, {}
    for name, shape in CLIPS.items():
        clip = torch.from_numpy(made_up_clip(*shape)).permute(0, 3, 1, 2)
        messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        out = processor(text=text, videos=[clip], return_tensors="pt", do_sample_frames=False)
        pixels = out["pixel_values_videos"][0].float().contiguous()
        tensors[name] = pixels[:, :, ::32, ::32].contiguous()
        digest = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
        facts[name] = json.dumps({"sha256": digest, "ids": out["input_ids"][0].tolist(), "shape": list(pixels.shape)})
    facts["made_with"] = f"transformers {transformers.__version__}, torch {torch.__version__}"
    save_file(tensors, Path(__file__).with_name("library_goldens.safetensors"), metadata=facts)


if __name__ == "__main__":
    main(sys.argv[1])
