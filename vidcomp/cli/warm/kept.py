# SPDX-License-Identifier: Apache-2.0
"""The model that a warm process keeps, and the command lines that it may run with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vidcomp.cli.options import given_config
from vidcomp.config import ModelConfig
from vidcomp.hub import EMBEDDED

__all__ = ["Kept"]

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "av", "typer", "rich")
PACKAGE = Path(__file__).parents[2]
ALONE = ("-h", "--help", "--verbose", "--debug")  # these show what loading does, or need no model
ELSEWHERE = ("/dev/fd/", "/proc/self/", "/proc/thread-self/")  # they mean other files in another process
WORKERS = ("workers", "devices", "workers_per_device")


@dataclass(frozen=True)
class Kept:
    """A loaded model.

    Attributes:
        config: the settings that it was loaded with.
        folder: the current folder then.
        stamp: state of code and weights on the disk then.
    """

    config: ModelConfig
    folder: str
    stamp: tuple[Any, ...]

    @classmethod
    def now(cls, config: ModelConfig) -> Kept:
        """With code and weights as they are on the disk."""
        folder = os.getcwd()
        return cls(config, folder, _stamp(_place(config.model, folder)))

    def refusal(self, args: Sequence[str], folder: str) -> str | None:
        """None for a command line that it may run; else the reason, empty where nobody needs to know.

        Args:
            args: words of the command line, the command first.
            folder: current folder of its process.
        """
        if any(word in ALONE or word == "help" or word.endswith("=help") for word in args):
            return ""
        if any(place in word for word in args for place in ELSEWHERE):
            return ""
        try:
            context = _parsed(args)
            wanted = given_config(context).model
        except Exception:  # wrong usage is told where it was used
            return ""
        if any(context.get_parameter_source(name).name != "DEFAULT" for name in WORKERS if name in context.params):
            return ""
        place = _place(wanted.model, folder)
        if replace(wanted, offline=self.config.offline) != self.config or place != _place(
            self.config.model, self.folder
        ):
            return f"vidcomp warm keeps {self.config.model} with other model settings"
        if _stamp(place) != self.stamp:
            return "code or weights have changed since vidcomp warm loaded them (vidcomp warm --stop ends it)"
        return None


def _parsed(args: Sequence[str]) -> Any:
    """The words of a command, as its options."""
    from vidcomp.cli.app import commands

    return commands(True).commands[args[0]].make_context(args[0], list(args[1:]))


def _place(model: str, folder: str) -> str | None:
    """The folder that a model name means to a process in this folder, None for other names."""
    path = os.path.join(folder, os.path.expanduser(model))
    return os.path.realpath(path) if model not in EMBEDDED and os.path.isdir(path) else None


def _stamp(place: str | None) -> tuple[Any, ...]:
    """Versions, and size and age of the files that were or would be loaded."""
    files = [*PACKAGE.rglob("*.py"), *(Path(place).iterdir() if place else ())]
    found = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return (*((name, version(name)) for name in PACKAGES), *sorted(found))
