"""Known wrong answers to the assignment when, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "saw_posterior": [
        Mutant("forgets s", 0.4, """
def saw_posterior(x, a, s):
    n, before = len(x), torch.cat([x.new_zeros(1), x[:-1]])
    diagonal = x.new_full((n + 1,), 1 + a**2)
    diagonal[0] = n * a**2
    precision = torch.diag(diagonal)
    precision[0, 1:] = precision[1:, 0] = a**2
    linear = torch.cat([a * x.sum()[None], before + a * x])
    return precision, torch.linalg.solve(precision, linear)
"""),
        Mutant("z_n follows its own observation", 0.3, """
def saw_posterior(x, a, s):
    n = len(x)
    diagonal = x.new_full((n + 1,), 1 / s**2 + a**2)
    diagonal[0] = n * a**2
    precision = torch.diag(diagonal)
    precision[0, 1:] = precision[1:, 0] = a**2
    linear = torch.cat([a * x.sum()[None], x / s**2 + a * x])
    return precision, torch.linalg.solve(precision, linear)
"""),
        Mutant("theta without its neighbours", 0, """
def saw_posterior(x, a, s):
    n, before = len(x), torch.cat([x.new_zeros(1), x[:-1]])
    diagonal = x.new_full((n + 1,), 1 / s**2 + a**2)
    diagonal[0] = n * a**2
    linear = torch.cat([a * x.sum()[None], before / s**2 + a * x])
    return torch.diag(diagonal), linear / diagonal
"""),
    ],
    "sweep": [
        Mutant("all at once, from the old means", 0.3, """
def sweep(precision, mu, means):
    pull = precision @ (means - mu) - precision.diagonal() * (means - mu)
    return mu - pull / precision.diagonal()
"""),
        Mutant("jumps to the optimum", 0.3, """
def sweep(precision, mu, means):
    return mu.clone()
"""),
        Mutant("its own mean stays in", 0, """
def sweep(precision, mu, means):
    means = means.clone()
    for i in range(len(mu)):
        means[i] = mu[i] - precision[i] @ (means - mu) / precision[i, i]
    return means
"""),
    ],
    "windows": [
        Mutant("round the corner", 0, """
def windows(x, before, after):
    return torch.stack([x.roll(-k) for k in range(-before, after + 1)], -1)
"""),
        Mutant("the past alone", 0.5, """
def windows(x, before, after):
    return torch.nn.functional.pad(x, (before, 0)).unfold(0, before + 1, 1)
"""),
    ],
    "largest_conflict": [
        Mutant("one equal entry is enough", 0, """
def largest_conflict(inputs, answers):
    equal = (inputs[:, None] == inputs).any(-1)
    return (equal * (answers[:, None] - answers).abs().amax(-1)).max()
"""),
        Mutant("neighbours alone", 0.3, """
def largest_conflict(inputs, answers):
    equal = (inputs[1:] == inputs[:-1]).all(-1)
    return (equal * (answers[1:] - answers[:-1]).abs().amax(-1)).max()
"""),
        Mutant("means alone", 0.3, """
def largest_conflict(inputs, answers):
    equal = (inputs[:, None] == inputs).all(-1)
    return (equal * (answers[:, None] - answers).abs()[..., 0]).max()
"""),
    ],
    "excess": [
        Mutant("KL to q*", 0, """
def excess(precision, mu, means, variances):
    diagonal = precision.diagonal()
    ratio = diagonal * variances
    return 0.5 * (diagonal * (means - mu) ** 2 + ratio - 1 - ratio.log()).sum()
"""),
        Mutant("means alone", 0.5, """
def excess(precision, mu, means, variances):
    return 0.5 * (means - mu) @ precision @ (means - mu)
"""),
        Mutant("against the posterior, not q*", 0, """
def excess(precision, mu, means, variances):
    off, diagonal = means - mu, precision.diagonal()
    rest = (diagonal * variances - 1 - variances.log()).sum() - torch.logdet(precision)
    return 0.5 * (off @ precision @ off + rest)
"""),
    ],
    "best_gap": [
        Mutant("least squares without weights", 0, """
def best_gap(precision, mu, features):
    n = len(features)
    design = torch.cat([features, torch.ones(n, 1)], 1)
    fitted = design @ torch.linalg.lstsq(design, mu[1:, None]).solution[:, 0]
    diagonal = precision.diagonal()
    variances = torch.cat([1 / diagonal[:1], (1 / diagonal[1:].mean()).expand(n)])
    return excess(precision, mu, torch.cat([mu[:1], fitted]), variances)
"""),
        Mutant("q_0 stays where F-VI has it", 0, """
