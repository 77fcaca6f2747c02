# SPDX-License-Identifier: Apache-2.0
"""A long video out of a short one: ``python -m tests.hours SOURCE DESTINATION --seconds 3600 [--sound]``.

The packets are repeated, not decoded, with a clock that goes on. The container follows the name of DESTINATION.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import av


def repeat(source: Path, destination: Path, seconds: float, sound: bool) -> None:
    """Write at least so many seconds."""
    with av.open(str(source)) as short, av.open(str(destination), "w") as long:
        tracks: list[Any] = [*short.streams.video[:1], *(short.streams.audio[:1] if sound else ())]
        made = {track.index: long.add_stream_from_template(track) for track in tracks}
        packets = [packet for packet in short.demux(tracks) if packet.size]
        times = sorted(packet.pts for packet in packets if packet.stream is tracks[0])
        step = min(later - earlier for earlier, later in itertools.pairwise(times) if later > earlier)
        length = (times[-1] - times[0] + step) * tracks[0].time_base
        newest: dict[int, int] = {}
        for turn in range(int(seconds / length) + 1):
            for packet in packets:
                copy, late = av.Packet(bytes(packet)), int(turn * length / packet.time_base)
                copy.pts, copy.dts = packet.pts + late, (packet.pts if packet.dts is None else packet.dts) + late
                if copy.dts <= newest.get(packet.stream.index, copy.dts - 1):
                    continue  # sound that is longer than the pictures
                newest[packet.stream.index] = copy.dts
                copy.stream, copy.time_base = made[packet.stream.index], packet.time_base
                copy.duration, copy.is_keyframe = packet.duration or 0, packet.is_keyframe
                long.mux(copy)


def main() -> None:
    """Write one file."""
    parser = argparse.ArgumentParser(prog="python -m tests.hours", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--sound", action="store_true", help="with its sound track")
    options = parser.parse_args()
    repeat(options.source, options.destination, options.seconds, options.sound)


if __name__ == "__main__":
    main()
