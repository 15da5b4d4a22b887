"""fn(mean [T, B, D], log_var [T, B, D]) -> [B]: KL of T independent Gaussian steps to N(0, I)."""

import torch
from torch.distributions import Normal, kl_divergence


def right_closed_form(mean, log_var):
    return 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum((0, 2))


def right_counted_once(mean, log_var):
    n_steps, _, n_units = mean.shape
    total = (mean**2 + log_var.exp() - log_var).sum(-1).sum(0)
    return 0.5 * (total - n_steps * n_units)


def right_distributions(mean, log_var):
    q = Normal(mean, (0.5 * log_var).exp())
    p = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return kl_divergence(q, p).sum(-1).sum(0)


def wrong_shown(mean, log_var):
    """the exhibit: the constant counted once a step"""
    n_steps = len(mean)
    total = (mean**2 + log_var.exp() - log_var).sum((0, 2))
    return 0.5 * (total - n_steps)


def wrong_no_constant(mean, log_var):
    """no constant at all"""
    return 0.5 * (mean**2 + log_var.exp() - log_var).sum((0, 2))


def wrong_sign_of_log(mean, log_var):
    """the sign of the log variance"""
    return 0.5 * (mean**2 + log_var.exp() + log_var - 1).sum((0, 2))


def wrong_minus_kl(mean, log_var):
    """the sign of the whole"""
    return 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum((0, 2))
