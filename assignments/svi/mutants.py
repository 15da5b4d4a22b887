"""Known wrong answers to the assignment svi, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "count_bound": [
        Mutant("no log x!", 0, """
def count_bound(lam, x):
    mean, log_var = lam.unbind(-1)
    log_lik = x * mean - (mean + 0.5 * log_var.exp()).exp()
    return log_lik - 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
"""),
        Mutant("the rate at the mean of q", 0, """
def count_bound(lam, x):
    mean, log_var = lam.unbind(-1)
    log_lik = x * mean - mean.exp() - torch.lgamma(x + 1)
    return log_lik - 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
"""),
        Mutant("no KL: right at the prior alone", 0.3, """
def count_bound(lam, x):
    mean, log_var = lam.unbind(-1)
    return x * mean - (mean + 0.5 * log_var.exp()).exp() - torch.lgamma(x + 1)
"""),
        Mutant("log variance as log deviation", 0.3, """
def count_bound(lam, x):
    mean, log_var = lam.unbind(-1)
    log_var = 2 * log_var
    log_lik = x * mean - (mean + 0.5 * log_var.exp()).exp() - torch.lgamma(x + 1)
    return log_lik - 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
"""),
    ],
    "own_gradients": [
        Mutant("of the batch mean: right alone", 0.5, """
def own_gradients(lam, x):
    lam = lam.detach().requires_grad_()
    return torch.autograd.grad(count_bound(lam, x).mean(), lam)[0]
"""),
        Mutant("descends", 0, """
def own_gradients(lam, x):
    lam = lam.detach().requires_grad_()
    return torch.autograd.grad(-count_bound(lam, x).sum(), lam)[0]
"""),
        Mutant("needs a lam that requires a gradient", 0, """
def own_gradients(lam, x):
    return torch.autograd.grad(count_bound(lam, x).sum(), lam)[0]
"""),
    ],
    "momentum_step": [
        Mutant("moves along the old velocity", 0, """
def momentum_step(lam, g, v, lr, gamma):
    return lam + lr * v, gamma * v + g
"""),
    ],
    "adam_step": [
        Mutant("no correction", 0, """
def adam_step(lam, g, m, v, t, lr):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    return lam + lr * m / (v.sqrt() + 1e-8), m, v
"""),
    ],
    "climb": [
        Mutant("one step too many", 0, """
def climb(x, n_steps, lr, gamma):
    lam = v = torch.zeros(len(x), 2, dtype=x.dtype)
    for _ in range(n_steps + 1):
        lam, v = momentum_step(lam, own_gradients(lam, x), v, lr, gamma)
    return lam
"""),
        Mutant("forgets its velocity", 0.3, """
def climb(x, n_steps, lr, gamma):
    lam = v = torch.zeros(len(x), 2, dtype=x.dtype)
    for _ in range(n_steps):
        lam, _ = momentum_step(lam, own_gradients(lam, x), v, lr, gamma)
    return lam
"""),
        Mutant("starts at the count", 0, """
def climb(x, n_steps, lr, gamma):
    lam = torch.stack([(x + 1).log(), torch.zeros_like(x)], -1)
    v = torch.zeros_like(lam)
    for _ in range(n_steps):
        lam, v = momentum_step(lam, own_gradients(lam, x), v, lr, gamma)
    return lam
"""),
    ],
    "my_optimum": [
        Mutant("stops early", 0, """
def my_optimum():
    x = torch.tensor([float(my_count)])
    lam = climb(x, 5, 0.02, 0.0)
    return {"mean": lam[0, 0].item(), "sd": math.exp(0.5 * lam[0, 1].item()), "gap": 0.005}
"""),
        Mutant("variance for deviation", 0, """
def my_optimum():
    x = torch.tensor([float(my_count)])
    lam = climb(x, 800, 0.02, 0.9)
    z = torch.linspace(-10, 10, 20001)
    log_joint = x * z - z.exp() - torch.lgamma(x + 1) - 0.5 * (z**2 + math.log(2 * math.pi))
    gap = (log_joint.logsumexp(0) + math.log(20 / 20000) - count_bound(lam, x)).item()
    return {"mean": lam[0, 0].item(), "sd": lam[0, 1].exp().item(), "gap": gap}
"""),
    ],
    "score_gradient": [
        Mutant("no division by the variance", 0, """
def score_gradient(mean, log_var, z, values):
    return (values[..., None] * (z - mean)).mean(0)
"""),
    ],
    "path_gradient": [
        Mutant("rho as if it were sigma", 0, """
def path_gradient(lam, x, eps):
    mean, log_var = lam.unbind(-1)
    sd = (0.5 * log_var).exp()
    slope = x - (mean + sd * eps).exp()
    return torch.stack([slope.mean(0), (eps * slope).mean(0)], -1)
"""),
        Mutant("the exact gradient in place of the estimate", 0, """
def path_gradient(lam, x, eps):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate, -0.5 * var * rate], -1)
"""),
    ],
    "test_own_gradients": [
        Mutant("lets everything pass", 0, """
def test_own_gradients(fn):
    assert fn(torch.zeros(3, 2), torch.ones(3)).shape == (3, 2)
"""),
        Mutant("a batch of one finds no neighbours", 0.5, """
def test_own_gradients(fn):
    lam, x = torch.tensor([[0.3, -0.5]]), torch.tensor([2.0])
    var = lam[:, 1].exp()
    rate = (lam[:, 0] + 0.5 * var).exp()
    right = torch.stack([x - rate - lam[:, 0], 0.5 - 0.5 * var * (rate + 1)], -1)
    torch.testing.assert_close(fn(lam, x), right)
"""),
        Mutant("asks for float32", 0, """
def test_own_gradients(fn):
    assert fn(torch.zeros(3, 2), torch.ones(3)).dtype == torch.float32
"""),
    ],
}  # fmt: skip
