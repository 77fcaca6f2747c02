# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL and Qwen3-VL, as on the hub but for their sizes."""

from __future__ import annotations

from pathlib import Path

import torch

from replicas.common import HALF, OPENAI_MEAN, OPENAI_STD, TEXT
from replicas.templates import T_QWEN3, T_QWEN25
from replicas.tokenizers import QWEN3_TOOLS, QWEN_TOOLS, QWEN_VL, dump, qwen_tok_cfg, qwen_tokenizer
from replicas.weights import write_model


def qwen2_5_vl(out: Path, seed: int, tied: bool) -> int:
    cfg = qwen_tok_cfg(QWEN_VL[1:], 131072, chat_template=T_QWEN25, add_bos_token=False)
    ids = qwen_tokenizer(out, [(t, True) for t in QWEN_VL] + [(t, False) for t in QWEN_TOOLS], cfg)
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"], "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"], "hidden_act": "silu", **TEXT, "initializer_range": 0.02,
        "max_position_embeddings": 128000, "max_window_layers": 70 if tied else 6, "model_type": "qwen2_5_vl",
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": True, "use_sliding_window": False,
        "vision_config": {"depth": 4, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 68,
                          "num_heads": 2, "in_chans": 3, "out_hidden_size": 64, "patch_size": 14,
                          "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112,
                          "fullatt_block_indexes": [1, 3], "tokens_per_second": 2, "temporal_patch_size": 2},
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "vocab_size": 576 if tied else 640}
    dump(out / "preprocessor_config.json", {
        "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": OPENAI_MEAN, "image_std": OPENAI_STD, "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor"})
    dump(out / "chat_template.json", {"chat_template": T_QWEN25})
    generation = {"bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": True,
                  "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "repetition_penalty": 1.05,
                  "temperature": 1e-06, "transformers_version": "4.49.0"}
    return write_model(out, config, generation, torch.bfloat16, seed, None if tied else "400KB", tied)


def qwen3_vl(out: Path, seed: int, tied: bool) -> int:
    cfg = qwen_tok_cfg(QWEN_VL[1:], 262144, chat_template=T_QWEN3, add_bos_token=False)
    ids = qwen_tokenizer(out, [(t, True) for t in QWEN_VL] + [(t, False) for t in QWEN3_TOOLS], cfg)
    text = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"],
            "dtype": "bfloat16", "eos_token_id": ids["<|im_end|>"], "head_dim": 32, "hidden_act": "silu", **TEXT,
            "initializer_range": 0.02, "max_position_embeddings": 262144, "model_type": "qwen3_vl_text",
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
            "rope_theta": 5000000, "use_cache": True, "vocab_size": 576}
    if tied:
        text["tie_word_embeddings"] = True
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"], "image_token_id": ids["<|image_pad|>"],
        "model_type": "qwen3_vl", "text_config": text, "tie_word_embeddings": tied,
        "transformers_version": "4.57.0.dev0", "video_token_id": ids["<|video_pad|>"],
        "vision_config": {"deepstack_visual_indexes": [1, 2, 3], "depth": 5, "hidden_act": "gelu_pytorch_tanh",
                          "hidden_size": 32, "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 64,
                          "model_type": "qwen3_vl", "num_heads": 2, "num_position_embeddings": 2304,
                          "out_hidden_size": 64, "patch_size": 16, "spatial_merge_size": 2,
                          "temporal_patch_size": 2},
        "vision_end_token_id": ids["<|vision_end|>"], "vision_start_token_id": ids["<|vision_start|>"]}
    common = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "image_mean": HALF, "image_std": HALF,
              "processor_class": "Qwen3VLProcessor"}
    dump(out / "preprocessor_config.json", {"size": {"longest_edge": 16777216, "shortest_edge": 65536}, **common,
                                            "image_processor_type": "Qwen2VLImageProcessorFast"})
    dump(out / "video_preprocessor_config.json", {"size": {"longest_edge": 25165824, "shortest_edge": 4096}, **common,
                                                  "video_processor_type": "Qwen3VLVideoProcessor"})
    dump(out / "chat_template.json", {"chat_template": T_QWEN3})
    generation = {"bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": True,
                  "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "top_p": 0.8, "top_k": 20,
                  "temperature": 0.7, "repetition_penalty": 1.0, "transformers_version": "4.56.0"}
    return write_model(out, config, generation, torch.bfloat16, seed, None if tied else "400KB", tied)
