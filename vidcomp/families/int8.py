# SPDX-License-Identifier: Apache-2.0
"""A vision tower whose linear layers compute in 8 bits on a processor (``--quantize int8-tower``).

Weights are rounded once, to one range for each layer; the rows that enter a layer when they arrive, to one range for
all of them (dynamic quantisation of torch, in oneDNN's kernels). Attention, norms, what stands before and behind the
tower's layers, and the language model stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from vidcomp.errors import ModelError

__all__ = ["INT8_TOWER", "quantize_tower"]

INT8_TOWER = "int8-tower"
_ENGINE = "onednn"


def quantize_tower(layers: Iterable[nn.Module], device: torch.device) -> None:
    """Replace what is linear in the layers of a tower, in place.

    Args:
        layers: of the tower, float32, on this device.
        device: of the model.

    Raises:
        ModelError: not on a CPU, or this torch has no such kernels.
    """
    convert: Any = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if device.type != "cpu":
        raise ModelError(f"--quantize {INT8_TOWER} on {device}", why="its kernels are those of a CPU",
                         hint="--device cpu, or --quantize 8bit", code="unsupported")  # fmt: skip
    if convert is None or _ENGINE not in torch.backends.quantized.supported_engines:
        raise ModelError(f"--quantize {INT8_TOWER} needs {_ENGINE}", why=f"torch {torch.__version__} lacks it here",
                         hint="--dtype bfloat16 where the processor computes it", code="unsupported")  # fmt: skip
    engines: Any = torch.backends.quantized
    before = engines.engine
    engines.engine = _ENGINE  # weights are packed for the engine in force, and stay so
    try:
        with warnings.catch_warnings():  # it announces a package that would be one more dependency
            warnings.simplefilter("ignore")
            for layer in layers:
                convert(layer, {nn.Linear}, dtype=torch.qint8, inplace=True)
    finally:
        engines.engine = before
