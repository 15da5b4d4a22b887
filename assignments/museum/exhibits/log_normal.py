"""fn(z [S, B, D], mean [B, D], log_var [B, D]) -> [S, B]: log N(z; mean, diag exp(log_var))."""

import math

import torch
from torch.distributions import MultivariateNormal, Normal


def right_written_out(z, mean, log_var):
    square = (z - mean) ** 2 / log_var.exp()
    return -0.5 * (math.log(2 * math.pi) + log_var + square).sum(-1)


def right_distributions(z, mean, log_var):
    return Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(-1)


def right_dense(z, mean, log_var):
    return MultivariateNormal(mean, torch.diag_embed(log_var.exp())).log_prob(z)


def wrong_shown(z, mean, log_var):
    """the exhibit: the constant counted D times too often"""
    constant = z.shape[-1] * math.log(2 * math.pi)
    square = (z - mean) ** 2 / log_var.exp()
    return -0.5 * (constant + log_var + square).sum(-1)


def wrong_once_for_all(z, mean, log_var):
    """the constant counted once for all units"""
    square = (z - mean) ** 2 / log_var.exp()
    return -0.5 * ((log_var + square).sum(-1) + math.log(2 * math.pi))


def wrong_log_sd(z, mean, log_var):
    """log_var read as a log standard deviation"""
    return Normal(mean, log_var.exp()).log_prob(z).sum(-1)


def wrong_scale(z, mean, log_var):
    """the square divided by the standard deviation"""
    square = (z - mean) ** 2 / (0.5 * log_var).exp()
    return -0.5 * (math.log(2 * math.pi) + log_var + square).sum(-1)
