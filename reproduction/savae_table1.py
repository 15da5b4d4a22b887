"""Table 1 of Kim et al. (2018): sequences from a known model, the generator given or learned.

The paper reports one number a cell, bounds on the negative log-likelihood in nats:

    TRUE NLL 19.63    generator given:   VAE 21.77  SVI 22.33  SA-VAE 20.13
                      generator learned: VAE 27.06  SVI 25.82  SA-VAE 25.21

Another oracle moves all of them by half a nat, so gaps to the true NLL are compared. The paper's
text at hand gives the forms in the captions alone; whatever a field below calls our choice was
tried or guessed. `VARIATIONS` were written down before any of them was run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product, repeat
from pathlib import Path
from typing import NamedTuple

import torch
from _kim import BOUND, Training
from torch import Tensor, nn

from avi.core import Problem
from avi.device import here, seeded
from avi.evaluation import score
from avi.families import DiagGaussian
from avi.gradients import Unrolled
from avi.inference import Refine, direct, savae, svi
from avi.models import SequenceEncoder, SequenceModel, oracle, uniform_
from avi.rows import Claim
from avi.steps import Adam, BatchClipped, Clipped, Momentum, Step

NAME = "savae-table1"
FAMILY = DiagGaussian(2)
PAPER_TRUE_NLL = 19.63


@dataclass(frozen=True)
class Row:
    """One cell of the table. Fields without a remark are the paper's or its code's for text."""

    method: str  # a key of METHODS or CANDIDATES
    generator: str  # a key of GENERATORS
    paper: float  # the bound in the paper's table
    tolerance: float = 0.5  # our choice: reproduced if the mean gap lies this near to the paper's
    n_train: int = 5000
    n_valid: int = 1000  # our choice: a fifth of the 5,000, since it is scored after every epoch
    n_test: int = 5000
    length: int = 5
    vocabulary: int = 1000
    width: int = 100  # of embeddings and LSTM states
    batch: int = 50
    epochs: int = 20
    lr: float = 1.0  # of plain SGD on theta and phi
    first_halving: int = 5  # epochs; from then on a miss on the validation data starts halving
    max_norm: float = 5.0  # of the whole gradient
    n_steps: int = 20
    step: str = "published"  # a key of STEPS; momentum and clip are our choice
    beta_epochs: int = 0  # KL annealing from 0.1 over so many epochs; none is our choice
    weight_decay: float = 0.0
    n_prior: int = 2000  # samples from the prior for the true NLL: the paper takes 1,000
    n_draws: int = 20  # of z for each reported bound: our choice

    def at(self, tier: str) -> Row:
        return replace(self, **SIZES[tier])

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        world = World.draw(self, seed)
        training = Learner(self, world, seed, checkpoint)
        method = training.best() if self.trains else self.tuned(world, seed)
        return measure(self, world, training.model, method, seed)

    @property
    def claim(self) -> Claim:
        return Claim("gap", "nats", self.paper - PAPER_TRUE_NLL, self.tolerance)

    @property
    def trains(self) -> bool:
        """SVI on a given model is the one method with nothing to learn."""
        return self.method not in CANDIDATES or self.generator != "oracle"

    def tuned(self, world: World, seed: int) -> Refine:
        """SVI on the given model: the best of its candidates on the validation data."""
        candidates = list(CANDIDATES[self.method]())
        if len(candidates) == 1:
            return here(svi(FAMILY, candidates[0], self.n_steps))
        methods = [here(svi(FAMILY, step, self.n_steps)) for step in candidates]
        values = [bound(self, world.truth, m, world.valid, seed).mean() for m in methods]
        return methods[int(torch.stack(values).nan_to_num(nan=-math.inf).argmax())]


SIZES = {
    "full": {},
    "mini": {"epochs": 6, "n_test": 1000},
    "smoke": {"n_train": 100, "n_valid": 50, "n_test": 50, "epochs": 2, "n_prior": 1000},
}

STEPS: dict[str, Step] = {
    # lr 1 on the batch mean of 50 is 0.02 for each example
    "published": BatchClipped(Momentum(1.0, 0.5), 1.0),
    "per example": Clipped(Momentum(1.0, 0.5), 1.0),
}


def tuned_steps() -> Iterator[Step]:
    """Steps for a given model, where SVI has nothing else to choose: 53 of three kinds."""
    for lr, gamma, norm in product((0.5, 1.0, 2.0), (0.5, 0.9), (0.5, 1.0, 5.0)):
        yield BatchClipped(Momentum(lr, gamma), norm)  # the published step among them
    for lr, gamma, norm in product((0.02, 0.05, 0.1, 0.3, 1.0), (0.5, 0.9), (1.0, 5.0, 20.0)):
        yield Clipped(Momentum(lr, gamma), norm)
    for lr in (0.1, 0.2, 0.4, 0.6, 0.8):
        yield Adam(lr)


CANDIDATES = {"svi": lambda: [STEPS["published"]], "svi, best of 53 steps": tuned_steps}

METHODS: dict[str, Callable[[Row, nn.Module], Refine]] = {
    "vae": lambda row, encoder: direct(encoder, FAMILY),
    "svi": lambda row, encoder: svi(FAMILY, STEPS[row.step], row.n_steps),
    "savae": lambda row, encoder: savae(encoder, FAMILY, STEPS[row.step], row.n_steps, Unrolled()),
}


class World(NamedTuple):
    """What a seed stands for: an oracle, and sequences drawn from it."""

    truth: SequenceModel
    train: Tensor
    valid: Tensor
    test: Tensor
    generator: torch.Generator  # of first weights, on the CPU

    @staticmethod
    def draw(row: Row, seed: int) -> World:
        generator = torch.Generator().manual_seed(seed)
        sizes = {"embedding": row.width, "hidden": row.width}
        truth = oracle(2, row.vocabulary, generator, **sizes)
        counts = (row.n_train, row.n_valid, row.n_test)
        x = truth.sample(sum(counts), row.length, generator)
        return World(here(truth), *map(here, x.split(counts)), generator)


def learner(row: Row, world: World) -> SequenceModel:
    """A generator to be learned, every parameter from U(-0.1, 0.1)."""
    model = SequenceModel(2, row.vocabulary, row.width, row.width)
    uniform_(model, 0.1, world.generator)
    return model


GENERATORS: dict[str, Callable[[Row, World], SequenceModel]] = {
    "oracle": lambda row, world: world.truth,
    "learned": learner,
    "from the truth": lambda row, world: deepcopy(world.truth).requires_grad_(True),
}


class Learner(Training):
    """A row's modules on a seed's world, and how they are trained."""

    def __init__(self, row: Row, world: World, seed: int, checkpoint: Path):
        encoder = SequenceEncoder(row.vocabulary, FAMILY.n_params, row.width, row.width)
        uniform_(encoder, 0.1, world.generator)
        model = GENERATORS[row.generator](row, world)
        method = METHODS[row.method](row, encoder) if row.trains else None
        super().__init__(row, model, method, world.train, self.validate, seed, checkpoint)
        self.valid = world.valid

    def validate(self) -> float:
        return bound(self.row, self.model, self.method, self.valid, 0).mean().item()


def bound(row: Row, model: SequenceModel, method: Refine, x: Tensor, seed: int) -> Tensor:
    """The bound of every sequence after inference, [N], with fresh noise."""
    return score_lam(row, model, infer(row, model, repeat(method), x, seed)[-1], x, seed + 1)


def infer(
    row: Row, model: SequenceModel, methods: Iterable[Refine], x: Tensor, seed: int
) -> list[Tensor]:
    """[lam_0, lam_K], [N, P] each, in batches of the training size, as the published step asks.

    methods  one for each batch
    """
    generator, ends = seeded(seed), []
    with torch.no_grad():
        for part, method in zip(x.split(row.batch), methods):
            path = method(model, part, BOUND, method.noise(1, part, generator))
            ends.append(torch.stack([path.lam[0], path.lam[-1]]))
    return list(torch.cat(ends, 1))


def score_lam(row: Row, model: SequenceModel, lam: Tensor, x: Tensor, seed: int) -> Tensor:
    generator = seeded(seed)
    parts = zip(x.split(row.batch), lam.split(row.batch), strict=True)
    return torch.cat(
        [
            score(Problem(model, part, FAMILY, BOUND), own, generator, row.n_draws // 2, 2).value
            for part, own in parts
        ]
    )


def measure(
    row: Row, world: World, model: SequenceModel, method: Refine, seed: int
) -> dict[str, float]:
    """The row's numbers on the test sequences, nats per sequence."""
    x = world.test
    log_p = true_log_p(world.truth, x, row.n_prior, seeded(seed)).float()
    start, end = infer(row, model, repeat(method), x, seed + 2)
    value = score_lam(row, model, end, x, seed + 3)
    refined = svi_from(row, model, end, x, seed + 4)
    difference = log_p - value
    kl = method.family(end, model).kl(model.prior)
    return {
        "true_nll": -log_p.mean().item(),
        "bound": -value.mean().item(),
        "gap": difference.mean().item(),
        "gap_se": (difference.std() / math.sqrt(len(x))).item(),
        "kl": kl.mean().item(),
        "start_bound": -score_lam(row, model, start, x, seed + 3).mean().item(),
        "refined_bound": -refined.mean().item(),
    }


