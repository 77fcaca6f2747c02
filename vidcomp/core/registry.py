# SPDX-License-Identifier: Apache-2.0
"""Things by name: built-in ones and those of installed packages, imported when they are asked for."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeVar

from vidcomp.core import index
from vidcomp.core.arguments import expect, kinds_of, suggest, typed
from vidcomp.core.source import Source
from vidcomp.core.specs import parse_spec
from vidcomp.errors import UsageError

__all__ = ["MethodInfo", "Parity", "Registry", "parameters_of"]

Parity = Literal["goldens", "own reading", "control"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MethodInfo:
    """One row of a list of methods, read off a class; what the class does not say has the default given here.

    Attributes:
        name: what the user types.
        summary: one line, what it does.
        source: paper and published code.
        parameters: each with its default.
        needs, wants: signals it cannot do without, and signals it reads when the model can give them.
        inner: name of the in-LLM schedule that was published with it.
        exact: whether the number of survivors follows from shape and request alone.
        rule: what keeps that number from being the budget, told of the method; empty where nothing does.
        span_rule: ``gain`` or ``fall`` where it works in spans of frames, and takes those that a segmenter found.
        attends: whether it decides by what the rows of the question look at, inside the language model.
        stage: ``outer``, ``inner`` or ``encoder``.
        parity: ``goldens``, ``own reading`` or ``control``.
        equal_with: the parameters with which ``goldens`` are equalled, empty for the defaults.
        differs: what is not as in the published code without them, told of the method; empty where nothing is.
        text: the docstrings of its module and class: the method in plain words, what is not as published, parameters.
    """

    name: str
    summary: str
    source: Source
    parameters: Mapping[str, Any]
    needs: frozenset[str] = frozenset()
    wants: frozenset[str] = frozenset()
    inner: str | None = None
    exact: bool = False
    rule: str = ""
    span_rule: str = ""
    attends: bool = False
    stage: str = "outer"
    parity: Parity = "own reading"
    equal_with: str = ""
    differs: str = ""
    text: str = ""

    @classmethod
    def of(cls, name: str, kind: Any) -> MethodInfo:
        """The row of a class that is registered as ``name``.

        Raises:
            AttributeError: the class lacks a summary or a source.
        """
        optional = ("needs", "wants", "inner", "exact", "rule", "span_rule", "attends", "stage", "parity",
                    "equal_with", "differs")  # fmt: skip
        facts: dict[str, Any] = {item: getattr(kind, item) for item in optional if hasattr(kind, item)}
        texts = [inspect.getdoc(sys.modules[kind.__module__]), inspect.cleandoc(kind.__doc__ or "")]
        text = "\n\n".join(part for part in texts if part)
        return cls(name, kind.summary, Source.of(kind.source), parameters_of(kind), text=text, **facts)

    @classmethod
    def stored(cls, row: Mapping[str, Any]) -> MethodInfo:
        """The row as :mod:`vidcomp.core.index` stores it."""
        built = {"source": Source(**row["source"]), "needs": frozenset(row["needs"]), "wants": frozenset(row["wants"])}
        return cls(**{**row, **built})

    def to_store(self) -> dict[str, Any]:
        """The form that :meth:`stored` takes."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        source = {name: value for name, value in vars(self.source).items() if value}
        return {**plain, "source": source, "needs": sorted(self.needs), "wants": sorted(self.wants)}

    @property
    def question_aware(self) -> bool:
        """True if the decision depends on the question."""
        return self.attends or "query" in self.needs

    @property
    def code(self) -> str | None:
        """Address of the published code, None when there is none."""
        return self.source.code or None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        said = {"source": str(self.source), "paper": vars(self.source)}
        return {**self.to_store(), **said, "question_aware": self.question_aware, "code": self.code}


def parameters_of(kind: Any) -> dict[str, Any]:
    """Fields of a method's dataclass with their defaults."""
    return {
        item.name: item.default_factory() if item.default_factory is not MISSING else item.default
        for item in fields(kind)
        if item.init
    }


