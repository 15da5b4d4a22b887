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


def clip_(parts: list[Tensor]) -> None:
    """All parts scaled in place so that their joint norm is at most CLIP."""
    total = sum(part.norm() ** 2 for part in parts) ** 0.5
    if (excess := total / CLIP) > 1:
        for part in parts:
            part.div_(excess)


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


class Published:
    """The training step as published, with what it does beyond the mathematics.

    theta's gradient is taken in every inner step and copied into a buffer of K copies, emptied at
    the start of each call; gradients are shortened in place, in five places; the bound of the
    encoder's own answer is computed once more for the log.
    """

    def __init__(self, world, bound, optimiser, lr: float = 1.0, eps_fd: float = 1e-5):
        self.world, self.bound, self.optimiser = world, bound, optimiser
        self.lr, self.eps_fd = lr, eps_fd
        self.theta = list(world.model.parameters())
        n_steps = len(world.noise) - 1
        self.buffers = [p.new_zeros(n_steps, *p.shape) for p in self.theta]

    def gradients(self, lam: Tensor, eps: Tensor) -> tuple[Tensor, list[Tensor]]:
        lam = lam.detach().requires_grad_()
        value = self.bound(self.world.model, self.world.x, lam, eps)
        found = torch.autograd.grad(value, [lam, *self.theta], retain_graph=True)
        return found[0], list(found[1:])

    def __call__(self) -> None:
        model, encoder, _, x, noise = self.world[:5]
        self.optimiser.zero_grad()
        for buffer in self.buffers:
            buffer.zero_()
        answer = encoder(x)
        self.bound(model, x, answer, noise[0]).item()  # the log
        lam, past = self.forwards(answer.detach(), noise[:-1])
        lam = lam.requires_grad_()
        (-self.bound(model, x, lam, noise[-1])).backward()
        lam_bar = self.backwards(-lam.grad, past, noise[:-1])
        answer.backward(-lam_bar)
        learned = [*self.theta, *encoder.parameters()]
        torch.nn.utils.clip_grad_norm_(learned, CLIP)
        self.optimiser.step()

    def forwards(self, lam: Tensor, noise: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        velocity, past = torch.zeros_like(lam), []
        for k, eps in enumerate(noise):
            g, g_theta = self.gradients(lam, eps)
            for half in g.chunk(2, -1):  # the means, and the log variances
                clip_([half])
            for buffer, part in zip(self.buffers, g_theta, strict=True):
                buffer[k].copy_(part)
            past.append((lam.clone(), g.clone()))
            velocity = GAMMA * velocity + g
            lam = lam + self.lr * velocity
        return lam, past

    def backwards(self, lam_bar: Tensor, past: list, noise: Tensor) -> Tensor:
        v_bar = torch.zeros_like(lam_bar)
        for k in reversed(range(len(past))):
            lam, g = past[k]
            v_bar = v_bar + self.lr * lam_bar
            h, h_theta = self.gradients(lam + self.eps_fd * v_bar, noise[k])
            clip_([h, *h_theta])
            second = [(b - a[k]) / self.eps_fd for a, b in zip(self.buffers, h_theta, strict=True)]
            clip_(second)
            for parameter, part in zip(self.theta, second, strict=True):
                parameter.grad.data += -part
            lam_bar = lam_bar + (h - g) / self.eps_fd
            clip_([lam_bar])
            v_bar = GAMMA * v_bar
        return lam_bar


def lean_step(world, objective, optimiser, eps_fd: float = 1e-3) -> None:
    """The same recursion with the library's bound and hoisting, a fused optimiser, and theta's
    gradient only where Algorithm 1 needs it: twice in each step back, at lam and beside it."""
    model, encoder, family, x, noise, lr, _ = world
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
