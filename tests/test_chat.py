# SPDX-License-Identifier: Apache-2.0
"""vidcomp chat and ask --also, in a pipe and on a terminal; conversations in the library."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from clips import make_clip
from waiting import until

import vidcomp
from vidcomp.cli.app import run
from vidcomp.engine.conversation import Conversation
from vidcomp.errors import UsageError

SHORT = ["--max-new-tokens", "4"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=30)


@pytest.fixture
def piped(capfd, monkeypatch, clip):
    """Run ``vidcomp chat`` with these lines on stdin: exit status, stdout, stderr."""

    def call(lines, *args):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
        capfd.readouterr()
        status = run(["chat", str(clip), *SHORT, *args])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return call


def test_a_pipe_gets_one_line_per_question(piped):
    status, out, err = piped(["first?", "", "what happens at the end?", "/quit", "never asked?"])
    assert (status, len(out.splitlines())) == (0, 2)
    first, second = (line for line in err.splitlines() if "visual tokens" in line)
    assert "read before" not in first
    assert "read before" in second
    assert "note: the answer was cut at 4 tokens" in err


def test_json_lines(piped):
    status, out, err = piped(["first?", "last?"], "--json", "--quiet")
    first, second = map(json.loads, out.splitlines())
    assert (status, err) == (0, "")
    assert [first["question"], second["question"]] == ["first?", "last?"]
    assert second["tokens"]["cached"] > 0
    assert [stage["name"] for stage in second["stages"] if stage.get("reused")] == ["read", "encode", "compress"]


def test_commands_change_the_settings_and_the_vision_tower_does_not_run_again(piped, monkeypatch):
    from vidcomp.families import Family

    runs = []
    encode = Family.encode
    monkeypatch.setattr(Family, "encode", lambda self, *a, **k: runs.append(1) or encode(self, *a, **k))
    status, out, err = piped(["a?", "/keep 0.25", "b?", "/method uniform", "c?", "/report", "/forget", "/help"])
    assert status == 0
    assert "uniform: 72 of 288 visual tokens" in err
    assert "compress" in out
    assert "reused" in out
    assert "/keep 0.2" in err
    assert runs == [1]


@pytest.mark.parametrize(
    ("line", "words"),
    [("/nope", "no command /nope"), ("/keep lots", "takes a share"), ("/keep 2", "at most 1"),
     ("/method", "takes a name"), ("/method hollitom", "holitom"), ("/report", "nothing was answered")],
)  # fmt: skip
def test_a_wrong_line_is_named_the_rest_goes_on_and_the_status_tells(piped, line, words):
    status, out, err = piped([line, "first?"])
    assert (status, len(out.splitlines())) == (2, 1)
    assert words in err


def test_ask_also_answers_every_question_on_a_line_of_its_own(capfd, clip):
    assert run(["ask", str(clip), "first?", "--also", "last?", "--also", "what color?", "--json", *SHORT]) == 0
    records = list(map(json.loads, capfd.readouterr().out.splitlines()))
    assert [record["question"] for record in records] == ["first?", "last?", "what color?"]
    assert all(record["tokens"]["cached"] for record in records)
    assert all("reused" in record["stages"][0] for record in records[1:])
    assert run(["ask", str(clip), "first?", "--also", " "]) == 2


def test_ctrl_c_stops_an_answer_and_not_the_program(piped, monkeypatch):
    asked = []
    ask = vidcomp.VideoLM.ask

    def interrupted(self, video, question, **settings):
        asked.append(question)
        if question == "long?":
            raise KeyboardInterrupt
        return ask(self, video, question, **settings)

    monkeypatch.setattr(vidcomp.VideoLM, "ask", interrupted)
    status, out, err = piped(["long?", "first?"])
    assert (status, asked, len(out.splitlines())) == (0, ["long?", "first?"], 1)
    assert "stopped; /quit leaves" in err


def read_until(fd, words, nudge=lambda: None):
    """Read what a terminal shows, up to some words; ``nudge`` is repeated while nothing comes."""
    shown = []

    def told():
        if select.select([fd], [], [], 1.0)[0]:
            shown.append(os.read(fd, 4096).decode())
        return words in "".join(shown)

    until(told, nudge)


def test_on_a_terminal(clip):
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "vidcomp", "chat", str(clip), *SHORT]
    work = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        read_until(master, "> ")
        # Ctrl-C at the prompt; one that comes before the line editor waits is seen with the next key only
        read_until(master, "/quit or Ctrl-D leaves", nudge=lambda: work.send_signal(signal.SIGINT))
        os.write(master, b"first?\n")
        read_until(master, "visual tokens")
        # Ctrl-D, which is lost before the line editor waits
        until(lambda: work.poll() is not None, lambda: (os.write(master, b"\x04"), time.sleep(0.5)))
        assert work.returncode == 0
    finally:
        work.kill()
        os.close(master)


# -- the library


def test_earlier_turns_are_told_again_where_the_model_knows_conversations(replicas, clip):
    with vidcomp.load(str(replicas("llava_onevision_tied")), device="cpu", frames=2, max_new_tokens=3) as lm:
        talk = Conversation(lm, clip, keep=0.5, inner="none")
        first = talk.ask("first?")
        second = talk.ask("and then?")
        assert talk.turns == [("first?", first.text), ("and then?", second.text)]
        alone = lm.ask(clip, "and then?", keep=0.5, inner="none", history=talk.turns[:1])
        assert second.text == alone.text
        assert second.ledger.tokens.sequence == alone.ledger.tokens.sequence
        assert second.ledger.layer_rows[0] > len(lm.family.prompt("and then?", talk.encoded.layout).after)
        talk.forget()
        assert talk.ask("first?").text == first.text


def test_a_conversation_that_grows_too_long_forgets_its_oldest_turns(replicas, clip, monkeypatch):
    with vidcomp.load(str(replicas("llava_onevision_tied")), device="cpu", frames=2, max_new_tokens=1) as lm:
        talk = Conversation(lm, clip, keep=0.1)
        rows = [talk.ask(question).ledger.tokens.sequence for question in ("one?", "two?", "three?")]
        assert rows[0] < rows[1] < rows[2]
        monkeypatch.setattr(lm.family.model.config.get_text_config(), "max_position_embeddings", rows[2] + 1)
        talk.ask("four?")  # as long as with the third: the first leaves
        assert [question for question, _ in talk.turns] == ["two?", "three?", "four?"]
        monkeypatch.setattr(lm.family.model.config.get_text_config(), "max_position_embeddings", rows[1] + 1)
        talk.ask("five?")
        assert [question for question, _ in talk.turns] == ["four?", "five?"]
        with pytest.raises(UsageError, match="the model was made for"):
            talk.ask("what? " * 50)


def test_settings_change_between_questions_and_wrong_ones_do_not_stick(nano, clip):
    talk = Conversation(nano, clip, keep=0.25, max_new_tokens=1, method="uniform")
    talk.change(keep=0.5)  # before anything was read
    assert talk.ask("first?").ledger.tokens.kept == 144
    encoded = talk.encoded
    talk.change(keep=0.1)
    assert (talk.encoded is encoded, talk.ask("first?").ledger.tokens.kept) == (True, 29)
    with pytest.raises(UsageError):
        talk.change(method="nothing")
    assert talk.ask("first?").ledger.tokens.kept == 29
    talk.change(method="holitom")  # asks for what the tower has not told yet
    assert talk.encoded is not encoded
    assert talk.ask("first?").method == "holitom"
    assert talk.remember is False
