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
# # Lesson: variational autoencoders
#
# This notebook goes with the chapter [Variational autoencoders](../book/vae.md).
# First we write the bound of a variational autoencoder out, and compare it with the library's.
# Then we train a few on handwriting, look at them from several sides, and ask what the numbers that describe them are worth.
# At the end we walk into three traps on purpose, and measure each in nats.

# %%
DATA = "digits"  # or "mnist"
SEED = 0
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch

from avi import objectives, plots
from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    sizes: tuple = (8, 128, 64) if DATA == "digits" else (20, 256, 784)
    n_train: int = 1297 if DATA == "digits" else 10_000  # training images
    epochs: int = 200 if DATA == "digits" else 40
    short: int = 80 if DATA == "digits" else 15  # epochs of a sweep
    n_eval: int = 250 if DATA == "digits" else 100  # images behind a number


settings = Settings()
expected = Expected("vae", DATA)
generator = torch.Generator().manual_seed(SEED)
use_threads()
plots.style()

# %% [markdown] tags=["slide"]
# ## The bound from scratch
#
# The encoder answers for each image with a mean and a log variance. A draw, the decoder, and the KL in closed form {eq}`eq-gaussian-kl` give the bound.
# Nothing stands between the bound and the parameters of either network, so one backward pass serves both.

# %% tags=["slide"]
def vae_bound(encoder, decoder, x, eps):
    """One-draw estimate of the ELBO, nats: x [B, X], eps [B, D] -> [B]."""
    mean, log_var = encoder(x).chunk(2, -1)
    z = mean + (0.5 * log_var).exp() * eps
    logits = decoder(z)
    log_lik = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return log_lik - kl


# %% [markdown]
# In the library the same thing is a method, `direct`, and an objective, `elbo`.
# Bound and gradients must be equal, for both networks, on random input.
# `train_step` negates the bound, because an optimiser descends; a step size of zero lets us look at the gradients it used.

# %%
from avi.families import DiagGaussian
from avi.inference import direct
from avi.models import LinearGaussian, bernoulli_mlp
from avi.nets import linear, mlp
from avi.training import adam, train_step, trainable

torch.set_default_dtype(torch.float64)  # for comparisons to many digits
bound = objectives.elbo(analytic_kl=True)
model = bernoulli_mlp((3, 10, 64), generator)
encoder = mlp((64, 10, 6), generator)
method = direct(encoder, DiagGaussian(3))
x = torch.bernoulli(torch.full((5, 64), 0.3), generator=generator)
noise = method.noise(1, x, generator)  # [1, S = 1, B = 5, D = 3]
own = vae_bound(encoder, model.decoder, x, noise[0, 0])
library = method(model, x, bound, noise).value(-1)
torch.testing.assert_close(own, library)
parameters = [*model.parameters(), *encoder.parameters()]
gradients = torch.autograd.grad(own.mean(), parameters)
still = torch.optim.SGD(parameters, lr=0.0)
train_step(model, method, x, bound, noise, still)
for parameter, gradient in zip(parameters, gradients):
    torch.testing.assert_close(parameter.grad, -gradient)
print("bound and gradients equal the library's")

# %% [markdown]
# ### Where the best encoder is known
#
# In the linear-Gaussian model the best diagonal $q$ has a mean that is affine in $x$ and one variance for all $x$ {eq}`eq-lg-best`.
# An affine encoder can therefore be perfect. Does stochastic gradient ascent find it?
# The exact bound tells how many nats it still loses. The best encoder that ignores $x$ loses `limited_gap` {eq}`eq-limited-gap`.

# %% tags=["nbval-ignore-output"]
from avi.training import TrainSettings, fit


def exact_elbo(model, x, lam):
    """log p(x) - KL(q || p(z | x)), nats, [B]."""
    q = DiagGaussian(model.dim)(lam, model)
    return model.log_evidence(x) - q.dense().kl(model.exact_posterior(x))


weight = torch.randn(6, 2, generator=generator)
log_noise = torch.tensor(0.25).log()
known = LinearGaussian(weight, torch.zeros(6), log_noise, fixed=True)
x_known = known.sample(2000, generator)
affine = direct(linear(6, 4, generator), DiagGaussian(2))
for lr in (0.03, 0.003):
    schedule = TrainSettings(20, batch_size=50, n_samples=10, lr=lr, seed=SEED)
    fit(known, affine, x_known, schedule, objective=lambda step: bound)
