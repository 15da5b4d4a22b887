# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson: the amortization gap
#
# This notebook goes with the chapter [The amortization gap](../book/gap.md).
# First we split the inference gap where everything is known, and draw one gap in a plane.
# Then we train a variational autoencoder, find the best Gaussian for each of a thousand images, and ask of every missing nat who lost it: the family, the encoder's class, its training, or images it never saw.

# %%
DATA = "digits"  # or "mnist": static MNIST, some minutes
SEED = 0
from dataclasses import dataclass

import torch

from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    dim: int = 8 if DATA == "digits" else 50
    hidden: tuple = (64,) if DATA == "digits" else (200, 200)  # encoder
    decoder: tuple = (128,) if DATA == "digits" else (200, 200)
    epochs: int = 200 if DATA == "digits" else 20
    lr: float = 5e-3 if DATA == "digits" else 1e-3
    refit: int = 40 if DATA == "digits" else 2  # epochs, encoder alone
    climb: int = 200  # steps to find q*
    few: int = 500 if DATA == "digits" else 100  # images, planted faults


settings = Settings()
expected = Expected("gap", DATA)
use_threads()
generator = torch.Generator().manual_seed(SEED)

# %%
from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from torch import nn

from avi import data, plots, steps
from avi.core import Problem
from avi.evaluation import best_lambda, gaps, score, split
from avi.families import DiagGaussian, PointMass
from avi.inference import direct, svi, vae_svi
from avi.models import bernoulli_mlp
from avi.nets import mlp
from avi.objectives import elbo, log_joint
from avi.training import TrainSettings, fit

plots.style()


def check(key, mean, claim):  # a mean over images, and its standard error
    expected.check(key, mean.value, claim=f"Mean {claim}.")
    expected.check(f"{key}_se", mean.se, claim=f"Error of the mean {claim}.")


# %% [markdown] tags=["slide"]
# ## Two gaps where everything is known
#
# In the linear-Gaussian model the bound of a Gaussian $q$ has a closed form, and so have $\log p(x)$ and the posterior.
# We write the bound out, and check at random $\lambda$ that what it misses is a KL divergence {eq}`eq-inference-gap`.

# %%
torch.set_default_dtype(torch.float64)  # for comparisons to many digits


def exact_elbo(model, x, q):
    """E_q[log p(x | z)] - KL(q || p), nats, [B]."""
    precision = (-model.log_var).exp()  # of the noise
    spread = q.log_var.exp() @ model.weight.square().T * precision
    return model.log_lik(x, q.mean) - spread.sum(-1) / 2 - q.kl(model.prior)


pair = DiagGaussian(2)
linear = data.known.linear_gaussian().double()
x = data.load("linear-gaussian").train.double()
q = pair(torch.randn(len(x), 4, generator=generator), linear)
missing = linear.log_evidence(x) - exact_elbo(linear, x, q)
torch.testing.assert_close(missing, q.dense().kl(linear.exact_posterior(x)))

# %% [markdown]
# The best diagonal Gaussian is known as well, and so are three encoders: one that finds it for every $x$, the best of rank one, and the best that gives every $x$ the same answer.
# The approximation gap must be {eq}`eq-lg-gap` for every $x$. The amortization gap must be zero for the first encoder, and the library's closed form for the others.

# %%
exact_log_p = linear.log_evidence(x)
exact_best = exact_elbo(linear, x, pair(linear.exact_encoder()(x), linear))
precision = linear.precision()
formula = (precision.diagonal().log().sum() - precision.logdet()) / 2
torch.testing.assert_close(exact_log_p - exact_best, formula.expand(len(x)))
expected.check("exact_family", formula, claim="Approximation gap, exact.")
exact_rows = []
for rank, name in ((2, "exact"), (1, "rank one"), (0, "constant")):
    q = pair(linear.limited_encoder(x, rank)(x), linear)
    bounds = exact_elbo(linear, x, q)
    gap = (exact_best - bounds).mean()
    torch.testing.assert_close(gap, linear.limited_gap(x, rank))
    expected.check(f"exact_{rank}", gap, claim=f"Amortization gap, {name}.")
    means = [end.mean().item() for end in (exact_log_p, exact_best, bounds)]
    exact_rows.append(plots.Thermometer(f"{name}\nencoder", *means))

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 4.4))
plots.thermometer(axes, exact_rows)
glue("fig-exact", figure)

