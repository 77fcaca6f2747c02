# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of the replicas: trained on a few sentences, with the special tokens of the real ones in their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

MERGED_VOCAB = 512  # learned tokens of a byte-level replica tokenizer, special tokens come after them

# Text the replica tokenizers learn their merges from. It only has to contain the words of the prompts.
CORPUS = [
    "system user assistant You are a helpful assistant. USER: ASSISTANT: User: Assistant:",
    "Frame1: Frame2: Frame3: Frame10: Frame from 00:00: Frame from 01:05: Time 0.0s: Time 1.5s: Time 12.0s:",
    "<0.3 seconds> <1.2 seconds> <12.5 seconds> seconds second minutes video frames frame image picture",
    "You are provided the following series of eight frames from a 0:00:08 [H:MM:SS] video.",
    "You are provided the following series of sixteen frames from a 0:01:30 [H:MM:SS] video.",
    "What happens at the end of the video? Describe the video in detail. Why is this video funny?",
    "What is the person doing in the video? Which option is correct? Answer with the letter only. A. B. C. D.",
    "A person walks to the door, opens it and leaves the room. The camera moves to the left.",
    "The red square moves from left to right while the green circle stays where it was before.",
    "First the cat sleeps, then it wakes up and looks at the window; at the end it runs away.",
    "one two three four five six seven eight nine ten thirty-two sixty-four 0 1 2 3 4 5 6 7 8 9",
    "There is a small house next to a tall tree, and a dog is running in front of the house.",
] * 3


def dump(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def added(content: str, special: bool = True) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": special}


def byte_bpe(pre_tokenizer: Any, reserved: list[str] | None = None) -> tuple[dict[str, int], list[Any]]:
    """Vocabulary and merges of a byte-level BPE of MERGED_VOCAB entries, `reserved` taking the first ids."""
    reserved = reserved or []
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizer
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=MERGED_VOCAB, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=reserved, show_progress=False))
    model = json.loads(tok.to_str())["model"]
    vocab, merges = dict(model["vocab"]), [tuple(m) for m in model["merges"]]
    n = 0
    while len(vocab) < MERGED_VOCAB:  # the corpus ran out of pairs
        vocab[f"\u0120filler{n}"] = len(vocab)
        n += 1
    return vocab, merges


def write_tokenizer_files(out: Path, tok: Tokenizer, cfg: dict[str, Any], named: dict[str, str]) -> None:
    """tokenizer.json, vocab/merges, added_tokens, special_tokens_map and tokenizer_config as a hub repo has them."""
    tok.save(str(out / "tokenizer.json"))
    data = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    base = data["model"]["vocab"]
    if not data["model"].get("byte_fallback"):  # else the hub has a tokenizer.model, which needs its own library
        dump(out / "vocab.json", base)
        merges = data["model"]["merges"]
        lines = ["#version: 0.2", *(" ".join(m) if isinstance(m, (list, tuple)) else m for m in merges)]
        (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = {t["id"]: added(t["content"], t["special"]) for t in data["added_tokens"]}
    cfg = {**cfg, "added_tokens_decoder": {str(i): table[i] for i in sorted(table)}}
    dump(out / "tokenizer_config.json", cfg)
    dump(out / "added_tokens.json", {table[i]["content"]: i for i in sorted(table) if table[i]["content"] not in base})
    smap = {k: v for k, v in named.items() if v}
    if cfg.get("additional_special_tokens"):
        smap["additional_special_tokens"] = cfg["additional_special_tokens"]
    smap.update(cfg.get("extra_special_tokens") or {})
    dump(out / "special_tokens_map.json", smap)


def qwen_tokenizer(out: Path, specials: list[tuple[str, bool]], cfg: dict[str, Any]) -> dict[str, Any]:
    """Qwen2-style byte-level BPE. `specials` are (token, special) in the order of the real tokenizer."""
    from transformers import Qwen2Tokenizer

    blank: Any = Qwen2Tokenizer()._tokenizer  # takes the splitting rules from the installed class
    vocab, merges = byte_bpe(blank.pre_tokenizer)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.normalizer, tok.pre_tokenizer = normalizers.NFC(), blank.pre_tokenizer
    tok.decoder, tok.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    for content, special in specials:
        tok.add_tokens([AddedToken(content, special=special, normalized=False)])
    ids = {c: tok.token_to_id(c) for c, _ in specials}
    assert list(ids.values()) == list(range(MERGED_VOCAB, MERGED_VOCAB + len(specials)))
    write_tokenizer_files(out, tok, cfg, {"eos_token": cfg["eos_token"], "pad_token": cfg["pad_token"]})
    return ids


QWEN_CORE = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_VL = [*QWEN_CORE, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
           "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>"]
QWEN_TOOLS = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
              "<|repo_name|>", "<|file_sep|>"]
QWEN3_TOOLS = [*QWEN_TOOLS, "<tool_response>", "</tool_response>", "<think>", "</think>"]
INTERN = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]


def qwen_tok_cfg(specials: list[str], max_len: int, **extra: Any) -> dict[str, Any]:
    cfg = {"add_prefix_space": False, "additional_special_tokens": specials, "bos_token": None,
           "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
           "model_max_length": max_len, "pad_token": "<|endoftext|>", "split_special_tokens": False,
           "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
    cfg.update(extra)
    return cfg


def llama_tokenizer(out: Path, cfg: dict[str, Any]) -> dict[str, Any]:
    """Sentencepiece-like BPE with byte fallback; <video> and <image> follow the base vocabulary, in that order."""
    words = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=True)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = words
    head = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    learner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=640, special_tokens=head, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    vocab, merges = dict(model["vocab"]), [tuple(m) for m in model["merges"]]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    for content in ["<unk>", "<s>", "</s>", "<video>", "<image>"]:
        tok.add_tokens([AddedToken(content, special=True, normalized=False)])
    write_tokenizer_files(out, tok, cfg, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>",
                                          "unk_token": "<unk>"})
    return {c: tok.token_to_id(c) for c in ("<unk>", "<s>", "</s>", "<video>", "<image>")}


SMOL_HEAD = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
             "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
             "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>"]
SMOL_TAIL = (["<global-img>"] + [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
             + ["<fake_token_around_image>", "<image>"] + [f"<|reserved_special_token_{i}|>" for i in range(88)]
             + ["<end_of_utterance>"])


def smol_tokenizer(out: Path, cfg: dict[str, Any]) -> dict[str, Any]:
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    vocab, merges = byte_bpe(split, SMOL_HEAD)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer, tok.decoder = split, decoders.ByteLevel()
    for content in SMOL_HEAD + SMOL_TAIL:
        tok.add_tokens([AddedToken(content, special=True, normalized=False)])
    write_tokenizer_files(out, tok, cfg, {"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>",
                                          "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"})
    return {c: tok.token_to_id(c) for c in SMOL_HEAD + SMOL_TAIL}