best = exact_elbo(known, x_known, known.exact_encoder()(x_known))
reached = exact_elbo(known, x_known, affine.init(x_known, known).detach())
claim = "Nats a trained affine encoder loses, linear-Gaussian model."
expected.check("affine_left", (best - reached).mean(), claim=claim)
claim = "Nats the best constant q loses in that model."
expected.check("constant_left", known.limited_gap(x_known, 0), claim=claim)

# %% [markdown]
# ## Training on handwriting
#
# Now images. Both networks have one hidden layer.
# `learn` makes the two networks and trains them; whatever will vary below is an argument.
# `rate_distortion` measures the two halves of the bound {eq}`eq-rate-distortion`: the rate in closed form, the distortion with a hundred draws.

# %%
from tqdm.auto import tqdm


def learn(sizes, epochs, images, objective, observe, watch=lambda *_: None):
    """A trained decoder and its direct inference; watch is told each epoch."""
    model = bernoulli_mlp(sizes, generator)
    encoder = mlp((sizes[-1], sizes[1], 2 * sizes[0]), generator)
    method = direct(encoder, DiagGaussian(sizes[0]))
    optimiser = adam(trainable(model) + trainable(method), 3e-3)
    for epoch in tqdm(range(epochs), unit="epoch"):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(128):
            x = observe(images[rows], generator)
            noise = method.noise(1, x, generator)
            train_step(model, method, x, objective, noise, optimiser)
        watch(epoch, model, method)
    return model.requires_grad_(False), method.requires_grad_(False)


@torch.no_grad()
def rate_distortion(model, method, x):
    """Rate and distortion of each image, nats, [N] and [N]."""
    q = method.family(method.init(x, model), model)
    draw = q.ancestral(100, generator)
    return q.kl(model.prior), objectives.distortion(model, x, draw)


# %% [markdown]
# The training images are binarised anew for every minibatch.
# For the numbers below, held-out images, and as many training images, are binarised once.

# %% tags=["nbval-ignore-output"]
from avi import data

torch.set_default_dtype(torch.float32)  # precise enough from here on
dataset = data.load(DATA)
images = dataset.train[: settings.n_train]
test = dataset.evaluation("test", generator)[: settings.n_eval]
seen = dataset.evaluation("train", generator)[: settings.n_eval]
history = {"training images": [], "held-out images": []}


def watch(epoch, model, method):
    for curve, x in zip(history.values(), (seen, test)):
        if epoch % 10 == 9:
            curve.append(-sum(rate_distortion(model, method, x)).mean())


recipe = (images, bound, dataset.observe)
model, method = learn(settings.sizes, settings.epochs, *recipe, watch)
rate, distortion = rate_distortion(model, method, test)
elbo = -(rate + distortion).mean()
expected.check("elbo", elbo, claim="ELBO, held-out images.")
elbo_seen = history["training images"][-1]
expected.check("elbo_seen", elbo_seen, claim="ELBO, training images.")
expected.check("rate", rate.mean(), claim="Rate, held-out images.")

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
series = {}
for name, curve in history.items():
    series[name] = (range(10, settings.epochs + 1, 10), curve)
figure, axes = plt.subplots()
plots.curves(axes, series, "epochs", "ELBO, nats")
axes.set_ylim(history["held-out images"][0] - 1, None)
glue("fig-curves", figure)

# %% [markdown]
# ## Looking at it
#
# Samples decode draws from the prior. Reconstructions decode the encoder's means of held-out images.
# A traversal takes one image's mean and moves one coordinate of it from -2 to 2. We choose the four coordinates with the largest rate.

# %%
q = method.family(method.init(test, model), model)
samples = model.predict(model.prior.ancestral(24, generator).z)
unit_rate = 0.5 * (q.log_var.exp() + q.mean**2 - 1 - q.log_var).mean(0)
units = unit_rate.argsort(descending=True)[:4]
z = q.mean[:1].repeat(4, 9, 1)  # [units, places, D]
for row, unit in enumerate(units):
    z[row, :, unit] = torch.linspace(-2, 2, 9)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, (left, right) = plt.subplots(1, 2)
