# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments of the Python API: each is a UsageError that says what was given and what is wanted."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from clips import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

import vidcomp
from vidcomp.bench import bench_ask
from vidcomp.bench.accuracy import bench_accuracy
from vidcomp.bench.calibrate import samples_of
from vidcomp.bench.compress import bench_compress
from vidcomp.config import RunConfig
from vidcomp.engine.conversation import Conversation
from vidcomp.engine.run import VideoLM
from vidcomp.errors import ModelError, UsageError, VidcompError

Q = "what happens at the end?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=20)


@pytest.fixture(scope="module")
def view():
    return vidcomp.TokenView(torch.randn(2, 4, 8), (2, 2), torch.arange(2.0))


MISUSES = {  # name: call, a word of the message
    "no question": (lambda lm, v: lm.ask(v, None), "text"),
    "a list of questions": (lambda lm, v: lm.ask(v, ["a?", "b?"]), "list of length 2"),
    "bytes as question": (lambda lm, v: lm.ask(v, b"what?"), "text"),
    "a lone surrogate": (lambda lm, v: lm.ask(v, "caf\udce9?"), "not UTF-8"),
    "the question left out": (lambda lm, v: lm.ask(v), "question"),
    "one argument too many": (lambda lm, v: lm.ask(v, Q, 0.1), "too many"),
    "keep as text": (lambda lm, v: lm.ask(v, Q, keep="0.1"), "keep must be a number"),
    "keep as None": (lambda lm, v: lm.ask(v, Q, keep=None), "keep must be a number"),
    "keep that is no number": (lambda lm, v: lm.ask(v, Q, keep=float("nan")), "at most 1"),
    "keep as truth": (lambda lm, v: lm.ask(v, Q, keep=True), "keep must be a number"),
    "frames as float": (lambda lm, v: lm.ask(v, Q, frames=8.0), "frames must be a whole number or None"),
    "frames as list": (lambda lm, v: lm.ask(v, Q, frames=[8]), "frames"),
    "seed as text": (lambda lm, v: lm.ask(v, Q, seed="1"), "seed"),
    "strict as text": (lambda lm, v: lm.ask(v, Q, strict="yes"), "True or False"),
    "a start that is no time": (lambda lm, v: lm.ask(v, Q, start="noon"), "--start"),
    "a misspelt setting": (lambda lm, v: lm.ask(v, Q, max_new_token=4), "did you mean 'max_new_tokens'"),
    "another misspelt setting": (lambda lm, v: lm.compress(v, keap=0.1), "did you mean 'keep'"),
    "a misspelt callback": (lambda lm, v: lm.ask(v, Q, on_txt=print), "did you mean 'on_text'"),
    "a callback that cannot be called": (lambda lm, v: lm.ask(v, Q, on_text="print"), "a function"),
    "a stop that cannot be called": (lambda lm, v: lm.ask(v, Q, stop=True), "a function"),
    "history as text": (lambda lm, v: lm.ask(v, Q, history="a b"), "turns"),
    "history of texts": (lambda lm, v: lm.ask(v, Q, history=["a", "b"]), "both text"),
    "history of triples": (lambda lm, v: lm.ask(v, Q, history=[("a", "b", "c")]), "both text"),
    "balance": (lambda lm, v: lm.ask(v, Q, balance={}), "AttentionBalance"),
    "a method's class": (lambda lm, v: lm.ask(v, Q, method=type(vidcomp.get_method("holitom"))), "the class"),
    "a method that is a number": (lambda lm, v: lm.ask(v, Q, method=3), "get_method"),
    "a method parameter of a wrong type": (lambda lm, v: lm.ask(v, Q, method="holitom:tau=abc"), "tau"),
    "signals as text": (lambda lm, v: lm.encode(v, signals="salience"), "a set of names"),
    "an unknown signal": (lambda lm, v: lm.encode(v, signals={"salient"}), "did you mean 'salience'"),
    "no video": (lambda lm, v: lm.ask(None, Q), "frames [T, h, w, 3]"),
    "a number as video": (lambda lm, v: lm.encode(7), "frames [T, h, w, 3]"),
    "a compressed video compressed again": (lambda lm, v: lm.compress(lm.compress(v)), "frames [T, h, w, 3]"),
    "a list of paths": (lambda lm, v: lm.ask([str(v), str(v)], Q), "picture 0"),
    "a text file": (lambda lm, v: lm.ask(io.StringIO("x"), Q), "open(path, 'rb')"),
    "a question to stream": (lambda lm, v: lm.stream(v, 3), "text"),
    "prepare": (lambda lm, v: lm.prepare(v, Q), "compress() returned"),
    "load a number": (lambda lm, v: vidcomp.load(3), "model must be text"),
    "load with a wrong device": (lambda lm, v: vidcomp.load("nano", device=0), "device must be text"),
    "load with a torch dtype": (lambda lm, v: vidcomp.load("nano", dtype=torch.float32), "dtype must be text"),
    "load with a misspelt word": (lambda lm, v: vidcomp.load("nano", devise="cpu"), "did you mean 'device'"),
    "compress with a text keep": (lambda lm, v: vidcomp.attach(lm.family.model, keep="x"), "keep must be a number"),
    "compress with a misspelt word": (lambda lm, v: vidcomp.attach(lm.family.model, keap=1), "did you mean 'keep'"),
    "compress with no method": (lambda lm, v: vidcomp.attach(lm.family.model, method=None), "get_method"),
    "get_method by number": (lambda lm, v: vidcomp.get_method(3), "must be text"),
    "get_method with a text parameter": (lambda lm, v: vidcomp.get_method("holitom", tau="x"), "tau must be a number"),
    "apply_reduction": (lambda lm, v: vidcomp.apply_reduction(1, 2), "a TokenView"),
    "a view of lists": (lambda lm, v: vidcomp.TokenView([[1]], (1, 1), [0]), "a tensor"),
    "a reduction of lists": (lambda lm, v: vidcomp.Reduction([0], [0], [1.0]), "a tensor"),
    "a span of texts": (lambda lm, v: vidcomp.Span("a", "b"), "a whole number"),
    "a conversation without a model": (lambda lm, v: Conversation("nano", v), "vidcomp.load()"),
    "a conversation with a wrong setting": (lambda lm, v: Conversation(lm, v, keep="x"), "keep must be a number"),
    "a VideoLM of a name": (lambda lm, v: VideoLM("nano", RunConfig()), "vidcomp.load"),
    "bench_ask": (lambda lm, v: bench_ask(lm, v, Q, repeats="7"), "repeats"),
    "bench_accuracy": (lambda lm, v: bench_accuracy(lm, "holitom", [0.1]), "a list"),
    "bench_compress": (lambda lm, v: bench_compress("holitom", shape=3), "(T, N, D)"),
    "samples_of": (lambda lm, v: samples_of(lm, [v], Q), "a list"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_is_told_with_what_is_wanted(nano, clip, name):
    call, word = MISUSES[name]
    with pytest.raises(UsageError) as caught:
        call(nano, clip)
    told = f"{caught.value.what}\n{caught.value.why}\n{caught.value.hint}"
    assert word in told
    assert all("\n" not in line for line in (caught.value.what, caught.value.why, caught.value.hint))


ENTRIES = {  # entry: call with one value in the place of one argument
    "ask question": lambda lm, clip, view, x: lm.ask(clip, x),
    "ask video": lambda lm, clip, view, x: lm.ask(x, Q),
    "ask method": lambda lm, clip, view, x: lm.ask(clip, Q, method=x),
    "ask history": lambda lm, clip, view, x: lm.ask(clip, Q, history=x),
    "ask on_text": lambda lm, clip, view, x: lm.ask(clip, Q, on_text=x),
    **{
        f"ask {name}": (lambda lm, clip, view, x, name=name: lm.ask(clip, Q, **{name: x}))
        for name in RunConfig().flat()
    },
    "encode question": lambda lm, clip, view, x: lm.compress(clip, question=x),
    "encode video": lambda lm, clip, view, x: lm.compress(x),
    "watch signals": lambda lm, clip, view, x: lm.encode(clip, signals=x),
    "prepare": lambda lm, clip, view, x: lm.prepare(x, Q),
    "stream": lambda lm, clip, view, x: list(lm.stream(clip, x)),
    "load": lambda lm, clip, view, x: vidcomp.load(x),
    "load attn": lambda lm, clip, view, x: vidcomp.load("nano", attn=x),
    "compress": lambda lm, clip, view, x: vidcomp.attach(x),
    "compress method": lambda lm, clip, view, x: vidcomp.attach(lm.family.model, method=x),
    "compress inner": lambda lm, clip, view, x: vidcomp.attach(lm.family.model, inner=x),
    "get_method": lambda lm, clip, view, x: vidcomp.get_method(x),
    "get_method tau": lambda lm, clip, view, x: vidcomp.get_method("holitom", tau=x),
    "method view": lambda lm, clip, view, x: vidcomp.get_method("uniform")(x, 0.5),
    "apply_reduction": lambda lm, clip, view, x: vidcomp.apply_reduction(view, x),
    "TokenView": lambda lm, clip, view, x: vidcomp.TokenView(x, (2, 2), view.times),
    "TokenView grid": lambda lm, clip, view, x: vidcomp.TokenView(view.features, x, view.times),
    "TokenView salience": lambda lm, clip, view, x: vidcomp.TokenView(view.features, (2, 2), view.times, salience=x),
    "Reduction": lambda lm, clip, view, x: vidcomp.Reduction(x, view.times, view.times),
    "Span": lambda lm, clip, view, x: vidcomp.Span(0, x),
    "FrameSequence": lambda lm, clip, view, x: vidcomp.FrameSequence(x),
    "FrameSequence times": lambda lm, clip, view, x: vidcomp.FrameSequence(np.zeros((2, 4, 4, 3), np.uint8), x),
    "FrameSequence fps": lambda lm, clip, view, x: vidcomp.FrameSequence(np.zeros((2, 4, 4, 3), np.uint8), fps=x),
    "Conversation": lambda lm, clip, view, x: Conversation(lm, x).ask(Q),
    "Conversation ask": lambda lm, clip, view, x: Conversation(lm, clip).ask(x),
    "Conversation change": lambda lm, clip, view, x: Conversation(lm, clip).change(keep=x, method=x),
}
VALUES = [
    *(object(), 3.5j, {"a": 1}, {1, 2}, [], [None], ("x",), b"", bytearray(b"\x00"), np.float32("nan"), None),
    *(np.zeros((2, 2)), torch.zeros(0), lambda: None, int, "\udcff", range(0), -1, float("inf"), True),
]
# A value of the right type that does not fit is a ValueError of these, as their docstrings say.
RIGHT = {"TokenView": torch.Tensor, "TokenView salience": torch.Tensor, "Reduction": torch.Tensor, "Span": int}


@pytest.mark.parametrize("entry", ENTRIES)
def test_wrong_types_raise_nothing_but_our_errors(nano, clip, view, entry, monkeypatch):
    """A right value may be among them; what goes on from there is not of interest."""
    monkeypatch.setattr("vidcomp.engine.run.load_family", lambda config: pytest.skip("loading is not of interest"))
    monkeypatch.setattr("vidcomp.engine.run.generate", _stops)
    monkeypatch.setattr("vidcomp.engine.run.read_video", _stops)
    for value in VALUES:
        try:
            ENTRIES[entry](nano, clip, view, value)
        except (VidcompError, _GoesOn):
            continue
        except ValueError:
            assert isinstance(value, RIGHT[entry])


class _GoesOn(Exception):
    pass


def _stops(self, video, *rest):
    from vidcomp.config import VideoConfig
    from vidcomp.video import Sampling
    from vidcomp.video.given import read_video

    if not isinstance(video, (str, bytes, bytearray)) and not hasattr(video, "__fspath__"):
        read_video(video, VideoConfig(), Sampling())
    raise _GoesOn


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([np.int64, np.uint8, int]), st.integers(1, 64), st.sampled_from([np.float32, np.float64]))
def test_numbers_of_numpy_are_numbers(whole, frames, real):
    config = RunConfig.from_flat(frames=whole(frames), keep=real(0.25), strict=np.bool_(True), max_new_tokens=whole(5))
    flat = config.flat()
    assert (flat["frames"], flat["keep"], flat["strict"], flat["max_new_tokens"]) == (frames, 0.25, True, 5)
    assert [type(flat[name]) for name in ("frames", "keep", "strict")] == [int, float, bool]


def test_a_folder_as_a_path_and_times_as_numbers():
    from pathlib import Path

    config = RunConfig.from_flat(model=Path("some/folder"), start=1.5, end=np.float64(3))
    assert (config.model.model, config.video.window) == ("some/folder", (1.5, 3.0))


# -- what belongs to a model


def test_what_one_model_made_is_refused_by_another(nano, clip, replicas):
    with vidcomp.load(str(replicas("llava_onevision_tied")), device="cpu", frames=2) as other:
        watched, encoded = nano.encode(clip), nano.compress(clip)
        for call in (
            lambda: other.ask(encoded, Q),
            lambda: other.ask(watched, Q),
            lambda: other.compress(watched),
            lambda: other.prepare(encoded, Q),
        ):
            with pytest.raises(UsageError, match="another model") as caught:
                call()
            assert "nano" in caught.value.why
            assert "llava_onevision_tied" in caught.value.why
    with vidcomp.load("nano", device="cpu") as again, pytest.raises(UsageError, match="loaded another time"):
        again.ask(encoded, Q)
    assert nano.ask(encoded, Q, max_new_tokens=1).text is not None


def test_a_closed_model_says_so(clip):
    lm = vidcomp.load("nano", device="cpu")
    encoded = lm.compress(clip)
    lm.close()
    lm.close()
    for call in (
        lambda: lm.ask(encoded, Q),
        lambda: lm.ask(clip, Q),
        lambda: lm.compress(clip),
        lambda: lm.encode(clip),
    ):
        with pytest.raises(UsageError, match="nano is closed"):
            call()


def test_a_model_of_no_kind():
    with pytest.raises(ModelError, match="not a model of transformers"):
        vidcomp.attach(None)


# -- questions that are no text, on the command line

BAD = b"caf\xe9?"


@pytest.mark.parametrize("args", [["ask", "CLIP", BAD], ["caption", "CLIP", "--prompt", BAD, "-o", "OUT"],
                                  ["report", "CLIP", BAD], ["bench", "ask", "CLIP", BAD]])  # fmt: skip
def test_bytes_that_are_no_text_are_wrong_usage_before_the_model_loads(clip, tmp_path, args):
    args = [{"CLIP": str(clip), "OUT": str(tmp_path / "out.jsonl")}.get(arg, arg) for arg in args]
    command = [sys.executable, "-m", "vidcomp", *args, "--model", "no/such"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert b"not UTF-8" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_in_chat_they_cost_one_line(clip):
    done = subprocess.run([sys.executable, "-m", "vidcomp", "chat", str(clip), "--max-new-tokens", "4"],
                          input=BAD + b"\nwhat happens?\n", capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count(b"not UTF-8") == 1
    assert len(done.stdout.splitlines()) == 1
