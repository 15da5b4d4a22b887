"""fn(log_lik [B], kl [], n_data) -> []: an unbiased estimate, nats, of the bound of all n_data
observations, whose global latent has this KL, from a minibatch's E_q log p(x_n | z)."""


def right_scaled_sum(log_lik, kl, n_data):
    return n_data / len(log_lik) * log_lik.sum() - kl


def right_scaled_mean(log_lik, kl, n_data):
    return n_data * log_lik.mean() - kl


def wrong_shown(log_lik, kl, n_data):
    """the exhibit: an integer division"""
    scale = n_data // len(log_lik)
    return scale * log_lik.sum() - kl


def wrong_no_scale(log_lik, kl, n_data):
    """no scale"""
    return log_lik.sum() - kl


def wrong_kl_too(log_lik, kl, n_data):
    """the KL scaled too"""
    return n_data / len(log_lik) * (log_lik.sum() - kl)


def wrong_mean_twice(log_lik, kl, n_data):
    """divided by the size of the batch twice"""
    return n_data / len(log_lik) * log_lik.mean() - kl
