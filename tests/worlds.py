"""Tiny models, families, steps and methods in float64, shared by the tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avi import models
from avi.conformance import Support, grid, states
from avi.families import DiagGaussian, Enumerated, MeanField, Mixture, PointMass, TopDown
from avi.flows import Flow
from avi.gradients import Adjoint, Unrolled
from avi.hierarchies import merged
from avi.inference import (
    Credit,
    Encoder,
    Refine,
    direct,
    last,
    savae,
    svi,
    vae_svi,
    vae_svi_kl,
)
from avi.learned import Errors, LogSign, UnitNorm, WithData
from avi.mixtures import BoundedKL, Recursive, Relbo, joint_mixture
from avi.nets import mlp
from avi.objectives import elbo, log_joint
from avi.steps import (
    SGD,
    AdaGrad,
    Adam,
    ClipHeld,
    Clipped,
    Momentum,
    RMSProp,
    TorchOptimiser,
    gradient,
)

DIM, N_X, BATCH = 2, 4, 3
N_SE = 5


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=gen(seed), dtype=torch.float64)


def linear_gaussian(dim: int = DIM, n_x: int = N_X, seed: int = 0) -> models.LinearGaussian:
    """Factor analysis with random parameters."""
    weight, bias = randn(n_x, dim, seed=seed), randn(n_x, seed=seed + 1)
    return models.LinearGaussian(weight, bias, 0.3 * randn(n_x, seed=seed + 2))


def deep(make, seed: int = 0) -> models.DeepLatentGaussian:
    return make([DIM, 5, N_X], gen(seed)).double()


def finite_mixture() -> models.FiniteMixture:
    return models.FiniteMixture(randn(3), 1.5 * randn(3, 2, seed=1), 0.3 * randn(3, seed=2))


def hmm() -> models.HMM:
    return models.HMM(randn(2), randn(2, 2, seed=1), randn(2, 3, seed=2))


def sequence(vocabulary: int = 5) -> models.SequenceModel:
    """A tiny language model with random parameters, half as steep as an oracle's."""
    model = models.SequenceModel(DIM, vocabulary, embedding=3, hidden=4).double()
    models.uniform_(model, 0.7, gen(4))
    models.uniform_(model.from_latent, 1.5, gen(5))
    return model


def text(dim: int = DIM, vocabulary: int = 5, **shares: float) -> models.TextVAE:
    """A tiny text VAE with random parameters, ten times as steep as at the start of training."""
    model = models.TextVAE(dim, vocabulary, 3, 4, **shares).double()
    models.uniform_(model, 1.0, gen(6))
    return model


def hierarchy() -> models.Hierarchical:
    """Two levels of one unit each, with priors that depend clearly on the level above."""
    model = models.hierarchical_mlp((1, 1), (5, 4), N_X, generator=gen(9)).double()
    models.uniform_(model.priors, 1.0, gen(10))
    return model


def binary(n: int = BATCH, seed: int = 3) -> Tensor:
    return (randn(n, N_X, seed=seed) > 0).double()


# name -> (model, x, support); every x has distinct rows
WORLDS = {
    "linear_gaussian": lambda: (linear_gaussian(), randn(BATCH, N_X, seed=5), grid(DIM)),
    "bernoulli": lambda: (deep(models.bernoulli_mlp), binary(), grid(DIM)),
    "gaussian": lambda: (deep(models.gaussian_mlp), randn(BATCH, N_X, seed=6), grid(DIM)),
    "multinomial": lambda: (deep(models.multinomial_mlp), 2 * binary(seed=4) + 1, grid(DIM)),
    "finite_mixture": lambda: (finite_mixture(), randn(BATCH, 2, seed=7), states(1, 3)),
    "sequence": lambda: (sequence(), torch.tensor([[0, 4, 2], [1, 1, 3], [4, 0, 0]]), grid(DIM)),
    "text": lambda: (text(), torch.tensor([[0, 4, 1], [2, 2, 1], [4, 3, 1]]), grid(DIM)),
    "hierarchical": lambda: (hierarchy(), binary(seed=11), grid(DIM, 20.0, 401)),
    "hmm": lambda: (hmm(), torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 0]]), states(3, 2)),
}
GAUSSIAN = {
    "diag_gaussian": DiagGaussian(DIM),
    "point_mass": PointMass(DIM),
    "mixture": Mixture(DiagGaussian(DIM), 2),
}
FAMILIES = dict.fromkeys(
    ["linear_gaussian", "bernoulli", "gaussian", "multinomial", "sequence", "text"], GAUSSIAN
) | {
    "finite_mixture": {
        "enumerated": Enumerated(1, 3),
        "mixture_enumerated": Mixture(Enumerated(1, 3), 2),
    },
    "hierarchical": {
        "mean_field": MeanField(DIM),
        "top_down": TopDown((1, 1)),
        "ladder": TopDown((1, 1), merged),
    },
    "hmm": {"enumerated": Enumerated(3, 2), "mixture_enumerated": Mixture(Enumerated(3, 2), 2)},
}


