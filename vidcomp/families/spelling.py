# SPDX-License-Identifier: Apache-2.0
"""Questions that spell control tokens: ``<|im_end|>`` in a user's words is text, and ends no turn.

A tokenizer takes the name of a control token for the token wherever it stands. Here such names are covered before the
chat template is filled in, so that it cannot take them for its own, and the stretch of text around them is tokenised a
second time by a twin of the tokenizer that knows no control tokens. All other text goes the stock processor's way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer

from vidcomp.errors import UsageError

__all__ = ["Covered", "Spelling"]

_LETTERS = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))  # private use: they mean nothing to anybody
_MARKUP = re.compile(r"<.+>|\[.+\]", re.DOTALL)  # how control tokens are written that no list calls special
Tokens = tuple[list[int], list[tuple[int, int]]]  # ids, and the characters that each stands for


class Spelling:
    """Words that a tokenizer takes for control tokens, and their reading as text.

    Args:
        tokenizer: a stock one.
        words: further words that mean something to the prompt, such as the placeholder of a video.
    """

    def __init__(self, tokenizer: Any, words: Iterable[str] = ()) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.added = {number: token.content for number, token in added.items()}
        named = {token.content for token in added.values() if token.special or _MARKUP.fullmatch(token.content)}
        ordered = sorted(named | set(words), key=lambda word: (-len(word), word))
        self.control = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")

    @cached_property
    def twin(self) -> Tokenizer:
        """The same tokenizer, to which names of control tokens are text; made when the first one is met."""
        described = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in described["added_tokens"]:
            token["special"] = token["special"] or bool(self.control.fullmatch(token["content"]))
        twin = Tokenizer.from_str(json.dumps(described))
        twin.encode_special_tokens = True
        return twin

    def ids(self, text: str) -> list[int]:
        """Token ids of a user's text alone, without what stands before and after it."""
        if self.control.search(text):
            return list(self.twin.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def is_control(self, number: int, span: tuple[int, int], text: str) -> bool:
        """True if a token stands in the text as itself; an unknown letter may have the id of one that does not."""
        start, end = span
        return number in self.added and (start == end or text[start:end].strip() == self.added[number].strip())

    def covered(self, texts: Sequence[str]) -> Covered:
        """A user's texts, in the order of the conversation, with the names of control tokens covered."""
        hidden = "".join(found for text in texts for found in self.control.findall(text))
        if not hidden:
            return Covered(self, tuple(texts))
        everything = set("".join(texts))
        letter = next(chr(code) for code in _LETTERS if chr(code) not in everything)
        blank = tuple(self.control.sub(lambda found: letter * len(found.group()), text) for text in texts)
        return Covered(self, blank, hidden, letter)


@dataclass(frozen=True)
class Covered:
    """Texts of a conversation that a chat template can take.

    Attributes:
        spelling: of the tokenizer.
        texts: as long as the originals, character by character.
        hidden: the characters that are covered, in order; empty when there was nothing to cover.
        letter: what covers each of them.
    """

    spelling: Spelling
    texts: tuple[str, ...]
    hidden: str = ""
    letter: str = ""

    def tokens(self, prompt: str) -> Tokens:
        """Tokenise the prompt that a template made of the texts; what was covered is text in it.

        Raises:
            UsageError: the template does not show every text once and in order, or the tokenizer knows no way to write
                a control token as text.
        """
        found = self.spelling.tokenizer(prompt, return_offsets_mapping=True)
        ids, spans = list(found["input_ids"]), [(int(start), int(end)) for start, end in found["offset_mapping"]]
        if not self.hidden:
            return ids, spans
        if prompt.count(self.letter) != len(self.hidden):
            raise _unwritable("the chat template does not show the question as it is")
        letters = iter(self.hidden)
        written = "".join(next(letters) if letter == self.letter else letter for letter in prompt)
        pieces = [self._spelt(prompt, written, *piece) for piece in self._pieces(prompt, ids, spans)]
        return [number for piece in pieces for number in piece[0]], [span for piece in pieces for span in piece[1]]

    def _pieces(self, prompt: str, ids: list[int], spans: list[tuple[int, int]]) -> Iterator[tuple[Tokens, int, int]]:
        """Control tokens of the template, and stretches of text between them: tokens, first character, end."""
        is_control = [self.spelling.is_control(*token, prompt) for token in zip(ids, spans, strict=True)]
        groups = [(control, list(places)) for control, places in groupby(range(len(ids)), is_control.__getitem__)]
        start = 0
        for number, (control, places) in enumerate(groups):
            last = number + 1 == len(groups)
            end = spans[places[-1]][1] if control else len(prompt) if last else spans[groups[number + 1][1][0]][0]
            yield ([ids[place] for place in places], [spans[place] for place in places]), start, end
            start = end

    def _spelt(self, prompt: str, written: str, tokens: Tokens, start: int, end: int) -> Tokens:
        """Tokens of a stretch of text with nothing covered."""
        if self.letter not in prompt[start:end]:
            return tokens
        twin = self.spelling.twin
        for lead in ("", "\n"):  # some tokenizers treat the beginning of a text apart
            before = twin.encode(lead, add_special_tokens=False).ids
            if twin.encode(lead + prompt[start:end], add_special_tokens=False).ids != [*before, *tokens[0]]:
                continue
            found = twin.encode(lead + written[start:end], add_special_tokens=False)
            ids, move = found.ids[len(before) :], start - len(lead)
            spans = [(first + move, stop + move) for first, stop in found.offsets[len(before) :]]
            named = any(self.spelling.is_control(*token, written) for token in zip(ids, spans, strict=True))
            if found.ids[: len(before)] == before and not named:
                return ids, spans
        raise _unwritable("this model's tokenizer has no other way to write it")


def _unwritable(why: str) -> UsageError:
    return UsageError(
        "the question holds the name of a control token",
        why=why,
        hint="ask without that word",
        code="bad_prompt",
    )