@torch.no_grad()
def true_log_p(
    truth: SequenceModel, x: Tensor, n: int, generator: torch.Generator, rows: int = 500
) -> Tensor:
    """log (1/n) sum_s p(x | z_s), nats, [N], with the same n draws from the prior for every x.

    The sum over the vocabulary is then a product of two matrices, a hundred times as fast as one
    evaluation for each pair of x and z: softmax(a + t) needs sum_v e^a_v e^t_v.
    """
    tilts = truth.from_latent(truth.prior.ancestral(n, generator).z).double()  # [S, V]
    return torch.cat([_log_p(truth, part, tilts) for part in x.split(rows)])


def _log_p(truth: SequenceModel, x: Tensor, tilts: Tensor) -> Tensor:
    p, fixed, _ = (part.double() for part in truth.context(x))
    total = (p @ tilts.exp().T).log().sum(1)  # [B, S]
    chosen = tilts.T[x].sum(1)
    return fixed + (chosen - total).logsumexp(-1) - math.log(len(tilts))


def svi_from(row: Row, model: SequenceModel, lam: Tensor, x: Tensor, seed: int) -> Tensor:
    """The bound after n_steps more published steps from lam, [N]: refinement at the test alone."""
    climbs = (
        Refine(lambda *_, own=own: own, FAMILY, STEPS["published"], row.n_steps)
        for own in lam.split(row.batch)
    )
    return score_lam(row, model, infer(row, model, climbs, x, seed)[-1], x, seed + 1)


