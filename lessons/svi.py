# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson: stochastic variational inference
#
# This notebook goes with the chapter [Stochastic variational inference](../book/svi.md).
# First we build the parts: a gradient for every example, two estimators of it, three optimisers.
# Each is written out once, and the next cell asserts that the library computes the same.
# Then we train a model of handwriting in which every image finds its own posterior by twenty gradient steps, and we measure what those steps buy and what they cost.

# %%
DATA = "digits"  # or "mnist"
SEED = 0

from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from tqdm.auto import tqdm

from avi import data, objectives, plots, steps
from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    sizes: tuple[int, ...] = {"digits": (8, 128, 64), "mnist": (20, 256, 784)}[DATA]  # decoder
    n_train: int = {"digits": 1297, "mnist": 10_000}[DATA]  # training images
    epochs: int = {"digits": 40, "mnist": 10}[DATA]
    n_steps: int = 20  # K, Adam steps on lambda for every image
    lr: float = 0.2  # of those steps


settings, threads, expected = Settings(), use_threads(), Expected("svi", DATA)
generator, _ = torch.Generator().manual_seed(SEED), torch.set_default_dtype(torch.float64)
plots.style()

# %% [markdown]
# ## A gradient for every example
#
# The bound of example $b$ depends on row $b$ of $\lambda$ alone.
# So one backward pass of the *sum* gives every row its own gradient {eq}`eq-svi-update`.

# %%
def gradient(objective, lam):
    """d objective_b / d lam_b for every b: lam [B, P] -> [B, P]."""
    lam = lam.detach().requires_grad_()
    return torch.autograd.grad(objective(lam).sum(), lam)[0]


# %% [markdown]
# We try it where the bound is known exactly: in the linear-Gaussian model it is $\log p(x)$ less a KL divergence between two Gaussians.
# The gradient must equal the library's, and it must equal what each example finds when it is alone.

# %%
from timeit import timeit

from avi.core import Problem
from avi.families import DiagGaussian
from avi.inference import svi
from avi.models import LinearGaussian, bernoulli_mlp
from avi.training import TrainSettings, fit


def exact_elbo(model, x, q, eps):
    """log p(x) - KL(q || p(z | x)), nats, [B]; the noise is not used."""
    return model.log_evidence(x) - q.dense().kl(model.exact_posterior(x))


weight = torch.randn(6, 2, generator=generator)
model = LinearGaussian(weight, torch.zeros(6), torch.tensor(0.25).log(), fixed=True)
x, family = model.sample(100, generator), DiagGaussian(2)
lam, unused = torch.randn(100, 4, generator=generator), torch.zeros(1, 100, 2)
problem = Problem(model, x, family, exact_elbo)
together = gradient(lambda lam: problem(lam, unused), lam)
torch.testing.assert_close(together, steps.gradient(problem, lam, unused))
for b in range(5):
    alone, row = Problem(model, x[b : b + 1], family, exact_elbo), slice(b, b + 1)
    torch.testing.assert_close(together[row], steps.gradient(alone, lam[row], unused[:, row]))
print("one backward pass equals the library's, and the examples taken one by one")

# %% [markdown]
# ### The reduction trap
#
# Training code ends with a mean over the batch.
# Use that mean for the inner steps too, and every gradient is divided by $B$ {eq}`eq-batch-mean`: the same image moves less when it has company.
# We take 20 steps from the prior and ask how far example 0 still is from its optimum.

# %%
best, still = problem(model.exact_encoder()(x), unused)[0], torch.zeros(21, 1, 100, 2)
left = []
for size, lr in ((100, 0.02), (10, 0.02 / 10), (100, 0.02 / 100)):
    path = svi(family, steps.SGD(lr), 20)(model, x[:size], exact_elbo, still[:, :, :size])
    left.append(best - path.value(-1)[0])
expected.check("left_sum", left[0], claim="Nats left after 20 steps on the sum over a batch.")
expected.check("left_mean_10", left[1], claim="Nats left after 20 steps on the mean over 10.")
expected.check("left_mean_100", left[2], claim="Nats left after 20 steps on the mean over 100.")