def best_gap(precision, mu, features):
    n = len(features)
    design = torch.cat([features, torch.ones(n, 1)], 1)
    inner = precision[1:, 1:]
    right = design.T @ inner @ mu[1:]
    fitted = design @ torch.linalg.solve(design.T @ inner @ design, right)
    diagonal = precision.diagonal()
    variances = torch.cat([1 / diagonal[:1], (1 / diagonal[1:].mean()).expand(n)])
    return excess(precision, mu, torch.cat([mu[:1], fitted]), variances)
"""),
        Mutant("a variance for each n", 0.6, """
def best_gap(precision, mu, features):
    n, width = features.shape
    design = torch.zeros(n + 1, width + 2)
    design[0, 0] = 1
    design[1:, 1:] = torch.cat([features, torch.ones(n, 1)], 1)
    weighted = design.T @ precision
    means = design @ torch.linalg.solve(weighted @ design, weighted @ mu)
    return excess(precision, mu, means, 1 / precision.diagonal())
"""),
        Mutant("the mean of the variances", 0.6, """
def best_gap(precision, mu, features):
    n, width = features.shape
    design = torch.zeros(n + 1, width + 2)
    design[0, 0] = 1
    design[1:, 1:] = torch.cat([features, torch.ones(n, 1)], 1)
    weighted = design.T @ precision
    means = design @ torch.linalg.solve(weighted @ design, weighted @ mu)
    best = 1 / precision.diagonal()
    return excess(precision, mu, means, torch.cat([best[:1], best[1:].mean().expand(n)]))
"""),
    ],
    "my_prices": [
        Mutant("totals", 0, """
def my_prices():
    pairs = windows(my_x, 1, 0)
    inputs = {"constant": pairs[:, :0], "own": pairs[:, 1:], "before": pairs[:, :1]}
    posterior = saw_posterior(my_x, my_a, my_s)
    return {name: best_gap(*posterior, seen).item() for name, seen in inputs.items()}
"""),
        Mutant("columns exchanged", 0, """
def my_prices():
    pairs = windows(my_x, 1, 0)
    inputs = {"constant": pairs[:, :0], "own": pairs[:, :1], "before": pairs[:, 1:]}
    posterior = saw_posterior(my_x, my_a, my_s)
    return {name: best_gap(*posterior, seen).item() / 30 for name, seen in inputs.items()}
"""),
        Mutant("the chapter's saw", 0, """
def my_prices():
    pairs = windows(my_x, 1, 0)
    inputs = {"constant": pairs[:, :0], "own": pairs[:, 1:], "before": pairs[:, :1]}
    posterior = saw_posterior(my_x, 0.75, 1.0)
    return {name: best_gap(*posterior, seen).item() / 30 for name, seen in inputs.items()}
"""),
    ],
    "decay": [
        Mutant("the other root", 0, """
def decay(phi, noise_var):
    step = 1 - phi**2 if phi != 1 else 1.0
    a, b = (1 + phi**2) / step + 1 / noise_var, phi / step
    return (a + math.sqrt(a**2 - 4 * b**2)) / (2 * b)
"""),
        Mutant("no random walk", 0.7, """
def decay(phi, noise_var):
    a, b = (1 + phi**2) / (1 - phi**2) + 1 / noise_var, phi / (1 - phi**2)
    return (a - math.sqrt(a**2 - 4 * b**2)) / (2 * b)
"""),
        Mutant("the correlation of the states", 0, """
def decay(phi, noise_var):
    return phi
"""),
    ],
    "test_best_gap": [
        Mutant("equal precisions, nothing coupled", 2 / 6, """
def test_best_gap(fn):
    precision = torch.diag(torch.tensor([1.0, 2.0, 2.0]))
    found = fn(precision, torch.tensor([5.0, 0.0, 4.0]), torch.zeros(2, 0))
    torch.testing.assert_close(torch.as_tensor(found), torch.tensor(8.0))
"""),
        Mutant("unequal precisions, nothing coupled", 5 / 6, """
def test_best_gap(fn):
    precision = torch.diag(torch.tensor([1.0, 1.0, 3.0]))
    found = fn(precision, torch.tensor([5.0, 0.0, 4.0]), torch.zeros(2, 0))
    torch.testing.assert_close(torch.as_tensor(found), torch.tensor(6 + 0.5 * math.log(4 / 3)))
"""),
        Mutant("lets everything pass", 0, """
def test_best_gap(fn):
    pass
"""),
        Mutant("a wrong number by hand", 0, """
def test_best_gap(fn):
    precision = torch.diag(torch.tensor([1.0, 2.0, 2.0]))
    found = fn(precision, torch.tensor([5.0, 0.0, 4.0]), torch.zeros(2, 0))
    torch.testing.assert_close(torch.as_tensor(found), torch.tensor(16.0))
"""),
    ],
}  # fmt: skip