# %% [markdown] tags=["slide"]
# ## Finding $q^*$
#
# In other models $q^*$ is found by ascent. The gradients are noisy, so the iterates end up circling the optimum, and their average lies nearer to it than any one of them.


# %% tags=["slide"]
def climb(problem, lam, n_steps, generator):
    """Adam from lam [B, P]; returns the average iterate of the second half."""
    step, late = steps.Adam(0.03), []
    state = step.start(lam)
    for k in range(n_steps):
        shape = (5, len(lam), problem.family.n_noise)
        eps = torch.randn(shape, generator=generator)
        lam, state = step(lam, step.signal(problem, lam, eps), state)
        if k >= n_steps // 2:
            late.append(lam)
    return torch.stack(late).mean(0)


# %% [markdown]
# With one start and the same noise the library's `best_lambda` must return the same. And both must arrive where the closed form says.

# %%
few = Problem(linear, x[:50], pair, elbo(analytic_kl=True))
prior = torch.zeros(50, 4)
found = climb(few, prior, 400, torch.Generator().manual_seed(1))
same = torch.Generator().manual_seed(1)
library = best_lambda(few, [prior], steps.Adam(0.03), 400, 5, same)
torch.testing.assert_close(found, library)
short = exact_best[:50] - exact_elbo(linear, x[:50], few.q(found))
print("on average within 0.01 nat of the optimum:", bool(short.mean() < 0.01))

# %% [markdown]
# ## One gap in a plane
#
# Now handwriting, and first a model with two latent units, which can be drawn.
# The images are made binary *once*. A training image is then the same in every epoch, as in static MNIST, and held-out images are new to the encoder.

# %% tags=["nbval-ignore-output"]
torch.set_default_dtype(torch.float32)  # precise enough for sampled bounds
dataset = data.load("digits" if DATA == "digits" else "mnist-static")
x_train = dataset.evaluation("train", generator)
later = [dataset.evaluation(name, generator) for name in ("valid", "test")]


def spread(x, n=500):  # n rows from first to last: MNIST has easy stretches
    return x[torch.linspace(0, len(x) - 1, n).long()]


x_old, x_new = spread(x_train), spread(torch.cat(later))  # seen, held out
n_pixels = x_train.shape[1]
bound = elbo(analytic_kl=True)


def train(model, encoder, family, epochs, lr, x=x_train, **options):
    options = {"objective": lambda step: bound} | options
    schedule = TrainSettings(epochs, batch_size=128, lr=lr, seed=SEED)
    fit(model, direct(encoder, family), x, schedule, **options)


plane = bernoulli_mlp((2, 24, 24, n_pixels), generator)
glance = mlp((n_pixels, 64, 2 * 2), generator)
train(plane, glance, pair, 2 * settings.refit, 1e-2)

# %% [markdown]
# For the picture we use a point estimate, as {cite:t}`marino2018iterative` do: $q$ is a single $z$, and the surface is $\log p(x, z)$. That is no bound on $\log p(x)$.
# An encoder with two outputs learns to climb this surface while the decoder is held fixed.
# For each held-out image we ask how far below the top of a fine grid its answer lies, and draw the image with the median distance.

