# SPDX-License-Identifier: Apache-2.0
"""Whether HEVC data decodes as it was written, asked of libde265.

FFmpeg's decoder makes wrong pictures of damaged HEVC without a word. libde265, which comes with ``pi-heif``, says where
the arithmetic code of a slice does not end where its picture does, and most damage ends there. Its pictures are not
looked at, so its filters are off. Numbers of parameters and errors: ``de265.h`` of libde265 1.1.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache

from vidcomp.video.damage.bundled import load_library

__all__ = ["hevc_complaint", "hevc_library"]

PACKAGES = ("pi_heif", "pillow_heif")
SYSTEM = ("libde265.so.0", "libde265.0.dylib")
NO_DEBLOCKING, NO_ADAPTIVE_OFFSET = 7, 8
WAITS_FOR_DATA = 13
# What says that slice data is not what an encoder wrote. References that are missing are not among it: FFmpeg notices
# those itself, and streams without key frames begin so.
DAMAGE = frozenset({4, 6, 17, 1002, 1004, 1011, 1017, 1020, 1021, 1034, 1035})


def hevc_complaint(packets: Iterable[bytes]) -> str:
    """What is wrong with the slice data of a stream that begins at a key frame; empty when nothing is.

    Args:
        packets: in decoding order, with start codes and parameter sets (Annex B).

    Nothing is wrong, too, where libde265 is missing or does not know what the stream uses.
    """
    library = hevc_library()
    decoder = library.de265_new_decoder() if library else None
    if library is None or decoder is None:
        return ""
    try:
        for parameter in (NO_DEBLOCKING, NO_ADAPTIVE_OFFSET):
            library.de265_set_parameter_bool(decoder, parameter, 1)
        for packet in packets:
            library.de265_push_data(decoder, packet, len(packet), 0, None)
            if (complaint := _decode(library, decoder)) is not None:
                return complaint
        library.de265_flush_data(decoder)
        return _decode(library, decoder) or ""
    finally:
        library.de265_free_decoder(decoder)


@cache
def hevc_library() -> ctypes.CDLL | None:
    """libde265, None where there is none."""
    return load_library("libde265", PACKAGES, SYSTEM, _declare)


def _decode(library: ctypes.CDLL, decoder: int) -> str | None:
    """Decode what was pushed: a complaint, empty for a stream that is beyond this decoder, None when all is well."""
    more = ctypes.c_int(1)
    while more.value:
        error = library.de265_decode(decoder, ctypes.byref(more))
        while library.de265_get_next_picture(decoder):
            pass
        while said := library.de265_get_warning(decoder):
            if said in DAMAGE:
                return _text(library, said)
        if error in DAMAGE:
            return _text(library, error)
        if error not in (0, WAITS_FOR_DATA):
            return ""
        if error == WAITS_FOR_DATA:
            break
    return None


def _text(library: ctypes.CDLL, error: int) -> str:
    said: bytes = library.de265_get_error_text(error)
    return said.decode("ascii", "replace")


def _declare(library: ctypes.CDLL) -> None:
    address, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for name, gives, takes in (
        ("new_decoder", address, []),
        ("free_decoder", number, [address]),
        ("set_parameter_bool", None, [address, number, number]),
        ("push_data", number, [address, text, number, ctypes.c_int64, address]),
        ("flush_data", number, [address]),
        ("decode", number, [address, ctypes.POINTER(number)]),
        ("get_warning", number, [address]),
        ("get_next_picture", address, [address]),
        ("get_error_text", text, [number]),
    ):
        function = getattr(library, f"de265_{name}")
        function.restype, function.argtypes = gives, takes