plots.image_grid(left, samples, 6)
pairs = torch.stack([test[:12], model.predict(q.mean[:12])], 1)
plots.image_grid(right, pairs.flatten(0, 1), 6)
left.set_title("samples")
right.set_title("held out, decoded")
glue("fig-looking", figure)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 3))
plots.image_grid(axes, model.predict(z).flatten(0, 1), 9)
glue("fig-traversals", figure)

# %% [markdown] tags=["slide"]
# ## The aggregate posterior
#
# Put a draw from the posterior of each of $N$ images into one heap: that is the aggregate posterior $q(z)$, a mixture of $N$ Gaussians {eq}`eq-aggregate`.
# The mean rate splits into what $z$ tells about which image it was, and what tells the heap from the prior {eq}`eq-rate-split`.
# Both parts are averages of logarithms over draws; every draw is scored under all $N$ Gaussians.

# %% tags=["slide"]
def split_rate(q, prior):
    """log q(z | x) - log q(z) and log q(z) - log p(z), a draw each, [N]."""
    draw = q.ancestral(1, generator)
    z = draw.z[0, :, None]  # [N, 1, D], against the N rows of q
    log_heap = q.log_prob(z).exp().mean(1).log()
    return draw.log_q[0] - log_heap, log_heap - prior.log_prob(z[:, 0])


# %% [markdown]
# Three things to compare with. The parts must add up to the closed-form rate within five standard errors.
# The first cannot exceed $\log N$.
# And in the linear-Gaussian model with its exact posterior the heap tends to the prior, and the first part to $\frac12 \log |\Lambda|$.

# %% tags=["nbval-ignore-output"]
def standard_error(draws):
    return draws.std() / len(draws) ** 0.5


exact_q = known.exact_posterior(x_known)
mutual, mismatch = split_rate(exact_q, known.prior)
by_hand = 0.5 * known.precision().logdet()
assert (mutual.mean() - by_hand).abs() < 5 * standard_error(mutual)
assert mismatch.mean().abs() < 5 * standard_error(mismatch) + 0.02

crowd = dataset.evaluation("train", generator)[:1000]
q_crowd = method.family(method.init(crowd, model), model)
mutual, mismatch = split_rate(q_crowd, model.prior)
closed = q_crowd.kl(model.prior)
error = (mutual + mismatch - closed).mean()
assert error.abs() < 5 * standard_error(mutual + mismatch - closed)
assert mutual.mean() <= torch.tensor(1000.0).log()
for key, part, claim in (
    ("rate_crowd", closed, "Mean rate of 1,000 training images."),
    ("mutual", mutual, "Information in that rate, about the image."),
    ("mismatch", mismatch, "KL in that rate, from heap to prior."),
):
    expected.check(key, part.mean(), claim=claim)

# %% [markdown]
# ## Two coordinates, so that we can see them
#
# With $D = 2$ the latent space fits on paper. The decoder is smaller as well, because the page of the chapter carries its weights.

# %% tags=["nbval-ignore-output"]
plane_sizes = (2, 40, settings.sizes[-1])
plane_model, plane = learn(plane_sizes, settings.epochs, *recipe)
elbo_plane = -sum(rate_distortion(plane_model, plane, test)).mean()
claim = "ELBO, held-out images, two latent units."
expected.check("elbo_plane", elbo_plane, claim=claim)
places = plane.init(test, plane_model)[:, :2]  # the encoder's means
digits = dataset.labels["test"][: len(test)]

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 6.4))
for digit in range(10):
    points = places[digits == digit].T
    axes.scatter(*points, s=60, marker=f"${digit}$", color=f"C{digit % 7}")
for radius in (1, 2):
    axes.add_patch(plt.Circle((0, 0), radius, fill=False, ls=":", lw=2))
axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
glue("fig-plane", figure)

# %% mystnb={"image": {"alt": "Eleven by eleven decoded images. Neighbours differ a little, and from corner to corner several digits turn into each other."}} tags=["hide-input", "nbval-ignore-output"]
ticks = torch.linspace(-2.5, 2.5, 11)
grid = torch.cartesian_prod(-ticks, ticks).flip(-1)  # row by row, top first
figure, axes = plt.subplots(figsize=(6.4, 6.4))
plots.image_grid(axes, plane_model.predict(grid[None])[0], 11)
glue("fig-grid", figure)

