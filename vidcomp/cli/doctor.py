# SPDX-License-Identifier: Apache-2.0
"""vidcomp doctor: what works on this machine, on one screen, fit for a bug report."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vidcomp._version import __version__
from vidcomp.cli.console import Ui, data
from vidcomp.cli.options import with_ui

__all__ = ["doctor"]

_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "typer", "rich")
_OPTIONAL = ("accelerate", "bitsandbytes", "flash_attn")


@with_ui
def doctor(*, ui: Ui) -> None:
    """Check Python, packages, readers, device and the embedded model."""
    found = _examine()
    if ui.json:
        data(found)
        return
    for topic, facts in found.items():
        data(f"{topic}")
        for key, value in facts.items():
            data(f"  {key:<14} {value}")


def _examine() -> dict[str, dict[str, Any]]:
    return {
        "vidcomp": {"version": __version__, "python": platform.python_version(), "system": platform.platform()},
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "optional": {name: _version_of(name, "not installed") for name in _OPTIONAL},
        "readers": _readers(),
        "device": _device(),
        "models": _embedded(),
    }


def _version_of(package: str, otherwise: str = "missing: pip install -c constraints.txt -e .") -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise


def _readers() -> dict[str, str]:
    """In the order in which they are tried."""
    from vidcomp.video.readers.base import LIBRARIES, READERS

    return {name: _reader(name, LIBRARIES[name]) for name in READERS}


def _reader(name: str, module: str) -> str:
    """Try a reader on a sound clip: whether it decodes, and the version of its library."""
    from vidcomp.video.selftest import reader_fault

    if importlib.util.find_spec(module) is None:
        return "missing"
    try:
        found = getattr(importlib.import_module(module), "__version__", "version unknown")
    except (ImportError, OSError, RuntimeError) as error:
        return f"does not load: {str(error).splitlines()[0]}"
    fault = reader_fault(name)
    return f"{found} fails on a sound clip: {fault}" if fault else f"works, {found}"


def _device() -> dict[str, Any]:
    import torch

    from vidcomp.hub import pick_device
    from vidcomp.hub.cpu import computed_formats, computes_bfloat16

    chosen = pick_device("auto")
    facts: dict[str, Any] = {
        "auto": str(chosen),
        "threads": torch.get_num_threads(),
        "cpu": ", ".join(computed_formats()) or "torch names no instructions of this processor",
        "bfloat16": "computed by the CPU" if computes_bfloat16() else "imitated by the CPU: --dtype auto takes float32",
    }
    if chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        facts["gpu"] = f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    has_flash = importlib.util.find_spec("flash_attn") is not None
    facts["attention"] = "sdpa, eager" + (", flash_attention_2" if has_flash and sys.platform == "linux" else "")
    return facts


def _embedded() -> dict[str, Any]:
    from vidcomp.hub import EMBEDDED

    return {
        name: f"{sum(f.stat().st_size for f in folder.iterdir()) / 2**20:.1f} MiB" if folder.is_dir() else "missing"
        for name, folder in EMBEDDED.items()
    }
