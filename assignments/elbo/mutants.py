"""Known wrong answers to the assignment elbo, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "gaussian_kl": [
        Mutant("no half", 0, """
def gaussian_kl(mean, log_var):
    return (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
"""),
        Mutant("units averaged", 0, """
def gaussian_kl(mean, log_var):
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean(-1)
"""),
        Mutant("log of the deviation", 0, """
def gaussian_kl(mean, log_var):
    return 0.5 * (mean.square() + (2 * log_var).exp() - 1 - 2 * log_var).sum(-1)
"""),
        Mutant("another right way", 1, """
def gaussian_kl(mean, log_var):
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return torch.distributions.kl_divergence(q, prior).sum(1)
"""),
    ],
    "elbo": [
        Mutant("a loss", 0, """
def elbo(log_lik, log_prior, log_q):
    return -(log_lik + log_prior - log_q).mean(0)
"""),
        Mutant("batch averaged away", 0, """
def elbo(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).mean()
"""),
    ],
    "iwae": [
        Mutant("leaves the logarithms", 0, """
def iwae(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).exp().mean(0).log()
"""),
        Mutant("sum for mean", 0, """
def iwae(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).logsumexp(0)
"""),
        Mutant("the ELBO", 0, """
def iwae(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).mean(0)
"""),
    ],
    "closed_elbo": [
        Mutant("no constant", 0, """
def closed_elbo(x, w, log_var, mean, q_log_var):
    square = (x - w * mean).square() + w**2 * q_log_var.exp()
    kl = 0.5 * (mean.square() + q_log_var.exp() - 1 - q_log_var)
    return -0.5 * (log_var + square / math.exp(log_var)) - kl
"""),
        Mutant("likelihood at the mean of q", 0, """
def closed_elbo(x, w, log_var, mean, q_log_var):
    square = (x - w * mean).square()
    kl = 0.5 * (mean.square() + q_log_var.exp() - 1 - q_log_var)
    return -0.5 * (math.log(2 * math.pi) + log_var + square / math.exp(log_var)) - kl
"""),
        Mutant("the evidence, for every q", 0.5, """
def closed_elbo(x, w, log_var, mean, q_log_var):
    variance = w**2 + math.exp(log_var)
    return -0.5 * (math.log(2 * math.pi * variance) + x.square() / variance)
"""),
    ],
    "my_numbers": [
        Mutant("loss for gap", 0, """
def my_numbers():
    variance = my_w**2 + math.exp(my_log_var)
    log_p = -0.5 * (math.log(2 * math.pi * variance) + my_x**2 / variance)
    zero = torch.zeros(1, dtype=torch.float64)
    bound = closed_elbo(zero + my_x, my_w, my_log_var, zero, zero).item()
    return {"log_evidence": log_p, "gap_at_prior": bound}
"""),
        Mutant("somebody else's numbers", 0, """
def my_numbers():
    return {"log_evidence": -1.987, "gap_at_prior": 1.234}
"""),
    ],
    "e_step": [
        Mutant("leaves the logarithms", 0.6, """
def e_step(x, log_pi, means, log_var):
    square = (x[:, None] - means).square().sum(-1)
    joint = log_pi.exp() * (-0.5 * square / log_var.exp()).exp() / log_var.exp()
    return joint / joint.sum(-1, keepdim=True)
"""),
        Mutant("normaliser of one coordinate", 0, """
def e_step(x, log_pi, means, log_var):
    square = (x[:, None] - means).square().sum(-1)
    return (log_pi - 0.5 * (log_var + square / log_var.exp())).softmax(-1)
"""),
        Mutant("no mixing weights", 0, """
def e_step(x, log_pi, means, log_var):
    square = (x[:, None] - means).square().sum(-1)
    return (-0.5 * (x.shape[1] * log_var + square / log_var.exp())).softmax(-1)
"""),
        Mutant("rows and columns", 0, """
def e_step(x, log_pi, means, log_var):
    square = (x[:, None] - means).square().sum(-1)
    log_joint = log_pi - 0.5 * (x.shape[1] * log_var + square / log_var.exp())
    return log_joint.softmax(0)
"""),
    ],
    "test_elbo": [
        Mutant("looks at the shape", 0.25, """
def test_elbo(fn):
    value = fn(*torch.zeros(3, 7, 4))
    assert value.shape == (4,)
    assert (fn(torch.ones(7, 4), torch.zeros(7, 4), torch.zeros(7, 4)) > 0).all()
"""),
        Mutant("lets everything pass", 0, """
def test_elbo(fn):
    pass
"""),
        Mutant("fails on everything", 0, """
def test_elbo(fn):
    raise AssertionError
"""),
        Mutant("asks for equal bits in one order", 0, """
def test_elbo(fn):
    torch.manual_seed(0)
    log_lik, log_prior, log_q = torch.randn(3, 7, 4)
    assert (fn(log_lik, log_prior, log_q) == (log_lik + log_prior - log_q).mean(0)).all()
"""),
        Mutant("no low likelihoods", 0.875, """
def test_elbo(fn):
    torch.manual_seed(0)
    log_lik, log_prior, log_q = torch.randn(3, 7, 4)
    wanted = (log_lik + log_prior - log_q).mean(0)
    torch.testing.assert_close(fn(log_lik, log_prior, log_q), wanted)
"""),
    ],
}  # fmt: skip
