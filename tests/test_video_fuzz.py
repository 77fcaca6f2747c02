# SPDX-License-Identifier: Apache-2.0
"""Damaged files: a short run of ``python -m tests.fuzz``, and leaks over many files in one process."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest
from clips import make_clip
from fuzz import DAMAGE, SOURCES, examine, make_corpus, make_sources

from vidcomp.errors import InputError
from vidcomp.video import Sampling, read_frames


def test_damaged_files_through_the_command_line(tmp_path: Path) -> None:
    whole, corpus = tmp_path / "whole", tmp_path / "corpus"
    whole.mkdir()
    corpus.mkdir()
    sources = make_sources(whole)
    files = make_corpus(corpus, sources, len(SOURCES) * len(DAMAGE), seed=1)
    summary = examine(files, corpus, sources)
    assert summary["records"] == len(files)
    assert summary["exit_status"] in (0, 5)
    assert (summary["tracebacks"], summary["bugs"]) == (0, 0)
    assert summary["answered_share"] >= 0.95, summary["lost"]
    assert sum(summary["ok_with_wrong_pictures"].values()) <= 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_many_files_leave_nothing_behind(tmp_path: Path) -> None:
    good = make_clip(tmp_path / "good.mp4", 10, size=(64, 48))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:2000])

    def read() -> None:
        read_frames(good, Sampling(3))
        with pytest.raises(InputError):
            read_frames(bad, Sampling(3))

    def held() -> tuple[int, int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count("vidcomp-frames")
        return len(os.listdir("/proc/self/fd")), threading.active_count(), maps

    read()
    before = held()
    for _ in range(25):
        read()
    assert held() == before


def test_a_decoder_that_prints_much_does_not_hang(tmp_path: Path) -> None:
    """Messages that wait for the interpreter, which waits for the decoder to close, hung one reading in three."""
    whole = make_clip(tmp_path / "whole.mp4", 100, container={"movflags": "faststart"}, options={"bf": "3"})
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    readers: list[str] = []

    def read() -> None:
        for _ in range(8):
            readers.append(read_frames(path, Sampling(4), deadline_seconds=300).info.reader)

    threads = [threading.Thread(target=read) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert readers == ["pyav"] * 40
