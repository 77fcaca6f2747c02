# SPDX-License-Identifier: Apache-2.0
"""From stored pictures to what a viewer sees: square pixels, one frame for all, usual colours, no combs, no holes.

An ordinary picture is converted and scaled in one step, as before. What is done beyond that is decided by what the
stream and each picture say of themselves (:class:`Form`), and each kind leaves one line in ``notes``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcomp.video.container.header import MAX_SIDE
from vidcomp.video.container.libav import one_thread
from vidcomp.video.readers.tones import HLG, PQ, toned

__all__ = ["Conformer", "Form", "fitted", "form_of", "framed", "inside", "pair", "resized", "squared", "swapped"]

Picture = NDArray[np.uint8]
Size = tuple[int, int]  # width, height

# Numbers of ITU-T H.273, as FFmpeg gives them.
TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 13: "srgb",
             14: "bt2020", 15: "bt2020", 16: PQ, 17: "smpte428", 18: HLG}  # fmt: skip
PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt601", 6: "bt601", 7: "bt601", 9: "bt2020", 11: "p3", 12: "p3"}
BT709, BT601, FULL_RANGE = 1, 5, 2
DOLBY = "Dolby Vision"
DOLBY_TAGS = frozenset({"dvh1", "dvhe", "dva1", "dvav", "dav1"})
FIELDS = {2: "top", 3: "bottom", 4: "top", 5: "bottom"}  # which comes first, by FFmpeg's AVFieldOrder as it writes it
WIDEST = 8  # times as wide as high, or the reverse: no real pixel is
LARGE_PIXELS = 1 << 25  # of a picture; more are not worked on at full size
FEW_LINES = 4  # of a picture to one that is wanted: then one field has lines enough


@dataclass(frozen=True)
class Form:
    """Form in which the stored pictures of a stream are to be shown.

    Attributes:
        pixel: width and height of a pixel, such as ``(2, 1)``.
        transfer: from light to values, such as ``bt709``, ``PQ`` or ``HLG``; empty if not given.
        primaries: the colours that red, green and blue stand for, such as ``bt709`` or ``bt2020``; empty if not given.
        fields: of interlaced pictures the field that comes first, ``top`` or ``bottom``; empty when they are
            progressive or nothing tells.
        alpha: they may be transparent.
    """

    pixel: tuple[int, int] = (1, 1)
    transfer: str = ""
    primaries: str = ""
    fields: str = ""
    alpha: bool = False

    @property
    def plausible(self) -> bool:
        """Pixels may have that shape."""
        return 0 < max(self.pixel) <= WIDEST * min(self.pixel)

    @property
    def bright(self) -> bool:
        """The range of brightness is high."""
        return self.transfer in (PQ, HLG)

    @property
    def wide(self) -> bool:
        """The colours are those of bt.2020; of high dynamic range they are unless other ones are named."""
        return self.primaries == "bt2020" or (not self.primaries and (self.bright or self.transfer == "bt2020"))

    @property
    def unusual(self) -> str:
        """Conversions that a reader which shows pictures as they are stored leaves out, in words; empty if none."""
        kinds = (
            (self.pixel[0] != self.pixel[1], "pixels that are not square"),
            (self.bright or self.wide or self.transfer == DOLBY, f"{self.transfer or self.primaries} colours"),
            (bool(self.fields), "interlaced pictures"),
            (self.alpha, "transparent parts"),
        )
        return ", ".join(name for holds, name in kinds if holds)


def form_of(stream: Any) -> Form:
    """Facts of a PyAV stream about its pictures before any of them is decoded."""
    codec = stream.codec_context
    return Form(
        pair(stream.sample_aspect_ratio),
        TRANSFERS.get(codec.color_trc, DOLBY if codec.codec_tag in DOLBY_TAGS else ""),
        PRIMARIES.get(codec.color_primaries, ""),
        FIELDS.get(getattr(codec, "field_order", 0), ""),  # before PyAV 18 nothing tells
        stream.metadata.get("alpha_mode") == "1" or (codec.pix_fmt is not None and _has_alpha(codec.format)),
    )


def squared(size: Size, pixel: tuple[int, int]) -> Size:
    """Width and height with square pixels: one side grows, none shrinks, and neither beyond what any file may have."""
    wide, high = pixel
    if wide == high or not Form(pixel).plausible or not all(size):
        return size
    return fitted(round(size[0] * max(wide / high, 1)), round(size[1] * max(high / wide, 1)), MAX_SIDE)


def swapped(size: Size, swap: bool) -> Size:
    """Width for height, if asked."""
    return (size[1], size[0]) if swap else size


def fitted(width: int, height: int, max_side: int) -> Size:
    """Width and height scaled down so that no side exceeds ``max_side``."""
    scale = min(1.0, max_side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def inside(size: Size, frame: Size) -> Size:
    """The largest size in the proportion of ``size`` that fits into ``frame``."""
    scale = min(Fraction(frame[0], size[0]), Fraction(frame[1], size[1]))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def framed(image: Picture, frame: Size) -> Picture:
    """``[h, w, 3]`` in the middle of black ``[frame height, frame width, 3]``."""
    made = np.zeros((frame[1], frame[0], 3), np.uint8)
    top, left = (frame[1] - image.shape[0]) // 2, (frame[0] - image.shape[1]) // 2
    made[top : top + image.shape[0], left : left + image.shape[1]] = image
    return made


class Conformer:
    """Turns decoded PyAV frames of one stream into RGB.

    Args:
        form: what the stream says.
        opaque: an alpha that is zero all over means nothing: so it is in AVI, where many programs leave it so.
    """

    def __init__(self, form: Form, opaque: bool = False) -> None:
        from av.video.reformatter import VideoReformatter

        # One converter for all frames: setting one up takes longer than converting a small frame.
        self._converter, self.form, self._opaque = VideoReformatter(), form, opaque
        self._alphas: dict[str, bool] = {}
        self._forms: dict[tuple[int, int], Form] = {}
        self.notes: dict[str, str] = {}  # by kind
        if form.transfer == DOLBY:
            self.notes["transfer"] = "Dolby Vision colours are shown as they are stored: hues may be wrong"

    def rgb(self, frame: Any, size: Size) -> Picture:
        """uint8 ``[h, w, 3]`` of a frame, at the size that is asked for."""
        return self._woven(frame, size) if frame.interlaced_frame else self._opaqued(frame, size)

    def _plain(self, frame: Any, size: Size, format: str = "rgb24") -> NDArray[Any]:
        how = "AREA" if size != (frame.width, frame.height) else None
        made = self._converter.reformat(frame, *size, format, interpolation=how, **(one_thread() or _matrix(frame)))
        pixels: NDArray[Any] = made.to_ndarray()
        return pixels

    def _coloured(self, frame: Any, size: Size) -> Picture:
        tags = (getattr(frame, "color_trc", 2), getattr(frame, "color_primaries", 2))  # before PyAV 17 it does not tell
        form = self._forms.get(tags) or self._told(*tags)
        if not form.bright and not form.wide:
            return self._plain(frame, size)
        how = f"high dynamic range ({form.transfer}) was tone-mapped" if form.bright else "wide colours were brought"
        self.notes["transfer"] = f"{how} to the range of ordinary video (bt.709)"
        picture = self._plain(frame, size, "gbrp16le")  # FFmpeg 8.0 makes wrong greens and blues of rgb48
        return toned(picture, form.transfer, form.wide)

    def _told(self, transfer: int, primaries: int) -> Form:
        """The form of frames with such tags, for this one and those to come."""
        form = self._forms[transfer, primaries] = replace(
            self.form,
            transfer=TRANSFERS.get(transfer, self.form.transfer),
            primaries=PRIMARIES.get(primaries, self.form.primaries),
        )
        return form

    def _opaqued(self, frame: Any, size: Size) -> Picture:
        """On black, where a picture is transparent."""
        name = frame.format.name
        if name not in self._alphas:
            self._alphas[name] = _has_alpha(frame.format)
        if not self._alphas[name]:
            return self._coloured(frame, size)
        # What lies under a transparent place must not reach its neighbours when a picture is scaled.
        full = (frame.width, frame.height) if frame.width * frame.height <= LARGE_PIXELS else size
        alpha = self._plain(frame, full, "rgba")[..., 3]
        if alpha.min() == 255 or (self._opaque and not alpha.any()):
            return self._coloured(frame, size)
        self.notes["alpha"] = "transparent parts are shown on black"
        image = self._coloured(frame, full)
        for row, share in zip(image, alpha, strict=True):  # one by one: in the memory of one
            row[:] = (row * share.astype(np.uint16)[:, None] + 127) // 255
        return resized(image, size)

    def _woven(self, frame: Any, size: Size) -> Picture:
        """From one field, where both differ. What stands still keeps all its lines."""
        from vidcomp.video.readers.fields import combed, one_field, woven

        last = self.form.fields == "bottom"
        if size[1] * FEW_LINES <= frame.height:
            return self._opaqued(one_field(frame, last), size)
        full = (frame.width, frame.height)
        picture = self._opaqued(frame, full)
        places = combed(picture)
        if places is None:
            return self._opaqued(frame, size) if size != full else picture
        self.notes["fields"] = "interlaced pictures were de-interlaced: where something moves, one field is shown"
        field = one_field(frame, last)
        return resized(woven(picture, self._opaqued(field, (field.width, field.height)), places, last), size)


def resized(image: Picture, size: Size) -> Picture:
    """``[h, w, 3]`` at another size."""
    import cv2

    if size == image.shape[1::-1]:
        return image
    smaller = size[0] <= image.shape[1] and size[1] <= image.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


def _matrix(frame: Any) -> dict[str, int]:
    """Arguments that the converter needs before PyAV 17: it took bt.601 and most often the narrow range for granted."""
    kind = frame.format
    if kind.is_rgb or kind.has_palette or len(kind.components) < 3:
        return {}
    full = kind.name.startswith("yuvj") or frame.color_range == FULL_RANGE
    ranges = {"src_color_range": FULL_RANGE if full else 1, "dst_color_range": FULL_RANGE}
    other = BT709 if frame.colorspace == BT601 else BT601  # of RGB it means nothing, but the same would be passed over
    return {"src_colorspace": frame.colorspace, "dst_colorspace": other, **ranges}


def _has_alpha(format: Any) -> bool:
    return bool(format.has_palette) or any(part.is_alpha for part in format.components)


def pair(shape: Fraction | None) -> tuple[int, int]:
    """Width and height of a pixel; square when nothing tells."""
    return (shape.numerator, shape.denominator) if shape and shape > 0 else (1, 1)
