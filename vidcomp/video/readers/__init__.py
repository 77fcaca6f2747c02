# SPDX-License-Identifier: Apache-2.0
"""Decoders behind one contract: PyAV, decord and OpenCV."""
