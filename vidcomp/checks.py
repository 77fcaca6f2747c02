"""Checks of what a user gives that need neither the model nor its libraries."""

from __future__ import annotations

from vidcomp.errors import UsageError

__all__ = ["check_question"]


def check_question(question: str) -> None:
    """Raise UsageError when there is nothing to answer."""
    if not question.strip():
        raise UsageError(
            "the question is empty", hint='vidcomp ask movie.mp4 "what happens at the end?"', code="empty_question"
        )
