"""Reduction inside the language model: a cache that carries the plan, stateless hooks that carry it out."""

from __future__ import annotations

from typing import Any

from vidcomp.errors import UsageError
from vidcomp.inllm.base import Schedule
from vidcomp.inllm.cache import CompressedCache
from vidcomp.inllm.holitom import HolitomInner
from vidcomp.inllm.hooks import Attachment
from vidcomp.inllm.prefix import PrefixCache, QuestionCache

__all__ = ["SCHEDULES", "Attachment", "CompressedCache", "PrefixCache", "QuestionCache", "Schedule", "get_schedule"]

SCHEDULES: dict[str, type[Schedule]] = {kind.name: kind for kind in (HolitomInner,)}


def get_schedule(name: str, **parameters: Any) -> Schedule:
    """The inner schedule of that name, ``holitom`` for example, with its parameters.

    Raises:
        UsageError: unknown name or parameter, or a value outside its range.
    """
    kind = SCHEDULES.get(name)
    if kind is None:
        raise UsageError(
            f"no inner schedule named {name!r}", why=f"there are: none, auto, {', '.join(SCHEDULES)}", code="bad_option"
        )
    try:
        return kind(**parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--inner {name}", why=str(error), code="bad_option") from error
