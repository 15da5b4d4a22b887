"""fn(x [B, X], logits [X]) -> [B]: log-probability, nats, of images whose independent pixels take
the 17 values 0, 1/16, ..., 1; pixel d prefers bright values where logits[d] is large."""

import torch
from torch.distributions import Binomial
from torch.nn.functional import binary_cross_entropy_with_logits


def right_binomial(x, logits):
    return Binomial(16, logits=logits).log_prob(16 * x).sum(-1)


def right_lgamma(x, logits):
    k = 16 * x
    ways = torch.lgamma(torch.tensor(17.0)) - torch.lgamma(k + 1) - torch.lgamma(17 - k)
    log_on = torch.nn.functional.logsigmoid(logits)
    log_off = torch.nn.functional.logsigmoid(-logits)
    return (ways + k * log_on + (16 - k) * log_off).sum(-1)


def right_normalised(x, logits):
    levels = torch.arange(17) / 16
    log_mass = (levels[:, None] * logits).logsumexp(0)
    return (x * logits - log_mass).sum(-1)


def wrong_shown(x, logits):
    """the exhibit: a Bernoulli for grey values"""
    logits = logits.expand_as(x)
    return -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def wrong_no_ways(x, logits):
    """a binomial without its coefficient"""
    log_on = torch.nn.functional.logsigmoid(logits)
    log_off = torch.nn.functional.logsigmoid(-logits)
    return 16 * (x * log_on + (1 - x) * log_off).sum(-1)


def wrong_cut(x, logits):
    """grey values cut to black and white"""
    on = (x > 0.5).to(x)
    logits = logits.expand_as(x)
    return -binary_cross_entropy_with_logits(logits, on, reduction="none").sum(-1)


def wrong_density(x, logits):
    """a density where a probability belongs"""
    log_mass = (torch.linspace(0, 1, 2001)[:, None] * logits).exp().mean(0).log()
    return (x * logits - log_mass).sum(-1)
