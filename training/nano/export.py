# SPDX-License-Identifier: Apache-2.0
"""Writes the checkpoint folder: the files of a hub repository of llava-hf/llava-onevision-qwen2-0.5b-ov-hf."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from training.nano.model import CELLS, FRAMES, SIDE
from vidcomp.bench.world.vocabulary import ASSISTANT, EOS, IMAGE, PAD, SPECIAL, UNK, USER, VIDEO, VOCABULARY

CHAT_TEMPLATE = (
    "{%- for m in messages -%}"
    "{%- set parts = [{'type': 'text', 'text': m.content}] if m.content is string else m.content -%}"
    "{%- if m.role == 'assistant' -%}{{- '<assistant> ' -}}{%- else -%}{{- '<user> ' -}}{%- endif -%}"
    "{%- for p in parts if p.type == 'image' -%}{{- '<image> ' -}}{%- endfor -%}"
    "{%- for p in parts if p.type == 'video' -%}{{- '<video> ' -}}{%- endfor -%}"
    "{%- for p in parts if p.type == 'text' -%}{{- p.text + ' ' -}}{%- endfor -%}"
    "{%- if m.role == 'assistant' -%}{{- '<eos>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer: lower case, words and punctuation apart, everything unknown becomes <unk>."""
    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # puts blanks between words, none before a comma
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=EOS,
        additional_special_tokens=[IMAGE, VIDEO, USER, ASSISTANT],
        model_max_length=2048,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def export_checkpoint(model: Any, folder: Path, card: str | None = None) -> None:
    """Write all files into `folder`, each one replaced atomically; `card` is the text of README.md."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        partial = Path(name)
        _write_weights(model, partial)
        build_tokenizer().save_pretrained(partial)
        _write_json(partial)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        for file in sorted(partial.iterdir()):
            file.chmod(0o644)
            os.replace(file, folder / file.name)


def load_exported(folder: Path) -> Any:
    """The exported model in float32."""
    return LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _write_weights(model: Any, folder: Path) -> None:
    """config.json, generation_config.json and bfloat16 weights under the names that hub checkpoints use."""
    state = {key: value.detach().to(torch.bfloat16) for key, value in model.state_dict().items()}
    copy: Any = LlavaOnevisionForConditionalGeneration(model.config)
    copy = copy.to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.generation_config.update(
        eos_token_id=VOCABULARY[EOS], pad_token_id=VOCABULARY[PAD], do_sample=False, max_new_tokens=32
    )
    copy.save_pretrained(folder)
    file, old, new = folder / "model.safetensors", "vision_tower.", "vision_tower.vision_model."
    tensors = {
        key.replace(old, new, 1) if key.startswith(old) else key: value for key, value in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})


def _write_json(folder: Path) -> None:
    """Processor files, chat template and the map of special tokens."""
    pictures: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "LlavaOnevisionProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }
    image = {"image_grid_pinpoints": [[SIDE, SIDE]], "image_processor_type": "LlavaOnevisionImageProcessor"}
    video = {
        "do_sample_frames": False,
        "fps": None,
        "num_frames": FRAMES,
        "video_processor_type": "LlavaOnevisionVideoProcessor",
        "vidcomp_positions": "keep",  # time is read from positions alone, there are no frame markers
    }
    processor = {
        "image_token": IMAGE,
        "num_image_tokens": CELLS * CELLS,
        "processor_class": "LlavaOnevisionProcessor",
        "video_token": VIDEO,
        "vision_aspect_ratio": "anyres_max_1",
        "vision_feature_select_strategy": "full",
    }
    specials = {"eos_token": EOS, "pad_token": PAD, "unk_token": UNK, "additional_special_tokens": list(SPECIAL[3:])}
    files = {
        "preprocessor_config.json": {**pictures, **image},
        "video_preprocessor_config.json": {**pictures, **video},
        "processor_config.json": processor,
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "special_tokens_map.json": specials,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
