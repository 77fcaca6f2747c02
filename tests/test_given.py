# SPDX-License-Identifier: Apache-2.0
"""Videos that are no files: frames in memory, bytes, open files."""

from __future__ import annotations

import gzip
import io
import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from clips import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

import vidcomp
from vidcomp.engine.conversation import Conversation
from vidcomp.errors import InputError, UsageError
from vidcomp.video import Sampling, read_frames
from vidcomp.video.given import FrameSequence

Q = "what happens at the end?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=24)


@pytest.fixture(scope="module")
def whole(clip):
    """Every frame of the clip."""
    return read_frames(clip, Sampling(frames=1000))


def same(one, other):
    return torch.equal(one.encoded.view.features, other.encoded.view.features) and torch.equal(
        one.reduction.anchors, other.reduction.anchors
    )


def test_all_frames_with_their_times_are_the_file(nano, clip, whole):
    file, given_ = nano.compress(clip), nano.compress(FrameSequence(whole.pixels, whole.times))
    assert same(file, given_)
    assert file.ledger.frame_times == given_.ledger.frame_times
    assert nano.ask(FrameSequence(whole.pixels, whole.times), Q).text == nano.ask(clip, Q).text
    windowed = {"start": 0.5, "fps": 4.0}
    assert same(nano.compress(clip, **windowed), nano.compress(FrameSequence(whole.pixels, whole.times), **windowed))


FORMS = {
    "array": lambda p: p,
    "tensor": torch.from_numpy,
    "channels first": lambda p: torch.from_numpy(p).permute(0, 3, 1, 2),
    "floats": lambda p: p.astype(np.float32) / 255,
    "float tensor that is trained": lambda p: (torch.from_numpy(p).float() / 255).requires_grad_(),
    "list of arrays": list,
    "tuple of tensors": lambda p: tuple(torch.from_numpy(p)),
    "list of tensors, channels first": lambda p: [torch.from_numpy(one).permute(2, 0, 1) for one in p],
    "strided": lambda p: np.asfortranarray(p),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_frames_in_every_form(nano, whole, form):
    pixels = whole.pixels[:4]
    assert np.array_equal(FrameSequence(FORMS[form](pixels), fps=2).pixels, pixels)
    answer = nano.ask(FORMS[form](pixels), Q, max_new_tokens=1)
    assert answer.ledger.frame_times == [0.0, 1.0, 2.0, 3.0]
    assert "one per second is assumed" in answer.notes[0]
    record = answer.to_dict()
    assert (record["status"], record["video"]["reader"], record["video"]["path"]) == ("ok", "memory", "<frames>")


def test_pillow_images(whole):
    image = pytest.importorskip("PIL.Image")
    pictures = [image.fromarray(one) for one in whole.pixels[:3]]
    assert np.array_equal(FrameSequence(pictures, fps=1).pixels, whole.pixels[:3])
    grey = FrameSequence([picture.convert("L") for picture in pictures], fps=1)
    assert grey.pixels.shape == whole.pixels[:3].shape
    with pytest.raises(UsageError, match="picture 1"):
        FrameSequence([pictures[0], pictures[1].resize((10, 10))], fps=1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=9), st.sampled_from([list, tuple, np.array, torch.tensor]))
def test_times_are_kept(steps, form):
    times = np.cumsum(steps)
    sequence = FrameSequence(np.zeros((len(times), 2, 4, 3), np.uint8), form(times.tolist()))
    assert np.allclose(sequence.times, times, rtol=1e-6)
    assert sequence.seconds > sequence.times[-1]
    frames = sequence.sampled(Sampling(frames=5))
    assert all(abs(float(exact) - time) < 1e-9 for exact, time in zip(frames.exact_times, frames.times, strict=True))


def test_times_as_they_are_written():
    frames = FrameSequence(np.zeros((3, 2, 2, 3), np.uint8), [0, 0.1, 0.2]).sampled(Sampling())
    assert frames.exact_times == (Fraction(0), Fraction(1, 10), Fraction(1, 5))


def test_frames_that_are_not_read_are_told_unless_the_caller_said_so(nano, whole):
    sequence = FrameSequence(whole.pixels, whole.times)
    assert "8 of the 24 frames given are read" in nano.ask(sequence, Q, max_new_tokens=1).notes[0]
    assert not any("given" in note for note in nano.ask(sequence, Q, frames=4, max_new_tokens=1).notes)
    assert len(nano.encode(sequence, frames=24).frames) == 24


