"""fn(log_w [S, B]) -> [B]: the importance-weighted bound of S draws, nats, from their log weights
log p(x, z) - log q(z), which may be as low as -2000."""

import math

import torch


def right_logsumexp(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


def right_shifted(log_w):
    top = log_w.max(0).values
    return top + (log_w - top).exp().mean(0).log()


def right_pairwise(log_w):
    total = log_w[0]
    for row in log_w[1:]:
        total = torch.logaddexp(total, row)
    return total - math.log(len(log_w))


def wrong_shown(log_w):
    """the exhibit: a sum in place of an average"""
    return log_w.logsumexp(0)


def wrong_elbo(log_w):
    """the average outside the logarithm"""
    return log_w.mean(0)


def wrong_underflow(log_w):
    """numbers too small for exp"""
    return log_w.exp().mean(0).log()


def wrong_best_draw(log_w):
    """the best draw for all"""
    return log_w.max(0).values


def wrong_whole_batch(log_w):
    """examples mixed"""
    return (log_w.logsumexp((0, 1)) - math.log(log_w.numel())).expand(log_w.shape[1])
