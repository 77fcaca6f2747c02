# SPDX-License-Identifier: Apache-2.0
"""The words of the little world and the word-level tokenizer made of them."""

from __future__ import annotations

import re

from vidcomp.bench.world.videos import COLORS, DIRECTIONS, SHAPES

PAD, UNK, EOS, IMAGE, VIDEO, USER, ASSISTANT = "<pad>", "<unk>", "<eos>", "<image>", "<video>", "<user>", "<assistant>"
SPECIAL = (PAD, UNK, EOS, IMAGE, VIDEO, USER, ASSISTANT)
UNKNOWN_WORD = "~"
"""A text that the tokenizer does not know."""

NUMBERS = ("zero", "one", "two", "three", "four", "five")
DIGITS = (*NUMBERS, "six", "seven", "eight", "nine")
VERBS = ("appears", "disappears", "turns", "moves")

_WORDS = """
    the a an it is are was there at in on of to or and no yes none nothing then what which where who when how many
    happens happen happened first last next before after end start beginning ends starts finally video clip frame
    frames scene scenes describe caption summarize tell me show shown shows see seen you does do did object objects
    shape shapes color colour thing things move go goes turn become becomes change appear disappear stays still
    remains way direction comes come visible different top bottom middle final count number big small everything
    that this have has ? . , ! : ; ' "
    happening doing going its with for from be can picture event events order background very most
    grow grows changes size position digit six seven eight nine second third
"""
# New words go to the end: the id of a word is its row in a trained embedding.


def _collect() -> dict[str, int]:
    """Token to id: special tokens, names, then the other words, without repetition."""
    words = [*SPECIAL, *COLORS, *SHAPES, *DIRECTIONS, *NUMBERS, *VERBS, *_WORDS.split()]
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


VOCABULARY: dict[str, int] = _collect()

_PIECES = re.compile(r"\w+|[^\w\s]")


def encode(text: str) -> list[int]:
    """Token ids of plain text, as the shipped tokenizer gives them."""
    unknown = VOCABULARY[UNK]
    return [VOCABULARY.get(piece, unknown) for piece in _PIECES.findall(text.lower())]
