# SPDX-License-Identifier: Apache-2.0
"""Memory shared with the decoding child is used again only when nobody can see it any more."""

import gc
import os

import numpy as np
import pytest
from clips import make_clip

from vidcomp.video import Sampling, read_frames
from vidcomp.video.process.shared_memory import _SPARE, MOST_BYTES, Arena
from vidcomp.video.readers.base import ReaderError


@pytest.fixture(autouse=True)
def no_spare():
    gc.collect()
    _SPARE.forget()
    yield
    _SPARE.forget()


def finished(size: int = 8, value: int = 7) -> Arena:
    """An arena whose child has written ``size`` bytes."""
    arena = Arena()
    os.pwrite(arena.descriptor, bytes([value]) * size, 0)
    arena.done = True
    return arena


def test_memory_serves_the_next_job_once_its_array_is_gone():
    arena = finished()
    pixels = arena.map(np.uint8, [8])
    arena.close()
    assert not _SPARE.descriptors
    view = pixels[2:4].reshape(2, 1)
    del pixels
    assert not _SPARE.descriptors and view.tolist() == [[7], [7]]
    del view
    assert _SPARE.descriptors == [arena.descriptor] and Arena().descriptor == arena.descriptor


def test_memory_nobody_looked_at_serves_the_next_job():
    arena = finished()
    arena.close()
    assert _SPARE.descriptors == [arena.descriptor]


def test_memory_is_closed_while_the_child_may_still_write():
    arena = finished()
    arena.done = False
    arena.close()
    assert not _SPARE.descriptors
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(arena.descriptor)


def test_memory_seen_through_two_arrays_is_not_used_again():
    arena = finished()
    first, second = arena.map(np.uint8, [8]), arena.map(np.uint8, [4])
    arena.close()
    del first
    assert not _SPARE.descriptors and second.tolist() == [7] * 4
    del second
    assert not _SPARE.descriptors


def test_at_most_one_file_waits_and_none_that_is_large():
    first, second = finished(), finished()
    first.close()
    second.close()
    assert _SPARE.descriptors == [first.descriptor]
    _SPARE.forget()
    large = finished()
    os.ftruncate(large.descriptor, MOST_BYTES + 1)
    large.close()
    assert not _SPARE.descriptors


def test_what_a_forked_process_may_see_is_not_used_again():
    arena = finished()
    pixels = arena.map(np.uint8, [8])
    arena.close()
    finished().close()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert not _SPARE.descriptors
    del pixels
    assert not _SPARE.descriptors


def test_fewer_bytes_than_promised_are_an_error():
    arena = finished()
    with pytest.raises(ReaderError, match="fewer bytes"):
        arena.map(np.uint8, [3, 3])
    arena.close()


def test_frames_stay_as_they_are_whatever_is_read_later(tmp_path):
    """Every second result is kept: their memory must not be given away, that of the others is."""
    clips = [make_clip(tmp_path / f"{count}.mp4", count) for count in (12, 30, 20)]
    kept, copies = [], []
    for number in range(12):
        frames = read_frames(clips[number % 3], Sampling(4 + number % 5))
        if number % 2:
            kept.append(frames)
            copies.append(frames.pixels.copy())
        else:
            del frames
    assert all(np.array_equal(frames.pixels, copy) for frames, copy in zip(kept, copies, strict=True))
    assert len({frames.pixels.tobytes() for frames in kept}) > 3
