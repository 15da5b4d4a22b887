"""fn(log_lik [S, B], log_prior [S, B], log_q [S, B]) -> [B]: the Monte Carlo ELBO, nats, of S
equally weighted draws. It goes up."""


def right_mean(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).mean(0)


def right_rate(log_lik, log_prior, log_q):
    distortion, rate = -log_lik.mean(0), (log_q - log_prior).mean(0)
    return -(distortion + rate)


def right_weighted(log_lik, log_prior, log_q):
    return sum(log_lik + log_prior - log_q) / len(log_q)


def wrong_shown(log_lik, log_prior, log_q):
    """the exhibit: the sign of the KL"""
    kl = log_prior - log_q
    return (log_lik - kl).mean(0)


def wrong_no_entropy(log_lik, log_prior, log_q):
    """log q left out"""
    return (log_lik + log_prior).mean(0)


def wrong_warm_up(log_lik, log_prior, log_q, beta=0.5):
    """a warm-up weight left on"""
    return (log_lik - beta * (log_q - log_prior)).mean(0)


def wrong_loss(log_lik, log_prior, log_q):
    """a loss by the name of a bound"""
    return (log_q - log_prior - log_lik).mean(0)


def wrong_sum(log_lik, log_prior, log_q):
    """a sum over draws"""
    return (log_lik + log_prior - log_q).sum(0)
