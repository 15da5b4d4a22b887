"""Exercises with feedback: give one the function you wrote.

    from avi import check
    check.gaussian_kl(my_kl)

calls `my_kl` on random inputs and compares with the library. It returns True and prints one line if
all is right; otherwise it returns False and prints what it saw and a hint, a closer one each time.

S samples, B batch, D latent units, P parameters; log is natural, values are in nats.
"""

from __future__ import annotations

from avi.check import bounds, gaussian, steps
from avi.check.exercise import Exercise, Function, Mistake

__all__ = [
    "Exercise", "Mistake", "adam_step", "elbo", "gaussian_kl", "iwae", "momentum_step",
    "reparameterise", "score_gradient", "sgd_step",
]  # fmt: skip


def gaussian_kl(fn: Function) -> bool:
    """fn(mean [B, D], log_var [B, D]) -> [B]: KL(N(mean, exp(log_var)) || N(0, I)), nats, in
    closed form (eq-gaussian-kl)."""
    return gaussian.GAUSSIAN_KL(fn)


def elbo(fn: Function) -> bool:
    """fn(log_lik [S, B], log_prior [S, B], log_q [S, B]) -> [B]: the Monte Carlo ELBO, nats, from
    S equally weighted draws of q (eq-elbo)."""
    return bounds.ELBO(fn)


def iwae(fn: Function) -> bool:
    """fn(log_lik [S, B], log_prior [S, B], log_q [S, B]) -> [B]: the importance-weighted bound of
    S draws, nats (eq-iwae). The logarithms may be as low as -1500."""
    return bounds.IWAE(fn)


def reparameterise(fn: Function) -> bool:
    """fn(mean [B, D], log_var [B, D], eps [S, B, D]) -> z [S, B, D]: draws of N(mean, exp(log_var))
    made from standard normal noise eps (eq-reparameterisation)."""
    return gaussian.REPARAMETERISE(fn)


def score_gradient(fn: Function) -> bool:
    """fn(mean [B, D], log_var [B, D], z [S, B, D], values [S, B]) -> [B, D]: the score-function
    estimate of the gradient with respect to mean of E_q[value], averaged over the S draws z of
    q = N(mean, exp(log_var)) (eq-score-function). The values are constants; no baseline."""
    return gaussian.SCORE_GRADIENT(fn)


def sgd_step(fn: Function) -> bool:
    """fn(lam [B, P], g [B, P], lr) -> lam [B, P]: one step of gradient ascent (eq-svi-update)."""
    return steps.SGD_STEP(fn)


def momentum_step(fn: Function) -> bool:
    """fn(lam [B, P], g [B, P], v [B, P], lr, gamma) -> (lam, v): one step of ascent with momentum;
    the velocity v decays by gamma and takes in g as it is (eq-momentum)."""
    return steps.MOMENTUM_STEP(fn)


def adam_step(fn: Function) -> bool:
    """fn(lam [B, P], g [B, P], m [B, P], v [B, P], t, lr) -> (lam, m, v): step number t = 1, 2, ...
    of Adam, climbing, with beta_1 = 0.9, beta_2 = 0.999 and eps = 1e-8 (eq-adam). m and v are the
    running averages before their correction."""
    return steps.ADAM_STEP(fn)