# %% [markdown]
# ## Two gradients
#
# When the bound is not closed form we estimate its gradient from draws.
# The score-function estimator {eq}`eq-score-function` differentiates the density of $q$ at fixed draws; the reparameterised one {eq}`eq-reparameterised-gradient` differentiates the draws.

# %%
def log_ratio(problem, q, z):
    """log p(x, z_s) - log q(z_s), [S, B]."""
    return problem.model.log_lik(problem.x, z) + problem.model.log_prior(z) - q.log_prob(z)


def score_gradient(problem, lam, eps):
    """mean_s (log p(x, z_s) - log q(z_s)) d log q(z_s) / d lam, [B, P]."""
    lam = lam.detach().requires_grad_()
    q = problem.q(lam)
    z = q.draw(eps).z.detach()
    surrogate = log_ratio(problem, q, z).detach() * q.log_prob(z)
    return torch.autograd.grad(surrogate.mean(0).sum(), lam)[0]


def path_gradient(problem, lam, eps):
    """mean_s d [log p(x, z_s) - log q(z_s)] / d lam with z_s = mean + sd eps_s, [B, P]."""
    lam = lam.detach().requires_grad_()
    mean, log_var = lam.chunk(2, -1)
    z = mean + (0.5 * log_var).exp() * eps
    return torch.autograd.grad(log_ratio(problem, problem.q(lam), z).mean(0).sum(), lam)[0]


# %% [markdown]
# The second is the library's `steps.gradient` of `elbo()`.
# Both must average to the exact gradient, within five standard errors.
# We test this, and measure the variance of one entry of $\partial \mathcal{L} / \partial \mu$, at the prior, in a model where every coordinate of $x$ is its own latent coordinate plus noise of variance $1/4$.

# %% tags=["nbval-ignore-output"]
def entry_variance(estimator, dim, n_samples=1, n=10_000):
    """Check the mean of n estimates at lam = 0; return the mean variance of their entries."""
    model = LinearGaussian(torch.eye(dim), torch.zeros(dim), torch.tensor(0.25).log(), fixed=True)
    x, lam = torch.full((n, dim), 1.25**0.5), torch.zeros(n, 2 * dim)  # E[x_d^2] = 1.25
    problem = Problem(model, x, DiagGaussian(dim), objectives.elbo())
    eps = torch.randn(n_samples, n, dim, generator=generator)
    draws = estimator(problem, lam, eps)
    exact = steps.gradient(Problem(model, x[:1], DiagGaussian(dim), exact_elbo), lam[:1], eps[:, :1])
    assert ((draws.mean(0) - exact).abs() < 5 * draws.std(0) / n**0.5).all()
    return draws[:, :dim].var(0).mean().item()


copies, lam = Problem(model, x, family, objectives.elbo()), torch.zeros(100, 4)
eps = torch.randn(3, 100, 2, generator=generator)
torch.testing.assert_close(path_gradient(copies, lam, eps), steps.gradient(copies, lam, eps))
dims, counts = (1, 2, 4, 8, 16, 32), (1, 4, 16, 64)
estimators = {"score": score_gradient, "reparameterised": path_gradient}
by_dim = {k: [entry_variance(f, d) for d in tqdm(dims)] for k, f in estimators.items()}
by_count = {k: [entry_variance(f, 8, s, 2000) for s in counts] for k, f in estimators.items()}
ratio = torch.tensor(by_dim["score"]) / torch.tensor(by_dim["reparameterised"])
claim = "Variance of a gradient entry, score over reparameterised, {} latent(s)."
expected.check("ratio_1", ratio[0].log10(), "log10", claim.format(1))
expected.check("ratio_32", ratio[-1].log10(), "log10", claim.format(32))

