# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by name: their folders, what their settings say about frames, and the devices they run on."""

from __future__ import annotations

from vidcomp.hub.folders import (
    EMBEDDED,
    check_weights,
    checkpoint_config,
    checkpoint_folder,
    first_line,
    local_folder,
    pick_device,
    pick_dtype,
    published,
    read_json,
    settings_folder,
    unsupported_family,
)

__all__ = [
    "EMBEDDED",
    "check_weights",
    "checkpoint_config",
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
