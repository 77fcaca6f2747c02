# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision and LLaVA-NeXT-Video, as on the hub but for their sizes."""

from __future__ import annotations

from pathlib import Path

import torch

from replicas.common import HALF, OPENAI_MEAN, OPENAI_STD, RESCALE, TEXT, gen_from_config, pinpoints
from replicas.templates import T_LLAVA_OV, T_TEXT_ONLY, T_VICUNA
from replicas.tokenizers import QWEN_CORE, dump, llama_tokenizer, qwen_tok_cfg, qwen_tokenizer
from replicas.weights import write_model


def llava_onevision(out: Path, seed: int, tied: bool) -> int:
    cfg = qwen_tok_cfg(["<|im_start|>", "<|im_end|>"], 32768 if tied else 131072, chat_template=T_TEXT_ONLY,
                       pad_token_type_id=0, padding_side="right", processor_class="LlavaOnevisionProcessor")
    ids = qwen_tokenizer(out, [(t, True) for t in [*QWEN_CORE, "<image>", "<video>"]], cfg)
    bos, eos = ids["<|endoftext|>"], ids["<|im_end|>"]
    text = {"_name_or_path": "Qwen/Qwen2-0.5B-Instruct" if tied else "Qwen/Qwen2-7B-Instruct",
            "architectures": ["Qwen2ForCausalLM"], "bos_token_id": bos, "eos_token_id": eos, **TEXT,
            "model_type": "qwen2", "rope_theta": 1000000.0, "sliding_window": None, "torch_dtype": "bfloat16",
            "vocab_size": 576}
    if tied:
        text.update(max_window_layers=24, tie_word_embeddings=True)
    config = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"], "ignore_index": -100,
        "image_grid_pinpoints": pinpoints(384, 6), "image_token_index": ids["<image>"],
        "model_type": "llava_onevision", "projector_hidden_act": "gelu", "text_config": text,
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.45.0.dev0",
        "use_image_newline_parameter": True, "video_token_index": ids["<video>"],
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {"hidden_size": 32, "image_size": 384, "intermediate_size": 64,
                          "model_type": "siglip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 4,
                          "patch_size": 14, "vision_use_head": False},
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    common = {"do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
              "image_mean": HALF, "image_std": HALF, "processor_class": "LlavaOnevisionProcessor", "resample": 3,
              "rescale_factor": RESCALE, "size": {"height": 384, "width": 384}}
    dump(out / "preprocessor_config.json", {**common, "image_grid_pinpoints": pinpoints(384, 6),
                                            "image_processor_type": "LlavaOnevisionImageProcessor"})
    dump(out / "video_preprocessor_config.json", {
        **common, "crop_size": None, "default_to_square": False, "do_center_crop": None, "do_sample_frames": False,
        "fps": None, "num_frames": None, "size_divisor": None, "video_metadata": None,
        "video_processor_type": "LlavaOnevisionVideoProcessor"})
    dump(out / "processor_config.json", {
        "image_token": "<image>", "num_image_tokens": 729, "processor_class": "LlavaOnevisionProcessor",
        "video_token": "<video>", "vision_feature_select_strategy": "full"})
    dump(out / "chat_template.json", {"chat_template": T_LLAVA_OV})
    return write_model(out, config, gen_from_config(bos, eos), torch.float16, seed, None if tied else "400KB", tied)


def llava_next_video(out: Path, seed: int) -> int:
    cfg = {"add_bos_token": True, "add_eos_token": False, "add_prefix_space": True, "bos_token": "<s>",
           "clean_up_tokenization_spaces": False, "eos_token": "</s>", "legacy": False, "model_max_length": 4096,
           "pad_token": "<unk>", "padding_side": "right", "processor_class": "LlavaNextVideoProcessor",
           "sp_model_kwargs": {}, "spaces_between_special_tokens": False, "tokenizer_class": "LlamaTokenizer",
           "unk_token": "<unk>", "use_default_system_prompt": False}
    ids = llama_tokenizer(out, cfg)
    grid = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    config = {
        "architectures": ["LlavaNextVideoForConditionalGeneration"], "ignore_index": -100,
        "image_grid_pinpoints": grid, "image_token_index": ids["<image>"], "model_type": "llava_next_video",
        "projector_hidden_act": "gelu", "spatial_pool_mode": "average", "spatial_pool_out_channels": 32,
        "spatial_pool_stride": 2,
        "text_config": {"_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
                        **TEXT, "num_key_value_heads": 4, "rope_scaling": {"factor": 2.5, "type": "linear"},
                        "max_position_embeddings": 4096, "model_type": "llama", "pad_token_id": 0,
                        "rms_norm_eps": 1e-05, "torch_dtype": "float16", "type": "linear",
                        "vocab_size": -(-(ids["<image>"] + 2) // 64) * 64},
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.42.0.dev0",
        "use_image_newline_parameter": True, "video_token_index": ids["<video>"],
        "vision_config": {"hidden_size": 32, "image_size": 336, "intermediate_size": 64,
                          "model_type": "clip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 5,
                          "patch_size": 14, "projection_dim": 32, "vocab_size": 32000},
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    image = {"crop_size": {"height": 336, "width": 336}, "do_center_crop": True, "do_convert_rgb": True,
             "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
             "image_grid_pinpoints": grid, "image_mean": OPENAI_MEAN, "image_processor_type": "LlavaNextImageProcessor",
             "image_std": OPENAI_STD, "processor_class": "LlavaNextVideoProcessor", "resample": 3,
             "rescale_factor": RESCALE, "size": {"shortest_edge": 336}}
    dump(out / "preprocessor_config.json", image)
    # Without this file AutoVideoProcessor derives the class name LlavaNextVideoProcessor and recurses for ever
    dump(out / "video_preprocessor_config.json", {
        **image, "data_format": "channels_first", "default_to_square": False, "device": None,
        "do_sample_frames": False, "fps": None, "input_data_format": None, "num_frames": None, "size_divisor": None,
        "video_metadata": None, "video_processor_type": "LlavaNextVideoVideoProcessor"})
    dump(out / "processor_config.json", {
        "image_token": "<image>", "video_token": "<video>", "num_additional_image_tokens": 1, "patch_size": 14,
        "processor_class": "LlavaNextVideoProcessor", "vision_feature_select_strategy": "default"})
    dump(out / "chat_template.json", {"chat_template": T_VICUNA})
    return write_model(out, config, gen_from_config(1, 2, 0, "4.42.0.dev0"), torch.bfloat16, seed, "400KB", False)