# %% tags=["nbval-ignore-output"]
figure, (left, right) = plt.subplots(1, 2, sharey=True)
for name, look in (("score", "o-"), ("reparameterised", "s-")):
    left.loglog(dims, by_dim[name], look, color=plots.COLOURS[name], label=name)
    right.loglog(counts, by_count[name], look, color=plots.COLOURS[name])
left.set(xlabel="coordinates $D$, $S = 1$", ylabel="variance of one entry")
right.set(xlabel="draws $S$, $D = 8$")
left.legend()
glue("fig-variance", figure)

# %% [markdown]
# ## The KL in closed form
#
# The library's `elbo(analytic_kl=True)` puts the exact KL {eq}`eq-gaussian-kl` in place of its estimate.
# A third form keeps every sample but treats $\lambda$ inside $\log q$ as a constant, so that only the path through $z$ is differentiated.
# All three have one mean.

# %%
def gaussian_kl(mean, log_var):  # to N(0, I), nats: [B, D], [B, D] -> [B]
    return 0.5 * (log_var.exp() + mean.square() - 1 - log_var).sum(-1)


def path_only(model, x, q, eps):
    """The ELBO, except that its gradient does not see lam inside log q."""
    draw, frozen = q.draw(eps), type(q)(q.mean.detach(), q.log_var.detach())
    return objectives.log_ratio(model, x, draw._replace(log_q=frozen.log_prob(draw.z))).mean(0)

# %% [markdown]
# We check the KL, then measure the variance of the three gradients on the way from the prior to the posterior of a model with one latent.
# Equation {eq}`eq-gradient-variance` says what they should be.

# %% tags=["nbval-ignore-output"]
q = family(torch.randn(100, 4, generator=generator), model)
torch.testing.assert_close(gaussian_kl(q.mean, q.log_var), q.kl(model.prior))
forms = {"sampled KL": objectives.elbo(), "closed-form KL": objectives.elbo(analytic_kl=True)}
forms["path only"], look = path_only, dict(zip([*forms, "path only"], ("-", "--", "-.")))
line = LinearGaussian(torch.ones(1, 1), torch.zeros(1), torch.tensor(0.25).log(), fixed=True)
n, shares, precision = 20_000, torch.linspace(0, 1, 25), line.precision().item()
seen, eps = torch.full((n, 1), 1.5), torch.randn(1, n, 1, generator=generator)
points = shares[:, None] * line.exact_encoder()(seen[:1])  # lam, from the prior to the posterior
figure, axes = plt.subplots()
for name, form in forms.items():
    problem = Problem(line, seen, DiagGaussian(1), form)
    draws = torch.stack([steps.gradient(problem, lam.expand(n, 2), eps) for lam in points])
    squares = (draws - draws.mean(1, keepdim=True)).square().sum(-1)  # [25, n]
    (mu, rho), closed = points.T, name == "closed-form KL"
    c = precision * (points[-1, 0] - mu) + mu * closed
    k = precision - (1 if closed else (-rho).exp() * (name == "path only"))
    exact = rho.exp() * (k**2 + c**2 / 4 + k**2 * rho.exp() / 2)
    assert ((squares.mean(1) - exact).abs() <= 5 * squares.std(1) / n**0.5 + 1e-9).all()
    axes.plot(shares, exact, look[name], label=name)
    axes.plot(shares[::3], squares.mean(1)[::3], "ko", markersize=5)
axes.legend()
axes.set_ylabel("variance of the gradient")
axes.set(xlabel="share of the way from prior to posterior", yscale="symlog", ylim=(-0.05, 60))
glue("fig-kl-variance", figure)

# %% [markdown]
# ## Three ways to take a step
#
# A step is a pure function: it is handed $\lambda$, the gradient and its memory, and returns the new $\lambda$ and the new memory.
# Momentum {eq}`eq-momentum` remembers a velocity; Adam {eq}`eq-adam` remembers two averages and a count.

# %%
def momentum_step(lam, g, state, lr=0.1, gamma=0.9):
    velocity = gamma * state[0] + g
    return lam + lr * velocity, (velocity,)