# %% tags=["nbval-ignore-output"]
plane.requires_grad_(False)
pointer = mlp((n_pixels, 64, 2), generator)
options = {"objective": lambda step: log_joint()}
train(plane, pointer, PointMass(2), 2 * settings.refit, 5e-3, **options)
side = torch.linspace(-3.5, 3.5, 141)
grid = torch.cartesian_prod(side, side)
logits = plane.decoder(grid)
log_lik = x_new @ logits.T - nn.functional.softplus(logits).sum(-1)
surface = log_lik + plane.log_prior(grid)  # log p(x, z), [image, grid]
library = plane.log_lik(x_new[:1], grid[:, None])[:, 0]
torch.testing.assert_close(log_lik[0], library)
guess = pointer(x_new).detach()
there = plane.log_lik(x_new, guess[None])[0] + plane.log_prior(guess)
short = surface.max(1).values - there
middle = short.argsort()[len(short) // 2]
x_one = x_new[middle : middle + 1]
expected.check("point", short.median(), claim="Median distance to the top.")
nine_tenths = short.quantile(0.9)
expected.check("point_90", nine_tenths, claim="90 % of images are nearer.")

# %% [markdown]
# Plain gradient ascent from the prior mean has the same goal. Each of its steps costs a forward and a backward pass of the decoder; the encoder answered at once.

# %% tags=["nbval-ignore-output"]
lr = 0.03 * 64 / n_pixels  # more pixels curve the surface more
walk = svi(PointMass(2), steps.SGD(lr), 100)
path = walk(plane, x_one, log_joint(), torch.zeros(101, 1, 1, 0))
highest = grid[surface[middle].argmax()]
finish = svi(PointMass(2), steps.SGD(lr / 3), 300, highest)
summit = finish(plane, x_one, log_joint(), torch.zeros(301, 1, 1, 0))
for k in (0, 1, 10, 100):
    below = summit.value(-1) - path.value(k)
    expected.check(f"ascent_{k}", below, claim=f"Missing after {k} steps.")


# %% tags=["hide-input"]
def panel(axes, xs, ys, title):
    z = torch.cartesian_prod(xs, ys)
    values = plane.log_lik(x_one, z[:, None])[:, 0] + plane.log_prior(z)
    plots.landscape(axes, xs, ys, values.view(len(xs), len(ys)).T)
    plots.trajectory(axes, torch.cat(path.lam), "gradient ascent")
    axes.plot(*guess[middle], "P", label="encoder", **purple)
    plots.optimum(axes, peak, "optimum (MAP)")
    axes.set(xlabel="$z_1$", ylabel="$z_2$", title=title)


# %% tags=["hide-input"]
purple = {"color": plots.COLOURS["encoder"], "markeredgecolor": "white"}
purple |= {"markersize": 14, "linestyle": "none", "zorder": 6}
peak = summit.lam[-1][0]
reach = 0.1 + 1.3 * (guess[middle] - peak).abs().max()
near = torch.linspace(-1, 1, 101) * reach

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, (whole, part) = plt.subplots(2, 1, figsize=(6.4, 9.4))
panel(whole, side, side, "log p(x, z) of one image: no bound")
panel(part, peak[0] + near, peak[1] + near, "the same, near the optimum")
whole.legend(fontsize=11, loc="upper left")
inset = whole.inset_axes([0.8, 0.02, 0.18, 0.18])
plots.image_grid(inset, x_one, 1)
glue("fig-plane", figure)

# %% [markdown]
# ### The same plane with a bound
#
# With a Gaussian $q$ there is a bound again. In two dimensions its expectation can be had without noise, as a weighted sum over $16 \times 16$ points: a product Gauss rule.
# The next cells, folded, pick six held-out images by their amortization gap, the third of them the median, find their best $q$ without noise, and hand all that to the page's interactive figure.

# %% tags=["hide-input"]
points, weights = np.polynomial.hermite_e.hermegauss(16)
weights = weights / weights.sum()
nodes = torch.cartesian_prod(*[torch.tensor(points)] * 2).float()
mass = torch.tensor(np.outer(weights, weights)).float().reshape(-1, 1)


def quadrature_elbo(model, x, q, eps):  # nats, [B]; no noise is used
    z = q.mean + (q.log_var / 2).exp() * nodes[:, None]
    return (mass * model.log_lik(x, z)).sum(0) - q.kl(model.prior)


# %% tags=["hide-input", "nbval-ignore-output"]
some = Problem(plane, x_new[:200], pair, bound)
answer = glance(x_new[:200]).detach()
starts = [answer, torch.zeros_like(answer)]
best = best_lambda(some, starts, steps.Adam(0.03), 300, 5, generator)
lost = score(some, best, generator).value - score(some, answer, generator).value
six = lost.argsort()[[9, 49, 99, 149, 189, 199]]

# %% tags=["hide-input"]
rounded = deepcopy(plane)  # what the page gets: four decimals
for parameter in rounded.parameters():
    parameter.data = parameter.data.mul(1e4).round().div(1e4)
smooth = Problem(rounded, x_new[six], pair, quadrature_elbo)
no_noise = torch.zeros(1, 6, 2)
top = best[six]
for _ in range(300):
    top = top + lr / 2 * steps.gradient(smooth, top, no_noise)

# %% tags=["hide-input"]
from IPython.display import JSON


def decimals(tensor):
    return [round(number, 4) for number in tensor.flatten().tolist()]


def export(layer):
    rows = [decimals(row) for row in layer.weight]
    return {"weight": rows, "bias": decimals(layer.bias)}


# %% tags=["hide-input", "nbval-ignore-output"]
content = {
    "images": x_new[six].int().tolist(),
    "encoder": [decimals(row) for row in answer[six]],
    "best": [decimals(row) for row in top],
    "rule": [[round(p, 12), round(w, 12)] for p, w in zip(points, weights)],
    "layers": [export(layer) for layer in rounded.decoder[::2]],
}
glue("gap-demo", JSON(content), display=False)

# %% [markdown]
# Move the sliders: how many steps does the prior need to overtake the encoder? Which step size is too large?

# %% tags=["nbval-ignore-output"]
from ipywidgets import interact


def by_hand(image=2, from_prior=True, lr=0.02, n_steps=5):
    lam = answer[six] * (not from_prior)
    for _ in range(n_steps):
        lam = lam + lr * steps.gradient(smooth, lam, no_noise)
    left = smooth(top, no_noise) - smooth(lam, no_noise)
    print(f"{left[image].item():.2f} nats remain")


_ = interact(by_hand, image=(0, 5), lr=(0.005, 0.2, 0.005), n_steps=(0, 50))

# %% [markdown] tags=["slide"]
# ## Measuring the gaps
#
# The model that we measure has more latent units. The library's `gaps` climbs, for each image, from the encoder's $\lambda$ and from the prior; fresh noise chooses the better end; noise that chose nothing scores it; and $\log p(x)$ is importance-sampled from it.
# We measure five hundred training images and five hundred held-out ones.

# %% tags=["nbval-ignore-output"]
family = DiagGaussian(settings.dim)
sizes = (n_pixels, *settings.hidden, family.n_params)
encoder = mlp(sizes, generator)
model = bernoulli_mlp((settings.dim, *settings.decoder, n_pixels), generator)
train(model, encoder, family, settings.epochs, settings.lr)
search = {"step": steps.Adam(0.05), "n_steps": settings.climb, "n_samples": 5}
search |= {"objective": bound, "n_evidence": 2000}
search |= {"generator": generator, "progress": True}
method = direct(encoder, family)
seen = gaps(model, method, x_old, **search)
new = gaps(model, method, x_new, **search)

# %% [markdown]
# A mean comes with `se`, the spread over images divided by $\sqrt{500}$: how well we know the mean over all images of the kind. Its part `mc` comes from sampling alone.

# %% tags=["nbval-ignore-output"]
gap = new.best.value - new.last.value
mean = new.means["remaining"]
assert abs(mean.value - gap.mean()) < 1e-9
assert abs(mean.se - gap.std() / 500**0.5) < 1e-9 and mean.mc < mean.se
for where, result in (("train", seen), ("held", new)):
    for key in ("approximation", "remaining", "inference"):
        check(f"{where}_{key}", result.means[key], f"{key} gap, {where} images")
    elbo_here, log_p = result.last.value.mean(), result.evidence.log_p.mean()
    expected.check(f"{where}_elbo", elbo_here, claim=f"Mean bound, {where}.")
    expected.check(f"{where}_log_p", log_p, claim=f"Mean log p, {where}.")
    weak = 100 * result.evidence.weak.double().mean()
    expected.check(f"{where}_weak", weak, "%", f"Weak evidence, {where}.")

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
kind = ("Gaussian", False, "amortization gap")
named = {"training": seen, "held-out": new}
figure, axes = plt.subplots(figsize=(6.4, 3.9))
rows = [plots.Thermometer.of(name, named[name], *kind) for name in named]
plots.thermometer(axes, rows)
glue("fig-gaps", figure)

# %% [markdown] tags=["slide"]
# ## Class, training, generalisation
#
# How much of the gap could an encoder of this class avoid, with this decoder? We keep the decoder and train encoders alone. One goes on from the trained encoder with a smaller step size, one starts afresh. The better of the two on the training images stands for the best of the class.

# %% tags=["nbval-ignore-output"]
model.requires_grad_(False)


def refit(encoder, lr):  # the decoder stays, the encoder learns
    train(model, encoder, family, settings.refit, lr)
    return encoder


def refit_afresh(*hidden):
    encoder = mlp((n_pixels, *hidden, family.n_params), generator)
    return refit(refit(encoder, settings.lr), settings.lr / 5)


def bound_of(encoder, x):
    problem = Problem(model, x, family, bound)
    return score(problem, encoder(x).detach(), generator, repeats=50)


longer = refit(deepcopy(encoder), settings.lr / 5)
scores = [bound_of(e, x_old) for e in (longer, refit_afresh(*settings.hidden))]
best_in_class = max(scores, key=lambda estimate: estimate.value.mean())

# %% [markdown]
# What the best of the class still misses is the class part. What it gained over the trained encoder is the training part. What held-out images cost in addition is the generalisation part {eq}`eq-amortization-split`.

# %% tags=["nbval-ignore-output"]
parts = split(seen, best_in_class, new)
class_part = (seen.best.value - best_in_class.value).mean()
training_part = (best_in_class.value - seen.last.value).mean()
rest = new.remaining.mean() - seen.remaining.mean()
own = torch.stack([class_part, training_part, rest])
torch.testing.assert_close(own.tolist(), [part.value for part in parts])
for key, part in parts._asdict().items():
    check(key, part, f"{key.replace('_', ' ')} of the amortization gap")

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 3.2))
plots.parts(axes, {"this VAE": parts})
glue("fig-parts", figure)

