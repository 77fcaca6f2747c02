# SPDX-License-Identifier: Apache-2.0
"""Opening a file with PyAV and listing its packets: the look that comes before any decoding."""

from __future__ import annotations

from typing import Any

from vidcomp.video.container.header import MAX_PIXELS, MAX_SIDE, Header
from vidcomp.video.container.index import Mismatch, index_table
from vidcomp.video.container.libav import discard_others, reason_of
from vidcomp.video.container.rates import is_filled
from vidcomp.video.container.scan import scan_video
from vidcomp.video.readers.base import Facts, Packets, ReaderError, VideoReader
from vidcomp.video.readers.conform import form_of

__all__ = ["list_packets", "start_video"]

LARGE_PIXELS = 1 << 24  # of a picture; every decoding thread holds one or two


def list_packets(path: str, header: Header) -> Packets:
    """List the packets of the picture track.

    Raises:
        ReaderError: FFmpeg cannot open the file, or its frames are absurdly large (``too_large``).
    """
    import av

    # FFmpeg's own callback, set last: PyAV's waits for the interpreter, and closing a decoder, which holds it, waits
    # for the decoder's threads. Damaged files, which print much, hung now and then.
    av.logging.set_libav_level(av.logging.WARNING)
    av.logging.restore_default_callback()
    container, stream = start_video(path, VideoReader.threads)
    width, height = stream.codec_context.width, stream.codec_context.height
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ReaderError(f"frames of {width} x {height} pixels", "too_large")
    facts = Facts(
        container=container.format.name.split(",")[0] if header.kind != "iso" else "mp4",
        codec=stream.codec_context.name,
        width=width,
        height=height,
        pixel_format=stream.codec_context.pix_fmt or "",
        sound=bool(container.streams.audio),
        seconds=_claimed(container, stream),
        track=stream.id,
        tracks=len(_picture_tracks(container)),
        place=container.streams.video.index(stream),
        form=form_of(stream),
    )
    discard_others(container, stream)
    try:
        table = index_table(path, container, stream)
    except Mismatch:  # a seek need not lead back to the very first packet
        container.close()
        table, (container, stream) = None, start_video(path, VideoReader.threads)
        discard_others(container, stream)
    return Packets(scan_video(container, stream, table), facts, (container, stream))


def _claimed(container: Any, stream: Any) -> float | None:
    """Seconds that the container says it lasts, None when it does not."""
    if not container.duration or container.duration < 0 or (stream.frames and not is_filled(stream.frames)):
        return None
    return float(container.duration / 1e6)


def start_video(path: str, threads: int) -> tuple[Any, Any]:
    """Open a file and its first real picture track (not a cover): PyAV container and stream.

    Raises:
        ReaderError: it cannot be opened, or holds no pictures that can be decoded.
    """
    import av

    try:
        container = av.open(path, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise ReaderError(f"cannot open the file ({reason_of(error)})") from error
    tracks = _picture_tracks(container)
    if not tracks:
        cover = bool(container.streams.video)
        container.close()
        if cover:
            raise ReaderError("it holds sound with a cover picture", "cover")
        raise ReaderError("no video stream that it can decode", "no_video_stream")
    best: Any = container.streams.best("video")
    stream = best if best in tracks else tracks[0]
    if stream.codec_context is None:
        container.close()
        raise ReaderError("its video codec is not known", "no_video_stream")
    pixels = stream.codec_context.width * stream.codec_context.height
    stream.codec_context.thread_count = threads if pixels <= LARGE_PIXELS else 1
    stream.codec_context.thread_type = "AUTO"
    return container, stream


def _picture_tracks(container: Any) -> list[Any]:
    import av

    covers = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & covers]
