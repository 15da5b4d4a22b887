"""Known wrong answers to the assignment iterative, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "log_sign": [
        Mutant("pairs in place of blocks", 0, """
def log_sign(g, floor):
    return torch.stack([(g.abs() + floor).log(), g.sign()], -1).flatten(1)
"""),
        Mutant("the floor as a limit", 0, """
def log_sign(g, floor):
    return torch.cat([g.abs().clamp(min=floor).log(), g.sign()], -1)
"""),
    ],
    "unit_norm": [
        Mutant("over the batch", 0, """
def unit_norm(g):
    return (g - g.mean(0)) / (g.var(0, unbiased=False) + 1e-5).sqrt()
"""),
        Mutant("divided by P - 1", 0, """
def unit_norm(g):
    return (g - g.mean(-1, keepdim=True)) / (g.var(-1, keepdim=True) + 1e-5).sqrt()
"""),
        Mutant("over everything: right alone", 0.3, """
def unit_norm(g):
    return (g - g.mean()) / (g.var(unbiased=False) + 1e-5).sqrt()
"""),
    ],
    "gated_update": [
        Mutant("the gate the other way", 0, """
def gated_update(lam, h, w, b, v, c):
    gate = (h @ v.T + c).sigmoid()
    return (1 - gate) * lam + gate * (h @ w.T + b)
"""),
    ],
    "refine": [
        Mutant("the last iterate alone", 0, """
def refine(x, n_steps, u, a, w, b, v, c):
    lam = torch.zeros(len(x), 2)
    for _ in range(n_steps):
        seen = torch.cat([log_sign(own_gradients(lam, x), 1e-5), lam], -1)
        lam = gated_update(lam, (seen @ u.T + a).tanh(), w, b, v, c)
    return lam
"""),
        Mutant("looks at the first gradient for ever", 0.4, """
def refine(x, n_steps, u, a, w, b, v, c):
    path = [torch.zeros(len(x), 2)]
    g = own_gradients(path[0], x)
    for _ in range(n_steps):
        seen = torch.cat([log_sign(g, 1e-5), path[-1]], -1)
        path.append(gated_update(path[-1], (seen @ u.T + a).tanh(), w, b, v, c))
    return torch.stack(path)
"""),
        Mutant("the gradient of the batch mean", 0, """
def refine(x, n_steps, u, a, w, b, v, c):
    path = [torch.zeros(len(x), 2)]
    for _ in range(n_steps):
        g = own_gradients(path[-1], x) / len(x)
        seen = torch.cat([log_sign(g, 1e-5), path[-1]], -1)
        path.append(gated_update(path[-1], (seen @ u.T + a).tanh(), w, b, v, c))
    return torch.stack(path)
"""),
        Mutant("the estimate first", 0, """
def refine(x, n_steps, u, a, w, b, v, c):
    path = [torch.zeros(len(x), 2)]
    for _ in range(n_steps):
        seen = torch.cat([path[-1], log_sign(own_gradients(path[-1], x), 1e-5)], -1)
        path.append(gated_update(path[-1], (seen @ u.T + a).tanh(), w, b, v, c))
    return torch.stack(path)
"""),
    ],
    "step_goal_gradient": [
        Mutant("through the whole loop: right for one step", 0.3, """
def step_goal_gradient(alpha, x, n_steps):
    alphas = torch.full((len(x), 1), alpha).requires_grad_()
    lam = torch.zeros(len(x), 2) + 0 * alphas
    goal = count_bound(lam, x)
    for _ in range(n_steps):
        g = torch.autograd.grad(count_bound(lam, x).sum(), lam, create_graph=True)[0]
        lam = lam + alphas * g
        goal = goal + count_bound(lam, x)
    return torch.autograd.grad(goal.sum() / (n_steps + 1), alphas)[0][:, 0]
"""),
        Mutant("the last iterate alone", 0, """
def step_goal_gradient(alpha, x, n_steps):
    lam = torch.zeros(len(x), 2)
    for _ in range(n_steps):
        g = own_gradients(lam, x)
        lam = lam + alpha * g
    return (own_gradients(lam, x) * g).sum(-1)
"""),
        Mutant("divided by the number of steps", 0, """
def step_goal_gradient(alpha, x, n_steps):
    lam, total = torch.zeros(len(x), 2), torch.zeros(len(x))
    for _ in range(n_steps):
        g = own_gradients(lam, x)
        lam = lam + alpha * g
        total = total + (own_gradients(lam, x) * g).sum(-1)
    return total / n_steps
"""),
        Mutant("the signal's own square", 0, """
def step_goal_gradient(alpha, x, n_steps):
    lam, total = torch.zeros(len(x), 2), torch.zeros(len(x))
    for _ in range(n_steps):
        g = own_gradients(lam, x)
        total = total + g.square().sum(-1)
        lam = lam + alpha * g
    return total / (n_steps + 1)
"""),
    ],
    "errors": [
        Mutant("not weighed by the precision", 0.6, """
def errors(x, z):
    return x - z.exp(), z, x - z.exp() - z
"""),
        Mutant("added without the slope of the mean", 0.6, """
def errors(x, z):
    eps_x = (x - z.exp()) / z.exp()
    return eps_x, z, eps_x - z
"""),
        Mutant("the sign of the prior's error", 0.8, """
def errors(x, z):
    eps_x = (x - z.exp()) / z.exp()
    return eps_x, -z, z.exp() * eps_x - z
"""),
    ],
    "my_step": [
        Mutant("the average of the best step sizes", 0, """
def my_step():
    g = own_gradients(torch.zeros(len(my_counts), 2), my_counts)
    alphas = torch.linspace(0, 0.6, 6_001)
    found = torch.stack([count_bound(alpha * g, my_counts) for alpha in alphas])
    mean = alphas[found.argmax(0)].mean()
    regret = found.max(0).values.mean() - count_bound(mean * g, my_counts).mean()
    return {"alpha": mean.item(), "regret": regret.item()}
"""),
    ],
    "test_signal": [
        Mutant("permutes the batch only", 1 / 6, """
def test_signal(fn):
    g = torch.randn(6, 4)
    torch.testing.assert_close(fn(g.flip(0)), fn(g).flip(0))
"""),
        Mutant("one scale, one row: a threshold is never crossed", 4 / 6, """
def test_signal(fn):
    g = 0.1 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fn(g[:1]), fn(g)[:1])
"""),
        Mutant("forbids every change of the gradient", 0, """
def test_signal(fn):
    g = torch.randn(6, 4)
    torch.testing.assert_close(fn(g), g)
"""),
    ],
}  # fmt: skip
