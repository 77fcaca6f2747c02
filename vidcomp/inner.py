"""The inner stage: which schedule runs in the language model."""

from __future__ import annotations

from vidcomp.config import OuterConfig, parse_spec
from vidcomp.errors import UsageError
from vidcomp.inllm import Schedule, get_schedule
from vidcomp.methods import Method
from vidcomp.models import Family

__all__ = ["chosen_schedule"]


def chosen_schedule(method: Method, config: OuterConfig, family: Family) -> Schedule | None:
    """The schedule that the configuration names, or the one that was published with the method.

    Raises:
        UsageError: unknown name or parameter, or a layer that this model does not have.
    """
    name, parameters = parse_spec(config.inner)
    if name == "auto":  # keep = 1 is the plain model, unless an inner stage is asked for by name
        name = (method.inner or "none") if config.keep < 1 else "none"
    if name == "none":
        return None
    schedule = get_schedule(name, **parameters)
    try:
        schedule.layers(family.shape.layers)
    except ValueError as error:
        raise UsageError(f"--inner {config.inner}", why=str(error), code="bad_option") from error
    return schedule
