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
# # Lesson: the evidence lower bound
#
# This notebook goes with the chapter [The evidence lower bound](../book/elbo.md).
# The chapter says why; here you run it.
# Each new function is written out once, and the next cell asserts that the library computes the same.
# Nothing is trusted because it looks right: each number meets an independent answer.
#
# Two models carry the lesson.
# In the *linear-Gaussian model* the evidence, the posterior and the best diagonal Gaussian are closed form.
# In a *finite mixture* the latent variable has three values, and we simply sum over them.

# %%
DATA = "digits"  # or "mnist"
SEED = 0

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from sklearn import decomposition, mixture

from avi import data, evaluation, families, models, objectives, plots
from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    dims: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # latent sizes of the naive estimate
    n_draws: int = 10_000  # prior draws of the naive estimate
    n_em: int = 12  # EM iterations
    n_latents: int = {"digits": 8, "mnist": 20}[DATA]  # of the model of handwriting


settings, generator = Settings(), torch.Generator().manual_seed(SEED)
expected = Expected("elbo", DATA)
_ = use_threads(), plots.style(), torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## A model with a known answer
#
# In {eq}`eq-linear-gaussian` the latent $z$ is standard normal and $x$ is a linear map of it plus Gaussian noise.
# Then $x$ is Gaussian too, and its evidence {eq}`eq-lg-evidence` takes four lines.


# %%
def log_evidence(model, x):
    """log N(x; b, W W^T + diag(noise)), nats, [B]."""
    noise = torch.diag(model.log_var.exp().expand(len(model.bias)))
    covariance, shift = model.weight @ model.weight.T + noise, x - model.bias
    square = (shift * torch.linalg.solve(covariance, shift.T).T).sum(-1)
    return -0.5 * (square + torch.logdet(2 * math.pi * covariance))


# %% [markdown]
# We compare it with the library, and with a program that knows nothing of either: scikit-learn's factor analysis, which scores data under the same density.

# %%
weight, rest = torch.randn(5, 4, generator=generator).split(2, dim=1)
model = models.LinearGaussian(weight, *rest.T, fixed=True)
x, peer = model.sample(6, generator), decomposition.FactorAnalysis(2)
peer.components_, peer.mean_ = weight.T.numpy(), rest[:, 0].numpy()
peer.noise_variance_ = rest[:, 1].exp().numpy()
for answer in (model.log_evidence(x), torch.from_numpy(peer.score_samples(x))):
    torch.testing.assert_close(log_evidence(model, x), answer)
print("the evidence equals the library's and scikit-learn's")

# %% [markdown]
# ## Why not just average over the prior?
#
# The evidence is an average, $p(x) = \mathrm{E}_{p(z)}[p(x \mid z)]$, so we may draw $z$ from the prior and average the likelihoods {eq}`eq-prior-estimate`.
# The library's `log_evidence` does this when we hand it $\lambda = 0$, which is the prior.
#
# We let the latent space grow. Each coordinate of $x$ is its own $z$ plus noise of variance $1/4$: the easiest posterior there is.
# How many of the draws are effective is known here, because $p(x \mid z)^2$ is again a Gaussian in $x$, with half the noise {eq}`eq-prior-ess`.

# %% tags=["nbval-ignore-output"]
from tqdm.auto import tqdm

quarter, rows = torch.tensor(0.25), []
for dim in tqdm(settings.dims, desc="latent size"):
    eye, zero, lam = torch.eye(dim), torch.zeros(dim), torch.zeros(50, 2 * dim)
    grown, halved = (models.LinearGaussian(eye, zero, v.log()) for v in (quarter, quarter / 2))
    x_grown, family = grown.sample(50, generator), families.DiagGaussian(dim)
    naive = evaluation.log_evidence(grown, x_grown, family, lam, settings.n_draws, generator)
    log_p = grown.log_evidence(x_grown).detach()
    log_square = halved.log_evidence(x_grown) - 0.5 * dim * math.log(math.pi)  # E[p(x | z)^2]
    share = (2 * log_p - log_square).detach().exp()
    rows.append([*(v.median() for v in (naive.log_p - log_p, naive.ess, share))])
