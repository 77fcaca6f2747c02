# SPDX-License-Identifier: Apache-2.0
"""Arguments where they enter: a wrong one is refused with what was given and what is wanted. Imports nothing heavy."""

from __future__ import annotations

import difflib
import inspect
import numbers
import operator
import re
import types
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from vidcomp.errors import UsageError

__all__ = [
    "Maker",
    "check_calls",
    "check_history",
    "check_names",
    "check_question",
    "checked",
    "expect",
    "kinds_of",
    "shown",
    "suggest",
    "typed",
]

P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}


@dataclass(frozen=True)
class Maker:
    """The loaded model that made an object; ``token`` tells it from every other one, of the same name too."""

    name: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False)

    def check(self, made: Maker | None, what: str) -> None:
        """Raise UsageError when something was made by another model."""
        if made == self:
            return
        other = made.name if made is not None else "no loaded model"
        again = " (loaded another time)" if made is not None and made.name == self.name else ""
        raise UsageError(
            f"{what} of another model",
            why=f"it was made by {other}{again}, and {self.name} is asked",
            hint="encode the video with the model that answers",
            code="foreign",
        )


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A public function whose calls with a missing, misspelt or superfluous argument raise UsageError.

    So do arguments of a wrong type where plain types are annotated; what others need is checked by the function.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            name = re.search(r"'(\w+)'", str(error))
            known = [item for item in signature.parameters if item != "self"]
            raise UsageError(
                f"{function.__qualname__}(): {error}",
                why=f"its arguments are {', '.join(known)}",
                hint=suggest(name.group(1), known) if name and "unexpected" in str(error) else "",
                code="bad_argument",
            ) from None
        kinds = kinds_of(function)
        plain = {item: typed(item, value, kinds[item]) for item, value in bound.arguments.items() if item in kinds}
        bound.arguments.update(plain)
        return function(*bound.args, **bound.kwargs)

    return call


@cache
def kinds_of(thing: Any) -> dict[str, Any]:
    """Types by name of a function's arguments or a class's fields, where they are plain (:func:`typed`).

    None are known where a package hides what its annotations name.
    """
    try:
        hints = get_type_hints(thing)
    except (NameError, TypeError):
        return {}
    several = {"settings", "parameters", "return"}  # each stands for any number of values, or for none
    return {name: kind for name, kind in hints.items() if name not in several and _is_plain(kind)}


def expect(name: str, value: Any, good: bool, wanted: str, hint: str = "") -> None:
    """Raise UsageError unless ``good``: which argument, what is wanted, what was given."""
    if not good:
        raise UsageError(f"{name} must be {wanted}", why=f"it is {shown(value)}", hint=hint, code="bad_argument")


def shown(value: Any) -> str:
    """A value in a few words: its type, and what it is where that is short."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind, shape = type(value).__name__, getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{kind} of shape {list(shape)}, {getattr(value, 'dtype', 'of no known type')}"
    if isinstance(value, (list, tuple, set, frozenset, dict, bytes, bytearray)):
        return f"{kind} of length {len(value)}"
    text = repr(value)
    return f"{text} ({kind})" if len(text) <= 60 and "\n" not in text else f"of type {kind}"


def suggest(word: str, known: Sequence[str], otherwise: str = "") -> str:
    """A hint that names the nearest known word."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def typed(name: str, value: Any, kind: Any) -> Any:
    """The value as plain int, float, bool, str or None, by a field's annotation; numbers of numpy become plain ones.

    Raises:
        UsageError: another type.
    """
    kinds = _alternatives(kind)
    for item in kinds:
        good, plain = _plain(value, item)
        if good:
            return plain
    expect(name, value, False, " or ".join(_words(item) for item in kinds))
    raise AssertionError("unreachable")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is_plain(kind: Any) -> bool:
    return all(get_origin(item) is Literal or item in list(_WORDS) for item in _alternatives(kind))


def _words(kind: Any) -> str:
    return " or ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else _WORDS[kind]


def _plain(value: Any, kind: Any) -> tuple[bool, Any]:
    """Convert a value to a plain type where it is of one, and say whether it is."""
    if get_origin(kind) is Literal:
        return value in get_args(kind) if isinstance(value, (str, int)) else False, value
    truth = isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")
    if kind is bool:
        return truth, bool(value) if truth else value
    if kind is int:
        try:
            return not truth, value if truth else operator.index(value)
        except TypeError:
            return False, value
    if kind is float:
        good = isinstance(value, numbers.Real) and not truth
        whole = isinstance(value, numbers.Integral)
        return good, (int(value) if whole else float(value)) if good else value
    return isinstance(value, kind), value


def check_calls(**given: object) -> None:
    """Raise UsageError unless each argument is a function or None."""
    for name, value in given.items():
        expect(name, value, value is None or callable(value), "a function or None")


def check_names(name: str, value: object, known: Collection[str]) -> frozenset[str]:
    """Several of the known names, as a set.

    Raises:
        UsageError: no collection of names, or one that is not known.
    """
    several = isinstance(value, (frozenset, set, list, tuple)) and all(isinstance(item, str) for item in value)
    expect(name, value, several, "a set of names")
    assert isinstance(value, (frozenset, set, list, tuple))
    for item in value:
        expect(name, item, item in known, f"of {', '.join(sorted(known))}", suggest(item, sorted(known)))
    return frozenset(value)


def check_question(question: object, name: str = "the question") -> None:
    """Raise UsageError when this is no question: not text, nothing in it, or bytes that are no text."""
    hint = 'vidcomp ask movie.mp4 "what happens at the end?"'
    expect(name, question, isinstance(question, str), "text", hint="one question at a time")
    assert isinstance(question, str)
    _check_letters(name, question)
    if not question.strip():
        raise UsageError(f"{name} is empty", hint=hint, code="empty_question")


def check_history(history: object) -> None:
    """Raise UsageError unless these are turns of a conversation: pairs of question and answer."""
    wanted = "turns of a conversation, (question, answer) each"
    plain = isinstance(history, Iterable) and not isinstance(history, (str, bytes))
    expect("history", history, plain and hasattr(history, "__len__"), wanted)
    assert isinstance(history, Iterable)
    for turn in history:
        pair = isinstance(turn, (tuple, list)) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
        expect("a turn of the history", turn, pair, "(question, answer), both text")
        for text in turn:
            _check_letters("the history", text)


def _check_letters(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name} holds bytes that are not UTF-8",
            why=f"character {error.start + 1} is no letter: {ascii(text[error.start])[1:-1]}",
            hint="write it as UTF-8; iconv -f latin1 -t utf-8 converts older files",
            code="not_utf8",
        ) from None