# %% [markdown]
# ### How wide must an encoder be?
#
# The best Gaussian of an image depends on the decoder alone. It was measured once; a new encoder needs only one score.

# %% tags=["nbval-ignore-output"]
widths, by_width = (1, 4, 16, 64, 256), {}
narrow = {w: refit_afresh(*[w] * len(settings.hidden)) for w in widths}
for where, result, x_here in (("train", seen, x_old), ("held", new, x_new)):
    for width, candidate in narrow.items():
        value = bound_of(candidate, x_here)
        by_width[where, width] = replace(result, last=value, first=value)
        mean = by_width[where, width].means["remaining"]
        check(f"{where}_width_{width}", mean, f"gap, {width} hidden, {where}")

# %% tags=["hide-input", "nbval-ignore-output"]
series = {}
for where, label in (("train", "training images"), ("held", "held-out images")):
    row = [by_width[where, width].means["remaining"] for width in widths]
    series[label] = (widths, [m.value for m in row], [m.se for m in row])

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots()
plots.curves(axes, series, "hidden units", "amortization gap, nats")
axes.set(xscale="log", yscale="log")
axes.set_xticks(widths, widths)
ticks = [0.2, 0.5, 1, 2, 5, 10]
axes.set_yticks(ticks, ticks)
axes.minorticks_off()
glue("fig-width", figure)

