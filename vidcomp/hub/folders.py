# SPDX-License-Identifier: Apache-2.0
"""Names of checkpoints, the folders they live in, and the devices they run on. The only place that may touch the
network."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidcomp.core import index
from vidcomp.core.published import PUBLISHED
from vidcomp.errors import ModelError
from vidcomp.hub.cpu import computes_bfloat16

if TYPE_CHECKING:
    import torch

__all__ = [
    "EMBEDDED",
    "check_weights",
    "checkpoint_config",
    "checkpoint_files",
    "checkpoint_folder",
    "first_line",
    "local_folder",
    "pick_device",
    "pick_dtype",
    "published",
    "read_json",
    "settings_folder",
    "unsupported_family",
]

_NANO = Path(__file__).parents[1] / "nano"
EMBEDDED = {"nano": _NANO / "checkpoint", "embedded": _NANO / "frame_encoder"}
"""Checkpoints that ship inside the package: the video-LLM, and the frame encoder of ``--segmenter dinov2``."""

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
_UNWANTED = ["*/*", "consolidated*.safetensors"]  # other formats of the same weights
_SETTINGS = ["config.json", "*processor_config.json"]
_ANSWER_SECONDS = 10.0  # that the hub may take


def checkpoint_config(name: str, *, offline: bool = False, revision: str | None = None) -> dict[str, Any]:
    """The ``config.json`` of a model name; of a hub repository nothing else is downloaded.

    Raises:
        ModelError: as :func:`checkpoint_folder`.
    """
    local = local_folder(name)
    if local is not None:
        return read_json(local / "config.json")
    from huggingface_hub import hf_hub_download

    name = published(name)
    with _hub_errors(name, offline, revision):
        _require_answer(name, offline, revision)
        file = hf_hub_download(name, "config.json", revision=revision, local_files_only=_no_network(offline))
    return read_json(Path(file))


def checkpoint_folder(name: str, *, offline: bool = False, revision: str | None = None) -> Path:
    """The local folder of a model name, downloading a hub repository into the shared cache when needed.

    Args:
        name: an embedded model, a folder, or a hub id.
        offline: use what is in the cache.
        revision: branch, tag or commit of a hub repository.

    Raises:
        ModelError: no such folder, repository or revision, not reachable, or not in the cache while offline.
    """
    return _downloaded(name, _WANTED, offline, revision)


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a local checkpoint that a download would have brought, by name."""
    found = {file for pattern in _WANTED for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in found if not file.match(_UNWANTED[1]))


def settings_folder(name: str, *, offline: bool = False, revision: str | None = None) -> Path:
    """As :func:`checkpoint_folder`, and of a hub repository only its settings are downloaded."""
    return _downloaded(name, _SETTINGS, offline, revision)


def published(name: str) -> str:
    """The hub id of a published model's short name, such as ``qwen2.5-vl-7b``; any other name stays as it is."""
    known = PUBLISHED.get(name.lower())
    return known.checkpoint if known else name


def unsupported_family(model_type: str, name: str) -> ModelError:
    """The error for a checkpoint of another family."""
    families = sorted(row["model_type"] for row in index.stored(index.FAMILIES))
    return ModelError(
        f"{name} is of the family {model_type!r}",
        why=f"supported families: {', '.join(families)}",
        hint="--model nano, or a checkpoint of a supported family (see: vidcomp models)",
        code="unknown_family",
    )


def _downloaded(name: str, wanted: list[str], offline: bool, revision: str | None) -> Path:
    local = local_folder(name)
    if local is not None:
        return local
    from huggingface_hub import snapshot_download

    name = published(name)
    with _hub_errors(name, offline, revision):
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=wanted,
            ignore_patterns=_UNWANTED,
            local_files_only=_no_network(offline),
        )
    return Path(folder)


def check_weights(folder: Path, name: str) -> None:
    """Make sure that every weight file which a checkpoint lists is there.

    Raises:
        ModelError: with the number of files that are missing.
    """
    index = read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    wanted = set(index.values()) or {"model.safetensors"}
    missing = sorted(file for file in wanted if not (folder / file).is_file())
    if not missing:
        return
    raise ModelError(
        f"the weights of {name} are not complete",
        why=f"{len(missing)} of {len(wanted)} weight files are missing, {missing[0]} among them",
        hint=_download(name, None) if _is_hub_id(name) else "vidcomp reads safetensors only; is the folder complete?",
        code="weights_missing",
    )


