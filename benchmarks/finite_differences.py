"""SA-VAE's training step with finite differences: as published, and as lean as we can write it.

Both follow Algorithm 1 of Kim et al. (2018): momentum ascent on the batch mean of the bound, then
the reverse recursion, in which every Hessian-vector product is a difference of two gradients,
(g(lam + eps v) - g(lam)) / eps. Peers for the benchmark, in one place and nowhere in the library.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avi.core import Problem

GAMMA, CLIP = 0.5, 5.0


def shorten(parts: list[Tensor], norm: float) -> list[Tensor]:
    """All parts scaled so that their joint norm is at most `norm`."""
    total = torch.stack([part.norm() for part in parts]).norm()
    return [part / (total / norm).clamp(min=1) for part in parts]


def shorten_halves(lam_grad: Tensor) -> Tensor:
    """Means and log variances apart, each over the whole batch."""
    return torch.cat([shorten([half], CLIP)[0] for half in lam_grad.chunk(2, -1)], -1)


def published_bound(decoder_probability, x, lam, eps) -> Tensor:
    """The batch-mean bound from probabilities and their logarithms, as in the published code."""
    mean, log_var = lam.chunk(2, -1)
    z = mean + (0.5 * log_var).exp() * eps[0]
    p = decoder_probability(z).clamp(1e-5, 1 - 1e-5)
    log_lik = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return (log_lik - kl).mean()


def descend(optimiser, parameters: list[nn.Parameter], ascent: list[Tensor]) -> None:
    for parameter, gradient in zip(parameters, ascent, strict=True):
        parameter.grad = -gradient
    optimiser.step()


def published_step(world, bound, optimiser, lr: float = 1.0, eps_fd: float = 1e-5) -> None:
    """One step as published: theta's gradient in every inner step, K copies of it kept, clips in
    five places, and the bound of the encoder's own answer once more for the log."""
    model, encoder, _, x, noise, _ = world
    theta = list(model.parameters())

    def gradient(lam, eps):
        lam = lam.detach().requires_grad_()
        found = torch.autograd.grad(bound(model, x, lam, eps), [lam, *theta])
        return found[0], list(found[1:])

    answer = encoder(x)
    bound(model, x, answer.detach(), noise[0]).item()  # the log
    lam, velocity, past = answer.detach(), torch.zeros_like(answer), []
    for eps in noise[:-1]:
        g, g_theta = gradient(lam, eps)
        g = shorten_halves(g)
        past.append((lam, g, g_theta))
        velocity = GAMMA * velocity + g
        lam = lam + lr * velocity
    lam_bar, theta_bar = gradient(lam, noise[-1])
    v_bar = torch.zeros_like(lam)
    for (lam, g, g_theta), eps in zip(reversed(past), noise[:-1].flip(0), strict=True):
        v_bar = v_bar + lr * lam_bar
        h, h_theta = gradient(lam + eps_fd * v_bar, eps)
        h, *h_theta = shorten([h, *h_theta], CLIP)
        second = shorten([(b - a) / eps_fd for a, b in zip(g_theta, h_theta)], CLIP)
        theta_bar = [a + b for a, b in zip(theta_bar, second)]
        (lam_bar,) = shorten([lam_bar + (h - g) / eps_fd], CLIP)
        v_bar = GAMMA * v_bar
    phi = list(encoder.parameters())
    phi_bar = torch.autograd.grad(answer, phi, lam_bar)
    descend(optimiser, theta + phi, shorten([*theta_bar, *phi_bar], CLIP))


def lean_step(world, objective, optimiser, eps_fd: float = 1e-3) -> None:
    """The same recursion with the library's bound and hoisting, a fused optimiser, and theta's
    gradient only where Algorithm 1 needs it: twice in each step back, at lam and beside it."""
    model, encoder, family, x, noise, lr = world
    problem = Problem(model, x, family, objective)
    shared = list(getattr(problem.given, "context", ()))
    theta = list(model.parameters())
    direct = [p for p in theta if not shared or p is model.from_latent.weight]
    fixed = [*shared, *direct]

    def climb(lam, eps):
        lam = lam.detach().requires_grad_()
        value = problem(lam, eps).sum()
        return torch.autograd.grad(value, [lam, *fixed], retain_graph=bool(shared))

    answer = encoder(x)
    lam, velocity, past = answer.detach(), torch.zeros_like(answer), []
    for eps in noise[:-1]:
        g, *g_fixed = climb(lam, eps)
        past.append((lam, g, g_fixed))
        velocity = GAMMA * velocity + g
        lam = lam + lr * velocity
    lam_bar, *fixed_bar = climb(lam, noise[-1])
    v_bar = torch.zeros_like(lam)
    for (lam, g, g_fixed), eps in zip(reversed(past), noise[:-1].flip(0), strict=True):
        v_bar = v_bar + lr * lam_bar
        h, *h_fixed = climb(lam + eps_fd * v_bar, eps)
        for total, a, b in zip(fixed_bar, g_fixed, h_fixed):
            total.add_(b - a, alpha=1 / eps_fd)
        lam_bar = lam_bar + (h - g) / eps_fd
        v_bar = GAMMA * v_bar
    phi = list(encoder.parameters())
    ends, bars = [answer, *shared], [lam_bar, *fixed_bar[: len(shared)]]
    rest = [p for p in theta if not any(p is d for d in direct)]
    found = torch.autograd.grad(ends, phi + rest, bars)
    batch = len(x)
    ascent = [*found, *fixed_bar[len(shared) :]]
    descend(optimiser, phi + rest + direct, [part / batch for part in ascent])