error, measured, exact = torch.tensor(rows).T
torch.testing.assert_close(measured[:2], exact[:2], rtol=0.1, atol=0)
expected.check("naive_error", error[-1], "nat", "10,000 prior draws err by this at D = 32.")
expected.check("naive_log10_share", exact[-1].log10(), "log10", "Effective share at D = 32.")
figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 6), sharex=True)
plots.curves(top, {"prior": (settings.dims, error)}, "", r"estimate $-\ \log p(x)$, nats")
says = {"evidence": exact, "what the draws say": measured}
says = {name: (settings.dims, settings.n_draws * share) for name, share in says.items()}
plots.curves(bottom, says, "latent coordinates $D$", "effective draws of 10,000")
bottom.set_yscale("log")
bottom.legend(["closed form", "what the draws say"])
glue("fig-naive", figure)

# %% [markdown]
# Look at the lower panel first. The solid line is what the model says, and it falls by about the same factor with each coordinate.
# The dashed line is what a sample reports about itself. It cannot fall below one effective draw, because the largest weight always counts as one.
# A sample that has missed the posterior does not know it.
#
# ## The bound
#
# Draw $z$ from a $q$ of our choice. Average the *logarithm* of the ratio $p(x, z) / q(z)$ and you have the ELBO {eq}`eq-elbo`;
# average the ratio and take the logarithm afterwards, and you have the importance-weighted bound {eq}`eq-iwae`.


# %%
def elbo(model, x, draw):
    """sum_s w_s [log p(x, z_s) - log q(z_s)], nats, [B]."""
    log_ratio = model.log_lik(x, draw.z) + model.log_prior(draw.z) - draw.log_q
    return (draw.log_w.exp() * log_ratio).sum(0)


def iwae(model, x, draw):
    """log sum_s w_s p(x, z_s) / q(z_s), nats, [B]."""
    log_ratio = model.log_lik(x, draw.z) + model.log_prior(draw.z) - draw.log_q
    return (draw.log_w + log_ratio).logsumexp(0)


# %% [markdown]
# The library's versions take $q$ and the noise. With one draw the two bounds are the same.

# %%
lam, family = torch.randn(len(x), 4, generator=generator), families.DiagGaussian(2)
q, eps = family(lam, model), torch.randn(7, len(x), 2, generator=generator)
draw, one = q.draw(eps), q.draw(eps[:1])
torch.testing.assert_close(elbo(model, x, draw), objectives.elbo()(model, x, q, eps))
torch.testing.assert_close(iwae(model, x, draw), objectives.iwae()(model, x, q, eps))
torch.testing.assert_close(iwae(model, x, one), elbo(model, x, one))
print("both bounds equal the library's")

# %% [markdown]
# ## Three roads, one number
#
# For six random $q$ we compare $\log p(x)$ less the KL divergence to the posterior, both in closed form {eq}`eq-kl-decomposition`,
# with the mean of the log-ratio {eq}`eq-jensen` and with the two readings {eq}`eq-energy-entropy` and {eq}`eq-rate-distortion`.
# Each mean must lie within five standard errors of the closed form.

# %%
draw, n = q.draw(torch.randn(100_000, len(x), 2, generator=generator)), 100_000
log_lik, log_prior = model.log_lik(x, draw.z), model.log_prior(draw.z)
jensen = log_lik + log_prior - draw.log_q
readings = log_lik + log_prior + q.entropy(), log_lik - q.kl(model.prior)
closed = model.log_evidence(x) - q.dense().kl(model.exact_posterior(x))
for road in (jensen, *readings):
    assert ((road.mean(0) - closed).abs() < 5 * road.std(0) / n**0.5).all()
print("all roads lead to log p(x) - KL")

# %% [markdown]
# ## Tight at the posterior
#
# A posterior with correlated coordinates, and three choices of $q$.
# At the posterior itself the log-ratio is the same number for every draw: its variance is zero, not merely small.

# %%
weight, x_pair = torch.tensor([[1.0, 0.8], [0.8, 1.0]]), torch.tensor([[1.2, 0.5]])
pair = models.LinearGaussian(weight, torch.zeros(2), torch.tensor(0.3).log(), fixed=True)
lam, log_p = pair.exact_encoder()(x_pair), pair.log_evidence(x_pair)
choices = {"prior": family(0 * lam, pair), "q": family(lam, pair)}
choices["posterior"] = pair.exact_posterior(x_pair)
draws = {name: q.ancestral(2**21, generator) for name, q in choices.items()}
log_w = {name: objectives.log_ratio(pair, x_pair, draw)[:, 0] for name, draw in draws.items()}
torch.testing.assert_close(log_w["posterior"], log_p.expand(2**21), rtol=0, atol=1e-10)

