"""fn(z [S, B, D], log_pi [M], mean [M, D], log_var [M, D]) -> [S, B]: log sum_m pi_m N_m(z)."""

import math

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal


def right_logsumexp(z, log_pi, mean, log_var):
    z = z[..., None, :]
    unit = -0.5 * ((z - mean) ** 2 / log_var.exp() + log_var + math.log(2 * math.pi))
    return (log_pi + unit.sum(-1)).logsumexp(-1)


def right_distributions(z, log_pi, mean, log_var):
    parts = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    return MixtureSameFamily(Categorical(logits=log_pi), parts).log_prob(z)


def right_loop(z, log_pi, mean, log_var):
    total = torch.full(z.shape[:-1], -math.inf, dtype=z.dtype)
    for m in range(len(log_pi)):
        part = Normal(mean[m], (0.5 * log_var[m]).exp()).log_prob(z).sum(-1)
        total = torch.logaddexp(total, log_pi[m] + part)
    return total


def wrong_shown(z, log_pi, mean, log_var):
    """the exhibit: mixed unit by unit"""
    z = z[..., None, :]
    unit = -0.5 * ((z - mean) ** 2 / log_var.exp() + log_var + math.log(2 * math.pi))
    return (log_pi[:, None] + unit).logsumexp(-2).sum(-1)


def wrong_even_weights(z, log_pi, mean, log_var):
    """the weights of the mixture"""
    unit = Normal(mean, (0.5 * log_var).exp()).log_prob(z[..., None, :])
    return unit.sum(-1).logsumexp(-1) - math.log(len(log_pi))


def wrong_average_of_logs(z, log_pi, mean, log_var):
    """an average of logarithms"""
    unit = Normal(mean, (0.5 * log_var).exp()).log_prob(z[..., None, :])
    return (log_pi.exp() * unit.sum(-1)).sum(-1)


def wrong_variance_as_sd(z, log_pi, mean, log_var):
    """a variance used as a standard deviation"""
    unit = Normal(mean, log_var.exp()).log_prob(z[..., None, :])
    return (log_pi + unit.sum(-1)).logsumexp(-1)