# %% [markdown] tags=["slide"]
# ## The decoder adapts to $q$
#
# Turn the latent space: $z = R z'$ with an orthogonal $R$. The prior does not notice, so $p(x)$ stays the same for every $x$. The family notices: its Gaussians lie along the axes.
# A Gaussian with precisions $\tau_d$ turns into one with the precision matrix $R^\top \mathrm{diag}(\tau) R$, and {eq}`eq-lg-gap` says what its best diagonal approximation is and what that misses. The turned encoder answers with it.

# %% tags=["nbval-ignore-output"]
square = torch.randn(settings.dim, settings.dim, generator=generator)
rotation = torch.linalg.qr(square).Q
turn = nn.Linear(settings.dim, settings.dim, bias=False)
turn.weight = nn.Parameter(rotation, requires_grad=False)
turned = deepcopy(model)
turned.decoder = nn.Sequential(turn, model.decoder)


class TurnedEncoder(nn.Module):
    def forward(self, x):
        mean, log_var = encoder(x).detach().chunk(2, -1)
        precision = (-log_var).exp() @ rotation.square()
        return torch.cat([mean @ rotation, -precision.log()], -1)


z = torch.randn(10, len(x_new), settings.dim, generator=generator)
before = model.log_lik(x_new, z @ rotation.T) + model.log_prior(z @ rotation.T)
after = turned.log_lik(x_new, z) + turned.log_prior(z)
torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-3)

