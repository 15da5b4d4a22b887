"""Table 2 of Marino et al. (2018): RCV1 as bags of words, perplexity per document.

                 perplexity      its bound
    standard     323 ± 3         377.4 ± 0.5
    iterative    285.0 ± 0.1     314 ± 1

RCV1's token files have to be there (`avi.data.bags.load_rcv1` says which); nothing of this was run
on them. The mini tier is 20 Newsgroups over 2,000 words: other documents, so its perplexities stand
beside nothing in the paper. Epochs and the encoder's log(1 + x) are our choice; five iterations on
gradients, as in a configuration since removed from the published code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from _marino import Row as Training

from avi.rows import Claim

NAME = "iai-table2"
NEAR = 15.0  # our choice, about a twentieth


@dataclass(frozen=True)
class Row(Training):
    data: str = "rcv1"
    dims: tuple[int, ...] = (512,)
    batch: int = 512
    lr: float = 1e-4
    epochs: int = 200

    def at(self, tier: str) -> Row:
        return replace(super().at(tier), **SIZES[tier])

    @property
    def claim(self) -> Claim:
        return Claim("perplexity", "per word", self.paper, self.tolerance)


SIZES: dict[str, dict] = {
    "full": {},
    "mini": {
        "data": "20news", "dims": (50,), "hidden": (128, 128), "batch": 128, "epochs": 30,
        "every": 3, "n_draws": 500,
    },
    "smoke": {"data": "made counts", "dims": (4,), "batch": 64},
}  # fmt: skip

ROWS = {
    "standard": Row("standard", 323.0, 3.0, tolerance=NEAR),
    "iterative": Row("log x, gradients", 285.0, 0.1, tolerance=NEAR),
}

DEVIATIONS = {
    "*": "The token files of RCV1 are not at hand. Epochs are our choice. The best epoch on "
    "held-out documents is taken. Latents of 512 units for both methods, where configurations "
    "since removed from the published code have 512 and 256. Counts enter as log(1 + x). The "
    "tolerance of a twentieth is our choice.",
}
