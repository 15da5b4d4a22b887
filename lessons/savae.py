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
# # Lesson: semi-amortized inference
#
# This notebook goes with the chapter [Semi-amortized inference](../book/savae.md).
# First we differentiate through a climb, twice by hand, and compare with the library and with finite differences.
# Then we train encoders whose answers are only a start, look at where they start, and ask what the exact derivative is worth.

# %%
DATA = "digits"  # or "mnist": only the last experiment changes
SEED = 0
from dataclasses import dataclass

from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    vocabulary: int = 100  # of the synthetic sequences, 5 tokens long
    narrow: int = 6  # LSTM and embedding of the encoders
    epochs: int = 4  # for each of two learning rates
    n_steps: int = 20  # K on sequences
    lr: float = 0.02  # of the steps, per example: 1 / 50
    decoder: tuple = (8, 128, 64) if DATA == "digits" else (20, 200, 784)
    encoder: tuple = (64, 64, 16) if DATA == "digits" else (784, 200, 40)
    n_images: int = 1297 if DATA == "digits" else 10_000
    passes: int = 20 if DATA == "digits" else 4  # epochs on images
    image_lr: float = 0.05 if DATA == "digits" else 0.02  # more pixels, steeper


settings = Settings()
expected = Expected("savae", DATA)

# %%
from copy import deepcopy
from functools import partial
from timeit import repeat

import matplotlib.pyplot as plt
import torch
from torch import autograd, nn

from avi import data, plots, steps
from avi.core import Problem
from avi.families import DiagGaussian
from avi.gradients import Adjoint, Unrolled
from avi.inference import direct, kl_to_last, savae, svi, vae_svi, vae_svi_kl
from avi.models import SequenceEncoder, bernoulli_mlp, oracle, uniform_
from avi.nets import mlp
from avi.objectives import elbo
from avi.training import TrainSettings, fit, train_step

use_threads()
plots.style()
bound = elbo(analytic_kl=True)
generator = torch.Generator().manual_seed(SEED)


# %% tags=["hide-input"]
def check(key, mean, claim):  # a mean over examples, and its standard error
    expected.check(key, mean.value, claim=f"Mean {claim}.")
    expected.check(f"{key}_se", mean.se, claim=f"Error of the mean {claim}.")


# %% [markdown]
# ## Refinement in training
#
# Four ways to train an encoder whose answer is refined.
# They differ in who learns from what, and in whether the climb itself is differentiated.

# %%
images = data.load("digits")
x = images.evaluation("train", generator)[:32]
family = DiagGaussian(8)
climb = steps.Momentum(0.05, 0.5)
net = mlp((64, 64, 16), generator)
methods = {
    "VAE": direct(net, family),
    "VAE+SVI": vae_svi(net, family, climb, 10),
    "VAE+SVI+KL": vae_svi_kl(net, family, climb, 10),
    "SA-VAE": savae(net, family, climb, 10),
}
for name, method in methods.items():
    mode = type(method.gradient).__name__
    print(f"{name:10}  credit {method.credit.__name__:10}  loop {mode}")

# %% [markdown]
# In VAE+SVI+KL the encoder imitates what refinement found: it climbs $-\mathrm{KL}(q_0 \Vert q_K)$ with $q_K$ held still {eq}`eq-kl-to-last`.
# Written out for Gaussians, and compared with the library's credit, for a VAE after five epochs:


# %%
def imitation(path):  # nats, [B]
    first = path.q(0)
    mean, log_var = path.lam[-1].detach().chunk(2, -1)
    square = (first.mean - mean).square() + first.log_var.exp()
    terms = square / log_var.exp() - 1 + log_var - first.log_var
    return -terms.sum(-1) / 2


model = bernoulli_mlp((8, 128, 64), generator)
seen = images.evaluation("train", generator)
options = {"objective": lambda step: bound, "progress": False}
schedule = TrainSettings(epochs=5, lr=3e-3, seed=SEED)
fit(model, methods["VAE"], seen, schedule, **options)
method = methods["VAE+SVI+KL"]
path = method(model, x, bound, method.noise(1, x, generator))
torch.testing.assert_close(imitation(path), kl_to_last(path).phi)

# %% [markdown] tags=["slide"]
# ## The derivative of a climb
#
# Ten lines. `create_graph=True` keeps the graph of each gradient, so that the whole climb can be differentiated {eq}`eq-savae-step`.


# %% tags=["slide"]
def unrolled(problem, lam, noise, lr=0.05, gamma=0.5):
    """The bound after K momentum steps from lam, summed over the batch."""
    velocity = torch.zeros_like(lam)
    for eps in noise[:-1]:
        value = problem(lam, eps).sum()
        (slope,) = autograd.grad(value, lam, create_graph=True)
        velocity = gamma * velocity + slope
        lam = lam + lr * velocity
    return problem(lam, noise[-1]).sum()


