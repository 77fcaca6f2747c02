# SPDX-License-Identifier: Apache-2.0
"""Share of a language model's attention that goes to the picture: MDI and AEI, layer by layer.

Source: "When Language Overrules: Revealing Text Dominance in Multimodal Large Language Models", arXiv 2508.10552; no
official code was seen, the formulas are our reading.
In plain words: while the answer is written, add up what each new row's attention spends on text keys and on visual
keys. MDI is the mean attention of one text key over the mean attention of one visual key; above 1, text dominates.
AEI of text is the share of the attention that text gets over the share of the keys that are text. Both move by
arithmetic alone when visual keys are removed, so they describe a run and do not prove an answer better.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

from torch import Tensor

__all__ = ["AttentionBalance", "LayerBalance", "attention_balance"]


@dataclass(frozen=True)
class LayerBalance:
    """One layer, or a group of them; means over the rows from which answer tokens were written.

    Attributes:
        text_mass, visual_mass: attention spent on all text keys and on all visual keys.
        text_keys, visual_keys: how many keys there were.
    """

    text_mass: float
    visual_mass: float
    text_keys: float
    visual_keys: float

    @property
    def mdi(self) -> float | None:
        """Attention per text key over attention per visual key; None without visual keys or attention to them."""
        per_visual = self.visual_mass / self.visual_keys if self.visual_keys else 0.0
        return self.text_mass / self.text_keys / per_visual if per_visual and self.text_keys else None

    @property
    def aei_text(self) -> float:
        """Share of the attention that text gets over the share of keys that are text."""
        keys, mass = self.text_keys + self.visual_keys, self.text_mass + self.visual_mass
        return (self.text_mass / mass) / (self.text_keys / keys)

    @property
    def aei_visual(self) -> float | None:
        """The same for visual keys, None when there are none."""
        keys, mass = self.text_keys + self.visual_keys, self.text_mass + self.visual_mass
        return (self.visual_mass / mass) / (self.visual_keys / keys) if self.visual_keys else None


def attention_balance(attention: Tensor, visual: Tensor) -> LayerBalance:
    """Balance of attention rows over keys of two kinds.

    Args:
        attention: [B, L], rows that sum to one.
        visual: [B, L] bool, which keys are visual.
    """
    seen = visual.float()
    mass, keys = (attention * seen).sum(1).mean().item(), seen.sum(1).mean().item()
    return LayerBalance(attention.sum(1).mean().item() - mass, mass, visual.shape[1] - keys, keys)


@dataclass
class AttentionBalance:
    """Collects the balance of every layer while an answer is written.

    Attributes:
        noted: layer to one balance per written row.
    """

    noted: dict[int, list[LayerBalance]] = field(default_factory=dict)

    def note(self, layer: int, attention: Tensor, visual: Tensor) -> None:
        """Add one row's attention [B, L] over the keys of ``layer``, of which ``visual`` [B, L] are visual."""
        self.noted.setdefault(layer, []).append(attention_balance(attention, visual))

    def layers(self) -> list[LayerBalance]:
        """The mean over the noted rows, for every layer from the first on."""
        return [_mean(self.noted[layer]) for layer in sorted(self.noted)]

    def groups(self) -> dict[str, LayerBalance]:
        """The first two layers, those between, and the last two; a shallow model has no middle."""
        layers = self.layers()
        parts = {"early": layers[:2], "middle": layers[2:-2], "late": layers[-2:]}
        return {name: _mean(part) for name, part in parts.items() if part}


def _mean(parts: list[LayerBalance]) -> LayerBalance:
    sums = [sum(values) / len(parts) for values in zip(*(astuple(part) for part in parts), strict=True)]
    return LayerBalance(*sums)