# %% tags=["nbval-ignore-output"]
x_few = x_new[: settings.few]
turned_gaps = gaps(turned, direct(TurnedEncoder(), family), x_few, **search)
change = turned_gaps.evidence.log_p - new.evidence.log_p[: settings.few]
expected.check("turned_log_p", change.mean(), claim="Change of log p, turned.")
log_var = encoder(x_few).detach()[:, settings.dim :]
diagonal = (-log_var).exp() @ rotation.square()
extra = (diagonal.log().sum(-1) + log_var.sum(-1)).mean() / 2
expected.check("turned_extra", extra, claim="Predicted growth of the gap.")
for key in ("approximation", "remaining"):
    check(f"turned_{key}", turned_gaps.means[key], f"{key} gap, turned decoder")

# %% [markdown]
# A decoder also adapts to the *encoder* that it is trained with. We train a model from the beginning with an encoder of four hidden units, and compare it with the four units that had to answer for a decoder they were not trained with.

# %% tags=["nbval-ignore-output"]
weak = mlp((n_pixels, *[4] * len(settings.hidden), family.n_params), generator)
partner = bernoulli_mlp((settings.dim, *settings.decoder, n_pixels), generator)
train(partner, weak, family, settings.epochs, settings.lr)
together = gaps(partner, direct(weak, family), x_few, **search)
for key in ("approximation", "remaining"):
    check(f"together_{key}", together.means[key], f"{key} gap, together")
fell = new.evidence.log_p[: settings.few] - together.evidence.log_p
expected.check("together_log_p", fell.mean(), claim="log p lost, together.")

# %% tags=["hide-input"]
row = plots.Thermometer.of
upper = [row("trained", new, *kind)]
upper.append(row("one unit", by_width["held", 1], *kind))
lower = [row("trained", new, *kind), row("turned", turned_gaps, *kind)]
lower.append(row("together,\n4 units", together, *kind))

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
size = {"figsize": (6.4, 7.6), "height_ratios": [2, 4]}
figure, (above, below) = plt.subplots(2, 1, **size)
plots.thermometer(above, upper)
above.get_legend().remove()
plots.thermometer(below, lower)
glue("fig-planted", figure)

# %% [markdown] tags=["slide"]
# ## What a few steps of refinement close
#
# The encoder's answer is a start. We refine it by Adam steps with one draw each, and score with fresh noise.

# %% tags=["nbval-ignore-output"]
refine = vae_svi(encoder, family, steps.Adam(0.03), 20)
path = refine(model, x_new, bound, refine.noise(1, x_new, generator))
held_out, refined = Problem(model, x_new, family, bound), {}
for k in (1, 5, 20):
    value = score(held_out, path.lam[k].detach(), generator)
    refined[k] = replace(new, last=value, first=new.last)
    check(f"refined_{k}", refined[k].means["remaining"], f"gap after {k} steps")

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 4.8))
kind = ("Gaussian", True, "amortization gap left")
rows = [plots.Thermometer.of(f"K = {k}", refined[k], *kind) for k in refined]
plots.thermometer(axes, rows)
glue("fig-refined", figure)

# %% [markdown]
# ## When every epoch binarises anew
#
# A last contrast. Drawing the binary pixels anew for each minibatch is data augmentation: no training image is ever met twice, so training and held-out images have much the same gap.

# %% tags=["nbval-ignore-output"]
fluid = data.load(DATA)  # grey: binary only once observed
anew = mlp(sizes, generator)
other = bernoulli_mlp((settings.dim, *settings.decoder, n_pixels), generator)
options = {"x": fluid.train, "observe": fluid.observe}
train(other, anew, family, 5 * settings.refit, settings.lr, **options)
for where, name in (("train", "train"), ("held", "test")):
    x_here = spread(fluid.evaluation(name, generator), 250)
    here, start = Problem(other, x_here, family, bound), anew(x_here).detach()
    best = best_lambda(here, [start], search["step"], 200, 5, generator)
    gap = score(here, best, generator).value.mean()
    gap = gap - score(here, start, generator).value.mean()
    expected.check(f"anew_{where}", gap, claim=f"Gap, dynamic, {where}.")