# %% [markdown] tags=["slide"]
# The same derivative by the reverse recursion {eq}`eq-adjoint`.
# Going up it keeps only where it was. Going back it needs, at each place, the product of the Hessian with one vector; *how* is left to the function `product`, because we shall try two.


# %%
def exact_product(problem, lam, eps, theta, v):
    """[H v, M v]: the Hessian in lam, and the mixed one, times v."""
    lam = lam.detach().requires_grad_()
    slope = steps.gradient(problem, lam, eps, keep=True)
    return autograd.grad(slope, [lam, *theta], v)


def adjoint(problem, lam, noise, product=exact_product, lr=0.05, gamma=0.5):
    """d/d lam_0 and d/d theta of the bound after K steps."""
    theta, places = list(problem.model.parameters()), []
    velocity = torch.zeros_like(lam)
    for eps in noise[:-1]:
        places.append((lam, eps))
        velocity = gamma * velocity + steps.gradient(problem, lam, eps)
        lam = (lam + lr * velocity).detach()
    value = problem(lam.requires_grad_(), noise[-1]).sum()
    lam_bar, *theta_bar = autograd.grad(value, [lam, *theta])
    v_bar = torch.zeros_like(lam)
    for lam, eps in reversed(places):
        v_bar = v_bar + lr * lam_bar
        more, *theta_more = product(problem, lam, eps, theta, v_bar)
        lam_bar = lam_bar + more
        theta_bar = [a + b for a, b in zip(theta_bar, theta_more)]
        v_bar = gamma * v_bar
    return lam_bar, theta_bar


# %% [markdown]
# Both, and both modes of the library, in double precision, for encoder and decoder. Two helpers, folded, collect the gradients into one vector for each.

# %% tags=["hide-input"]
def library(problem, net, noise, mode, step=climb):
    """The library's gradient: encoder and decoder, as two vectors."""
    method = savae(net, family, step, len(noise) - 1, mode)
    value = method(problem.model, problem.x, bound, noise).value(-1).sum()
    parts = [list(net.parameters()), list(problem.model.parameters())]
    found = autograd.grad(value, parts[0] + parts[1])
    return flat(found[: len(parts[0])]), flat(found[len(parts[0]) :])


# %% tags=["hide-input"]
def flat(parts):
    return torch.cat([part.flatten() for part in parts])


def by_recursion(problem, net, noise, product):
    lam = net(problem.x)
    lam_bar, theta_bar = adjoint(problem, lam.detach(), noise, product)
    phi_bar = autograd.grad(lam, list(net.parameters()), lam_bar)
    return flat(phi_bar), flat(theta_bar)


# %%
noise = methods["SA-VAE"].noise(1, x, generator).double()
fine_net = deepcopy(net).double()
fine = Problem(deepcopy(model).double(), x.double(), family, bound)
fine_lam = fine_net(fine.x)
phi, theta = list(fine_net.parameters()), list(fine.model.parameters())
found = autograd.grad(unrolled(fine, fine_lam, noise), phi + theta)
truth = flat(found[: len(phi)]), flat(found[len(phi) :])
for other in (
    by_recursion(fine, fine_net, noise, exact_product),
    library(fine, fine_net, noise, Unrolled()),
    library(fine, fine_net, noise, Adjoint()),
):
    for own, theirs in zip(truth, other):
        torch.testing.assert_close(own, theirs, rtol=1e-8, atol=1e-9)
print("four times the same gradient")

# %% [markdown]
# The graph that is differentiated, for $K = 2$ plain steps: solid arrows are computed first, dashed ones carry derivatives back.

# %% tags=["hide-input"]
spots = {"0": (0, 0), "1": (2, 0), "2": (4, 0), "a": (1, 1), "b": (3, 1)}
spots |= {"L": (5.4, 0), "p": (-1.4, 0), "t": (3, 2.3)}
texts = {"0": "\\lambda_0", "1": "\\lambda_1", "2": "\\lambda_2"}
texts |= {"a": "g_0", "b": "g_1", "p": "\\phi", "t": "\\theta"}
texts |= {"L": "\\mathcal{L}"}
ways = ["p0", "01", "12", "2L", "0a", "a1", "1b", "b2", "ta", "tb", "tL"]

# %% tags=["hide-input"]
red = plots.COLOURS["svi"]


def arrow(axes, tail, head, colour, dash):
    bend = {"connectionstyle": "arc3,rad=0.13", "shrinkA": 17, "shrinkB": 17}
    look = {"arrowstyle": "->", "color": colour, "ls": dash, "lw": 1.6} | bend
    axes.annotate("", spots[head], spots[tail], arrowprops=look)


