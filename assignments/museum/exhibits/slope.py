"""fn(lam [B, 2D], eps [S, B, D], x [B, X], weight [X, D]) -> [B, 2D]: each example's own gradient
with respect to lam = [mean, log_var] of the bound printed above, at this noise."""

import torch
from torch.distributions import Normal


def right_autograd(lam, eps, x, weight):
    lam = lam.detach().requires_grad_()
    mean, log_var = lam.chunk(2, -1)
    z = mean + (0.5 * log_var).exp() * eps
    log_joint = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(-1)
    return torch.autograd.grad((log_joint - log_q).mean(0).sum(), lam)[0]


def right_by_hand(lam, eps, x, weight):
    mean, log_var = lam.chunk(2, -1)
    sd = (0.5 * log_var).exp()
    z = mean + sd * eps
    slope = (x - z @ weight.T) @ weight - z
    return torch.cat([slope.mean(0), (0.5 * sd * eps * slope).mean(0) + 0.5], -1)


def wrong_shown(lam, eps, x, weight):
    """the exhibit: the draw held constant"""
    lam = lam.detach().requires_grad_()
    mean, log_var = lam.chunk(2, -1)
    with torch.no_grad():
        z = mean + (0.5 * log_var).exp() * eps
    log_joint = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(-1)
    return torch.autograd.grad((log_joint - log_q).mean(0).sum(), lam)[0]


def wrong_batch_mean(lam, eps, x, weight):
    """the gradient of a batch mean"""
    lam = lam.detach().requires_grad_()
    mean, log_var = lam.chunk(2, -1)
    z = mean + (0.5 * log_var).exp() * eps
    log_joint = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(-1)
    return torch.autograd.grad((log_joint - log_q).mean(), lam)[0]


def wrong_held_width(lam, eps, x, weight):
    """the width of the draw held constant"""
    lam = lam.detach().requires_grad_()
    mean, log_var = lam.chunk(2, -1)
    z = mean + (0.5 * log_var).exp().detach() * eps
    log_joint = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(-1)
    return torch.autograd.grad((log_joint - log_q).mean(0).sum(), lam)[0]


def wrong_downhill(lam, eps, x, weight):
    """the direction"""
    mean, log_var = lam.chunk(2, -1)
    sd = (0.5 * log_var).exp()
    z = mean + sd * eps
    slope = (x - z @ weight.T) @ weight - z
    return -torch.cat([slope.mean(0), (0.5 * sd * eps * slope).mean(0) + 0.5], -1)


def wrong_forgotten_root(lam, eps, x, weight):
    """the derivative of the standard deviation"""
    mean, log_var = lam.chunk(2, -1)
    sd = (0.5 * log_var).exp()
    z = mean + sd * eps
    slope = (x - z @ weight.T) @ weight - z
    return torch.cat([slope.mean(0), (sd * eps * slope).mean(0) + 1.0], -1)
