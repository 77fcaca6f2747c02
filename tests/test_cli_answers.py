# SPDX-License-Identifier: Apache-2.0
"""Answers, reports, lists and benches as people and scripts meet them: data on stdout, words on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import QUESTION, SHORT

from vidcomp.core import index
from vidcomp.report.index import taken_from_classes


def test_an_answer_is_the_only_thing_on_stdout(cli, clip):
    status, out, err = cli("ask", clip, QUESTION, *SHORT)
    assert status == 0
    assert out.endswith("\n")
    assert len(out.splitlines()) <= 1
    assert "nano understands only its own little world" in err
    assert "visual tokens" in err


def test_quiet_says_nothing_else(cli, clip):
    status, _, err = cli("ask", clip, QUESTION, "--quiet", *SHORT)
    assert (status, err) == (0, "")


def test_json_is_one_object(cli, clip):
    status, out, _ = cli("ask", clip, QUESTION, "--json", "--keep", "0.25", *SHORT)
    record = json.loads(out)
    assert status == 0
    assert record["schema"] == 1
    assert record["keep"]["requested"] == 0.25
    assert record["notes"]


def test_parameters_of_a_method_reach_it(cli, clip):
    _, out, _ = cli("ask", clip, QUESTION, "--json", "--method", "holitom:tau=0.99", "--inner", "none", *SHORT)
    record = json.loads(out)
    assert record["method"] == "holitom:tau=0.99"
    assert record["tokens"]["layer"] is None


def test_report_shows_every_stage_and_span(cli, clip):
    status, out, _ = cli("report", clip, QUESTION, *SHORT)
    assert status == 0
    for word in ("read", "encode", "compress", "prefill", "llm layer 3", "generate", "KV cache", "LLM FLOPs", "span"):
        assert word in out
    status, out, _ = cli("report", clip, QUESTION, "--json", *SHORT)
    record = json.loads(out)
    assert record["report"]["prefill"]["actual"]["flops"] < record["report"]["prefill"]["plain"]["flops"]
    assert sum(span["kept"] for span in record["report"]["spans"]) == record["tokens"]["kept"]


def test_methods_and_doctor(cli):
    status, out, _ = cli("methods")
    assert status == 0
    assert all(word in out for word in ("--method", "--inner", "--encoder", "divprune", "pyramiddrop", "own reading"))
    status, out, _ = cli("methods", "holitom")
    assert status == 0 and "2505.21334" in out and "tau=null" not in out and "contextual=0.0" in out
    listed = json.loads(cli("methods", "--json")[1])
    assert {"holitom", "none", "random", "uniform"} <= {info["name"] for info in listed}
    aware = {info["name"] for info in listed if info["question_aware"] and info["stage"] == "outer"}
    assert {"mmtok", "longvu"} <= aware and "holitom" not in aware
    status, _, err = cli("methods", "holitm")
    assert status == 2 and "did you mean 'holitom'?" in err
    status, out, _ = cli("doctor", "--json")
    assert status == 0
    assert json.loads(out)["models"]["nano"].endswith("MiB")
    assert json.loads(out)["readers"]["pyav"].startswith("works, ")
    assert json.loads(out)["device"]["bfloat16"].startswith(("computed", "imitated"))
    assert "decord" in cli("doctor")[1]


@pytest.mark.parametrize(
    ("option", "name"), [("--method", "gleanvid"), ("--inner", "fastv"), ("--encoder", "earlytom")]
)
def test_help_in_place_of_a_name_lists_the_names(cli, option, name):
    status, out, _ = cli("ask", option, "help")
    assert status == 0 and name in out


def test_the_page_of_methods_is_fresh(cli):
    page = Path(__file__).parent.parent / "docs" / "methods.md"
    assert cli("methods", "--markdown")[1] == page.read_text(), "vidcomp methods --markdown > docs/methods.md"


def test_benches_print_a_verdict(cli, clip):
    status, out, _ = cli("bench", "ask", clip, QUESTION, "--repeats", "1", *SHORT)
    assert status == 0
    assert "verdict:" in out
    status, out, _ = cli("bench", "compress", "--shape", "4x16x32", "--repeats", "3")
    assert status == 0
    assert "read passes" in out
    assert cli("bench", "compress", "--shape", "4x16")[0] == 2


def test_the_index_of_methods_and_families_is_fresh():
    assert index.FILE.read_text() == taken_from_classes(), "python -m vidcomp.report.index"


def test_verbose_tells_the_settings(cli, clip):
    _, _, err = cli("ask", clip, QUESTION, "--verbose", "--keep", "0.3", "--seed", "7", *SHORT)
    for words in (
        "model: nano",
        "device cpu",
        "dtype float32",
        "method: holitom, keep 0.3",
        "8 frames",
        "seed 7",
        "torch",
    ):
        assert words in err


def test_a_hub_that_cannot_be_reached_is_one_short_error(cli, clip, monkeypatch):
    asked = []

    def refuse(*args, **settings):
        asked.append(args)
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    status, out, err = cli("ask", clip, QUESTION, "--model", "who/knows", "--quiet")
    assert (status, out, len(asked)) == (4, "", 1)
    assert err.splitlines()[1:2] == ["  not in the cache, and the hub cannot be reached"] and len(err.splitlines()) == 3