# %% tags=["hide-input", "nbval-ignore-output"]
figure, axes = plt.subplots(figsize=(6.4, 4.2))
for tail, head in ways:
    arrow(axes, tail, head, "black", "-")
    arrow(axes, head, tail, red, "--")
box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "black"}
middle = {"ha": "center", "va": "center", "fontsize": 17, "bbox": box}
for key, (a, b) in spots.items():
    axes.text(a, b, f"${texts[key]}$", **middle)
plt.close(figure)  # shown once it is complete

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
labels = {"$H_0$": (0.22, 0.62), "$H_1$": (2.22, 0.62), "$I$": (1, 0.24)}
labels |= {"$\\alpha$": (1.72, 0.66), "$M_0$": (1.75, 1.85)}
labels |= {"$M_1$": (3.4, 1.28), "$\\alpha$ ": (3.72, 0.66), "$I$ ": (3, 0.24)}
for text, (a, b) in labels.items():
    axes.text(a, b, text, ha="center", va="center", color=red)
axes.set(xlim=(-1.8, 5.8), ylim=(-0.5, 2.6))
axes.axis("off")
glue("fig-graph", figure)

# %% [markdown]
# What do the two modes keep in memory while they work? The profiler reports every tensor that is allocated or freed; we add them up and take the largest sum.

# %% tags=["hide-input"]
def peak_megabytes(work):
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()
    events = [e for e in events if e.name() == "[memory]"]
    events = sorted(events, key=lambda event: event.start_ns())
    held = torch.tensor([event.nbytes() for event in events])
    return held.cumsum(0).max().item() / 1e6


# %% tags=["nbval-ignore-output"]
coarse = Problem(model, x, family, bound)
counts = (1, 5, 10, 20, 40)
modes = {"unrolled": Unrolled(), "adjoint": Adjoint()}
memory = {}
for name, mode in modes.items():
    for n_steps in counts:
        eps = torch.randn(n_steps + 1, 1, 32, 8, generator=generator)
        work = partial(library, coarse, net, eps, mode)
        memory[name, n_steps] = peak_megabytes(work)

# %% tags=["hide-input", "nbval-ignore-output"]
for name in modes:
    growth = memory[name, 40] / memory[name, 5]
    claim = f"Memory at K = 40 over K = 5, {name}."
    expected.check(f"memory_{name}", growth, "ratio", claim)