def flow(n_context: int = 2, bent: float = 0.3) -> Flow:
    """Three couplings with random weights, so that q is far from Gaussian."""
    family = Flow(DiagGaussian(DIM), 3, (5,), n_context, gen(13)).double()
    models.uniform_(family, bent, gen(14))
    return family


FAMILIES["linear_gaussian"] = GAUSSIAN | {"flow": flow(bent=0.15)}
STEPS = {
    "sgd": SGD(0.05),
    "momentum": Momentum(0.05, 0.9),
    "adagrad": AdaGrad(0.1),
    "rmsprop": RMSProp(0.02),
    "adam": Adam(0.05),
    "clipped": Clipped(Momentum(0.05), 1.0),
    "clip_held": ClipHeld(Momentum(0.05), 1.0),
    "torch": TorchOptimiser(lambda p: torch.optim.NAdam(p, lr=0.05)),
}


class Float(nn.Module):
    """A network that also takes integers."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double())


def encoder(x: Tensor, family, seed: int = 8) -> nn.Module:
    return Float(mlp([x.shape[-1], 4, family.n_params], gen(seed))).double()


# name -> function of (x, family) that makes the method
METHODS = {"direct": lambda x, family: direct(encoder(x, family), family).double()}
for _name, _step in STEPS.items():
    METHODS[f"svi_{_name}"] = lambda x, family, step=_step: svi(family, step, 3).double()
    METHODS[f"vae_svi_{_name}"] = lambda x, family, step=_step: vae_svi(
        encoder(x, family), family, step, 3
    ).double()
    for _mode in (Unrolled(), Adjoint()) if _name in ("momentum", "adam", "clipped") else ():
        METHODS[f"savae_{type(_mode).__name__.lower()}_{_name}"] = (
            lambda x, family, step=_step, mode=_mode: savae(
                encoder(x, family), family, step, 3, mode
            ).double()
        )
METHODS["vae_svi_kl"] = lambda x, family: vae_svi_kl(
    encoder(x, family), family, SGD(0.05), 3
).double()

CREDITS = {
    "joint": last,
    "bounded_kl": Recursive(BoundedKL(1.0)),
    "relbo": Recursive(Relbo(0.5)),
}


def mixture(x: Tensor, family: Mixture, credit: Credit) -> Refine:
    """A mixture inference network whose weights depend on x."""
    component, n = family.component, family.n_components
    weights = Encoder(Float(mlp([x.shape[-1], n], gen(13))))
    encoders = [encoder(x, component, seed=14 + m) for m in range(n)]
    made = joint_mixture(weights, encoders, component)
    return Refine(made.init, made.family, credit=credit).double()


for _name, _credit in CREDITS.items():
    METHODS[f"mixture_{_name}"] = lambda x, family, credit=_credit: mixture(x, family, credit)

# signals that every model gives, and those that need `errors`
SIGNALS = {
    "gradient": gradient,
    "log_sign": LogSign(),
    "unit_norm": UnitNorm(),
    "gradient_and_x": WithData(gradient),
}
ERROR_SIGNALS = {"errors": Errors(), "errors_and_x": WithData(Errors())}


def learned(make, signal, model_name, family):
    """A learned step for this model and family, with random weights.

    Those that make the new estimate are small: an untrained step that answers large gradients with
    large moves meets larger gradients, and leaves the range of floating point within a few steps.
    """
    model, x, _ = world(model_name)
    objective = log_joint() if isinstance(family, PointMass) else elbo()
    step = make(signal, model, x, family, objective, (5, 4), gen(12)).double()
    with torch.no_grad():
        step.update.new.weight.mul_(0.02)
    return step


def world(name: str) -> tuple[nn.Module, Tensor, Support]:
    return WORLDS[name]()


def method(name: str, x: Tensor, family) -> Refine:
    return METHODS[name](x, family)