class Registry(Generic[T]):
    """Dataclasses by name, whose fields are their parameters.

    Args:
        noun: what one of them is called in messages.
        group: entry-point group of other packages, ``name = "module:Class"``; built-in names cannot be replaced.
        built_in: name to ``module:Class``.
        also: further words that may stand in place of a name.
    """

    def __init__(self, noun: str, *, group: str, built_in: Mapping[str, str], also: tuple[str, ...] = ()) -> None:
        self.noun, self.group, self.also = noun, group, also
        self._built_in = dict(built_in)

    def names(self) -> tuple[str, ...]:
        """Built-in names, then those of installed packages."""
        return tuple(self._factories())

    def get(self, name: str, **parameters: Any) -> T:
        """Build one; parameters that are left out keep their defaults.

        Raises:
            UsageError: unknown name or parameter, a value outside its range, or a package that cannot be imported.
        """
        expect(f"the name of a {self.noun}", name, isinstance(name, str), "text")
        kind = self._load(name)
        self._check(name, parameters_of(kind), parameters)
        kinds, label = kinds_of(kind), f"{self.noun} {name!r}"
        plain = {key: typed(f"{label}: {key}", value, kinds[key]) for key, value in parameters.items() if key in kinds}
        try:
            built: T = kind(**{**parameters, **plain})
        except (TypeError, ValueError) as error:
            what = f"{self.noun} {name!r} refuses its parameters"
            raise UsageError(what, why=str(error), code="bad_option") from error
        return built

    def parse(self, spec: str) -> tuple[str, dict[str, Any]]:
        """Name and parameters of a text like ``name:key=value``, checked as far as that loads no library.

        Raises:
            UsageError: unknown name or parameter.
        """
        name, parameters = parse_spec(spec)
        if name not in self.also or parameters:
            self._require_name(name)
            if name in self._built_in and name in (rows := self._stored()):
                self._check(name, rows[name].parameters, parameters)
        return name, parameters

    def build(self, spec: str) -> T | None:
        """The one that a text like ``name:key=value`` means; None for a word in ``also``.

        Raises:
            UsageError: as :meth:`get`.
        """
        name, parameters = parse_spec(spec)
        return None if name in self.also and not parameters else self.get(name, **parameters)

    def rows(self, built_in: bool = False, fresh: bool = False) -> tuple[MethodInfo, ...]:
        """Every one that can be loaded, or only the built-in ones. What cannot is left out, with a warning.

        The built-in ones are read from the index, which loads no library, unless ``fresh``.
        """
        stored = {} if fresh else self._stored()
        found = []
        for name, load in self._factories(built_in).items():
            try:
                found.append(stored[name] if name in stored else MethodInfo.of(name, load()))
            except Exception as error:  # a broken package of somebody else must not hide the others
                _log.warning("%s %r left out of the list: %s: %s", self.noun, name, type(error).__name__, error)
        return tuple(found)

    def _stored(self) -> dict[str, MethodInfo]:
        rows = index.stored(self.group)
        return {row["name"]: MethodInfo.stored(row) for row in rows if row["name"] in self._built_in}

    def _check(self, name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        for key in given:
            if key not in defaults:
                why = f"its parameters are: {', '.join(defaults)}" if defaults else "it has no parameters"
                what = f"{self.noun} {name!r} has no parameter {key!r}"
                raise UsageError(what, why=why, hint=suggest(key, list(defaults)), code="bad_option")

    def _require_name(self, name: str) -> None:
        words = [*self.also, *self._factories()]
        if name not in words:
            first, plus, second = name.partition("+")
            pair = f"the two stages are named apart: --method {first} --inner {second}"
            raise UsageError(
                f"no {self.noun} named {name!r}",
                why=f"there are: {', '.join(words)}",
                hint=pair if plus and first in words else suggest(name, words, "see: vidcomp methods"),
                code=f"unknown_{self.noun.replace(' ', '_')}",
            )

    def _load(self, name: str) -> Callable[..., T]:
        factories = self._factories()
        if name not in factories:
            self._require_name(name if name not in self.also else f"{name}:")
        try:
            return factories[name]()
        except Exception as error:
            why, hint = f"{type(error).__name__}: {error}", "update or remove the package that registers it"
            raise UsageError(f"{self.noun} {name!r} cannot be loaded", why=why, hint=hint, code="broken") from error

    def _factories(self, built_in: bool = False) -> dict[str, Callable[[], Callable[..., T]]]:
        found = {name: _importer(target) for name, target in self._built_in.items()}
        for point in () if built_in else _registered(entry_points, self.group, tuple(sys.path)):
            found.setdefault(point.name, point.load)
        return found


@cache
def _registered(find: Callable[..., Iterable[EntryPoint]], group: str, _path: tuple[str, ...]) -> list[EntryPoint]:
    """Names that other packages register; finding them looks at every package that is installed."""
    return list(find(group=group))


def _importer(target: str) -> Callable[[], Any]:
    module, _, attribute = target.partition(":")
    return lambda: getattr(import_module(module), attribute)