saved = memory["unrolled", 40] / memory["adjoint", 40]
claim = "Memory at K = 40, unrolled over adjoint."
expected.check("memory_ratio", saved, "ratio", claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots()
series = {}
for name in modes:
    series[name] = (counts, [memory[name, k] for k in counts])
plots.curves(axes, series, "steps $K$", "peak of tensor memory, MB")
axes.set_ylim(bottom=0)
glue("fig-memory", figure)

# %% [markdown] tags=["slide"]
# ## Why not finite differences
#
# A Hessian-vector product is a directional derivative of the gradient, so two gradients nearly give it {eq}`eq-finite-difference`. We put that into the same recursion and let the width vary, in single and in double precision. The truth is double backward in double precision.


# %%
def difference(width):
    def product(problem, lam, eps, theta, v):
        def gradients(lam):
            lam = lam.detach().requires_grad_()
            return autograd.grad(problem(lam, eps).sum(), [lam, *theta])

        pairs = zip(gradients(lam + width * v), gradients(lam))
        return [(ahead - here) / width for ahead, here in pairs]

    return product


def errors(found):  # relative; encoder and decoder apart
    pairs = zip(found, truth)
    return [((a.double() - b).norm() / b.norm()).item() for a, b in pairs]


# %% tags=["nbval-ignore-output"]
widths = [10.0**-k for k in range(9)]
sides = {"single": (coarse, net, noise.float())}
sides["double"] = fine, fine_net, noise
wrong = {"single": [], "double": []}
for precision, side in sides.items():
    for width in widths:
        found = by_recursion(*side, difference(width))
        wrong[precision].append(errors(found))
exact = errors(library(*sides["single"], Adjoint()))
assert max(exact) < 1e-5

# %% tags=["hide-input", "nbval-ignore-output"]
for part, name in enumerate(("encoder", "decoder")):
    for precision, rows in wrong.items():
        log = torch.tensor([row[part] for row in rows]).log10()
        text = f"Error, {name}, {precision} precision, log10"
        key = f"fd_{precision}_{name}"
        expected.check(key, log[5], "log10", f"{text}, width 1e-5.")
        expected.check(f"{key}_best", log.min(), "log10", f"{text}, best.")

# %% tags=["hide-input", "nbval-ignore-output"]
size = {"figsize": (6.4, 6.4), "sharex": True, "sharey": True}
figure, panels = plt.subplots(2, 1, **size)
for part, name in enumerate(("encoder", "decoder")):
    rows = {}
    for kind, pairs in wrong.items():
        rows[f"{kind} precision"] = (widths, [pair[part] for pair in pairs])
    plots.curves(panels[part], rows, "width $\\epsilon$", f"error, {name}")
    panels[part].axhline(exact[part], color="black", ls=":")
plt.close(figure)  # shown once it is complete

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
for part, axes in enumerate(panels):
    where = {"ha": "right", "fontsize": 11}
    axes.text(1, exact[part] * 1.7, "exact, single precision", **where)
    axes.set(xscale="log", yscale="log")
panels[0].set_xlabel("")
panels[1].get_legend().remove()
glue("fig-differences", figure)

# %% [markdown] tags=["slide"]
# ### Clipping
#
# Steps are often clipped. The clip belongs to the loop that is run, so its derivative belongs to the derivative {eq}`eq-clip-derivative`.
# We clip at half the median norm of the first gradient, and compare: the library's default with central differences of the whole loop, and three approximations with the default.

# %%
norms = steps.gradient(fine, fine_lam, noise[0]).norm(dim=-1)
level = norms.median().item() / 2
clipped = steps.Clipped(climb, level)
truth = library(fine, fine_net, noise, Unrolled(), clipped)


def moved_value(h):
    """The clipped loop's bound with the encoder moved by h along `way`."""
    moved = deepcopy(fine_net)
    start = nn.utils.parameters_to_vector(phi).detach()
    nn.utils.vector_to_parameters(start + h * way, moved.parameters())
    method = savae(moved, family, clipped, 10)
    return method(fine.model, fine.x, bound, noise).value(-1).sum().item()


way = truth[0] / truth[0].norm()
central = (moved_value(1e-6) - moved_value(-1e-6)) / 2e-6
assert abs(central / truth[0].norm() - 1) < 1e-6

# %% tags=["nbval-ignore-output"]
held = steps.ClipHeld(climb, level)
whole = level / 32**0.5  # the same length, were all gradients equally long
together = steps.BatchClipped(steps.Momentum(0.05 * 32, 0.5), whole)
clips = {
    "held": (Unrolled(), held, "coefficient held"),
    "later": (Adjoint(clip=5.0), clipped, "later clips at 5"),
    "batch": (Unrolled(), together, "one clip over the batch"),
}
for key, (mode, step, text) in clips.items():
    found = errors(library(fine, fine_net, noise, mode, step))
    for name, error in zip(("encoder", "decoder"), found):
        claim = f"Distance of the {name}'s gradient, {text}."
        expected.check(f"clip_{key}_{name}", error, "ratio", claim)

# %% [markdown]
# A clip over the batch also lets examples interact. We keep the first image, replace the other 31, and see whether its answer moves.

# %% tags=["hide-input", "nbval-ignore-output"]
others = images.evaluation("test", generator)[:32].double()
others[0] = fine.x[0]


def first_answer(step, company):
    method = vae_svi(fine_net, family, step, 10)
    path = method(fine.model, company, bound, noise)
    return path.lam[-1][0].detach()


# %% tags=["hide-input", "nbval-ignore-output"]
for key, step in (("clipped", clipped), ("batch", together)):
    moved = first_answer(step, fine.x) - first_answer(step, others)
    claim = f"How far replacing the others moves lam of one image, {key}."
    expected.check(f"company_{key}", moved.norm(), "lam", claim)

# %% [markdown] tags=["slide"]
# ## A world with a known model
#
# Sequences of five tokens, drawn from a fixed language model whose latent has two units and speaks at the output only {eq}`eq-sequence`. The model is given; inference alone is learned. The encoders are narrow on purpose: something should be left to refine.

# %%
torch.manual_seed(SEED)
lstm = {"embedding": 32, "hidden": 32}
world = oracle(2, settings.vocabulary, generator, **lstm)
heard = world.sample(1000, 5, generator)
new = world.sample(200, 5, generator)
z = torch.randn(3, 200, 2, generator=generator)
states = world.context(new)[0].log()[:, :, None]  # what needs no z
tilt = world.from_latent(z).transpose(0, 1)[:, None]
logits = (states + tilt).log_softmax(-1)
tokens = new[:, :, None, None].expand(-1, -1, 3, 1)
by_hand = logits.gather(-1, tokens)[..., 0].sum(1).T
torch.testing.assert_close(by_hand, world.log_lik(new, z))

# %% [markdown]
# Truth first: the best Gaussian of each held-out sequence, and $\log p(x)$ by importance sampling from it.

# %% tags=["hide-input", "nbval-ignore-output"]
from avi.evaluation import Gaps, best_lambda, log_evidence, score

pair = DiagGaussian(2)
held_out = Problem(world, new, pair, bound)
prior = torch.zeros(200, 4)
search = steps.Adam(0.1), 200, 5, generator
best = best_lambda(held_out, [prior], *search)
evidence = log_evidence(world, new, pair, best, 2000, generator)
top = score(held_out, best, generator, repeats=40)
nll = -evidence.log_p.mean()
expected.check("nll", nll, claim="True negative log-likelihood.")

# %% [markdown]
# Then the encoders. Every method makes the same number of updates, except for a second VAE that makes four times as many; its steps are $0.02 = 1/50$ per example, the published code's step of 1 on the mean of a batch of 50.

# %% tags=["nbval-ignore-output"]
step = steps.Momentum(settings.lr, 0.5)


def learn(make, epochs=settings.epochs):
    """Train an encoder of sequences inside the method that `make` makes."""
    width = settings.narrow
    encoder = SequenceEncoder(settings.vocabulary, 4, width, width)
    uniform_(encoder, 0.1, generator)
    method = make(encoder)
    for lr in (3e-2, 5e-3):
        schedule = TrainSettings(epochs, 50, 2, lr, SEED)
        fit(world, method, heard, schedule, objective=lambda step: bound)
    return method


# %% tags=["nbval-ignore-output"]
K = settings.n_steps
vae = learn(lambda net: direct(net, pair))
patient = learn(lambda net: direct(net, pair), 4 * settings.epochs)
imitator = learn(lambda net: vae_svi_kl(net, pair, step, K))
exact = Unrolled()
trained = {}
for n in (5, K):
    trained[n] = learn(lambda net, n=n: savae(net, pair, step, n, exact))

# %% [markdown]
# All are scored alike: run, then score the iterates with fresh noise. With the model given, VAE+SVI is the VAE, refined at test.

# %% tags=["nbval-ignore-output"]
refined = vae_svi(vae.init.net, pair, step, K)
from_prior = svi(pair, step, K)


def along(method, marks, n_samples=2):
    """The gaps after each of these numbers of steps."""
    method = method.with_steps(max(marks))
    with torch.no_grad():
        noise = method.noise(n_samples, new, generator)
        path = method(world, new, bound, noise)
    ends = [score(held_out, path.lam[k], generator, repeats=20) for k in marks]
    return {k: Gaps(evidence, top, e, ends[0]) for k, e in zip(marks, ends)}


# %% tags=["hide-input", "nbval-ignore-output"]
rows = {
    "vae": (along(refined, (0,))[0], "VAE"),
    "longer": (along(patient, (0,))[0], "VAE,\ntrained longer"),
    "vae_svi": (along(refined, (0, K))[K], "VAE + SVI"),
    "kl": (along(imitator, (0, K))[K], "VAE + SVI\n+ KL"),
    "svi": (along(from_prior, (0, K))[K], "SVI"),
    "savae": (along(trained[K], (0, K))[K], "SA-VAE"),
}

# %% tags=["hide-input", "nbval-ignore-output"]
for key, (result, name) in rows.items():
    name = " ".join(name.split())
    check(key, result.means["inference"], f"gap to log p, {name}")
    closed = result.means["closed"].value
    expected.check(f"{key}_closed", closed, claim=f"Nats closed, {name}.")
family_gap = rows["vae"][0].means["approximation"]
check("family", family_gap, "approximation gap of the oracle")

# %% tags=["hide-input", "nbval-ignore-output"]
size = {"figsize": (6.4, 8.4), "height_ratios": [4, 2]}
figure, panels = plt.subplots(2, 1, **size)
of = plots.Thermometer.of
bars = []
for key, (result, name) in rows.items():
    bars.append(of(name, result, "Gaussian", key not in ("vae", "longer")))
plt.close(figure)  # shown once it is complete

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
plots.thermometer(panels[0], bars[:4])
panels[0].get_legend().remove()
plots.thermometer(panels[1], bars[4:])
glue("fig-oracle", figure)

# %% [markdown] tags=["slide"]
# ### A start, not an answer
#
# SA-VAE's own $\lambda_0$ is a poor posterior. Is it the means, or the variances? We replace one or the other by those of the best Gaussian.

# %% tags=["hide-input", "nbval-ignore-output"]
start = trained[K].init(new, world).detach()
best_means = torch.cat([best[:, :2], start[:, 2:]], 1)
best_widths = torch.cat([start[:, :2], best[:, 2:]], 1)
changed = {"start": start, "start_mean": best_means, "start_var": best_widths}

# %% tags=["hide-input", "nbval-ignore-output"]
for key, lam in changed.items():
    value = score(held_out, lam, generator, repeats=20).value
    gap = (evidence.log_p - value).mean()
    text = "" if lam is start else ", with the best " + key[6:] + "s"
    expected.check(key, gap, claim=f"Gap of SA-VAE's start{text}.")

# %% [markdown]
# It is the means. How far from the prior's do they lie, and would the steps mind if they were exactly there?

# %% tags=["hide-input", "nbval-ignore-output"]
for key, lam in (("start_rms", start), ("best_rms", best)):
    size = lam[:, :2].square().mean().sqrt()
    expected.check(key, size, "z", f"Root mean square of the means, {key}.")
centred = torch.cat([0 * start[:, :2], start[:, 2:]], 1)
end = along(svi(pair, step, K, start=centred), (0, K))[K]
gap = end.inference.mean()
expected.check("centred", gap, claim="Gap, means from 0, SA-VAE's widths.")

# %% [markdown]
# How much of a start does a climb remember? We nudge the means of $\lambda_0$ in random directions, and see how far the means of $\lambda_K$ move. The exact derivative of the climb tells. Beside it stands the largest curvature at the start and at the best Gaussians {eq}`eq-contraction`.


# %% tags=["hide-input"]
def curvature(lam):
    """The largest curvature over the means, median over sequences."""
    eps = torch.randn(100, len(lam), 2, generator=generator)
    lam = lam.clone().requires_grad_()
    slope = steps.gradient(held_out, lam, eps, keep=True)[:, :2]
    rows = [autograd.grad(s.sum(), lam, retain_graph=True)[0] for s in slope.T]
    matrix = torch.stack(rows, 1)[..., :2]
    return -torch.linalg.eigvalsh(matrix)[:, 0].median()


# %% tags=["hide-input", "nbval-ignore-output"]
h_start, h_best = curvature(start), curvature(best)
expected.check("h_start", h_start, "nat", "Largest curvature, SA-VAE's start.")
expected.check("h_best", h_best, "nat", "Largest curvature, best Gaussians.")

# %% tags=["nbval-ignore-output"]
from avi.inference import Refine

for n_steps in (1, 5, K):
    begin = start.clone().requires_grad_()
    walk = Refine(lambda *_, at=begin: at, pair, step, n_steps, exact)
    path = walk(world, new, bound, walk.noise(2, new, generator))
    v = torch.randn(200, 2, generator=generator)
    (product,) = autograd.grad(path.lam[-1][:, :2], begin, v)
    share = (product[:, :2].square().sum() / v.square().sum()).sqrt()
    claim = f"Share of a nudge of the means left after {n_steps} steps."
    expected.check(f"recall_{n_steps}", share, "ratio", claim)

# %% [markdown]
# ### Seeing it
#
# One held-out sequence: the one at which the VAE's gap is the median. The surface is the bound over the two posterior means, with the variances of the best Gaussian, and one set of draws for the whole surface.

# %% tags=["hide-input", "nbval-ignore-output"]
order = (top.value - rows["vae"][0].last.value).argsort()
one = order[100]
side = torch.linspace(-3, 3, 71)
means = torch.cartesian_prod(side, side)
widths_here = best[one, 2:].expand(len(means), 2)
lam = torch.cat([means, widths_here], 1)

# %% tags=["hide-input", "nbval-ignore-output"]
crowd = Problem(world, new[one].expand(len(means), -1), pair, bound)
half = torch.randn(32, 1, 1, 2, generator=generator)
with torch.no_grad():
    draws = torch.cat([half, -half]).expand(-1, -1, len(means), -1)
    surface = sum(crowd(lam, eps) for eps in draws) / 64
summit = means[surface.argmax()]
assert (summit - best[one, :2]).norm() < 0.5  # the grid agrees with q*


# %% tags=["hide-input"]
def places(method, n_steps=K):
    """The means along the path for this sequence, [K + 1, 2]."""
    method, alone = method.with_steps(n_steps), new[one : one + 1]
    with torch.no_grad():
        noise = method.noise(2, alone, generator)
        path = method(world, alone, bound, noise)
    return torch.cat(path.lam)[:, :2].detach()


# %% tags=["hide-input", "nbval-ignore-output"]
figure, axes = plt.subplots(figsize=(6.4, 5.6))
plots.landscape(axes, side, side, surface.view(71, 71).T)
plots.trajectory(axes, places(trained[K]), "SA-VAE", plots.COLOURS["adam"])
plots.trajectory(axes, places(from_prior), "SVI")
answer = places(refined, 0)[0]
cross = {"ms": 13, "mec": "black", "ls": "", "label": "VAE", "zorder": 6}
plt.close(figure)  # shown once it is complete

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
axes.plot(*answer, "X", mfc=plots.COLOURS["encoder"], **cross)
plots.optimum(axes, summit, "grid optimum")
axes.set(xlabel="mean of $z_1$", ylabel="mean of $z_2$")
axes.legend(loc="lower right", fontsize=11, frameon=True, framealpha=1)
glue("fig-plane", figure)

# %% [markdown]
# Move the sliders: with which step size does the path from SA-VAE's start jump to and fro? How many steps does it need?

# %% tags=["hide-input"]
from io import BytesIO

import ipywidgets
from IPython.display import display

size_slider = ipywidgets.FloatSlider(0.02, min=0.005, max=0.2, step=0.005)
step_slider = ipywidgets.IntSlider(20, min=0, max=40)
origin = ipywidgets.Dropdown(options=["SA-VAE's start", "the prior"])
controls = {"step size": size_slider, "steps": step_slider}
controls["from"] = origin
picture = ipywidgets.Image(format="png")


# %% tags=["hide-input"]
def redraw(change=None):
    source = from_prior if origin.value == "the prior" else trained[K]
    mover = steps.Momentum(size_slider.value, 0.5)
    method = Refine(source.init, pair, mover)
    figure, axes = plt.subplots(figsize=(5, 4.2))
    plots.landscape(axes, side, side, surface.view(71, 71).T)
    path = places(method, step_slider.value).nan_to_num(3).clamp(-3, 3)
    plots.trajectory(axes, path, "SVI")
    figure.savefig(buffer := BytesIO(), format="png")
    plt.close(figure)
    picture.value = buffer.getvalue()


# %% tags=["hide-input", "nbval-ignore-output"]
for text, control in controls.items():
    control.description = text
    control.observe(redraw, "value")
display(ipywidgets.VBox([*controls.values(), picture]))
redraw()

# %% [markdown] tags=["slide"]
# ## How many steps, what step size
#
# One SA-VAE encoder was trained with 5 steps, one with 20. What do they give with other numbers of steps at the test?

# %% tags=["nbval-ignore-output"]
marks = (0, 1, 2, 5, 10, 20, 40)
contenders = {f"SA-VAE, K = {k}": method for k, method in trained.items()}
contenders |= {"VAE": refined, "SVI": from_prior}
curves = {}
for name, method in contenders.items():
    found = along(method, marks)
    mean = [found[k].means["remaining"] for k in marks]
    curves[name] = (marks, [m.value for m in mean], [m.se for m in mean])

# %% tags=["hide-input", "nbval-ignore-output"]
for name, (_, values, _) in curves.items():
    key = "".join(c for c in name.lower() if c.isalnum())
    for k, value in zip(marks, values):
        claim = f"Gap left after {k} test steps, {name}."
        expected.check(f"test_{key}_{k}", value, claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 4.8))
