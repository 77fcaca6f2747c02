# SPDX-License-Identifier: Apache-2.0
"""InternVL, SmolVLM2 and VideoLLaMA3, as on the hub but for their sizes."""

from __future__ import annotations

from pathlib import Path

import torch

from replicas.common import HALF, RESCALE, TEXT, gen_from_config
from replicas.templates import T_INTERN, T_VLLAMA3, smol_template
from replicas.tokenizers import (
    INTERN,
    MERGED_VOCAB,
    QWEN3_TOOLS,
    QWEN_TOOLS,
    QWEN_VL,
    SMOL_TAIL,
    dump,
    qwen_tok_cfg,
    qwen_tokenizer,
    smol_tokenizer,
)
from replicas.weights import write_model


def internvl(out: Path, seed: int, qwen3: bool) -> int:
    extra = {"context_image_token": "<IMG_CONTEXT>", "end_image_token": "</img>", "start_image_token": "<img>",
             "video_token": "<video>"}
    cfg = qwen_tok_cfg(QWEN_VL[1:] + INTERN, 8192, add_bos_token=False, **extra, extra_special_tokens=extra,
                       return_token_type_ids=False)
    tools = QWEN3_TOOLS if qwen3 else QWEN_TOOLS
    ids = qwen_tokenizer(out, [(t, True) for t in QWEN_VL] + [(t, False) for t in tools]
                         + [(t, True) for t in [*INTERN, "<video>"]], cfg)
    text = {"architectures": ["Qwen3ForCausalLM" if qwen3 else "Qwen2ForCausalLM"], "attention_dropout": 0.0,
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "hidden_act": "silu", **TEXT,
            "initializer_range": 0.02, "max_position_embeddings": 40960 if qwen3 else 32768, "max_window_layers": 70,
            "model_type": "qwen3" if qwen3 else "qwen2", "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "sliding_window": None, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False}
    if qwen3:
        text.update(attention_bias=False, head_dim=32, vocab_size=576)
    else:  # the embedding stops right before <video>, as in the real repository
        text.update(rope_scaling={"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
                    vocab_size=ids["<video>"])
    config = {
        "architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5, "image_seq_length": 256,
        "image_token_id": ids["<IMG_CONTEXT>"], "model_type": "internvl", "projector_hidden_act": "gelu",
        "text_config": text, "torch_dtype": "bfloat16", "transformers_version": "4.52.0.dev0",
        "vision_config": {
            "architectures": ["InternVisionModel"], "attention_bias": True, "attention_dropout": 0.0, "dropout": 0.0,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 32, "image_size": [448, 448],
            "initializer_factor": 0.1, "initializer_range": 1e-10, "intermediate_size": 128, "layer_norm_eps": 1e-06,
            "layer_scale_init_value": 0.1, "model_type": "internvl_vision", "norm_type": "layer_norm",
            "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 4, "patch_size": [14, 14],
            "projection_dropout": 0.0, "torch_dtype": "bfloat16", "use_absolute_position_embeddings": True,
            "use_mask_token": False, "use_mean_pooling": True, "use_qk_norm": False},
        "vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
    dump(out / "preprocessor_config.json", {
        "crop_size": None, "crop_to_patches": False, "data_format": "channels_first", "default_to_square": True,
        "device": None, "do_center_crop": None, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True,
        "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_processor_type": "GotOcr2ImageProcessorFast",
        "image_std": [0.229, 0.224, 0.225], "input_data_format": None, "max_patches": 12, "min_patches": 1,
        "processor_class": "InternVLProcessor", "resample": 3, "rescale_factor": RESCALE, "return_tensors": None,
        "size": {"height": 448, "width": 448}})
    dump(out / "processor_config.json", {"image_seq_length": 256, "processor_class": "InternVLProcessor"})
    (out / "chat_template.jinja").write_text(T_INTERN, encoding="utf-8")
    generation = gen_from_config(ids["<|endoftext|>"], ids["<|im_end|>"], None, "4.52.0.dev0")
    return write_model(out, config, generation, torch.bfloat16, seed, None, False)


def smolvlm2(out: Path, seed: int, big: bool) -> int:
    extra = {"end_of_utterance_token": "<end_of_utterance>", "fake_image_token": "<fake_token_around_image>",
             "global_image_token": "<global-img>", "image_token": "<image>"}
    cfg = {"add_prefix_space": False, "additional_special_tokens": ["<fake_token_around_image>", "<image>",
                                                                    "<end_of_utterance>"],
           "bos_token": "<|im_start|>", "chat_template": smol_template(False), "clean_up_tokenization_spaces": False,
           "end_of_utterance_token": "<end_of_utterance>", "eos_token": "<end_of_utterance>",
           "extra_special_tokens": extra, "fake_image_token": "<fake_token_around_image>",
           "global_image_token": "<global-img>", "image_token": "<image>", "legacy": False,
           "model_max_length": 16384 if big else 8192, "pad_token": "<|im_end|>", "processor_class": "SmolVLMProcessor",
           "tokenizer_class": "GPT2Tokenizer", "truncation_side": "left", "unk_token": "<|endoftext|>",
           "vocab_size": MERGED_VOCAB}
    ids = smol_tokenizer(out, cfg)
    total = MERGED_VOCAB + len(SMOL_TAIL)
    side, scale = (384, 3) if big else (512, 4)
    text = {"_flash_attn_2_enabled": True, "_name_or_path": "None", "architectures": ["VLlama3ForCausalLM"],
            "head_dim": 16, "hidden_size": 64 if big else 48, "intermediate_size": 128, "max_position_embeddings": 8192,
            "model_type": "llama", "neftune_noise_alpha": 0.0, "num_attention_heads": 4 if big else 3,
            "num_hidden_layers": 6, "num_key_value_heads": 4 if big else 1, "pad_token_id": 2,
            "pixel_shuffle_factor": scale, "qk_layer_norms": False, "rms_norm_eps": 1e-05,
            "rope_theta": 130000 if big else 100000, "torch_dtype": "bfloat16", "use_resampler": False,
            "vocab_size": total}
    if not big:
        text.update(is_llama_config=True, rope_interleaved=False)
    vision = {"hidden_size": 32, "image_size": side, "intermediate_size": 64,
              "max_image_size": {"longest_edge": side}, "model_type": "smolvlm_vision", "num_attention_heads": 2,
              "num_hidden_layers": 4, "patch_size": 14 if big else 16,
              "size": {"longest_edge": 1920 if big else 2048}, "tie_word_embeddings": False, "use_base_siglip": False}
    config = {
        "architectures": ["SmolVLMForConditionalGeneration"], "image_token_id": ids["<image>"],
        "model_type": "smolvlm", "pad_token_id": 128002, "scale_factor": scale, "text_config": text,
        "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.47.1", "use_cache": False,
        "use_reentrant_checkpointing": False, "vision_config": vision, "vocab_size": total}
    dump(out / "preprocessor_config.json", {
        "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True,
        "do_resize": True, "image_mean": HALF, "image_processor_type": "SmolVLMImageProcessor", "image_std": HALF,
        "max_image_size": {"longest_edge": side}, "processor_class": "SmolVLMProcessor", "resample": 1,
        "rescale_factor": RESCALE, "size": {"longest_edge": 4 * side},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}}})
    dump(out / "processor_config.json", {"image_seq_len": 81 if big else 64, "processor_class": "SmolVLMProcessor"})
    dump(out / "chat_template.json", {"chat_template": smol_template(False)})
    generation = gen_from_config(0, ids["<end_of_utterance>"], 2, "4.47.1")
    return write_model(out, config, generation, torch.float32, seed, None, False)


def video_llama_3(out: Path, seed: int) -> int:
    cfg = qwen_tok_cfg(QWEN_VL[1:], 131072, add_bos_token=False, processor_class="VideoLlama3Processor")
    ids = qwen_tokenizer(out, [(t, True) for t in QWEN_VL] + [(t, False) for t in QWEN_TOOLS], cfg)
    text = {"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"],
            "dtype": "bfloat16", "eos_token_id": ids["<|im_end|>"], "hidden_act": "silu", **TEXT,
            "initializer_range": 0.02, "layer_types": ["full_attention"] * TEXT["num_hidden_layers"],
            "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2", "rms_norm_eps": 1e-06,
            "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None, "use_cache": True,
            "use_sliding_window": False, "vocab_size": 640}
    config = {
        "architectures": ["VideoLlama3ForConditionalGeneration"], "dtype": "bfloat16",
        "image_token_id": ids["<|image_pad|>"], "model_type": "video_llama_3", "text_config": text,
        "transformers_version": "4.57.0.dev0", "video_token_id": ids["<|video_pad|>"],
        "vision_config": {"attention_dropout": 0.0, "dtype": "bfloat16", "hidden_act": "gelu_pytorch_tanh",
                          "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 64,
                          "layer_norm_eps": 1e-06, "model_type": "video_llama_3_vision", "num_attention_heads": 2,
                          "num_channels": 3, "num_hidden_layers": 4, "patch_size": 14}}
    common = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": HALF,
              "image_std": HALF, "patch_size": 14, "processor_class": "VideoLlama3Processor", "resample": 3,
              "rescale_factor": RESCALE, "temporal_patch_size": 1}
    dump(out / "preprocessor_config.json", {
        **common, "image_processor_type": "VideoLlama3ImageProcessor", "max_pixels": 3211264, "merge_size": 1,
        "min_pixels": 3136, "size": {"longest_edge": 3211264, "shortest_edge": 3136}})
    dump(out / "video_preprocessor_config.json", {
        **common, "crop_size": None, "data_format": "channels_first", "default_to_square": True, "device": None,
        "do_sample_frames": False, "fps": None, "input_data_format": None, "max_frames": 180, "max_pixels": 12845056,
        "merge_size": 2, "min_frames": 4, "min_pixels": 12544, "num_frames": None, "return_metadata": True,
        "size": {"longest_edge": 12845056, "shortest_edge": 12544}, "use_token_compression": True,
        "video_metadata": None, "video_processor_type": "VideoLlama3VideoProcessor"})
    (out / "chat_template.jinja").write_text(T_VLLAMA3, encoding="utf-8")
    generation = {"bos_token_id": ids["<|endoftext|>"], "do_sample": True,
                  "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"],
                  "repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8,
                  "transformers_version": "4.57.0.dev0"}
    return write_model(out, config, generation, torch.bfloat16, seed, None, False)