# %% [markdown]
# The page shows the same plane as a figure to play with. It needs the decoder's weights and the places of the held-out digits, rounded to four decimals, and nothing else.
# In the live lesson two sliders do the same.

# %% tags=["nbval-ignore-output"]
from IPython.display import JSON
from ipywidgets import interact


def rounded(tensor):
    return [round(number, 4) for number in tensor.flatten().tolist()]


weights = {k: rounded(v) for k, v in plane_model.decoder.state_dict().items()}
points = {"places": rounded(places), "digits": digits.tolist()}
glue("vae-plane", JSON(weights | points), display=False)


def show(z1=0.0, z2=0.0):
    z = torch.tensor([[[z1, z2]]])
    plots.image_grid(plt.gca(), plane_model.predict(z)[0], 1)


_ = interact(show, z1=(-3, 3, 0.1), z2=(-3, 3, 0.1))

# %% [markdown] tags=["slide"]
# ## Rate against distortion
#
# Weigh the rate by $\beta$ in training {eq}`eq-beta`, and judge with $\beta = 1$.
# Five short runs, and for each its held-out rate and distortion.

# %% tags=["nbval-ignore-output"]
from avi.evaluation import log_evidence

betas = (0.1, 0.5, 1.0, 2.0, 4.0)
sweep = {}
for beta in betas:
    weighed = objectives.elbo(beta, analytic_kl=True)
    pair = learn(
        settings.sizes, settings.short, images, weighed, dataset.observe
    )
    sweep[beta] = [part.mean() for part in rate_distortion(*pair, test)]
    name = f"{beta:g}".replace(".", "_")
    claim = f"Held-out rate after training with beta = {beta:g}."
    expected.check(f"rate_{name}", sweep[beta][0], claim=claim)
    claim = f"Held-out ELBO after training with beta = {beta:g}."
    expected.check(f"elbo_{name}", -sum(sweep[beta]), claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots()
axes.plot(*zip(*sweep.values()), "C1s-")
for beta, point in sweep.items():
    axes.annotate(f"  $\\beta = {beta:g}$", point, va="bottom")
for total in torch.arange(-2, 13, 2) - elbo.round():
    axes.axline((0, total), slope=-1, color="0.75", lw=1, zorder=0)
axes.set(xlabel="rate, nats", ylabel="distortion, nats")
glue("fig-rate-distortion", figure)

# %% [markdown] tags=["slide"]
# ## How much likelihood is that?
#
# The ELBO is too low. With $S$ draws inside the logarithm the bound rises towards $\log p(x)$, and for large $S$ the distance left is predicted by the effective sample size {eq}`eq-nll-bias`.
# We keep 5,000 log weights for each image, once with the encoder's $q$ as the proposal and once with the prior.

# %%
def log_weights(model, x, q, n=5000):
    """log p(x, z_s) - log q(z_s) for n draws of z, [n, N]."""
    pieces = []
    for _ in range(n // 100):
        draw = q.ancestral(100, generator)
        pieces.append(objectives.log_ratio(model, x, draw))
    return torch.cat(pieces).double()


def log_mean(log_w, size):
    """log-mean-exp over blocks of `size` draws, [blocks, N]."""
    blocks = log_w.unflatten(0, (-1, size))
    return blocks.logsumexp(1) - torch.tensor(size).log()


def effective_share(log_w):
    """(sum w)^2 / (S sum w^2), [N], between 1 / S and 1."""
    w = log_w.softmax(0)
    return 1 / (len(w) * w.square().sum(0))


# %% [markdown]
# The library's `log_evidence` does this without keeping the weights. On its own draws it must agree: the mean difference over images is zero within five standard errors.

# %% tags=["nbval-ignore-output"]
lam = method.init(test, model)
prior = method.family(0 * lam, model)  # lam = 0 is the prior
own = log_weights(model, test, q)
blind = log_weights(model, test, prior)
library = log_evidence(model, test, method.family, lam, 5000, generator)
difference = log_mean(own, 5000)[0] - library.log_p
assert difference.mean().abs() < 5 * standard_error(difference)
log_p = library.log_p.mean()
few = log_mean(own, 10).mean()
by_prior = log_mean(blind, 5000).mean()
share = 100 * effective_share(own).mean()
prior_share = 100 * effective_share(blind).mean()
weak = 100 * library.weak.double().mean()
for key, value, unit, claim in (
    ("log_p", log_p, "nat", "Held-out log p, 5,000 draws from q."),
    ("log_p_10", few, "nat", "Held-out log p, 10 draws from q."),
    ("log_p_prior", by_prior, "nat", "Held-out log p, 5,000 prior draws."),
    ("ess", share, "%", "Effective share of draws from q."),
    ("ess_prior", prior_share, "%", "Effective share of prior draws."),
    ("weak", weak, "%", "Images with a weak log p, 5,000 draws from q."),
):
    expected.check(key, value, unit, claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
sizes = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
series = {}
for name, log_w in (("encoder", own), ("prior", blind)):
    series[name] = (sizes, [log_mean(log_w, s).mean() for s in sizes])
figure, axes = plt.subplots()
plots.curves(axes, series, "draws $S$", "$\\mathcal{L}_S$, nats")
axes.set(xscale="log", ylim=(elbo - 12, elbo + 1.5))
glue("fig-draws", figure)

# %% [markdown]
# ### On which images?
#
# A number needs its data as much as its $S$. Here the training images are binarised once and for all, as in some published versions of MNIST, and a new model of the same size sees only those.
# Both models are asked about the same images, so that chance in the choice of images cancels.

# %% tags=["nbval-ignore-output"]
from avi.data import as_is


def evidence(model, method, x):
    """Mean importance-sampled log p(x), nats."""
    lam = method.init(x, model)
    estimate = log_evidence(model, x, method.family, lam, 1000, generator)
    return estimate.log_p.mean()


fixed = dataset.observe(images, generator)
frozen = learn(settings.sizes, settings.epochs, fixed, bound, as_is)
claim = "log p gained by training on images binarised once, on {}."
for key, x, where in (
    ("fixed_seen", fixed[: len(test)], "those images"),
    ("fixed_held", test, "held-out images"),
):
    gain = evidence(*frozen, x) - evidence(model, method, x)
    expected.check(key, gain, claim=claim.format(where))

# %% [markdown] tags=["slide"]
# ## Trap one: grey pixels
#
# One trained model, three versions of the same held-out images: grey as they are, binarised by a draw, and cut at one half.
# The Bernoulli formula accepts all three.

# %% tags=["nbval-ignore-output"]
grey = dataset.test[: len(test)]
versions = {"grey": grey, "drawn": test, "cut": (grey > 0.5).float()}
values = {}
for name, x in versions.items():
    values[name] = evidence(model, method, x)
    claim = f"What the formula gives for {name} held-out images."
    expected.check(f"value_{name}", values[name], claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 2.6))
rows = torch.cat([x[:8] for x in versions.values()])
plots.image_grid(axes, rows, 8)
axes.set_title("grey, drawn, cut")
glue("fig-versions", figure)

# %% [markdown]
# What are they? As a density of grey values the formula does not integrate to one {eq}`eq-grey-mass`: we compare the closed form with a Riemann sum, and add up what is missing over the pixels.
# And the grey bound is the average over binarisations of the bound of a $q$ that never saw them {eq}`eq-grey-average`, which we check with 400 of them.

# %% tags=["nbval-ignore-output"]
def log_mass(logits):
    """log of the integral of p^x (1 - p)^(1 - x) over [0, 1], per pixel."""
    half = logits.double().abs().clamp(min=1e-6) / 2
    return (half.tanh() / (2 * half)).log()


level = (torch.arange(1000) + 0.5) / 1000
some = torch.tensor([-6.0, -0.5, 0.1, 3.0])
p = some.sigmoid()
formula = (p ** level[:, None] * (1 - p) ** (1 - level[:, None])).mean(0)
error = log_mass(some).exp() / formula - 1
assert error.abs().max() < 1e-4
q_grey = method.family(method.init(grey, model), model)
z = q_grey.ancestral(1, generator).z
claim = "Minus log mass of grey images under the formula."
missing = -log_mass(model.decoder(z[0])).sum(-1).mean()
expected.check("missing_mass", missing, claim=claim)
on_grey = model.log_lik(grey, z)[0]
binary = dataset.observe(grey.repeat(400, 1, 1), generator)
draws = torch.stack([model.log_lik(b, z)[0].mean() for b in binary])
assert (draws.mean() - on_grey.mean()).abs() < 5 * standard_error(draws)

# %% [markdown]
# The other half of the trap is to *train* on grey pixels. That model is then judged as the others are, on binarised images.

# %% tags=["nbval-ignore-output"]
greyish = learn(settings.sizes, settings.epochs, images, bound, as_is)
total = sum(rate_distortion(*greyish, test))
claim = "Held-out {} of binarised images after training on grey ones."
expected.check("grey_elbo", -total.mean(), claim=claim.format("ELBO"))
log_p_grey = evidence(*greyish, test)
expected.check("grey_log_p", log_p_grey, claim=claim.format("log p"))

# %% [markdown] tags=["slide"]
# ## Trap two: a mean where a sum belongs
#
# A library's loss averages over pixels unless told otherwise. Add a summed KL to that average, and the KL weighs $X$ times too much {eq}`eq-mean-loss`.
# The first lines assert that the objective below is what such code minimises.

# %% tags=["nbval-ignore-output"]
from torch.nn.functional import binary_cross_entropy_with_logits as bce


def averaged(model, x, q, eps):
    """Minus the loss of such code, of each image, [B]."""
    log_lik = model.log_lik(x, q.draw(eps).z).mean(0)
    return log_lik / x.shape[1] - q.kl(model.prior)


eps = torch.randn(1, len(test), q.mean.shape[1], generator=generator)
loss = bce(model.decoder(q.draw(eps).z)[0], test) + q.kl(model.prior).mean()
torch.testing.assert_close(-averaged(model, test, q, eps).mean(), loss)
lazy = learn(
    settings.sizes, settings.short, images, averaged, dataset.observe
)
r, d = rate_distortion(*lazy, test)
loss = (r + d / test.shape[1]).mean()
for key, value, claim in (
    ("mean_loss", loss, "Loss that averages over pixels and sums the KL."),
    ("mean_rate", r.mean(), "Held-out rate from an averaged loss."),
    ("mean_elbo", -(r + d).mean(), "Held-out ELBO from an averaged loss."),
):
    expected.check(key, value, claim=claim)

# %% [markdown] tags=["slide"]
# ## Trap three: the mean of $q$ in place of a draw
#
# At test time it is tempting to decode the mean: no noise, sharper pictures. The number that comes out is no bound {eq}`eq-mean-point`.
# In the linear-Gaussian model the excess is exactly $\frac12 \sum_d (1 - 1 / \Lambda_{dd})$ at the best diagonal $q$.

# %% tags=["nbval-ignore-output"]
def at_the_mean(model, x, q):
    """log p(x | z = mean) - KL, nats, [N]: not a bound."""
    return model.log_lik(x, q.mean[None])[0] - q.kl(model.prior)


q_known = DiagGaussian(2)(known.exact_encoder()(x_known), known)
excess = at_the_mean(known, x_known, q_known) - best
by_hand = 0.5 * (1 - 1 / known.precision().diagonal()).sum()
torch.testing.assert_close(excess, by_hand.expand(len(excess)))


def log_lik(z, x):
    return model.log_lik(x[None], z[None, None])[0, 0]


hessian = torch.func.vmap(torch.func.hessian(log_lik))(q.mean, test)
curvature = hessian.diagonal(dim1=1, dim2=2)  # [N, D]
second = -0.5 * (curvature * q.log_var.exp()).sum(-1).mean()
claimed = at_the_mean(model, test, q).mean()
expected.check("at_mean", claimed, claim="Held-out log p(x | mean of q) - KL.")
claim = "Its excess over the ELBO, by second order."
expected.check("second", second, claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
shown = {"ELBO": elbo, "log p": log_p, "grey": values["grey"]}
shown |= {"cut at 1/2": values["cut"], "mean of q": claimed, "loss": -loss}
figure, axes = plt.subplots()
for y, value in enumerate(shown.values()):
    axes.plot(value, y, "ko" if y < 2 else "C1X", markersize=9)
    axes.annotate(f"   {value:.1f}", (value, y), va="center")
axes.set(yticks=range(6), yticklabels=shown, ylim=(5.5, -0.5), xlabel="nats")
glue("fig-traps", figure)
