# SPDX-License-Identifier: Apache-2.0
"""Sound videos of every kind that FFmpeg writes must be called sound: ``python -m tests.undamaged``.

Every codec below is written into every container, with and without sound, as far as the muxer takes it. What no reader
opens again, because the container does not know the codec, is counted as ``unknown``. Printed as JSON: how many files
were read, those called ``degraded`` or refused for another reason, and those whose burned numbers are not their
indices. Exit status 1 when there is any of these.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import av  # noqa: E402
from clips import make_clip, read_numbers  # noqa: E402

from vidcomp.errors import InputError  # noqa: E402
from vidcomp.video import Sampling, read_frames  # noqa: E402

FRAMES = 60
X265 = {"preset": "ultrafast", "x265-params": "log-level=0"}
VPX = {"deadline": "realtime", "cpu-used": "8"}
KINDS: dict[str, dict[str, Any]] = {
    "h264": dict(options={"preset": "veryfast"}),
    "h264 open": dict(options={"preset": "medium", "g": "20", "bf": "3", "x264-params": "open-gop=1"}),
    "h264 refresh": dict(options={"preset": "ultrafast", "x264-params": "intra-refresh=1:keyint=30"}),
    "h264 interlaced": dict(options={"preset": "fast", "x264-params": "slices=4:interlaced=1"}),
    "hevc": dict(codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=0"}),
    "mpeg4": dict(codec="mpeg4", options={"bf": "2", "g": "20"}),
    "mpeg4 long": dict(codec="mpeg4", options={"bf": "0", "g": "300"}),
    "mpeg2": dict(codec="mpeg2video", options={"bf": "2", "g": "12"}),
    "mpeg2 interlaced": dict(codec="mpeg2video", options={"flags": "+ildct+ilme", "bf": "2"}),
    "mpeg1": dict(codec="mpeg1video", options={"bf": "2", "g": "12"}),
    "jpeg": dict(codec="mjpeg", options={}, pix_fmt="yuvj420p"),
    "jpeg 422": dict(codec="mjpeg", options={"huffman": "optimal"}, pix_fmt="yuvj422p"),
    "vp8": dict(codec="libvpx", options=VPX),
    "vp8 hidden": dict(codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}),
    "vp9": dict(codec="libvpx-vp9", options=VPX),
    "vp9 hidden": dict(codec="libvpx-vp9", options={"auto-alt-ref": "1", "lag-in-frames": "20", "cpu-used": "5"}),
    "vp9 444": dict(codec="libvpx-vp9", options=VPX, pix_fmt="yuv444p"),
    "hevc 10 bits": dict(codec="libx265", options=X265, pix_fmt="yuv420p10le"),
    "hevc 422 10 bits": dict(codec="libx265", options=X265, pix_fmt="yuv422p10le"),
    "hevc 444": dict(codec="libx265", options=X265, pix_fmt="yuv444p"),
    "hevc 444 12 bits": dict(codec="libx265", options=X265, pix_fmt="yuv444p12le"),
    "h264 10 bits": dict(options={"preset": "veryfast"}, pix_fmt="yuv420p10le"),
    "h264 444": dict(options={"preset": "veryfast"}, pix_fmt="yuv444p"),
    "av1 10 bits": dict(codec="libsvtav1", options={"preset": "10"}, pix_fmt="yuv420p10le"),
    "av1": dict(codec="libsvtav1", options={"preset": "10"}),
    "gif": dict(codec="gif", options={}, pix_fmt="rgb8"),
    "h263": dict(codec="h263", options={}, size=(352, 288)),
    "flash": dict(codec="flv", options={}),
    "wmv": dict(codec="wmv2", options={}),
    "msmpeg4": dict(codec="msmpeg4", options={}),
    "prores": dict(codec="prores_ks", options={}, pix_fmt="yuv422p10le"),
    "dnxhr": dict(codec="dnxhd", options={"profile": "dnxhr_sq"}, pix_fmt="yuv422p"),
    "ffv1": dict(codec="ffv1", options={}),
    "png": dict(codec="png", options={}, pix_fmt="rgb24"),
    "huffyuv": dict(codec="huffyuv", options={}, pix_fmt="yuv422p"),
    "cinepak": dict(codec="cinepak", options={}, pix_fmt="rgb24", size=(160, 120)),
    "apng": dict(codec="apng", options={}, pix_fmt="rgb24"),
    "dv": dict(codec="dvvideo", options={}, size=(720, 576)),
}
CONTAINERS = "mp4 mov mkv webm avi ts m2ts mpg vob flv asf 3gp gif nut mxf apng dv h264 hevc m1v mjpeg y4m ivf".split()
UNKNOWN = {"no_video_stream", "unsupported_codec", "no_frames"}  # the muxer wrote what no demuxer knows again


def main() -> None:
    """Print the summary as JSON."""
    av.logging.set_level(av.logging.PANIC)
    files, unknown = 0, 0
    accused: dict[str, str] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for (name, how), container, sound in itertools.product(KINDS.items(), CONTAINERS, (0, 2)):
            path = Path(folder, f"{name}, {sound} s of sound.{container}")
            try:
                make_clip(path, FRAMES, sound_seconds=sound, **how)
                frames = read_frames(path, Sampling(8))
            except InputError as error:
                unknown += error.code in UNKNOWN
                if error.code not in UNKNOWN:
                    accused[path.name] = str(error)
                continue
            except Exception:  # whatever an encoder or a muxer raises: they do not go together
                continue
            finally:
                path.unlink(missing_ok=True)
            files += 1
            if frames.wait().degraded:
                accused[path.name] = frames.degraded
            if read_numbers(frames.pixels) != frames.indices.tolist():
                wrong.append(path.name)
    print(json.dumps({"files": files, "unknown": unknown, "accused": accused, "wrong_pictures": wrong}, indent=2))
    sys.exit(1 if accused or wrong else 0)


if __name__ == "__main__":
    main()