plots.curves(axes, curves, "steps at the test", "gap left, nats")
axes.set(xscale="symlog", yscale="log", xticks=marks, xticklabels=marks)
ticks = [0.2, 0.5, 1, 2, 5, 10, 20]
axes.set_yticks(ticks, ticks)
axes.minorticks_off()
glue("fig-steps", figure)

# %% [markdown]
# And the same 20 steps with other step sizes, from two starts.
# A step of momentum 0.5 is stable while $\alpha h < 3$ {eq}`eq-step-limit`.

# %% tags=["hide-input", "nbval-ignore-output"]
sizes = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
by_size = {"SA-VAE": [], "VAE": []}
for name, method in (("SA-VAE", trained[K]), ("VAE", refined)):
    for lr in sizes:
        other = vae_svi(method.init.net, pair, steps.Momentum(lr, 0.5), K)
        left = along(other, (K,))[K].remaining
        by_size[name].append(left.nan_to_num(1e3).clamp(max=1e3).mean())

# %% tags=["hide-input", "nbval-ignore-output"]
for name, row in by_size.items():
    for number, value in enumerate(row):
        key = f"size_{name.lower().replace('-', '')}_{number}"
        claim = f"Gap left, 20 steps of {sizes[number]}, {name}."
        expected.check(key, value.log10(), "log10", claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots()
rows_here = {name: (sizes, row) for name, row in by_size.items()}
plots.curves(axes, rows_here, "step size $\\alpha$", "gap left, nats")
axes.axvline(3 / h_best, color="black", ls=":")
axes.set(xscale="log", yscale="log", xticks=sizes, xticklabels=sizes)
axes.minorticks_off()
glue("fig-sizes", figure)

# %% [markdown] tags=["slide"]
# ## Handwriting, with a decoder that learns
#
# Now $\theta$ learns too. Three models from three methods, with $K = 5$; the VAE is also refined at the test alone.

# %% tags=["nbval-ignore-output"]
dataset = data.load(DATA)
digits = DiagGaussian(settings.decoder[0])
few = steps.Momentum(settings.image_lr, 0.5)
schedule = TrainSettings(settings.passes, 64, lr=3e-3, seed=SEED)
options = {"objective": lambda step: bound, "observe": dataset.observe}


def write(make):
    """A decoder, and the method `make` makes, trained together."""
    model = bernoulli_mlp(settings.decoder, generator)
    method = make(mlp(settings.encoder, generator))
    fit(model, method, dataset.train[: settings.n_images], schedule, **options)
    return model, method


plain, answer = write(lambda net: direct(net, digits))
pairs = {
    "refined": (plain, vae_svi(answer.init.net, digits, few, 5)),
    "vae_svi": write(lambda net: vae_svi(net, digits, few, 5)),
    "savae": write(lambda net: savae(net, digits, few, 5, exact)),
}

# %% [markdown]
# The search for the best posteriors serves the VAE and the refined VAE at once: they share a decoder, and the VAE's bound is the one before the first step.

# %% tags=["hide-input", "nbval-ignore-output"]
from avi.evaluation import gaps

names = {"vae": "VAE", "refined": "VAE, refined\nat the test"}
names |= {"vae_svi": "VAE + SVI", "savae": "SA-VAE"}
test = dataset.evaluation("test", generator)[:100]
search = {"step": steps.Adam(0.03), "n_steps": 100, "n_samples": 5}
search |= {"objective": bound, "n_evidence": 500, "generator": generator}
written = {k: gaps(*both, test, **search) for k, both in pairs.items()}
found = written["refined"]
bare = Gaps(found.evidence, found.best, found.first, found.first)
written = {"vae": bare} | written

# %% tags=["hide-input", "nbval-ignore-output"]
for key, result in written.items():
    name = " ".join(names[key].split())
    for part in ("approximation", "remaining", "closed"):
        value = result.means[part].value
        claim = f"Mean {part}, {name}, images."
        expected.check(f"image_{key}_{part}", value, claim=claim)

# %% tags=["hide-input", "nbval-ignore-output"]
for key, result in written.items():
    name = " ".join(names[key].split())
    log_p, value = result.evidence.log_p.mean(), result.last.value
    gain = (value - written["vae"].last.value).mean()
    expected.check(f"image_{key}_log_p", log_p, claim=f"log p, {name}.")
    claim = f"Held-out bound less that of the VAE, {name}."
    expected.check(f"image_{key}_gain", gain, claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 5.6))
