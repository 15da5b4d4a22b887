"""Known wrong answers to the assignment gap, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "best_diagonal": [
        Mutant("the posterior's own variances", 0.5, """
def best_diagonal(weight, psi, x):
    scaled = weight / psi[:, None]
    precision = torch.eye(weight.shape[1]) + scaled.T @ weight
    mean = torch.linalg.solve(precision, scaled.T @ x.T).T
    return mean, torch.linalg.inv(precision).diagonal().log().expand_as(mean)
"""),
        Mutant("a variance, not its logarithm", 0.5, """
def best_diagonal(weight, psi, x):
    scaled = weight / psi[:, None]
    precision = torch.eye(weight.shape[1]) + scaled.T @ weight
    mean = torch.linalg.solve(precision, scaled.T @ x.T).T
    return mean, (1 / precision.diagonal()).expand_as(mean)
"""),
        Mutant("no prior", 0, """
def best_diagonal(weight, psi, x):
    scaled = weight / psi[:, None]
    precision = scaled.T @ weight
    mean = torch.linalg.solve(precision, scaled.T @ x.T).T
    return mean, -precision.diagonal().log().expand_as(mean)
"""),
    ],
    "exact_gaps": [
        Mutant("KL to q* for the second", 0.4, """
def exact_gaps(weight, psi, x, mean, log_var):
    best, best_log_var = best_diagonal(weight, psi, x)
    precision = torch.eye(weight.shape[1]) + (weight / psi[:, None]).T @ weight
    family = 0.5 * (-best_log_var.sum(-1) - torch.logdet(precision))
    ratio = (log_var - best_log_var).exp()
    shift = (mean - best) ** 2 / best_log_var.exp()
    return family, 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)
"""),
        Mutant("the whole inference gap for the second", 0.4, """
def exact_gaps(weight, psi, x, mean, log_var):
    best, best_log_var = best_diagonal(weight, psi, x)
    precision = torch.eye(weight.shape[1]) + (weight / psi[:, None]).T @ weight
    family = 0.5 * (-best_log_var.sum(-1) - torch.logdet(precision))
    square = ((mean - best) @ precision * (mean - best)).sum(-1)
    trace = (precision.diagonal() * log_var.exp() - 1 - log_var).sum(-1)
    return family, 0.5 * (square + trace - torch.logdet(precision))
"""),
        Mutant("the sign of the determinant", 0, """
def exact_gaps(weight, psi, x, mean, log_var):
    best, best_log_var = best_diagonal(weight, psi, x)
    precision = torch.eye(weight.shape[1]) + (weight / psi[:, None]).T @ weight
    square = ((mean - best) @ precision * (mean - best)).sum(-1)
    trace = (precision.diagonal() * log_var.exp() - 1 - log_var).sum(-1)
    family = 0.5 * (-best_log_var.sum(-1) + torch.logdet(precision))
    return family, 0.5 * (square + trace - torch.logdet(precision)) - family
"""),
    ],
    "my_thermometer": [
        Mutant("forgets 2 pi", 0, """
def my_thermometer():
    covariance = my_weight @ my_weight.T + torch.diag(my_psi)
    square = (my_x @ torch.linalg.inv(covariance) * my_x).sum()
    log_p = -0.5 * (square + torch.logdet(covariance))
    gaps = exact_gaps(my_weight, my_psi, my_x, my_mean, my_log_var)
    names = "log_p", "approximation", "amortization"
    return {name: value.item() for name, value in zip(names, (log_p, *gaps))}
"""),
    ],
    "limited_gap": [
        Mutant("means not centred", 0, """
def limited_gap(weight, psi, x, rank):
    mean, _ = best_diagonal(weight, psi, x)
    precision = torch.eye(weight.shape[1]) + (weight / psi[:, None]).T @ weight
    sizes = torch.linalg.svdvals(mean @ torch.linalg.cholesky(precision))
    return 0.5 * sizes[rank:].square().sum() / len(x)
