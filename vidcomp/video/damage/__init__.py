# SPDX-License-Identifier: Apache-2.0
"""The inspection of a file for damage that decoders do not report, behind one function: :func:`inspect`."""

from vidcomp.video.damage.inspection import Decoded, Look, inspect

__all__ = ["Decoded", "Look", "inspect"]