# %% tags=["nbval-ignore-output"]
figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 8), height_ratios=[1.5, 1])
axis, bins = torch.linspace(-2, 2.4, 120), torch.linspace(-12, 2, 141)
grid = torch.cartesian_prod(axis, axis).flip(-1)[:, None]  # [120 * 120, 1, 2]
for (name, q), line in zip(choices.items(), [":", "--", "-"]):
    log_q, colour = q.log_prob(grid).view(120, 120), plots.COLOURS[name]
    levels = log_q.max() - torch.tensor([2.0, 0.5])  # two standard deviations and one
    top.contour(axis, axis, log_q, levels, colors=colour, linestyles=line, linewidths=2)
    shape = {"density": True, "histtype": "step", "linestyle": line, "linewidth": 2}
    label = "best diagonal" if name == "q" else name
    bottom.hist(log_w[name][:100_000], bins, color=colour, label=label, **shape)
top.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
bottom.set(xlabel=r"log-ratio $\log p(x, z) - \log q(z)$, nats", yticks=[], ylim=(0, 1.2))
bottom.legend(loc="upper left")
glue("fig-tightness", figure)

# %% [markdown]
# ## EM is coordinate ascent
#
# A mixture of Gaussians {eq}`eq-finite-mixture` with three components: here $q$ is a table of three probabilities per point, and nothing needs sampling.
# The E-step sets $q$ to the posterior {eq}`eq-em-e`, the M-step sets $\theta$ to its best value for that $q$ {eq}`eq-em-m`.


# %%
def e_step(clusters, x):
    """lam [B, K], the logits of p(z | x): the log joint itself will do."""
    z = torch.arange(len(clusters.logits))[:, None, None].expand(-1, len(x), 1)
    return (clusters.log_lik(x, z) + clusters.log_prior(z)).T.detach()


def m_step(x, lam):
    """The mixture that maximises the bound for q = softmax(lam)."""
    share = lam.softmax(-1)  # [B, K]
    total = share.sum(0)  # [K]
    means = (share.T @ x) / total[:, None]
    square = (x[:, None] - means).square().sum(-1)  # [B, K]
    log_var = ((share * square).sum(0) / total / x.shape[1]).log()
    return models.FiniteMixture((total / len(x)).log(), means, log_var)


# %% [markdown]
# Two promises are checked at every half-step: after an E-step the bound equals the evidence, and no half-step lowers the bound.
# `Enumerated` lists every value of $z$ with its weight, so the library's ELBO is exact.


# %%
def half_step(clusters, lam):
    """The bound by enumeration and the evidence, [2], mean nats per point."""
    q = families.Enumerated(1, 3)(lam, clusters)
    bound = objectives.elbo()(clusters, points, q, None)
    return torch.stack([bound.mean(), clusters.log_evidence(points).mean()]).detach()


centres = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.5, -1.5]]).repeat(100, 1)
points = centres + 0.8 * torch.randn(300, 2, generator=generator)
start = models.FiniteMixture(torch.zeros(3), 0.3 * points[:3], torch.ones(3))
clusters, lam = start, torch.zeros(300, 3)
trace = [half_step(clusters, lam)]
for _ in range(settings.n_em):
    lam = e_step(clusters, points)
    trace.append(half_step(clusters, lam))
    torch.testing.assert_close(*trace[-1], rtol=0, atol=1e-10)  # bound = evidence
    clusters = m_step(points, lam)
    trace.append(half_step(clusters, lam))
bound, evidence = torch.stack(trace).T
assert (bound.diff() > -1e-10).all()
print("tight after each E-step, and never down")

# %% [markdown]
# scikit-learn has its own EM. From the same start, after as many iterations, its means and its score must be ours.

# %%
import warnings

