"""fn(nll [N], lengths [N]) -> []: perplexity per word of N documents with these negative
log-likelihoods, nats, and numbers of words."""

import torch


def right_totals(nll, lengths):
    return (nll.sum() / lengths.sum()).exp()


def right_weighted(nll, lengths):
    share = lengths / lengths.sum()
    return (share * nll / lengths).sum().exp()


def wrong_shown(nll, lengths):
    """the exhibit: an average of perplexities"""
    return (nll / lengths).exp().mean()


def wrong_per_document(nll, lengths):
    """every document counts the same"""
    return (nll / lengths).mean().exp()


def wrong_bits(nll, lengths):
    """the base of the exponential"""
    return 2 ** (nll.sum() / lengths.sum())


def wrong_padded(nll, lengths):
    """divided by the longest document"""
    return torch.exp(nll.mean() / lengths.max())
