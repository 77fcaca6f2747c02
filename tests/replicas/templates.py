# SPDX-License-Identifier: Apache-2.0
"""Chat templates, written for the replicas: they render what those of the hub do for text, images and videos."""

from __future__ import annotations

PARTS = ("{%- set parts = [{'type': 'text', 'text': m.content}] if m.content is string else m.content -%}")

T_LLAVA_OV = (
    "{%- for m in messages -%}" + PARTS +
    "{{- '<|im_start|>' + m.role + ' ' -}}"
    "{%- for p in parts if p.type == 'image' -%}{{- '<image>' -}}{%- endfor -%}"
    "{%- for p in parts if p.type == 'video' -%}{{- '<video>' -}}{%- endfor -%}"
    "{%- for p in parts if p.type == 'text' -%}{{- '\\n' + p.text -}}{%- endfor -%}"
    "{{- '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}")

T_VICUNA = (
    "{%- for m in messages -%}" + PARTS +
    "{%- if m.role == 'system' -%}{{- parts[0].text -}}{%- else -%}{{- m.role | upper + ': ' -}}{%- endif -%}"
    "{%- for p in parts if p.type == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}"
    "{%- for p in parts if p.type == 'video' -%}{{- '<video>\\n' -}}{%- endfor -%}"
    "{%- for p in parts if p.type == 'text' -%}{{- p.text + ' ' -}}{%- endfor -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}")


def chatml(image: str, video: str, default_system: str = "") -> str:
    """ChatML with the media marks in place, optionally with a default system turn."""
    head = ("{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\n" + default_system
            + "<|im_end|>\\n' -}}{%- endif -%}") if default_system else ""
    return (
        head + "{%- for m in messages -%}" + PARTS + "{{- '<|im_start|>' + m.role + '\\n' -}}"
        "{%- for p in parts -%}"
        "{%- if p.type == 'image' -%}{{- '" + image + "' -}}"
        "{%- elif p.type == 'video' -%}{{- '" + video + "' -}}"
        "{%- elif p.type == 'text' -%}{{- p.text -}}{%- endif -%}"
        "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}")


T_QWEN25 = chatml("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>",
                  "You are a helpful assistant.")
T_QWEN3 = chatml("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>")
T_INTERN = chatml("<IMG_CONTEXT>\\n", "<video>\\n")
T_VLLAMA3 = chatml("<|image_pad|>\\n", "<|video_pad|>\\n")
T_TEXT_ONLY = chatml("", "", "You are a helpful assistant.")  # what the LLaVA-OneVision tokenizer itself carries


def smol_template(video: bool) -> str:
    mark = "{%- elif p.type == 'video' -%}{{- '<video>' -}}" if video else ""
    return (
        "{{- '<|im_start|>' -}}{%- for m in messages -%}" + PARTS +
        "{{- m.role | capitalize -}}{{- ':' if parts[0].type == 'image' else ': ' -}}"
        "{%- for p in parts -%}{%- if p.type == 'text' -%}{{- p.text -}}"
        "{%- elif p.type == 'image' -%}{{- '<image>' -}}" + mark + "{%- endif -%}{%- endfor -%}"
        "{{- '<end_of_utterance>\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}")
