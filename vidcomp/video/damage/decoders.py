# SPDX-License-Identifier: Apache-2.0
"""Decoders that notice damage which FFmpeg's do not: libde265 for HEVC, libvpx for VP8.

FFmpeg decodes damaged HEVC and VP8 into wrong pictures without reporting an error. libde265 (in the wheel of
``pi-heif``) and libvpx (in PyAV's) report where the arithmetic code of a picture does not end where the picture does,
and most damage ends there. Their pictures are not looked at. Numbers: ``de265.h`` of libde265 1.1, ``vpx_codec.h``,
``vp8dx.h``.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import dropwhile
from pathlib import Path
from typing import Any

__all__ = ["DE265", "LOST", "SPOILT", "VPX", "hevc_complaint", "load", "vp8_complaint"]

ADDRESS, NUMBER, LONG, TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p
POINTER = ctypes.POINTER


@dataclass(frozen=True)
class Library:
    """A native library that comes inside the wheel of another package, or with the system.

    Attributes:
        stem: of its file name, such as ``libvpx``.
        packages: whose wheels may hold it, tried first.
        system: its names in the system.
        functions: name, result and arguments of each that is used; None for arguments that vary.
    """

    stem: str
    packages: tuple[str, ...]
    system: tuple[str, ...]
    functions: tuple[tuple[str, Any, tuple[Any, ...] | None], ...]


DE265 = Library(
    "libde265",
    ("pi_heif", "pillow_heif"),
    ("libde265.so.0", "libde265.0.dylib"),
    (
        ("de265_new_decoder", ADDRESS, ()),
        ("de265_free_decoder", NUMBER, (ADDRESS,)),
        ("de265_set_parameter_bool", None, (ADDRESS, NUMBER, NUMBER)),
        ("de265_push_data", NUMBER, (ADDRESS, TEXT, NUMBER, ctypes.c_int64, ADDRESS)),
        ("de265_flush_data", NUMBER, (ADDRESS,)),
        ("de265_decode", NUMBER, (ADDRESS, POINTER(NUMBER))),
        ("de265_get_warning", NUMBER, (ADDRESS,)),
        ("de265_get_next_picture", ADDRESS, (ADDRESS,)),
        ("de265_get_error_text", TEXT, (NUMBER,)),
    ),
)
NO_DEBLOCKING, NO_ADAPTIVE_OFFSET = 7, 8  # parameters: filters change pictures only
WAITS_FOR_DATA = 13
# Slice data that no encoder wrote. References that are missing are not among it: FFmpeg notices those itself, and
# streams without key frames begin so.
DAMAGE = frozenset({4, 6, 17, 1002, 1004, 1011, 1017, 1020, 1021, 1034, 1035})

VPX = Library(
    "libvpx",
    ("av",),
    ("libvpx.so.9", "libvpx.so.7", "libvpx.dylib"),
    (
        ("vpx_codec_vp8_dx", ADDRESS, ()),
        ("vpx_codec_dec_init_ver", NUMBER, (ADDRESS, ADDRESS, ADDRESS, LONG, NUMBER)),
        ("vpx_codec_decode", NUMBER, (ADDRESS, TEXT, ctypes.c_uint, ADDRESS, LONG)),
        ("vpx_codec_get_frame", ADDRESS, (ADDRESS, POINTER(ADDRESS))),
        ("vpx_codec_control_", NUMBER, None),
        ("vpx_codec_destroy", NUMBER, (ADDRESS,)),
    ),
)
CONTEXT_BYTES = 1024  # of its own state: a tenth of that is used
VERSIONS = range(3, 64)  # of its binary interface, which it checks
LOST, SPOILT = "a picture does not decode", "the code of a picture runs beyond its end"
IS_SPOILT = 257  # VP8D_GET_FRAME_CORRUPTED: of the last picture, or of one that it was made from
NOT_KEY = 1  # bit of the first byte of a picture


@cache
def load(library: Library) -> ctypes.CDLL | None:
    """Return the first copy that loads and has the functions that are used; None when there is none."""
    for place in (*(path for package in library.packages for path in _inside(package, library.stem)), *library.system):
        try:
            loaded = ctypes.CDLL(place)
            for name, result, arguments in library.functions:
                function = getattr(loaded, name)
                function.restype = result
                if arguments is not None:
                    function.argtypes = arguments
        except (OSError, AttributeError):  # not there, or another version
            continue
        return loaded
    return None


def _inside(package: str, stem: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    for place in (folder.with_name(f"{package}.libs"), folder / ".dylibs"):
        yield from (str(path) for path in sorted(place.glob(f"{stem}[-.]*")))


def hevc_complaint(packets: Iterable[bytes]) -> str:
    """Return what is wrong with a stream that begins at a key frame; empty when nothing is, or that is not known.

    Args:
        packets: in decoding order, with start codes and parameter sets (Annex B).
    """
    library = load(DE265)
    decoder = library.de265_new_decoder() if library else None
    if library is None or decoder is None:
        return ""
    try:
        for parameter in (NO_DEBLOCKING, NO_ADAPTIVE_OFFSET):
            library.de265_set_parameter_bool(decoder, parameter, 1)
        for packet in packets:
            library.de265_push_data(decoder, packet, len(packet), 0, None)
            if (complaint := _decode_hevc(library, decoder)) is not None:
                return complaint
        library.de265_flush_data(decoder)
        return _decode_hevc(library, decoder) or ""
    finally:
        library.de265_free_decoder(decoder)


def _decode_hevc(library: ctypes.CDLL, decoder: int) -> str | None:
    """Decode the pushed data. Return an error text, empty if the stream is not supported, None if it is intact."""
    more = NUMBER(1)
    while more.value:
        error = library.de265_decode(decoder, ctypes.byref(more))
        while library.de265_get_next_picture(decoder):
            pass
        for found in (*iter(partial(library.de265_get_warning, decoder), 0), error):
            if found in DAMAGE:
                text: bytes = library.de265_get_error_text(found)
                return text.decode("ascii", "replace")
        if error == WAITS_FOR_DATA:
            break
        if error:
            return ""
    return None


def vp8_complaint(packets: Iterable[bytes]) -> str:
    """Return what is wrong with packets in decoding order, in words; empty when nothing is, or without libvpx."""
    library, context = load(VPX), ctypes.create_string_buffer(CONTEXT_BYTES)
    if library is None:
        return ""
    decoder = library.vpx_codec_vp8_dx()
    if all(library.vpx_codec_dec_init_ver(context, decoder, None, 0, version) for version in VERSIONS):
        return ""
    spoilt, place = NUMBER(), ADDRESS()
    try:
        for packet in dropwhile(lambda packet: packet[0] & NOT_KEY, packets):
            if library.vpx_codec_decode(context, packet, len(packet), None, 0):
                return LOST
            place.value = None
            while library.vpx_codec_get_frame(context, ctypes.byref(place)):
                pass
            if not library.vpx_codec_control_(context, IS_SPOILT, ctypes.byref(spoilt)) and spoilt.value:
                return SPOILT
        return ""
    finally:
        library.vpx_codec_destroy(context)
