"""Known wrong answers to the assignment vae, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "bernoulli_log_lik": [
        Mutant("by probabilities, which overflow", 0.5, """
def bernoulli_log_lik(x, logits):
    p = logits.sigmoid()
    return (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
"""),
        Mutant("averaged over pixels", 0, """
def bernoulli_log_lik(x, logits):
    return (x * logits - torch.nn.functional.softplus(logits)).mean(-1)
"""),
        Mutant("a loss", 0, """
def bernoulli_log_lik(x, logits):
    return (torch.nn.functional.softplus(logits) - x * logits).sum(-1)
"""),
    ],
    "rate_and_distortion": [
        Mutant("decodes the mean of q", 0.4, """
def rate_and_distortion(x, mean, log_var, eps, weight, bias):
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return rate, -bernoulli_log_lik(x, (mean @ weight.T + bias)[None]).mean(0)
"""),
        Mutant("units averaged", 0.6, """
def rate_and_distortion(x, mean, log_var, eps, weight, bias):
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).mean(-1)
    z = mean + (0.5 * log_var).exp() * eps
    return rate, -bernoulli_log_lik(x, z @ weight.T + bias).mean(0)
"""),
        Mutant("minus both", 0, """
def rate_and_distortion(x, mean, log_var, eps, weight, bias):
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    z = mean + (0.5 * log_var).exp() * eps
    return -rate, bernoulli_log_lik(x, z @ weight.T + bias).mean(0)
"""),
        Mutant("variance for deviation", 0.4, """
def rate_and_distortion(x, mean, log_var, eps, weight, bias):
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    z = mean + log_var.exp() * eps
    return rate, -bernoulli_log_lik(x, z @ weight.T + bias).mean(0)
"""),
    ],
    "encoder_gradient": [
        Mutant("a sum for the mean", 0, """
def encoder_gradient(g, x):
    return g.T @ x
"""),
        Mutant("means multiplied", 0, """
def encoder_gradient(g, x):
    return g.mean(0)[:, None] * x.mean(0)
"""),
    ],
    "log_evidence": [
        Mutant("leaves the logarithms", 0.8, """
def log_evidence(log_w):
    w = log_w.exp()
    return w.mean(0).log(), w.sum(0) ** 2 / w.square().sum(0) / len(w)
"""),
        Mutant("a number of draws for a share", 0.5, """
def log_evidence(log_w):
    total = log_w.logsumexp(0)
    return total - math.log(len(log_w)), (2 * total - (2 * log_w).logsumexp(0)).exp()
"""),
        Mutant("the ELBO", 0.3, """
def log_evidence(log_w):
    share = log_w.softmax(0)
    return log_w.mean(0), 1 / (len(log_w) * share.square().sum(0))
"""),
    ],
    "my_report": [
        Mutant("bits for nats", 0, """
def my_report():
    log_p, share = log_evidence(my_log_w)
    bits = -log_p.mean().item() / 64
    weak = int((share < 0.05).sum())
    mean = my_log_w.mean().item()
    return {"elbo": mean, "log_p": log_p.mean().item(), "bits_per_dim": bits, "weak": weak}
"""),
        Mutant("one log p of all images together", 0, """
def my_report():
    log_p = (my_log_w.logsumexp((0, 1)) - math.log(my_log_w.numel())).item()
    weak = int((log_evidence(my_log_w)[1] < 0.05).sum())
    bits = -log_p / (64 * math.log(2))
    return {"elbo": my_log_w.mean().item(), "log_p": log_p, "bits_per_dim": bits, "weak": weak}
"""),
    ],
    "information": [
        Mutant("the rate: KL to the prior", 0, """
def information(z, mean, log_var):
    q = Normal(mean, (0.5 * log_var).exp())
    return (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean(0)
"""),
        Mutant("a sum of densities for their mean", 0, """
def information(z, mean, log_var):
    each = Normal(mean, (0.5 * log_var).exp()).log_prob(z[:, :, None]).sum(-1)
    return (each.diagonal(dim1=1, dim2=2) - each.logsumexp(-1)).mean(0)
"""),
        Mutant("units mixed one by one: right where all are equal", 0.3, """
def information(z, mean, log_var):
    each = Normal(mean, (0.5 * log_var).exp()).log_prob(z[:, :, None])
    heap = (each.logsumexp(2) - math.log(len(mean))).sum(-1)
    return (each.sum(-1).diagonal(dim1=1, dim2=2) - heap).mean(0)
"""),
        Mutant("an average of logarithms", 0.3, """
def information(z, mean, log_var):
    each = Normal(mean, (0.5 * log_var).exp()).log_prob(z[:, :, None]).sum(-1)
    return (each.diagonal(dim1=1, dim2=2) - each.mean(-1)).mean(0)
"""),
    ],
    "test_bernoulli": [
        Mutant("one pixel sums to one, nothing else", 0.5, """
def test_bernoulli(fn):
    x = torch.tensor([[0.0], [1.0]])
    logits = torch.tensor([[[0.3], [0.3]]])
    torch.testing.assert_close(fn(x, logits).exp().sum(), torch.tensor(1.0))
"""),
        Mutant("never positive", 1 / 6, """
def test_bernoulli(fn):
    assert (fn(torch.ones(3, 4), torch.ones(2, 3, 4)) < 0).all()
"""),
        Mutant("lets everything pass", 0, """
def test_bernoulli(fn):
    fn(torch.ones(3, 4), torch.ones(2, 3, 4))
"""),
    ],
}  # fmt: skip
