"""fn(x [B, X], w_mean [X, D], w_log_var [X, D]) -> (mean [B, D], log_var [B, D]): a linear encoder,
differentiable in both weights; log_var = x @ w_log_var."""

import torch


def right_two_products(x, w_mean, w_log_var):
    return x @ w_mean, x @ w_log_var


def right_one_product(x, w_mean, w_log_var):
    return tuple((x @ torch.cat([w_mean, w_log_var], -1)).chunk(2, -1))


def right_einsum(x, w_mean, w_log_var):
    return [torch.einsum("bx,xd->bd", x, w) for w in (w_mean, w_log_var)]


def wrong_shown(x, w_mean, w_log_var):
    """the exhibit: one weight for both heads"""
    mean = x @ w_mean
    log_var = x @ w_mean
    return mean, log_var


def wrong_swapped(x, w_mean, w_log_var):
    """the heads swapped"""
    return x @ w_log_var, x @ w_mean


def wrong_frozen(x, w_mean, w_log_var):
    """a head that cannot learn"""
    return x @ w_mean, (x @ w_log_var).detach()


def wrong_interleaved(x, w_mean, w_log_var):
    """the outputs cut apart the wrong way"""
    both = x @ torch.cat([w_mean, w_log_var], -1)
    return both[:, ::2], both[:, 1::2]


def wrong_on_top(x, w_mean, w_log_var):
    """one head built on the other"""
    mean = x @ w_mean
    return mean, mean + x @ w_log_var