"""),
        Mutant("directions of the means themselves", 0, """
def limited_gap(weight, psi, x, rank):
    mean, _ = best_diagonal(weight, psi, x)
    sizes = torch.linalg.svdvals(mean - mean.mean(0))
    return 0.5 * sizes[rank:].square().sum() / len(x)
"""),
        Mutant("whatever the rank, a constant", 0.4, """
def limited_gap(weight, psi, x, rank):
    mean, _ = best_diagonal(weight, psi, x)
    precision = torch.eye(weight.shape[1]) + (weight / psi[:, None]).T @ weight
    shift = mean - mean.mean(0)
    return 0.5 * (shift @ precision * shift).sum(-1).mean()
"""),
    ],
    "rotated_gap": [
        Mutant("turned the other way", 0, """
def rotated_gap(tau, rotation):
    turned = (rotation.square() * tau).sum(1)
    return 0.5 * (turned.log() - tau.log()).sum()
"""),
        Mutant("no half", 0, """
def rotated_gap(tau, rotation):
    turned = (rotation.square() * tau[:, None]).sum(0)
    return (turned.log() - tau.log()).sum()
"""),
    ],
    "gap_with_errors": [
        Mutant("errors of all scores thrown together", 0.25, """
def gap_with_errors(best, last):
    gap = best - last
    error = gap.std() / math.sqrt(gap.numel())
    return gap.mean(), error, error
"""),
        Mutant("standard deviations added", 0.6, """
def gap_with_errors(best, last):
    n, repeats = best.shape
    gap = best.mean(1) - last.mean(1)
    noise = (best.std(1) + last.std(1)) / math.sqrt(repeats)
    return gap.mean(), gap.std() / math.sqrt(n), noise.mean() / math.sqrt(n)
"""),
        Mutant("the sign", 0.75, """
def gap_with_errors(best, last):
    n, repeats = best.shape
    gap = last.mean(1) - best.mean(1)
    noise = (best.var(1) + last.var(1)) / repeats
    return gap.mean(), gap.std() / math.sqrt(n), noise.sum().sqrt() / n
"""),
    ],
    "amortization_parts": [
        Mutant("generalisation as a difference of bounds", 0.6, """
def amortization_parts(best, encoder, refit, new_best, new_encoder):
    return {
        "class": (best - refit).mean(),
        "training": (refit - encoder).mean(),
        "generalisation": encoder.mean() - new_encoder.mean(),
    }
"""),
        Mutant("class and training exchanged", 0.4, """
def amortization_parts(best, encoder, refit, new_best, new_encoder):
    return {
        "training": (best - refit).mean(),
        "class": (refit - encoder).mean(),
        "generalisation": (new_best - new_encoder).mean() - (best - encoder).mean(),
    }
"""),
    ],
    "test_gaps": [
        Mutant("the printed properties alone", 0.5, """
def test_gaps(fn):
    w, psi, x = torch.ones(1, 2), torch.ones(1), torch.tensor([[3.0], [-6.0], [0.0]])
    best = best_diagonal(w, psi, x)
    first, other = fn(w, psi, x, *best), fn(w, psi, x, best[0] + 1, best[1] + 1)
    assert (first[1].abs() < 1e-9).all() and (other[1] >= 0).all()
    torch.testing.assert_close(first[0], other[0])
"""),
        Mutant("a diagonal posterior", 0.5, """
def test_gaps(fn):
    w, psi, x = torch.eye(2), torch.ones(2), torch.tensor([[3.0, 1.0], [-6.0, 0.0]])
    family, gap = fn(w, psi, x, x / 2 + torch.tensor([[1.0], [2.0]]), torch.zeros(2, 2))
    torch.testing.assert_close(family, torch.zeros(2))
    torch.testing.assert_close(gap, torch.tensor([2.0, 8.0]) + 1 - math.log(2))
"""),
        Mutant("lets everything pass", 0, """
def test_gaps(fn):
    pass
"""),
    ],
}  # fmt: skip