ORACLE = {
    "oracle/vae": Row("vae", "oracle", 21.77),
    "oracle/svi": Row("svi", "oracle", 22.33),
    "oracle/svi-tuned": Row("svi, best of 53 steps", "oracle", 22.33),
    "oracle/savae": Row("savae", "oracle", 20.13),
}

# A first run of the learned column at the plain settings ended level: all three within 0.1 nat.
# Each variation names a reason for which it might not.
VARIATIONS: dict[str, dict] = {
    # The plain settings.
    "plain": {},
    # With 0.02 per example, twenty steps hardly leave the prior while the generator's latent
    # weights are small: no posterior, nothing to learn from z. Steps fifty times as long could
    # break this circle.
    "per-example": {"step": "per example"},
    # The generator overfits (training bound 2 to 4 nats below the test's), which hides what z
    # gives. Shrinking the weights by a thousandth at each update of size one holds that back.
    "decay": {"weight_decay": 1e-3},
    # Without a price on z in the first ten epochs, the generator may learn to use it first.
    "annealed": {"beta_epochs": 10},
    # Starting at the truth asks whether the order would appear if learning the generator were not
    # the obstacle: does a method keep a latent variable that it is given?
    "from-truth": {"generator": "from the truth"},
}
PAPER_LEARNED = {"vae": 27.06, "svi": 25.82, "savae": 25.21}

ROWS = ORACLE | {
    f"learned-{variation}/{method}": Row(
        **{"method": method, "generator": "learned", "paper": paper} | changes
    )
    for variation, changes in VARIATIONS.items()
    for method, paper in PAPER_LEARNED.items()
    # the VAE takes no steps: its row would be the plain one again
    if not (method == "vae" and variation == "per-example")
}

DEVIATIONS = {
    "*": "What the paper's text at hand leaves open was chosen: a start token, a single affine "
    "output map, ranges of the first weights, momentum of one half and a clip of one in SVI, and "
    "1,000 instead of 5,000 sequences to choose the epoch. The true NLL takes 2,000 draws, where "
    "the paper has 1,000, and gaps to it are compared, since another oracle moves all levels by "
    "half a nat. Gradients through refinement are exact. The tolerance is our choice.",
    "oracle/svi-tuned": "Our addition: the best of 53 steps, chosen on validation data.",
    "learned-per-example/*": "A variant of ours: steps fifty times as long.",
    "learned-decay/*": "A variant of ours: weight decay.",
    "learned-annealed/*": "A variant of ours: the KL is annealed over ten epochs.",
    "learned-from-truth/*": "A variant of ours: training starts at the true generator, which is "
    "not the paper's setting.",
}
