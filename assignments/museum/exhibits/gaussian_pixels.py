"""fn(x [B, X], out [S, B, X], log_var []) -> [S, B]: log N(x; out, exp(log_var) I), nats."""

import math

import torch
from torch.distributions import Normal


def right_written_out(x, out, log_var):
    square = (x - out) ** 2 / log_var.exp()
    return -0.5 * (square + log_var + math.log(2 * math.pi)).sum(-1)


def right_distributions(x, out, log_var):
    return Normal(out, (0.5 * log_var).exp()).log_prob(x).sum(-1)


def right_gaussian_nll(x, out, log_var):
    x, out = torch.broadcast_tensors(x, out)
    var = log_var.exp().expand_as(out)
    nll = torch.nn.functional.gaussian_nll_loss(out, x, var, full=True, eps=0, reduction="none")
    return -nll.sum(-1)


def wrong_shown(x, out, log_var):
    """the exhibit: no normaliser"""
    return -0.5 * ((x - out) ** 2 / log_var.exp()).sum(-1)


def wrong_one_normaliser(x, out, log_var):
    """one normaliser for all pixels"""
    square = ((x - out) ** 2 / log_var.exp()).sum(-1)
    return -0.5 * (square + log_var + math.log(2 * math.pi))


def wrong_averaged(x, out, log_var):
    """an average over pixels"""
    square = (x - out) ** 2 / log_var.exp()
    return -0.5 * (square + log_var + math.log(2 * math.pi)).mean(-1)


def wrong_no_half(x, out, log_var):
    """the half in front of the square"""
    square = (x - out) ** 2 / log_var.exp()
    return -(square + 0.5 * log_var + 0.5 * math.log(2 * math.pi)).sum(-1)
