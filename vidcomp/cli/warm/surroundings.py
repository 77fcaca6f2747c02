# SPDX-License-Identifier: Apache-2.0
"""Surroundings of a process that decide what a loaded library does: they must be equal, or the model is loaded anew.

Everything else (streams, folder, further environment, mask of new files) is handed over with the command.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

from vidcomp._version import __version__

__all__ = ["differing", "surroundings"]

# Read when a library is loaded, so that a later change would not be seen.
NAMES = ("HOME", "XDG_CACHE_HOME", "LANG", "LANGUAGE")
PREFIXES = ("ATEN_", "CUBLAS", "CUDA_", "CUDNN", "DNNL_", "GOMP_", "HF_", "HUGGINGFACE_", "KMP_", "LC_", "LD_",
            "MALLOC_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TOKENIZERS_",
            "TORCH_", "TRANSFORMERS_")  # fmt: skip
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)


def surroundings() -> dict[str, Any]:
    """Everything that must be equal, by the words that name it."""
    return {
        "another Python": [os.path.realpath(sys.executable), sys.prefix, sys.version],
        "another copy of vidcomp": [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), __version__],
        "other environment variables": {
            name: value for name, value in os.environ.items() if name in NAMES or name.startswith(PREFIXES)
        },
        "other limits": [list(resource.getrlimit(kind)) for kind in LIMITS],
        "other cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
    }


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The first thing that differs, in words; empty when nothing does."""
    return next((words for words, value in ours.items() if theirs.get(words) != value), "")
