"""fn(mean [B, D], log_var [B, D]) -> [B]: KL(N(mean, exp(log_var)) || N(0, I)), nats."""

import torch
from torch.distributions import Normal, kl_divergence


def right_closed_form(mean, log_var):
    return 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)


def right_distributions(mean, log_var):
    q = Normal(mean, (0.5 * log_var).exp())
    return kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1)


def wrong_shown(mean, log_var):
    """the exhibit: averaged over the units"""
    return 0.5 * (log_var.exp() + mean**2 - 1 - log_var).mean(-1)


def wrong_over_batch_size(mean, log_var):
    """divided by the size of the batch"""
    return 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1) / len(mean)


def wrong_batch_average(mean, log_var):
    """one average for the whole batch"""
    total = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum()
    return (total / len(mean)).expand(len(mean))


def wrong_root(mean, log_var):
    """divided by the root of the number of units"""
    units = 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
    return units.sum(-1) / units.shape[-1] ** 0.5