ZEROS = np.zeros((3, 4, 6, 3), np.uint8)
WRONG = [  # pixels, times, fps, a word
    (ZEROS[0], None, None, "pixels[None]"),
    (ZEROS[:0], None, None, "[T, h, w, 3]"),
    (np.zeros((3, 3, 6, 3), np.uint8), None, None, "not both"),
    (np.zeros((3, 4, 6, 4), np.uint8), None, None, "three channels"),
    (np.zeros((3, 4, 6), np.uint8), None, None, "[T, h, w, 3]"),
    (ZEROS.astype(np.int64), None, None, "astype('uint8')"),
    (ZEROS.astype(bool), None, None, "uint8"),
    (ZEROS + np.float32(7), None, None, "from 7 to 7"),
    (ZEROS - np.float32(0.5), None, None, "floats from 0 to 1"),
    (ZEROS * np.float32("nan"), None, None, "floats from 0 to 1"),
    ([], None, None, "at least one picture"),
    ([ZEROS[0], ZEROS[0, :2]], None, None, "like picture 0"),
    ([ZEROS[0], ZEROS[0] / 255], None, None, "like picture 0"),
    ([[[0, 0, 0]]], None, None, "picture 0"),
    (ZEROS.tolist(), None, None, "picture 0"),
    (ZEROS, [0, 1], None, "3 increasing seconds"),
    (ZEROS, [0, 2, 1], None, "3 increasing seconds"),
    (ZEROS, [0, 1, 1], None, "3 increasing seconds"),
    (ZEROS, [-1, 0, 1], None, "from 0 on"),
    (ZEROS, [0, 1, float("inf")], None, "3 increasing seconds"),
    (ZEROS, "012", None, "3 increasing seconds"),
    (ZEROS, 5, None, "3 increasing seconds"),
    (ZEROS, None, 0, "above 0"),
    (ZEROS, None, "25", "a number"),
    (ZEROS, [0, 1, 2], 1, "left out where times are given"),
]


@pytest.mark.parametrize(("pixels", "times", "fps", "word"), WRONG)
def test_frames_that_are_none(pixels, times, fps, word):
    with pytest.raises(UsageError) as caught:
        FrameSequence(pixels, times, fps=fps)
    assert word in f"{caught.value.what} {caught.value.why} {caught.value.hint}"


def test_rules_that_look_at_a_file(nano, whole):
    sequence = FrameSequence(whole.pixels, whole.times)
    for rule in ("keyframes", "scene"):
        with pytest.raises(UsageError, match="frames in memory"):
            nano.encode(sequence, sample=rule)
    with pytest.raises(InputError, match="between start and end"):
        nano.encode(sequence, start=100)


# -- bytes and open files

FILES = {
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
    "file behind a header": lambda path: _behind(path),
    "unpacked file": lambda path: _packed(path),
}


def _behind(path):
    longer = path.with_name("longer.bin")
    longer.write_bytes(b"x" * 100 + path.read_bytes())
    file = longer.open("rb")
    file.seek(100)
    return file


def _packed(path):
    packed = path.with_name("packed.mp4.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return gzip.open(packed)


@pytest.mark.parametrize("form", FILES)
def test_the_same_file_in_every_form(nano, clip, form, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = FILES[form](clip)
    assert same(nano.compress(opened), nano.compress(clip))
    assert not os.listdir(tmp_path)  # no copy is left
    if hasattr(opened, "close"):
        opened.close()


def test_what_is_no_video_is_named_as_the_caller_knows_it(nano, tmp_path):
    with pytest.raises(InputError, match="<bytes> is empty"):
        nano.ask(b"", Q)
    with pytest.raises(InputError, match="<bytes> is not a video"):
        nano.ask(b"some words about nothing\n", Q)
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(UsageError, match="cannot read <open file>"):
        nano.ask(closed, Q)


def test_a_conversation_and_a_stream_take_them_too(nano, clip, whole):
    answer = Conversation(nano, clip.read_bytes(), max_new_tokens=4).ask(Q)
    assert answer.text == nano.ask(clip, Q, max_new_tokens=4).text
    assert "".join(nano.stream(whole.pixels, Q, max_new_tokens=4))
    assert vidcomp.FrameSequence is FrameSequence


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm2", "llava_next_video"])
def test_tiny_pictures_are_read_or_refused_in_words(replicas, name):
    with vidcomp.load(str(replicas(name)), device="cpu", max_new_tokens=1) as lm:
        for height, width in ((1, 1), (2, 5), (1, 300)):
            try:
                lm.ask(np.zeros((2, height, width, 3), np.uint8), Q)
            except (UsageError, InputError):
                continue
