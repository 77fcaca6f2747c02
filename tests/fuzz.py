# SPDX-License-Identifier: Apache-2.0
"""Damaged videos through the real command line: ``python -m tests.fuzz --n 1000``.

A seeded corpus is made anew at every run: five codec and container pairs, or fifteen others with ``--other``, each
damaged in five ways at random places and degrees. ``vidcomp caption FOLDER --json`` reads all of them in one process.
Beside it every file is given to PyAV, OpenCV and decord, each in a process of its own, to learn which files hold a
picture that anybody can decode. What must hold: one record per file, a documented exit status, no traceback, no signal,
no file above its deadline, and of the files from which any reader gets a frame at least 95 % answered, as ``degraded``
(94 % of the others). Beside that it counts the answers called ``ok`` whose pictures are not those of the undamaged
clip.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from clips import make_clip  # noqa: E402

from vidcomp.video import Sampling, read_frames  # noqa: E402

SOURCES: dict[str, dict[str, Any]] = {
    "h264.mp4": dict(container={"movflags": "faststart"}, options={"preset": "veryfast", "g": "24"}),
    "h264.mkv": dict(options={"preset": "veryfast", "g": "24"}),
    "hevc.mp4": dict(codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=0:keyint=24"}),
    "vp9.webm": dict(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "g": "24"}),
    "mpeg4.avi": dict(codec="mpeg4", options={"bf": "2", "g": "24"}),
}
JPEG: dict[str, Any] = dict(codec="mjpeg", options={}, pix_fmt="yuvj420p")
AV1: dict[str, Any] = dict(codec="libsvtav1", options={"preset": "10", "g": "24"})
VPX = {"deadline": "realtime", "cpu-used": "8", "g": "24"}
OTHER: dict[str, dict[str, Any]] = {
    "h264.ts": dict(options={"preset": "veryfast", "g": "24"}),
    "h264.mov": dict(options={"preset": "veryfast", "g": "24"}),
    "h264.flv": dict(options={"preset": "veryfast", "g": "24"}),
    "h264.avi": dict(options={"preset": "veryfast", "g": "24", "bf": "0"}),
    "hevc.mkv": dict(codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=0:keyint=24"}),
    "vp8.webm": dict(codec="libvpx", options=VPX),
    "vp9.mp4": dict(codec="libvpx-vp9", options=VPX),
    "av1.mp4": AV1,
    "av1.webm": AV1,
    "mpeg4.mp4": dict(codec="mpeg4", options={"bf": "0", "g": "24"}),
    "mpeg2.ts": dict(codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "mpeg1.mpg": dict(codec="mpeg1video", options={"g": "12"}),
    "mjpeg.avi": JPEG,
    "mjpeg.mov": JPEG,
    "gif.gif": dict(codec="gif", options={}, pix_fmt="rgb8"),
}
FRAMES, SIZE = 72, (160, 120)
LEAST_SHARE, LEAST_SHARE_OF_OTHER = 0.95, 0.94  # answered as degraded; damaged padding of AVI and remarks hurt nothing
READERS = ("av", "cv2", "decord")
ORACLE = """
import sys
kind, path = sys.argv[1:]
if kind == "av":
    import av
    with av.open(path) as file:
        found = next(file.decode(video=0)).to_ndarray(format="rgb24").size
elif kind == "cv2":
    import cv2
    found = cv2.VideoCapture(path).read()[0]
else:
    import decord
    found = decord.VideoReader(path, num_threads=1)[0].asnumpy().size
