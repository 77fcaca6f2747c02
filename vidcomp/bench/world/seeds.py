# SPDX-License-Identifier: Apache-2.0
"""Disjoint seed ranges: what is trained on is never asked about afterwards."""

from __future__ import annotations

TOWER_TRAIN = range(0, 1_000_000_000)
"""Frames for the dense supervision of the vision tower."""

SYMBOLIC_TRAIN = range(1_000_000_000, 2_000_000_000)
"""Videos whose scene state, not pixels, trains the language model."""

JOIN_TRAIN = range(2_000_000_000, 2_500_000_000)
"""Frames that join tower and language model."""

JOINT_TRAIN = range(2_500_000_000, 4_000_000_000)
"""Rendered videos for training end to end; each training process takes its own slice."""

ENCODER_TRAIN = range(4_000_000_000, 4_200_000_000)
"""Frame pairs for the contrastive frame encoder."""

SALIENCE_TRAIN = range(4_200_000_000, 4_400_000_000)
"""Frames for the attention of the last tower layer."""

VALIDATION = range(5_000_000_000, 5_100_000_000)
"""Watched during training to decide when to move on and which state is exported."""

TEST = range(6_000_000_000, 6_100_000_000)
"""Only evaluated, never used to decide anything."""

SAMPLES = range(7_000_000_000, 7_100_000_000)
"""The files under samples/ are picked from here."""

BLIND = range(8_000_000_000, 8_100_000_000)
"""Question statistics for the blind floor, that is answering without seeing."""
