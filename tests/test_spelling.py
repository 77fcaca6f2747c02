# SPDX-License-Identifier: Apache-2.0
"""Control tokens that a question spells are text, in every family; other text goes the stock processor's way."""

from __future__ import annotations

from functools import cache

import pytest
from families import FAMILY_NAMES, checkpoint, load
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.config import ModelConfig
from vidcomp.errors import ModelError
from vidcomp.families import load_family
from vidcomp.families.spelling import Covered

NAMES = [name for name in FAMILY_NAMES if name not in ("qwen2_vl", "qwen3_vl_moe", "qwen2_5_vl_tied", "smolvlm2_2b")]
PIECES = st.sampled_from(
    "<|im_end|> <|im_start|>assistant <video> <image> <|video_pad|> <IMG_CONTEXT> <|image_pad|> </s> <s> <unk> "
    "<end_of_utterance> <tool_call> <think> <|vision_start|> <global-img>".split()
)
WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
TEXT = st.lists(WORDS | PIECES, min_size=1, max_size=6).map(" x".join)


@pytest.fixture(scope="module")
def family(replicas, tmp_path_factory):
    folder = tmp_path_factory.mktemp("siblings")
    return cache(lambda name: load(checkpoint(replicas, folder, name)))


def control_ids(adapter, prompt):
    """Control tokens of a prompt, in order; a letter that the tokenizer does not know is none."""
    unknown = adapter.tokenizer.unk_token_id
    return [number for number in prompt.ids.tolist() if number in adapter.spelling.added and number != unknown]


@pytest.mark.parametrize("name", NAMES)
def test_no_question_and_no_earlier_turn_brings_a_control_token(family, name):
    adapter = family(name)
    layout = adapter.layout([0.0, 1.0], 96, 144)
    plain = {turns: control_ids(adapter, adapter.prompt("x", layout, [("x", "x")] * turns)) for turns in (0, 1)}

    @settings(deadline=None, max_examples=40)
    @given(TEXT, TEXT, st.booleans())
    def holds(question, answer, again):
        history = [(question, answer)] if again else []
        prompt = adapter.prompt(question, layout, history)
        assert control_ids(adapter, prompt) == plain[len(history)]
        assert len(prompt.at) == layout.slices
        assert not set(adapter.spelling.ids(question)) & set(control_ids(adapter, prompt))

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_still_there(family, name):
    adapter = family(name)
    layout = adapter.layout([0.0, 1.0], 96, 144)
    for word in [*adapter.spelling.added.values(), adapter.slot]:
        question = f"what does {word} mean? {word}{word}"
        read = adapter.tokenizer.decode(adapter.prompt(question, layout, [(word, word)]).ids.tolist())
        assert question in read, word


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_ordinary_text_are_those_of_the_tokenizer(family, name):
    """Brackets, half names and letters of private use are ordinary; the careful way would read them alike."""
    adapter = family(name)
    layout = adapter.layout([0.0, 1.0], 96, 144)

    @settings(deadline=None, max_examples=40)
    @given(st.lists(WORDS | st.sampled_from(["<|im", "_end|>", "<", "\ue000", "<b>", "[x]"]), max_size=6).map("".join))
    def holds(question):
        if adapter.spelling.control.search(question):
            return
        stock = Covered(adapter.spelling, ()).tokens(adapter.render(question))
        rendered = adapter.render(question)
        assert stock[0] == adapter.tokenizer(rendered).input_ids
        prompt, expected = adapter.prompt(question, layout), adapter.prompt("", layout)
        assert len(prompt) >= len(expected) or not question.strip()
        assert adapter.spelling.ids(question) == adapter.tokenizer(question, add_special_tokens=False).input_ids

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_the_careful_way_and_the_librarys_own_switch_agree(family, name):
    """Special names alone: the library can be told not to split them off either."""
    adapter = family(name)
    special = next(t.content for t in adapter.tokenizer.added_tokens_decoder.values() if t.special)
    question = f"is {special} é a word?"
    found = adapter.tokenizer(question, add_special_tokens=False, split_special_tokens=True).input_ids
    adapter.tokenizer("", split_special_tokens=False)
    assert adapter.spelling.ids(question) == found
    assert adapter.tokenizer(question, add_special_tokens=False).input_ids != found


def test_the_check_can_fail(family):
    """Without the cover the same question does bring control tokens."""
    adapter = family("qwen2_5_vl")
    bare = adapter.tokenizer(adapter.render("<|im_end|>")).input_ids
    assert bare.count(adapter.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 3


def test_a_folder_without_tokenizer_files_is_told_as_such(replicas, tmp_path):
    for file in replicas("qwen2_5_vl").iterdir():
        if not any(word in file.name for word in ("token", "vocab", "merges", "added")):
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_family(ModelConfig(model=str(tmp_path), device="cpu"))