begin = {"means_init": start.means.detach(), "weights_init": [1 / 3] * 3, "reg_covar": 0}
begin |= {"precisions_init": (-start.log_var.detach()).exp().numpy(), "max_iter": settings.n_em}
with warnings.catch_warnings(action="ignore"):  # it has not converged
    peer = mixture.GaussianMixture(3, covariance_type="spherical", tol=0, **begin).fit(points)
torch.testing.assert_close(clusters.means.detach(), torch.from_numpy(peer.means_))
assert math.isclose(peer.score(points), evidence[-1], abs_tol=1e-8)

# %% tags=["nbval-ignore-output"]
half_steps, (figure, ax) = torch.arange(len(bound)) / 2, plt.subplots()
both = {"evidence": (half_steps, evidence), "elbo": (half_steps, bound)}
plots.curves(ax, both, "EM iterations", "nats per point")
ax.plot(half_steps[1::2], bound[1::2], "o", color=plots.COLOURS["elbo"], label="after an E-step")
ax.fill_between(half_steps, bound, evidence, color=plots.COLOURS["kl"], alpha=0.5, label="KL")
ax.legend(loc="lower right")
glue("fig-em", figure)

# %% [markdown]
# ## Averaging inside the logarithm
#
# Take the two million log-ratios of the prior and of the best diagonal $q$, and cut them into blocks of $S$.
# Joining two neighbouring blocks can only raise the mean value {eq}`eq-iwae-double`, so on one set of draws the bound never falls.
# For the prior, the distance left is predicted from the second moment of its weights {eq}`eq-iwae-bias`.

# %% tags=["nbval-ignore-output"]
sizes, left = 2 ** torch.arange(9), {}
for name in ("prior", "q"):
    blocks = [log_w[name].view(-1, size).logsumexp(1) - math.log(size) for size in sizes]
    mean, se = torch.tensor([[b.mean(), b.std() / len(b) ** 0.5] for b in blocks]).T
    assert (mean.diff() >= 0).all()
    left[name] = (sizes, log_p - mean, se)
halved = models.LinearGaussian(pair.weight, pair.bias, pair.log_var - math.log(2), fixed=True)
log_square = halved.log_evidence(x_pair) - math.log(4 * math.pi * 0.3)  # E[p(x | z)^2]
predicted = ((log_square - 2 * log_p).exp() - 1) / (2 * sizes)
_, gap, se = left["prior"]
assert ((gap - predicted).abs()[-3:] < 5 * se[-3:] + predicted[-3:].square()).all()
figure, ax = plt.subplots()
plots.curves(ax, left, "draws $S$", r"$\log p(x) - \mathcal{L}_S$, nats")
ax.plot(sizes, predicted, ":", color="black")
ax.set(xscale="log", yscale="log", ylim=(1e-3, 10))
ax.legend(ax.lines, ["prior", "best diagonal", "prior, predicted"])
glue("fig-iwae", figure)

# %% [markdown]
# ## Real handwriting
#
# The same model on real digits. With one noise variance for all pixels it is probabilistic PCA {cite:p}`tipping1999probabilistic`, whose best fit is closed form.


# %%
def fit_ppca(x, n_latents):
    """The linear-Gaussian model of greatest likelihood with one noise variance."""
    variances, axes = torch.linalg.eigh(x.T.cov())  # increasing
    noise = variances[:-n_latents].mean()
    weight = axes[:, -n_latents:] * (variances[-n_latents:] - noise).sqrt()
    return models.LinearGaussian(weight, x.mean(0), noise.log(), fixed=True)


# %% [markdown]
# scikit-learn must give held-out digits the same score.
# `turned` is the same model of images with other axes for $z$: rotating a standard normal changes nothing.
# For inference it changes much. The fitted axes happen to make the posterior's coordinates independent, and other axes do not.

# %% tags=["nbval-ignore-output"]
digits = data.load(DATA)
train, test = digits.train.double(), digits.test.double()[:250]
ppca, peer = fit_ppca(train, settings.n_latents), decomposition.PCA(settings.n_latents).fit(train)
torch.testing.assert_close(ppca.log_evidence(test), torch.from_numpy(peer.score_samples(test)))
rotation, _ = torch.linalg.qr(torch.randn(2 * [settings.n_latents], generator=generator))
turned = models.LinearGaussian(ppca.weight @ rotation, ppca.bias, ppca.log_var, fixed=True)
torch.testing.assert_close(turned.log_evidence(test), ppca.log_evidence(test))
expected.check("evidence", turned.log_evidence(test).mean(), "nat", "Held-out images score this.")

