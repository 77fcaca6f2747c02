# SPDX-License-Identifier: Apache-2.0
"""HoliTom, outer stage: merge what repeats over whole spans of frames, select the rest by salience.

Paper: "HoliTom: Holistic Token Merging for Fast Video Large Language Models".
Needs: salience (attention each token receives in the vision tower).

In plain words, for T frames of N tokens and a keep ratio r:
1. A position is similar at a step when the cosine of neighbouring frames is above tau. Dynamic programming cuts the
   video into spans so that storing positions that stay similar (static) once per span saves the most tokens, R in all.
   Where spans are given (``--segmenter``), these are taken, and the positions that stay similar inside are static.
2. r' = min(1, r * T * N / (T * N - R)) compensates for what was saved.
3. Static tokens are averaged over the span and clustered (DPC-KNN) into round(static * r') tokens.
4. Of the other (dynamic) tokens of every frame, ceil(dynamic * r') survive: the most salient ones and, with
   ``contextual``, a share that are centres of clusters of the rest.
5. A cluster becomes beta * centre + (1 - beta) * mean of the others.
Order: span by span, static tokens first, then frame by frame the salient and the contextual ones, each by position.

Arithmetic is float32 for every input dtype; the published code works in the model's dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.core.budget import guarded_ceil
from vidcomp.core.source import Source
from vidcomp.core.tokens import Reduction, Span, TokenView
from vidcomp.methods.base import Method, Parity, check_keep, signal
from vidcomp.methods.blocks.builder import ClusterRule, Draft
from vidcomp.methods.blocks.global_dp import given_spans, global_spans, static_positions
from vidcomp.methods.blocks.pieces import pieces
from vidcomp.methods.blocks.select import top_mask
from vidcomp.methods.blocks.similarity import neighbour_cosine

__all__ = ["Holitom", "Plan", "effective_keep", "default_tau"]


@dataclass(frozen=True)
class Holitom(Method):
    """Parameters, named T, Beta, K, D and max window in the published scripts.

    Attributes:
        tau: cosine above which a position counts as similar; None takes :func:`default_tau` of the keep ratio.
        beta: weight of the centre in a merged token, in [0, 1]; None is the plain mean of centre and members.
        k: neighbours of the density in DPC-KNN.
        contextual: share of a frame's survivors that are cluster centres instead of salient tokens, in [0, 1].
        max_span: longest span in frames; given ones are divided.

    The number of survivors lands near keep * T * N: counts are rounded per span and frame, so every frame with a
    dynamic token keeps at least one; a video so static that r' reaches 1 keeps less. At keep = 1
    a tau of one's own still stores static positions once, as published.
    """

    tau: float | None = None
    beta: float | None = 0.6
    k: int = 7
    contextual: float = 0.0
    max_span: int = 1024

    name: ClassVar[str] = "holitom"
    summary: ClassVar[str] = "merges what stays the same over globally best spans, keeps the salient rest"
    source: ClassVar[Source] = Source("HoliTom", "NeurIPS 2025", "2505.21334", "https://github.com/cokeshao/HoliTom")
    needs: ClassVar[frozenset[str]] = frozenset({"salience"})
    inner: ClassVar[str | None] = "holitom"
    span_rule: ClassVar[str] = "gain"
    rule: ClassVar[str] = "stores static positions once, and rounds up per frame"
    parity: ClassVar[Parity] = "goldens"

    def __post_init__(self) -> None:
        if self.tau is not None and math.isnan(self.tau):
            raise ValueError("tau must be a number")
        if self.beta is not None and not 0 <= self.beta <= 1:
            raise ValueError(f"beta must be in [0, 1] or None, got {self.beta}")
        if not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual must be in [0, 1], got {self.contextual}")
        for name in ("k", "max_span"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")

    @property
    def decides_at_one(self) -> bool:
        """True where a threshold was named."""
        return self.tau is not None

    def settled_for(self, keep: float, seed: int = 0) -> Holitom:
        """The same method with its threshold settled for a keep ratio, whatever share a later call is made with."""
        return replace(self, tau=default_tau(keep)) if self.tau is None else self

    def __call__(self, view: TokenView, keep: float) -> Reduction:
        """Decide about all T * N tokens; see the class for how many survive.

        Raises:
            ValueError: keep outside (0, 1], or a view without salience.
        """
        check_keep(keep)
        salience = signal(view, "salience", self.name)
        features = view.features.detach()
        tau = default_tau(keep) if self.tau is None else self.tau
        similar = (neighbour_cosine(features) > tau).cpu().numpy()  # the one wait for the device before the plan
        plan = Plan.make(similar, keep, self.contextual, self.max_span, view.spans)
        draft = Draft(features, ClusterRule(self.k, self.beta))
        dynamic = draft.put(~plan.static_of_frame())  # [T, N]
        chosen = top_mask(_ranking(salience, dynamic), draft.put(plan.salient))
        draft.keep(chosen)
        draft.merge_spans(plan.spans, plan.static, plan.clusters)
        draft.merge_frames(dynamic & ~chosen, plan.left_over(), plan.contextual)
        return draft.finish(plan.spans)


def default_tau(keep: float) -> float:
    """The threshold of the published scripts: 0.65 up to a tenth of the tokens, 0.80 above."""
    return 0.65 if keep <= 0.10 + 1e-9 else 0.80


def effective_keep(keep: float, total: int, saved: int) -> float:
    """r' of step 2: the keep ratio for what is left when ``saved`` of ``total`` tokens were stored with another."""
    return min(keep / ((total - saved) / total), 1.0)


