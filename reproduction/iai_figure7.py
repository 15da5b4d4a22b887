"""Figure 7 of Marino et al. (2018): more iterations, and more samples. MNIST, one level, nats.

The paper draws curves: performance improves with iterations for every encoding, errors alone do
worst, and with few iterations the data help most; with samples the iterative model improves more
than the standard one. Ours are points: four encodings with 2, 5, 10 and 16 iterations, and both
kinds of inference with 1, 5, 10 and 20 samples, everything else equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from _marino import Row as Training

NAME = "iai-figure7"


@dataclass(frozen=True)
class Row(Training):
    epochs: int = 1500

    def at(self, tier: str) -> Row:
        return replace(super().at(tier), **EPOCHS[tier])


EPOCHS: dict[str, dict] = {"full": {}, "mini": {"epochs": 40}, "smoke": {"epochs": 1}}

ITERATIONS = {
    f"iterations/{name.replace(', ', '-and-')}/{n}": Row(name, n_steps=n)
    for name in ("gradients", "x, gradients", "errors", "x, errors")
    for n in (2, 5, 10, 16)
}
SAMPLES = {
    f"samples/{label}/{n}": Row(name, n_samples=n)
    for label, name in {"standard": "standard", "iterative": "x, gradients"}.items()
    for n in (1, 5, 10, 20)
}

ROWS = ITERATIONS | SAMPLES