print("frame" if found else "")
"""


def truncated(data: bytearray, rng: random.Random) -> bytearray:
    """Cut off anywhere."""
    return data[: rng.randrange(1, len(data))]


def flipped(data: bytearray, rng: random.Random) -> bytearray:
    """From one flipped bit to one in a thousand bytes."""
    for _ in range(max(1, round(len(data) * 10 ** rng.uniform(-5, -3)))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def beheaded(data: bytearray, rng: random.Random) -> bytearray:
    """Random bytes in the first kilobyte."""
    for _ in range(rng.randrange(1, 24)):
        data[rng.randrange(min(1024, len(data)))] = rng.randrange(256)
    return data


def zeroed(data: bytearray, rng: random.Random) -> bytearray:
    """A block of zeros."""
    size = rng.randrange(1, max(2, len(data) // 4))
    start = rng.randrange(len(data) - size)
    data[start : start + size] = bytes(size)
    return data


def removed(data: bytearray, rng: random.Random) -> bytearray:
    """A block that is missing."""
    size = rng.randrange(1, max(2, len(data) // 4))
    start = rng.randrange(len(data) - size)
    del data[start : start + size]
    return data


DAMAGE: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (truncated, flipped, beheaded, zeroed, removed)


def make_sources(folder: Path, pairs: dict[str, dict[str, Any]] = SOURCES) -> dict[str, Path]:
    """The undamaged clips by name."""
    return {name: make_clip(folder / name, FRAMES, size=SIZE, **how) for name, how in pairs.items()}


def make_corpus(folder: Path, sources: dict[str, Path], count: int, seed: int) -> list[Path]:
    """Write ``count`` damaged files; the same seed gives the same damage."""
    whole = {name: path.read_bytes() for name, path in sources.items()}
    rng = random.Random(seed)
    files = []
    for number in range(count):
        name = list(sources)[number % len(sources)]
        how = DAMAGE[number // len(sources) % len(DAMAGE)]
        path = folder / f"{number:05d}_{how.__name__}_{name}"
        path.write_bytes(how(bytearray(whole[name]), rng))
        files.append(path)
    return files


def readable(path: Path, seconds: float = 20.0) -> bool:
    """True when any of the three libraries gets a picture out of a file, each tried in a process of its own."""
    for kind in READERS:
        command = [sys.executable, "-c", ORACLE, kind, str(path)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            continue
        if b"frame" in done.stdout:
            return True
    return False


def caption(folder: Path, deadline: float) -> tuple[int, list[dict[str, Any]], str, float]:
    """Exit status, records, standard error and the longest wait between two records of one command."""
    command = [sys.executable, "-m", "vidcomp", "caption", str(folder), "--json", "--frames", "4"]
    command += ["--max-new-tokens", "2", "--deadline", str(deadline)]
    records, waits, last = [], [0.0], time.monotonic()
    with tempfile.TemporaryFile("w+") as words:
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True, cwd=ROOT)
        assert run.stdout is not None
        for line in run.stdout:
            records.append(json.loads(line))
            if len(records) > 1:  # the first one waits for the model
                waits.append(time.monotonic() - last)
            last = time.monotonic()
        status = run.wait()
        words.seek(0)
        return status, records, words.read(), max(waits)


def wrong_pictures(files: Iterable[Path], sources: dict[str, Path]) -> dict[str, int]:
    """How many files are answered as ``ok`` with pictures that are not those of the undamaged clip, by source."""
    every = {name: read_frames(path, Sampling(FRAMES)).pixels for name, path in sources.items()}
    wrong: collections.Counter[str] = collections.Counter()
    for path in files:
        name = path.name.split("_", 2)[2]
        frames = read_frames(path, Sampling(4))
        true = every[name][[index for index in frames.indices.tolist() if index < FRAMES]]
        wrong[name] += frames.wait().status == "ok" and not np.array_equal(frames.pixels, true)
    return dict(wrong)


def examine(files: Iterable[Path], folder: Path, sources: dict[str, Path], deadline: float = 30.0) -> dict[str, Any]:
    """Caption a corpus and sum up what happened."""
    status, records, words, longest = caption(folder, deadline)
    by_name = {Path(record["video"]["path"]).name: record for record in records}
    answered = {path.name for path in files if by_name.get(path.name, {}).get("status") in ("ok", "degraded")}
    can = {path.name for path in files if path.name in answered or readable(path)}
    codes = collections.Counter(r["error"]["code"] if r["status"] == "failed" else r["status"] for r in records)
    return {
        "files": len(list(files)),
        "records": len(records),
        "exit_status": status,
        "tracebacks": words.count("Traceback"),
        "bugs": words.count("this is a bug"),
        "longest_wait_seconds": round(longest, 2),
        "readable": len(can),
        "answered": len(answered),
        "answered_share": round(len(answered) / max(1, len(can)), 4),
        "degraded_share": round(codes["degraded"] / max(1, len(can)), 4),
        "lost": sorted(can - answered),
        "outcomes": dict(codes.most_common()),
        "ok_with_wrong_pictures": wrong_pictures((p for p in files if by_name[p.name]["status"] == "ok"), sources),
    }


def main() -> None:
    """Print the summary as JSON; exit status 1 when a figure is not reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="damaged files (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other", action="store_true", help="fifteen other codec and container pairs")
    parser.add_argument("--folder", type=Path, help="keep the corpus here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as clips:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sources = make_sources(Path(clips), OTHER if options.other else SOURCES)
        summary = examine(make_corpus(folder, sources, options.n, options.seed), folder, sources)
    print(json.dumps(summary, indent=2))
    least = LEAST_SHARE_OF_OTHER if options.other else LEAST_SHARE
    good = summary["records"] == summary["files"] and summary["exit_status"] in (0, 5)
    good &= not summary["tracebacks"] and not summary["bugs"] and summary["degraded_share"] >= least
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
