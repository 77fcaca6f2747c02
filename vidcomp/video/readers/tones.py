# SPDX-License-Identifier: Apache-2.0
"""High dynamic range and wide colours brought to what screens of bt.709 show, with numpy alone.

Stored values become light (candela per square metre: SMPTE ST 2084 for PQ; ITU-R BT.2100 for HLG, on a screen of 1000),
the curve of ITU-R BT.2390 brings 1000 down to 203, light becomes that of the colours of bt.709, and the gamma of
BT.1886 (2.4) makes values of it. 203 is what BT.2408 calls the white of paper; on the screen of an ordinary video it is
the brightest there is. What is darker than 91 keeps its brightness, paper white becomes 229 of 255, and 1000 and more
become white. The curve is applied to the largest of red, green and blue, and the others follow, so that hues stay.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["HLG", "PQ", "toned"]

PQ, HLG = "PQ", "HLG"
PEAK, WHITE, BRIGHTEST = 1000.0, 203.0, 10_000.0  # candela per square metre
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of bt.2020
TO_BT709 = np.array(  # from bt.2020 (BT.2087)
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
GAMMA = 2.4
CODES = 1 << 16
FINE = 1 << 14
PIECE = 1 << 18  # pixels that are worked on at once: a large picture takes no more memory than a small one

Values = NDArray[np.float32]


def toned(picture: NDArray[np.uint16], transfer: str, wide: bool) -> NDArray[np.uint8]:
    """uint8 ``[h, w, 3]`` of bt.709 for stored values ``[h, w, 3]`` of 16 bits.

    Args:
        transfer: ``PQ``, ``HLG``, or another, which stands for the usual range of brightness.
        wide: the colours are those of bt.2020.
    """
    made = np.empty(picture.shape, np.uint8)
    rows = max(1, PIECE // picture.shape[1])
    for top in range(0, len(picture), rows):
        light = _light(transfer)[picture[top : top + rows]]
        if transfer == HLG:  # how a screen of 1000 shows the scene
            light *= PEAK * np.power(light @ LUMA, 0.2)[..., None]
        if transfer in (PQ, HLG):
            at = np.sqrt(light.max(-1) * ((FINE - 1) ** 2 / BRIGHTEST)) + 0.5
            light *= _gain()[np.minimum(at, FINE - 1).astype(np.intp)][..., None]
        light = light @ TO_BT709.T if wide else light
        shown = np.clip(light, 0, 1) * (CODES - 1) + 0.5
        made[top : top + rows] = _encoded()[shown.astype(np.uint16)]
    return made


@cache
def _light(transfer: str) -> Values:
    """Light of every 16-bit value: in candela for PQ; 0 to 1, of the scene for HLG, of the screen for others."""
    code = np.linspace(0, 1, CODES)
    if transfer == PQ:
        light = _pq_light(code)
    elif transfer == HLG:
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    else:
        light = code**GAMMA
    return light.astype(np.float32)


def _pq_light(code: NDArray[np.float64]) -> NDArray[np.float64]:
    root = code ** (32 / 2523)
    light: NDArray[np.float64] = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)
    return light * BRIGHTEST


def _pq_code(light: NDArray[np.float64]) -> NDArray[np.float64]:
    root = (light / BRIGHTEST) ** (1305 / 8192)
    code: NDArray[np.float64] = ((0.8359375 + 18.8515625 * root) / (1 + 18.6875 * root)) ** (2523 / 32)
    return code


@cache
def _gain() -> Values:
    """By what the brightest of a pixel is multiplied, by the root of its light: the curve, to 1 for ``WHITE``."""
    light = BRIGHTEST * np.linspace(1 / FINE, 1, FINE) ** 2
    top, goal = _pq_code(np.array([PEAK, WHITE]))
    code, most = np.minimum(_pq_code(light) / top, 1), goal / top
    knee = 1.5 * most - 0.5
    t = np.clip((code - knee) / (1 - knee), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    goals = _pq_light(np.where(code < knee, code, bent) * top)
    return (goals / light / WHITE).astype(np.float32)


@cache
def _encoded() -> NDArray[np.uint8]:
    """The 8-bit value of every 16-bit share of light."""
    return np.rint(255 * np.linspace(0, 1, CODES) ** (1 / GAMMA)).astype(np.uint8)
