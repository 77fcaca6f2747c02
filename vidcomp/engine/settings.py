# SPDX-License-Identifier: Apache-2.0
"""The settings of one call: those of the loaded model, and what the call names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidcomp.config import ModelConfig, RunConfig
from vidcomp.errors import UsageError
from vidcomp.methods import Method, method_of

__all__ = ["configured"]


def configured(config: RunConfig, method: str | Method | None, settings: Mapping[str, Any]) -> tuple[RunConfig, Method]:
    """The settings of a call, and its method: an object as it is given, else the one that the settings name.

    Raises:
        UsageError: a wrong name or value, or a setting of the loaded model.
    """
    named = {**settings, **({"method": method} if isinstance(method, str) else {})}
    fixed = {item for item in ModelConfig.__dataclass_fields__ if item in named}
    if fixed:
        raise UsageError(f"{sorted(fixed)[0]} cannot change after load()", hint="load the model again with it")
    config = config.replace(**named)
    return config, method_of(config.outer.method if method is None else method)