@dataclass(frozen=True)
class Plan:
    """Every count of a reduction, known before a feature is merged. Lives on the host.

    Attributes:
        spans: S spans.
        ratio: r'.
        static: [S, N] bool, positions stored once per span.
        clusters: [S] survivors among them.
        salient, contextual: [T] survivors of each frame.
    """

    spans: tuple[Span, ...]
    ratio: float
    static: NDArray[np.bool_]
    clusters: NDArray[np.int64]
    salient: NDArray[np.int64]
    contextual: NDArray[np.int64]

    @classmethod
    def make(
        cls, similar: NDArray[np.bool_], keep: float, contextual: float, max_span: int, given: tuple[Span, ...] = ()
    ) -> Plan:
        """From [T - 1, N] bool, whether each position repeats in the next frame, and the spans that are given.

        At least one token survives: when every count rounds to zero, the span with the most static tokens keeps one.
        """
        frames, tokens = similar.shape[0] + 1, similar.shape[1]
        if given:
            spans, saved = given_spans(similar, pieces(frames, max_span, given))
        else:
            spans, saved = global_spans(similar, max_span=max_span)
        ratio = effective_keep(keep, frames * tokens, saved)
        clusters = np.array([round(span.static * ratio) for span in spans])
        quota = [_frame_quota(tokens - span.static, ratio, contextual) for span in spans]
        lengths = [len(span) for span in spans]
        salient, rest = (np.repeat([pair[i] for pair in quota], lengths) for i in (0, 1))
        if not clusters.any() and not salient.any() and not rest.any():
            clusters[np.argmax([span.static for span in spans])] = 1
        return cls(spans, ratio, static_positions(similar, spans), clusters, salient, rest)

    def static_of_frame(self) -> NDArray[np.bool_]:
        """[T, N]: the static positions of the span that each frame belongs to."""
        return self.static.repeat([len(span) for span in self.spans], axis=0)

    def left_over(self) -> NDArray[np.int64]:
        """[T]: dynamic tokens of each frame that are not kept for their salience."""
        left: NDArray[np.int64] = (~self.static_of_frame()).sum(axis=1) - self.salient
        return left


def _frame_quota(dynamic: int, ratio: float, contextual: float) -> tuple[int, int]:
    """Salient and contextual survivors of a frame; the guard of the ceiling never takes a frame's last one."""
    total = max(1, guarded_ceil(dynamic * ratio)) if dynamic else 0
    salient = round(total * (1 - contextual))
    return salient, total - salient


def _ranking(salience: Tensor, dynamic: Tensor) -> Tensor:
    """[T, N] float32 scores that put static tokens last, whatever the salience holds."""
    lowest = torch.finfo(torch.float32).min
    return salience.float().nan_to_num(nan=lowest, neginf=lowest).where(dynamic, -torch.inf)