# %% [markdown]
# Three encoders, fitted on the training set and judged on held-out digits. All use the best diagonal variances.
# The first has the exact mean for every image, the second a mean of rank 2, the third is one constant for all images.
# On the training set the losses must equal {eq}`eq-lg-gap` and {eq}`eq-limited-gap`.

# %% tags=["nbval-ignore-output"]
low, none = (turned.limited_encoder(train, rank) for rank in (2, 0))
encoders = {"full rank": turned.exact_encoder(), "rank 2": low, "constant": none}
family, posterior = families.DiagGaussian(turned.dim), turned.exact_posterior(test)
q = {name: family(encoder(test), turned) for name, encoder in encoders.items()}
full, partial, constant = kl = torch.stack(
    [each.dense().kl(posterior).mean() for each in q.values()]
)
closed = 0.5 * (turned.precision().diagonal().log().sum() - turned.precision().logdet())
torch.testing.assert_close(full, closed)
for rank, encoder in ((2, low), (0, none)):
    on_train = family(encoder(train), turned).dense().kl(turned.exact_posterior(train)).mean()
    torch.testing.assert_close(on_train - closed, turned.limited_gap(train, rank))
expected.check("approximation_gap", full, "nat", "The best diagonal Gaussian loses this.")
expected.check("rank_gap", partial - full, "nat", "Rank 2 adds this amortization gap.")
expected.check("constant_gap", constant - full, "nat", "A constant adds this amortization gap.")

# %% tags=["nbval-ignore-output"]
labels = {"family": "diagonal", "remains": "amortization gap"}
top = turned.log_evidence(test).mean().item()
ends = dict(zip(encoders, (top - kl).tolist()))
rows = [plots.Thermometer(k, top, ends["full rank"], end, **labels) for k, end in ends.items()]
figure, ax = plt.subplots(figsize=(6.4, 4))
plots.thermometer(ax, rows)
glue("fig-digits-gaps", figure)

# %% [markdown]
# What do these encoders see? The mean of each $q$, decoded, beside the digit; and draws from the model, which know no $x$ at all.

# %% tags=["nbval-ignore-output"]
shown = [test[:6], *(turned.predict(each.mean[:6]) for each in q.values())]
shown.append(turned.predict(turned.prior.ancestral(6, generator).z))
figure, ax = plt.subplots(figsize=(6.4, 6.6))
grid = torch.stack(shown, 1).flatten(0, 1).clamp(0, 1)  # [6 * 5, X]
plots.image_grid(ax, grid, 5, ["digit", *encoders, "sample"])
glue("fig-digits", figure)

# %% [markdown]
# ## Move q yourself
#
# One latent coordinate, one observation, two bumps: $z \sim N(0, 1)$ and $x \mid z \sim N(z^2 + z/2,\ 0.4^2)$ with $x = 1$.
# The chapter has this figure without a kernel; here the integrals are sums over a fine grid of $z$.

# %% tags=["nbval-ignore-output"]
from ipywidgets import FloatSlider, Label, VBox
from torch.distributions import Normal

z, dz = torch.linspace(-20, 20, 20_001), 40 / 20_000
log_joint = Normal(0.0, 1.0).log_prob(z) + Normal(z**2 + z / 2, 0.4).log_prob(torch.tensor(1.0))
log_p = log_joint.logsumexp(0) + math.log(dz)
mean = FloatSlider(0.0, min=-3.0, max=3.0, step=0.01, description="mean")
sd, shown = FloatSlider(1.0, min=0.05, max=2.0, step=0.01, description="sd"), Label()


def move_q(_=None):
    log_q = Normal(mean.value, sd.value).log_prob(z)
    parts = torch.stack([log_joint - log_q, log_q - log_joint + log_p])
    bound, kl = (log_q.exp() * parts).sum(1) * dz
    shown.value = f"ELBO {bound:.3f} + KL {kl:.3f} = log p(x) {log_p:.3f} nats"


for slider in (mean, sd):
    slider.observe(move_q, "value")
move_q()
VBox([mean, sd, shown])
