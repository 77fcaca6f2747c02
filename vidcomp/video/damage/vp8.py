# SPDX-License-Identifier: Apache-2.0
"""Whether VP8 data decodes as it was written, asked of libvpx.

The arithmetic code of VP8 takes any bits. FFmpeg's decoders do not tell when it runs beyond its end, which is where
most damage ends; libvpx, which comes with PyAV, does. Numbers of errors and controls: ``vpx_codec.h``, ``vp8dx.h``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache
from itertools import dropwhile

from vidcomp.video.damage.bundled import load_library

__all__ = ["vp8_complaint", "vp8_library"]

PACKAGES = ("av",)
SYSTEM = ("libvpx.so.9", "libvpx.so.7", "libvpx.dylib")
CONTEXT_BYTES = 1024  # of its own state: a tenth of that is used
VERSIONS = range(3, 64)  # of its binary interface, which it checks
LOST, SPOILT = "a picture does not decode", "the code of a picture runs beyond its end"
IS_SPOILT = 257  # VP8D_GET_FRAME_CORRUPTED: of the last picture, or of one that it was made from
NOT_KEY = 1  # bit of the first byte of a picture


def vp8_complaint(packets: Iterable[bytes]) -> str:
    """What is wrong with packets in decoding order, in words; empty when nothing is, or without libvpx."""
    library = vp8_library()
    context = ctypes.create_string_buffer(CONTEXT_BYTES)
    if library is None or not _begin(library, context):
        return ""
    spoilt = ctypes.c_int()
    try:
        for packet in dropwhile(lambda packet: packet[0] & NOT_KEY, packets):
            if library.vpx_codec_decode(context, packet, len(packet), None, 0):
                return LOST
            place = ctypes.c_void_p()
            while library.vpx_codec_get_frame(context, ctypes.byref(place)):
                pass
            if not library.vpx_codec_control_(context, IS_SPOILT, ctypes.byref(spoilt)) and spoilt.value:
                return SPOILT
        return ""
    finally:
        library.vpx_codec_destroy(context)


@cache
def vp8_library() -> ctypes.CDLL | None:
    """libvpx, None where there is none."""
    return load_library("libvpx", PACKAGES, SYSTEM, _declare)


def _begin(library: ctypes.CDLL, context: ctypes.Array[ctypes.c_char]) -> bool:
    decoder = library.vpx_codec_vp8_dx()
    return any(not library.vpx_codec_dec_init_ver(context, decoder, None, 0, version) for version in VERSIONS)


def _declare(library: ctypes.CDLL) -> None:
    address, number, long, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p
    for name, gives, takes in (
        ("vp8_dx", address, []),
        ("dec_init_ver", number, [address, address, address, long, number]),
        ("decode", number, [address, text, ctypes.c_uint, address, long]),
        ("get_frame", address, [address, ctypes.POINTER(address)]),
        ("control_", number, None),
        ("destroy", number, [address]),
    ):
        function = getattr(library, f"vpx_codec_{name}")
        function.restype = gives
        if takes is not None:
            function.argtypes = takes
