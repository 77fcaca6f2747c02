# SPDX-License-Identifier: Apache-2.0
"""The language model's side of a reduction: a cache that carries the plan, stateless hooks that carry it out."""

from vidcomp.engine.decoder.cache import CompressedCache
from vidcomp.engine.decoder.hooks import Attachment
from vidcomp.engine.decoder.modality_attention import AttentionBalance, LayerBalance
from vidcomp.engine.decoder.plan import RowPlan
from vidcomp.engine.decoder.proof import check_forward
from vidcomp.engine.decoder.question_cache import PrefixCache, QuestionCache

__all__ = [
    "Attachment",
    "AttentionBalance",
    "CompressedCache",
    "LayerBalance",
    "PrefixCache",
    "QuestionCache",
    "RowPlan",
    "check_forward",
]