def local_folder(name: str) -> Path | None:
    """The folder of an embedded model or of a path, None for a hub id or the short name of a published model."""
    if name in EMBEDDED:
        return EMBEDDED[name]
    path = Path(name).expanduser()
    if name and os.path.isdir(path):  # False also where the system does not let us look
        if not os.path.isfile(path / "config.json"):
            raise ModelError(
                f"{name} is not a checkpoint", why="the folder has no config.json", hint="point --model at it"
            )
        return path
    if not _is_hub_id(published(name)):
        raise ModelError(
            f"no model named {name!r}",
            why="it is neither an embedded model nor a folder nor a hub id (owner/name)",
            hint=_meant(name) or "--model nano, or for example --model llava-hf/llava-onevision-qwen2-7b-ov-hf",
            code="unknown_model",
        )
    return None


def _meant(name: str) -> str:
    """The known name that is nearest: an embedded one, a short one, or a hub id without its owner."""
    known = {row.checkpoint.split("/")[1].lower(): row.checkpoint for row in PUBLISHED.values()}
    known |= {short: short for short in ("nano", *PUBLISHED)}
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    return f"did you mean --model {known[close[0]]}?" if close else ""


def _require_answer(name: str, offline: bool, revision: str | None) -> None:
    """Ask the hub once, when it will be needed: its library asks for most of a minute before it gives up."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if _no_network(offline) or isinstance(cached, str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=_ANSWER_SECONDS)
    except (errors.HfHubHTTPError, errors.HFValidationError):
        raise
    except Exception as error:  # of whichever library it connects with
        raise errors.LocalEntryNotFoundError(first_line(error)) from error


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _no_network(offline: bool) -> bool:
    """True if the caller, or the hub library's own switch, forbids the network."""
    from huggingface_hub import constants

    return offline or bool(constants.HF_HUB_OFFLINE)


def _download(name: str, revision: str | None) -> str:
    chosen = f" --revision {revision}" if revision else ""
    return f"hf download {name}{chosen}   (on a machine with network), or --model nano"


@contextmanager
def _hub_errors(name: str, offline: bool, revision: str | None) -> Iterator[None]:
    """Turn the hub library's exceptions into one of ours: what is missing, why, and the command that helps."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(f"{name} is gated", why="its owner grants access to those who ask",
                         hint=f"hf auth login, after asking on its page: {name}", code="gated") from error  # fmt: skip
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"no model named {name!r} on the hub", why="it does not exist, or it is private",
                         hint="check the name, or: hf auth login", code="unknown_model") from error  # fmt: skip
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision!r}", why="no branch, tag or commit of that name",
                         hint="look at the repository's page", code="unknown_model") from error  # fmt: skip
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        unreachable = isinstance(error, errors.LocalEntryNotFoundError)
        at = f" at revision {revision}" if revision else ""
        why = "not in the cache, and the hub cannot be reached" if unreachable else first_line(error)
        raise ModelError(
            f"the weights of {name} are not available",
            why=f"not in the cache{at}, and offline" if _no_network(offline) else why,
            hint=_download(name, revision),
            code="weights_missing",
        ) from error


def pick_device(name: str) -> torch.device:
    """``auto`` takes cuda, then mps, then cpu; ``cuda:1`` is the second GPU.

    Raises:
        ModelError: a device that torch does not see.
    """
    import torch

    seen = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if seen[kind]))
    kind, _, number = name.partition(":")
    if not seen[kind] or (number and int(number) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if seen["cuda"] else 0
        raise ModelError(f"--device {name}", why=f"this torch ({torch.__version__}) sees {count} CUDA devices"
                         if kind == "cuda" else f"this torch ({torch.__version__}) sees no such device",
                         hint="--device auto, or cuda:N counted from 0" if count else "--device auto")  # fmt: skip
    return torch.device(name)


def pick_dtype(name: str, device: torch.device, stored_half: bool = False) -> torch.dtype | str:
    """``auto`` keeps the checkpoint's format on an accelerator. On a CPU it takes bfloat16 for one that is stored in
    half precision, where the processor computes that itself, and float32 otherwise: imitated formats are slow."""
    import torch

    if name != "auto":
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    if device.type != "cpu":
        return "auto"
    return torch.bfloat16 if stored_half and computes_bfloat16() else torch.float32


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
