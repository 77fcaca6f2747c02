"""Names of checkpoints, the folders they live in, and the devices they run on. The only place that may touch the
network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vidcomp.errors import ModelError

__all__ = ["EMBEDDED", "checkpoint_folder", "first_line", "pick_device", "pick_dtype", "read_json"]

_NANO = Path(__file__).parent / "nano"
EMBEDDED = {"nano": _NANO / "checkpoint", "embedded": _NANO / "frame_encoder"}
"""Checkpoints that ship inside the package: the video-LLM, and the frame encoder of ``--segmenter dinov2``."""

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def checkpoint_folder(name: str, *, offline: bool = False) -> Path:
    """The local folder of a model name, downloading a hub repository into the shared cache when needed.

    Raises:
        ModelError: no such folder or repository, or not in the cache while offline.
    """
    if name in EMBEDDED:
        return EMBEDDED[name]
    path = Path(name).expanduser()
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{name} is not a checkpoint", why="the folder has no config.json", hint="point --model at it"
            )
        return path
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"no model named {name!r}",
            why="it is neither an embedded model nor a folder nor a hub id (owner/name)",
            hint="--model nano, or for example --model llava-hf/llava-onevision-qwen2-7b-ov-hf",
            code="unknown_model",
        )
    return _from_hub(name, offline)


def _from_hub(name: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=offline))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        why = "it is not in the local cache and --offline forbids a download" if offline else first_line(error)
        raise ModelError(
            f"the weights of {name} are not available",
            why=why,
            hint=f"hf download {name}   (on a machine with network), or --model nano",
            code="weights_missing",
        ) from error


def pick_device(name: str) -> torch.device:
    """``auto`` takes cuda, then mps, then cpu.

    Raises:
        ModelError: a device that torch does not see.
    """
    seen = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if seen[kind]))
    if not seen[name]:
        raise ModelError(
            f"--device {name}", why=f"this torch ({torch.__version__}) sees no such device", hint="--device auto"
        )
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype | str:
    """``auto`` keeps the checkpoint's format on an accelerator and takes float32 on a CPU, where half formats are
    slow."""
    if name != "auto":
        return _DTYPES[name]
    return torch.float32 if device.type == "cpu" else "auto"


def read_json(path: Path) -> dict[str, Any]:
    """The file's content, empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise ModelError(f"cannot read {path.name}", why=str(error), hint="download the checkpoint again") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
