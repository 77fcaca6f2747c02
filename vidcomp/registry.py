"""Things by name: built-in ones and those of installed packages, imported when they are asked for."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from vidcomp.errors import UsageError
from vidcomp.methods.base import MethodInfo, parameters_of

__all__ = ["Registry", "suggest"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Registry(Generic[T]):
    """Dataclasses by name, whose fields are their parameters.

    Args:
        noun: what one of them is called in messages.
        group: entry-point group of other packages, ``name = "module:Class"``; built-in names cannot be replaced.
        option: the command-line option that takes such a name.
        built_in: name to ``module:Class``.
        also: further words that the option takes.
    """

    def __init__(
        self, noun: str, *, group: str, option: str, built_in: Mapping[str, str], also: tuple[str, ...] = ()
    ) -> None:
        self.noun, self.group, self.option, self.also = noun, group, option, also
        self._built_in = dict(built_in)

    def names(self) -> tuple[str, ...]:
        """Built-in names, then those of installed packages."""
        return tuple(self._factories())

    def get(self, name: str, **parameters: Any) -> T:
        """Build one; parameters that are left out keep their defaults.

        Raises:
            UsageError: unknown name or parameter, a value outside its range, or a package that cannot be imported.
        """
        kind = self._load(name)
        known = list(parameters_of(kind))
        for key in parameters:
            if key not in known:
                why = f"its parameters are: {', '.join(known)}" if known else "it has no parameters"
                what = f"{self.noun} {name!r} has no parameter {key!r}"
                raise UsageError(what, why=why, hint=suggest(key, known), code="bad_option")
        try:
            return kind(**parameters)
        except (TypeError, ValueError) as error:
            what = f"{self.noun} {name!r} refuses its parameters"
            raise UsageError(what, why=str(error), code="bad_option") from error

    def rows(self) -> tuple[MethodInfo, ...]:
        """Every one that can be loaded; one that cannot is left out, with a warning in the log."""
        found = []
        for name, load in self._factories().items():
            try:
                found.append(MethodInfo.of(name, load()))
            except Exception as error:  # a broken package of somebody else must not hide the others
                _log.warning("%s %r left out of the list: %s: %s", self.noun, name, type(error).__name__, error)
        return tuple(found)

    def _load(self, name: str) -> Callable[..., T]:
        factories = self._factories()
        if name not in factories:
            words = [*self.also, *factories]
            raise UsageError(
                f"no {self.noun} named {name!r}",
                why=f"there are: {', '.join(words)}",
                hint=suggest(name, words, "see: vidcomp methods"),
                code="bad_option",
            )
        try:
            return factories[name]()
        except Exception as error:
            why, hint = f"{type(error).__name__}: {error}", "update or remove the package that registers it"
            raise UsageError(f"{self.noun} {name!r} cannot be loaded", why=why, hint=hint, code="broken") from error

    def _factories(self) -> dict[str, Callable[[], Callable[..., T]]]:
        found = {name: _importer(target) for name, target in self._built_in.items()}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, point.load)
        return found


def suggest(word: str, known: list[str], otherwise: str = "") -> str:
    """A hint that names the nearest known word."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def _importer(target: str) -> Callable[[], Any]:
    module, _, attribute = target.partition(":")
    return lambda: getattr(import_module(module), attribute)
