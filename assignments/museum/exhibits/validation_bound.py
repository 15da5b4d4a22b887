"""fn(x [B, X], mean [B, D], log_var [B, D], eps [S, B, D], weight [X, D]) -> [B]: an unbiased
estimate of the ELBO, nats, of the model z ~ N(0, I), x ~ N(weight z, I), from S draws of q."""

import math

from torch.distributions import Normal


def right_closed_kl(x, mean, log_var, eps, weight):
    z = mean + (0.5 * log_var).exp() * eps
    log_lik = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return log_lik.mean(0) - kl


def right_sampled_kl(x, mean, log_var, eps, weight):
    sd = (0.5 * log_var).exp()
    z = mean + sd * eps
    log_lik = -0.5 * ((x - z @ weight.T) ** 2 + math.log(2 * math.pi)).sum(-1)
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    return (log_lik + log_prior - Normal(mean, sd).log_prob(z).sum(-1)).mean(0)


def wrong_shown(x, mean, log_var, eps, weight):
    """the exhibit: the mean in place of a draw"""
    log_lik = Normal(mean @ weight.T, 1.0).log_prob(x).sum(-1)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return log_lik - kl


def wrong_average_draw(x, mean, log_var, eps, weight):
    """the draws averaged before decoding"""
    z = (mean + (0.5 * log_var).exp() * eps).mean(0)
    log_lik = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return log_lik - kl


def wrong_variance_as_sd(x, mean, log_var, eps, weight):
    """draws with the wrong width"""
    z = mean + log_var.exp() * eps
    log_lik = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return log_lik.mean(0) - kl


def wrong_unit_noise(x, mean, log_var, eps, weight):
    """draws that ignore the width of q"""
    z = mean + eps
    log_lik = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return log_lik.mean(0) - kl