bars = [of(names[k], written[k], "Gaussian", k != "vae") for k in names]
plots.thermometer(axes, bars)
glue("fig-images", figure)

# %% [markdown]
# ## What it costs
#
# The decoder calls of one training step, for each sequence and draw: forward, backward, and backward through a backward. A hook on each gradient notices when it is itself differentiated.

# %%
from avi.evaluation import count_calls


def calls_of(make, n_steps=K):
    """Forward, backward and double calls per sequence of a train step."""
    double = []

    def watched(problem, lam, eps, keep=False):
        slope = steps.gradient(problem, lam, eps, keep)
        if slope.requires_grad:
            slope.register_hook(lambda grad: double.append(len(grad)))
        return slope

    net = SequenceEncoder(settings.vocabulary, 4, 6, 6)
    method = make(net, steps.Momentum(settings.lr, 0.5, watched), n_steps)
    noise = method.noise(1, new, generator)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)
    with count_calls(world) as counts:
        train_step(world, method, new, bound, noise, optimiser)
    return [n // len(new) for n in (*counts.values(), sum(double))]


# %% tags=["hide-input", "nbval-ignore-output"]
makers = {
    "vae": lambda net, step, n: direct(net, pair),
    "vae_svi": lambda net, step, n: vae_svi(net, pair, step, n),
    "unrolled": lambda net, step, n: savae(net, pair, step, n, exact),
    "adjoint": lambda net, step, n: savae(net, pair, step, n, Adjoint()),
}

# %% tags=["hide-input", "nbval-ignore-output"]
for key, make in makers.items():
    counted = zip(("forward", "backward", "double"), calls_of(make))
    for kind, n in counted:
        claim = f"Decoder calls in a train step, K = 20, {key}, {kind}."
        expected.check(f"calls_{key}_{kind}", n, "calls", claim)

# %% tags=["hide-input", "nbval-ignore-output"]
took = {}
for key, make in makers.items():
    took[key] = min(repeat(partial(calls_of, make), number=1, repeat=3))
    print(f"{key}: {took[key] / took['vae']:.0f} times a VAE's step")