def adam_step(lam, g, state, lr=0.1, b1=0.9, b2=0.999, tiny=1e-8):
    m, s, t = b1 * state[0] + (1 - b1) * g, b2 * state[1] + (1 - b2) * g**2, state[2] + 1
    return lam + lr * m / (1 - b1**t) / ((s / (1 - b2**t)).sqrt() + tiny), (m, s, t)

# %% [markdown]
# Both equal the library's steps, and `torch.optim`'s on the negated gradient, over ten random gradients.

# %%
zero, gradients = torch.zeros(3, 4), torch.randn(10, 3, 4, generator=generator)


def walk(step, state):
    lam = zero
    for g in gradients:
        lam, state = step(lam, g, state)
    return lam


momentum = steps.TorchOptimiser(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
adam = steps.TorchOptimiser(lambda p: torch.optim.Adam(p, lr=0.1))
for own, state, library, peer in (
    (momentum_step, (zero,), steps.Momentum(0.1, 0.9), momentum),
    (adam_step, (zero, zero, 0), steps.Adam(0.1), adam),
):
    torch.testing.assert_close(walk(own, state), walk(library, library.start(zero)))
    torch.testing.assert_close(walk(own, state), walk(peer, peer.start(zero)))
print("momentum and Adam equal the library's and torch.optim's")

# %% [markdown]
# ### A landscape to climb
#
# To see steps we need a $\lambda$ with two entries and a bound without noise.
# A count $x$ whose log rate is $z$ has both, although its posterior is not Gaussian {eq}`eq-count-elbo`.

# %%
def count_elbo(model, x, q, eps):
    """x ~ Poisson(exp z), z ~ N(0, 1): the exact ELBO, nats, [B]; the noise is not used."""
    rate = (q.mean + 0.5 * q.log_var.exp()).exp()
    log_lik = (x * q.mean - rate - torch.lgamma(x + 1)).sum(-1)
    return log_lik - gaussian_kl(q.mean, q.log_var)


# %% [markdown]
# First the closed form meets an average over draws.
# Then three kinds of steps climb from one start, 30 steps each.

# %% tags=["nbval-ignore-output"]
count, plane = torch.tensor([[4.0]]), DiagGaussian(1)  # `line` lends its prior N(0, 1)
q, eps = plane(torch.tensor([[1.0, -1.0]]), line), torch.randn(n, 1, 1, generator=generator)
draw = q.draw(eps)
poisson = torch.distributions.Poisson(draw.z.exp()).log_prob(count).sum(-1)
values = poisson + line.log_prior(draw.z) - draw.log_q
assert (values.mean() - count_elbo(line, count, q, eps)).abs() < 5 * values.std() / n**0.5
kinds = {"sgd": steps.SGD(0.08), "momentum": steps.Momentum(0.08, 0.7), "adam": steps.Adam(0.3)}
start, still = torch.tensor([-1.5, 1.0]), torch.zeros(1, 1, 1, 1).expand(1001, -1, -1, -1)
figure, axes = plt.subplots()
grid = torch.cartesian_prod(torch.linspace(-3, 1.5, 91), torch.linspace(-2, 2.2, 85)).flip(-1)
surface = count_elbo(line, count, plane(grid, line), eps).unflatten(0, (91, 85))
plots.landscape(axes, grid[:85, 0], grid[::85, 1], surface)
for name, step in kinds.items():
    path = svi(plane, step, 30, start)(line, count, count_elbo, still[:31])
    plots.trajectory(axes, torch.cat(path.lam).detach(), name)
top = svi(plane, steps.SGD(0.1), 1000)(line, count, count_elbo, still)
plots.optimum(axes, top.lam[-1][0])
axes.set(xlabel="mean", ylabel="log variance")
axes.legend(loc="lower left")
glue("fig-landscape", figure)

# %% [markdown]
# Move the sliders: which step size diverges, and what does momentum do near the optimum?
# The page of the chapter has the same figure drawn, with a choice of starts.

# %% tags=["nbval-ignore-output"]
from ipywidgets import interact


@interact(lr=(0.01, 0.5, 0.01), gamma=(0.0, 0.95, 0.05), n_steps=(0, 50))
def climb(lr=0.08, gamma=0.7, n_steps=10):
    path = svi(plane, steps.Momentum(lr, gamma), n_steps, start)
    value = path(line, count, count_elbo, still[: n_steps + 1]).value(-1)
    print(f"ELBO {value.item():.3f}, {(top.value(-1) - value).item():.3f} nats below the optimum")


# %% [markdown]
# ## Learning the model: variational EM
#
# Now handwriting. The decoder is a network, $\lambda$ starts at the prior for every image of every batch and climbs $K = 20$ Adam steps, and the decoder then learns from where it ended {eq}`eq-variational-em`.

# %% tags=["nbval-ignore-output"]
_ = torch.set_default_dtype(torch.float32)  # half the bytes, precise enough for sampled bounds
dataset, bound = data.load(DATA), forms["closed-form KL"]
family, model = DiagGaussian(settings.sizes[0]), bernoulli_mlp(settings.sizes, generator)
method = svi(family, steps.Adam(settings.lr), settings.n_steps)
schedule = TrainSettings(settings.epochs, batch_size=64, lr=3e-3, seed=SEED)
train, observe = dataset.train[: settings.n_train], dataset.observe
run = fit(model, method, train, schedule, objective=lambda step: bound, observe=observe)

# %% tags=["nbval-ignore-output"]
test = dataset.evaluation("test", generator)[:100]
q = method(model, test, bound, method.noise(1, test, generator)).q(-1)
samples = model.predict(model.prior.ancestral(24, generator).z).detach()
pairs = torch.stack([test[:12], model.predict(q.mean[:12]).detach()], 1).flatten(0, 1)
figure, axes = plt.subplot_mosaic("aa;bc", figsize=(7, 6))
plots.curves(axes["a"], {"elbo": [r.theta for r in run.history]}, "training step", "ELBO, nats")
_ = [plots.image_grid(axes[k], grid, 6) for k, grid in (("b", samples), ("c", pairs))]
glue("fig-training", figure)

# %% [markdown]
# ## What twenty steps buy
#
# For 100 held-out images we climb 100 steps and score the iterates with *fresh* noise, which had no part in the climb.
# Then come the two ends of the gap thermometer: the best Gaussian for each image, and an importance-sampled $\log p(x)$, which in expectation is too low.

# %% tags=["nbval-ignore-output"]
from avi.evaluation import Gaps, best_lambda, log_evidence, measure_cost, score

problem, marks, ends = Problem(model, test, family, bound), (0, 1, 2, 5, 10, 20, 50, 100), {}
kinds = {"sgd": steps.SGD(0.05), "momentum": steps.Momentum(0.05, 0.5), "adam": method.step}
for name, step in tqdm(kinds.items()):
    longer = svi(family, step, 100)
    path = longer(model, test, bound, longer.noise(1, test, generator))
    ends[name] = {k: score(problem, path.lam[k], generator, repeats=50) for k in marks}
starts = [path.lam[-1], torch.zeros_like(path.lam[-1])]
best = best_lambda(problem, starts, steps.Adam(0.05), 500, generator=generator)
evidence = log_evidence(model, test, family, best, 5000, generator)
top, end = score(problem, best, generator), ends["adam"]
gaps = {k: Gaps(evidence, top, end[k], end[0]) for k in (5, 20, 100)}
kind = "Gaussian", False, "optimisation gap"
rows = [plots.Thermometer.of(f"{k} steps", gaps[k], *kind) for k in gaps]
expected.check("elbo_0", end[0].value.mean(), claim="Held-out ELBO at the prior, no step.")
expected.check("elbo_20", end[20].value.mean(), claim="Held-out ELBO after 20 Adam steps.")
claim = "Optimisation gap after {} Adam steps, held-out images."
expected.check("gap_5", gaps[5].remaining.mean(), claim=claim.format(5))
expected.check("gap_20", gaps[20].remaining.mean(), claim=claim.format(20))
expected.check("gap_100", gaps[100].remaining.mean(), claim=claim.format(100))
expected.check("gap_family", gaps[20].approximation.mean(), claim="Approximation gap, Gaussian.")
expected.check("log_p", evidence.log_p.mean(), claim="Importance-sampled log p, held-out mean.")
expected.check("ess", 100 * evidence.ess.mean(), "%", "Mean effective share of 5,000 draws.")

# %% tags=["nbval-ignore-output"]
figure, axes = plt.subplots()
for name, look in zip(ends, ("o-", "s--", "^-.")):
    mean, se = torch.tensor([at.mean() for at in ends[name].values()]).T
    style = {"fmt": look, "color": plots.COLOURS[name], "capsize": 4}
    axes.errorbar(range(len(marks)), mean, 2 * se, label=name, **style)
axes.set(xlabel="steps on $\\lambda$", ylabel="held-out ELBO, nats")
axes.set(xticks=range(len(marks)), xticklabels=marks), axes.legend()
glue("fig-steps", figure)

# %% [markdown]
# The thermometer, and the price beside it: decoder passes for each image, and time in units of one evaluation of the bound.

# %% tags=["nbval-ignore-output"]
figure, axes = plt.subplots(figsize=(7, 4.6))
plots.thermometer(axes, rows)
glue("fig-thermometer", figure)
cost, noise = measure_cost(model, method, test, 1), method.noise(1, test, generator)
expected.check("passes", cost.forward + cost.backward, "passes", "Decoder passes, 20 steps, S = 1.")
once = timeit(lambda: problem(best, noise[0]), number=50) / 50
steps_all = timeit(lambda: method(model, test, bound, noise), number=20) / 20
print(f"{cost}; here the climb takes {steps_all / once:.0f} times one evaluation of the bound")

# %% [markdown]
# ## Two questions about noise
#
# Which of the three gradients is quietest on handwriting?
# And what happens when all steps share one draw of the noise, and that same draw keeps the score?

# %% tags=["nbval-ignore-output"]
copies, variance = test[:10].repeat(500, 1), {}
for where, lam in (("prior", torch.zeros_like(best)), ("best", best)):
    lam, eps = lam[:10].repeat(500, 1), torch.randn(1, 5000, family.n_noise, generator=generator)
    for name, form in forms.items():
        draws = steps.gradient(Problem(model, copies, family, form), lam, eps)
        variance[where, name] = draws.unflatten(0, (500, 10)).var(0).sum(-1).mean()
    for name in ("closed-form KL", "path only"):
        variance[where, name] /= variance[where, "sampled KL"]
closed, path = variance["prior", "closed-form KL"], variance["best", "path only"]
claim = "Gradient variance, {}, over that with the sampled KL, q at the {}."
expected.check("closed_prior", closed, "ratio", claim.format("closed-form KL", "prior"))
closed = variance["best", "closed-form KL"]
expected.check("closed_best", closed, "ratio", claim.format("closed-form KL", "best Gaussian"))
expected.check("path_best", path, "ratio", claim.format("path only", "best Gaussian"))
reused = torch.randn(1, 1, len(test), family.n_noise, generator=generator).expand(201, -1, -1, -1)
longer, claim = method.with_steps(200), "200 Adam steps on one draw, {}."
path = longer(model, test, bound, reused)
fresh = score(problem, path.lam[-1], generator).value.mean()
expected.check("reused_itself", path.value(-1).mean().item(), claim=claim.format("on that draw"))
expected.check("reused_fresh", fresh, claim=claim.format("on fresh draws"))
path = longer(model, test, forms["sampled KL"], reused)
claim = claim.format("on that draw, sampled KL")
expected.check("reused_sampled", path.value(-1).mean().item(), claim=claim)
assert score(problem, path.lam[-1], generator).value.mean() < -1000  # it has learned one z
