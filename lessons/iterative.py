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
# # Lesson: iterative inference
#
# This notebook goes with the chapter [Iterative inference](../book/iterative.md).
# First we write a learned step and its training by hand, and compare with the library.
# Then we ask what such a step should look at, watch it climb, and compare it with optimisers and with encoders.

# %%
DATA = "digits"  # or "mnist"
SEED = 0
from dataclasses import dataclass

from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    decoder: tuple = (8, 128, 64) if DATA == "digits" else (20, 200, 784)
    hidden: tuple = (64, 64) if DATA == "digits" else (200, 200)
    n_images: int = 1297 if DATA == "digits" else 5000
    epochs: int = 12 if DATA == "digits" else 4
    brief: int = 6 if DATA == "digits" else 2  # epochs where theta is given
    n_steps: int = 5  # K
    lr: float = 3e-3


settings = Settings()
expected = Expected("iterative", DATA)

# %%
from functools import partial
from time import process_time
from timeit import repeat

import matplotlib.pyplot as plt
import torch
from torch import autograd, nn

from avi import data, plots, steps
from avi.core import Problem
from avi.evaluation import count_calls, gaps, score
from avi.families import DiagGaussian
from avi.gradients import Detached, Unrolled
from avi.inference import direct, every_iterate, iterative, svi
from avi.learned import LearnedStep, LogSign, learned_step
from avi.models import bernoulli_mlp
from avi.nets import highway_mlp
from avi.objectives import elbo
from avi.training import TrainingError, TrainSettings, fit, train_step

use_threads()
plots.style()

# %% tags=["hide-input"]
bound = elbo(analytic_kl=True)
generator = torch.Generator().manual_seed(SEED)
dataset = data.load(DATA)
family = DiagGaussian(settings.decoder[0])
x = dataset.evaluation("train", generator)[:64]
test = dataset.evaluation("test", generator)[:250]
n_pixels, n_params, K = x.shape[1], family.n_params, settings.n_steps


# %% [markdown]
# Every model of this lesson is trained by the same function. First, a VAE: its decoder serves the demonstrations, its encoder the comparison at the end.


# %% tags=["nbval-ignore-output"]
def train(model, method, epochs=settings.epochs, n_samples=1):
    schedule = TrainSettings(epochs, 64, n_samples, settings.lr, SEED)
    options = {"objective": lambda step: bound, "observe": dataset.observe}
    fit(model, method, dataset.train[: settings.n_images], schedule, **options)
    return model, method


def new_encoder():
    sizes = (n_pixels, *settings.hidden, n_params)
    return direct(highway_mlp(sizes, generator), family)


decoder = bernoulli_mlp(settings.decoder, generator)
decoder, vae = train(decoder, new_encoder())
problem = Problem(decoder, x, family, bound)

# %% [markdown] tags=["slide"]
# ## Steps that are learned
#
# A learned step is any function of a signal and of $\lambda$ {eq}`eq-learned-step`. Gradient ascent is one: the linear map $[\alpha I, I]$ of $[\nabla_\lambda \mathcal{L}, \lambda]$.

# %% tags=["slide"]
eye = torch.eye(n_params)
linear = nn.Linear(2 * n_params, n_params, bias=False)
linear.weight.data = torch.cat([0.05 * eye, eye], 1)
ascent = LearnedStep(steps.gradient, linear, lambda lam, moved: moved)
noise = torch.randn(11, 1, 64, family.n_noise, generator=generator)
learned = iterative(ascent, family, 10)(decoder, x, bound, noise)
classic = svi(family, steps.SGD(0.05), 10)(decoder, x, bound, noise)
torch.testing.assert_close(learned.lam[-1], classic.lam[-1])

# %% [markdown]
# An encoder is another: one step, whose signal is the data, from a constant start.


# %%
def image_itself(problem, lam, eps, keep=False):
    return problem.x


class Encode(nn.Module):
    def forward(self, seen):  # [x, lam]: lam is not looked at
        return vae.init.net(seen[:, :n_pixels])


once = LearnedStep(image_itself, Encode(), lambda lam, answer: answer)
path = iterative(once, family, 1)(decoder, x, bound, noise[:2])
torch.testing.assert_close(path.lam[1], vae.init(x, decoder))

# %% [markdown] tags=["slide"]
# ## The method
#
# The update mixes old and new, coordinate by coordinate {eq}`eq-gated-update`. Around it, Algorithm 1 of Marino et al. (2018): every estimate is scored, and each step starts from a constant.


# %% tags=["slide"]
def gated(lam, hidden, new, gate):
    share = gate(hidden).sigmoid()
    return share * lam + (1 - share) * new(hidden)


def goals(problem, body, new, gate, noise):
    """What theta and phi climb, [B] each, from the prior."""
    lam = torch.zeros(len(problem.x), n_params, dtype=problem.x.dtype)
    values = [problem(lam, noise[0])]
    for eps, fresh in zip(noise, noise[1:]):
        lam = lam.detach().requires_grad_()
        (g,) = autograd.grad(problem(lam, eps).sum(), lam)
        seen = [(g.abs() + 1e-5).log(), g.sign(), lam.detach()]
        lam = gated(lam.detach(), body(torch.cat(seen, -1)), new, gate)
        values.append(problem(lam, fresh))
    return values[-1], torch.stack(values).mean(0)


# %% [markdown]
# The same from the library, values and gradients, in double precision: logarithms and signs of gradients amplify rounding.


# %%
def make(signal, n_steps=K, step=learned_step, mode=Detached()):
    sizes = decoder, x, family, bound, settings.hidden, generator
    return iterative(step(signal, *sizes), family, n_steps, gradient=mode)


fine_method = make(LogSign()).double()
fine = bernoulli_mlp(settings.decoder, generator).double()
fine_problem = Problem(fine, x.double(), family, bound)
step = fine_method.step
noise = fine_method.noise(1, x.double(), generator)
parts = step.body, step.update.new, step.update.gate
own = goals(fine_problem, *parts, noise)
theirs = every_iterate(fine_method(fine, x.double(), bound, noise))
for a, b, learner in zip(own, theirs, (fine, step)):
    torch.testing.assert_close(a, b)
    parameters = list(learner.parameters())
    one = autograd.grad(a.sum(), parameters, retain_graph=True)
    two = autograd.grad(b.sum(), parameters, retain_graph=True)
    torch.testing.assert_close(one, two)
print("the same values and gradients")

# %% [markdown]
# Now train decoder and step together, with the log magnitudes and signs of the gradients as signal.

# %% tags=["nbval-ignore-output"]
new_decoder = partial(bernoulli_mlp, settings.decoder, generator)
trained = {"gradients": train(new_decoder(), make(LogSign()))}

# %% [markdown]
# `Detached` holds every estimate still before the next step. `Unrolled` differentiates the loop as a whole. How far apart are the gradients they give to $\phi$, and what do they cost?


# %%
def phi_gradient(mode, n_steps, model, method, noise):
    other = iterative(method.step, family, n_steps, gradient=mode)
    path = other(model, x, bound, noise[: n_steps + 1])
    goal = every_iterate(path).phi.mean()
    found = autograd.grad(goal, list(method.step.parameters()))
    return torch.cat([part.flatten() for part in found])


noise = torch.randn(17, 10, 64, family.n_noise, generator=generator)
both = Detached(), Unrolled()
fresh = new_decoder(), make(LogSign())
pairs = {"fresh": fresh, "trained": trained["gradients"]}

# %% tags=["nbval-ignore-output"]
for name, pair in pairs.items():
    for n in (1, 2, 5):
        part, whole = (phi_gradient(mode, n, *pair, noise) for mode in both)
        angle = nn.functional.cosine_similarity(part, whole, 0)
        far = (part - whole).norm() / whole.norm()
        claim = f"detached from whole, K = {n}, {name} step."
        key = f"{name}_{n}"
        expected.check(f"far_{key}", far, "ratio", f"Distance, {claim}")
        expected.check(f"cosine_{key}", angle, "1", f"Cosine, {claim}")

# %% tags=["hide-input", "nbval-ignore-output"]
took = {}
for mode in both:
    pair = *trained["gradients"], noise[:, :1]
    work = partial(phi_gradient, mode, 5, *pair)
    times = repeat(work, timer=process_time, number=3, repeat=7)
    took[type(mode).__name__] = min(times)
ratio = took["Unrolled"] / took["Detached"]
print(f"unrolled takes {ratio:.1f} times as long as detached")

# %% [markdown] tags=["slide"]
# ## What the network sees
#
# How large are the gradients that the network is fed? A signal is a function, so another function can watch it. We train for ten iterations and record the mean magnitude over the posterior means.

# %% tags=["nbval-ignore-output"]
from avi.learned import PublishedNorm, UnitNorm

magnitudes = []


def watched(problem, lam, eps, keep=False):
    slope = steps.gradient(problem, lam, eps, keep)
    magnitudes.append(slope[:, : n_params // 2].abs().mean().item())
    return slope


ten = make(LogSign(watched), 10)
magnitudes.clear()
trained["ten"] = train(new_decoder(), ten)
sizes = torch.tensor(magnitudes).view(settings.epochs, -1, 10).mean(1)

# %% tags=["hide-input", "nbval-ignore-output"]
for key, value in {
    "size_first_peak": sizes[:, 0].max(),
    "size_first_end": sizes[-1, 0],
    "size_last_end": sizes[-1, -1],
}.items():
    where = " ".join(key.split("_")[1:])
    expected.check(key, value, "nat", f"Mean gradient magnitude, {where}.")

# %% tags=["hide-input", "nbval-ignore-output"]
with torch.no_grad():
    lam = torch.zeros(len(test), n_params)
    fresh_noise = torch.randn(1, len(test), family.n_noise, generator=generator)
each = steps.gradient(Problem(decoder, test, family, bound), lam, fresh_noise)
low, high = each.abs().flatten().log10().quantile(torch.tensor([0.01, 0.99]))
claim = "Decades between the 1 % and 99 % quantiles of the gradients."
expected.check("decades", high - low, "log10", claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots()
rows = {}
for k in (0, 1, 2, 4, 9):
    rows[f"iteration {k}"] = (range(1, settings.epochs + 1), sizes[:, k])
size = "mean $|\\partial \\mathcal{L} / \\partial \\mu|$"
plots.curves(axes, rows, "epoch", size)
axes.set(yscale="log")
axes.set_yticks([0.5, 1, 2, 5], [0.5, 1, 2, 5])
axes.minorticks_off()
glue("fig-magnitudes", figure)

# %% [markdown]
# Now give the VAE's decoder to steps that have learned nothing yet. Raw gradients first: a large gradient makes a large move, the move makes a larger gradient.

# %% tags=["nbval-ignore-output"]
signals = {"raw gradients": steps.gradient, "log and sign": LogSign()}
signals |= {"unit norm": UnitNorm(), "batch norm": PublishedNorm()}
decoder.requires_grad_(False)
lengths = {}
for name, signal in signals.items():
    method = make(signal, 16)
    with torch.no_grad():
        path = method(decoder, x, bound, noise[:, :1])
    lengths[name] = [lam.norm(dim=-1).mean().item() for lam in path.lam]
finite = torch.tensor(lengths["raw gradients"]).isfinite()
print("raw gradients end in a number:", bool(finite[-1]))

# %% tags=["hide-input", "nbval-ignore-output"]
for name, row in lengths.items():
    key = name.split()[0]
    last = max(0, torch.tensor(row).isfinite().sum().item() - 1)
    claim = f"Iterations with a finite lam, untrained step, {name}."
    expected.check(f"alive_{key}", last, "iterations", claim)

# %% [markdown]
# Train each for a while, with the decoder given, and then let it run ten times as far as it was trained.

# %% tags=["nbval-ignore-output"]
marks = (0, 1, 2, 3, 5, 7, 10, 20, 50)


def along(model, method, images=test, marks=marks):
    """The bound at each mark, scored with fresh noise: [marks, images]."""
    method = method.with_steps(max(marks))
    noise = method.noise(1, images, generator)
    with torch.no_grad():
        path = method(model, images, bound, noise)
    ends = [path.lam[k].detach() for k in marks]
    scored = [score(path.problem, lam, generator, 10, 10) for lam in ends]
    return torch.stack([s.value for s in scored])


steady = {}
for name, signal in signals.items():
    method = make(signal)
    try:
        train(decoder, method, settings.brief)
        steady[name] = along(decoder, method), method
    except TrainingError as error:
        print(name, "failed:", error)
decoder = decoder.requires_grad_(True)

# %% tags=["hide-input", "nbval-ignore-output"]
failed = float("raw gradients" not in steady)
claim = "1 where raw gradients failed with the decoder given."
expected.check("raw_failed", failed, "1", claim)
for name in list(signals)[1:]:
    for k in (5, 50):
        each = steady[name][0][marks.index(k)].nan_to_num(-1e3)
        key = f"steady_{name.split()[0]}_{k}"
        claim = f"Median bound after {k} iterations, {name}."
        expected.check(key, each.clamp(min=-1e3).median(), claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots()
rows = {name: (marks, row[0].mean(1)) for name, row in steady.items()}
plots.curves(axes, rows, "iterations at the test", "mean bound, nats")
axes.axvline(K, color="black", ls=":")
ticks = (0, 1, 2, 5, 10, 20, 50)
axes.set(xscale="symlog", xticks=ticks, xticklabels=ticks, xlim=(-0.1, 52))
best = max(row[0].mean(1).max() for row in steady.values())
axes.set_ylim(best - 12, best + 1)
axes.legend(loc="lower center")
axes.minorticks_off()
glue("fig-signals", figure)

# %% [markdown]
# The signal called batch norm here is the "layer norm" of the published code: it normalises over the batch. Keep the first image, and replace the others; then halve the batch.

# %% tags=["nbval-ignore-output"]
company = torch.cat([x[:1], test[:63]])
for name in list(signals)[1:]:
    method, answers = steady[name][1], []
    for batch in (x, company, x[:32]):
        with torch.no_grad():
            path = method(decoder, batch, bound, noise[:6, :1, : len(batch)])
        answers.append(path.lam[-1][0])
    for text, other in zip(("others", "half"), answers[1:]):
        moved = (other - answers[0]).norm()
        claim = f"How far one image's lam moves, {text}, {name}."
        expected.check(f"{text}_{name.split()[0]}", moved, "lam", claim)

# %% [markdown] tags=["slide"]
# ## Seeing it
#
# Two latent units, trained with 16 iterations. The surface is the bound of one held-out image over the two posterior means, with the variances of the best Gaussian and one set of draws throughout.

# %% tags=["nbval-ignore-output"]
from avi.evaluation import best_lambda

pair = DiagGaussian(2)
plane = bernoulli_mlp((2, *settings.decoder[1:]), generator)
two = learned_step(LogSign(), plane, x, pair, bound, settings.hidden, generator)
plane, walker = train(plane, iterative(two, pair, 16), settings.epochs // 2)
held_out = Problem(plane, test[:50], pair, bound)
zeros = torch.zeros(50, 4)
best = best_lambda(held_out, [zeros], steps.Adam(0.1), 100, 10, generator)
one = best[:, :2].norm(dim=-1).argsort()[35]
picked = test[one : one + 1]

# %% tags=["hide-input", "nbval-ignore-output"]
side = torch.linspace(-3.5, 3.5, 61)
means = torch.cartesian_prod(side, side)
lam = torch.cat([means, best[one, 2:].expand(len(means), 2)], 1)

# %% tags=["hide-input", "nbval-ignore-output"]
crowd = Problem(plane, picked.expand(len(means), -1), pair, bound)
half = torch.randn(32, 1, 1, 2, generator=generator)
with torch.no_grad():
    draws = torch.cat([half, -half]).expand(-1, -1, len(means), -1)
    surface = sum(crowd(lam, eps) for eps in draws) / 64
summit = means[surface.argmax()]


# %% tags=["hide-input"]
def places(method, n_steps=16):
    method = method.with_steps(n_steps)
    noise = method.noise(1, picked, torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        path = method(plane, picked, bound, noise)
    return torch.cat(path.lam)[:, :2].detach()


# %% [markdown]
# For comparison, gradient ascent from the same start, with the step size of a grid that is best after 16 steps on training images.

# %% tags=["nbval-ignore-output"]
rates = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01, 0.001)


def tuned(model, family, make_step, n_steps, images):
    """The step of the grid whose mean bound is best after n_steps."""
    values = []
    for lr in rates:
        method = svi(family, make_step(lr), n_steps)
        value = along(model, method, images, (n_steps,))
        values.append(value.nan_to_num(-1e6).mean())
    return make_step(rates[torch.stack(values).argmax()])


# %% tags=["hide-input", "nbval-ignore-output"]
sgd = svi(pair, tuned(plane, pair, steps.SGD, 16, x), 16)
reached = along(plane, walker, marks=(0, 1, 2, 16)).mean(1)
rival = along(plane, sgd, marks=(0, 1, 2, 16)).mean(1)

# %% tags=["hide-input", "nbval-ignore-output"]
for name, row in {"learned": reached, "sgd": rival}.items():
    for k, value in zip((0, 1, 2, 16), row):
        claim = f"Bound after {k} iterations, two latents, {name}."
        expected.check(f"plane_{name}_{k}", value, claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 5.6))
plots.landscape(axes, side, side, surface.view(61, 61).T)
for name, method in {"SGD": sgd, "learned step": walker}.items():
    colour = plots.COLOURS["adam" if method is walker else "svi"]
    way = places(method).clamp(-3.5, 3.5)
    plots.trajectory(axes, way, name, colour)
plots.optimum(axes, summit, "grid optimum")
axes.set(xlabel="mean of $z_1$", ylabel="mean of $z_2$")
axes.legend(loc="lower right", fontsize=11, frameon=True, framealpha=1)
glue("fig-plane", figure)

# %% [markdown]
# Move the slider: after how many iterations has each arrived? Nothing stops you from going beyond 16.

# %% tags=["hide-input"]
from io import BytesIO

import ipywidgets
from IPython.display import display

slider = ipywidgets.IntSlider(1, min=0, max=60, description="iterations")
picture = ipywidgets.Image(format="png")


# %% tags=["hide-input"]
def redraw(change=None):
    figure, axes = plt.subplots(figsize=(5, 4.2))
    plots.landscape(axes, side, side, surface.view(61, 61).T)
    for name, method in {"svi": sgd, "adam": walker}.items():
        way = places(method, slider.value).clamp(-3.5, 3.5)
        plots.trajectory(axes, way, name)
    figure.savefig(buffer := BytesIO(), format="png")
    plt.close(figure)
    picture.value = buffer.getvalue()


# %% tags=["hide-input", "nbval-ignore-output"]
slider.observe(redraw, "value")
display(ipywidgets.VBox([slider, picture]))
redraw()

# %% [markdown] tags=["slide"]
# ### Against optimisers
#
# The step that was trained with ten iterations, against four optimisers on the same decoder, from the same start. Each optimiser has the step size that is best after ten steps on training images.

# %% tags=["nbval-ignore-output"]
model, ten = trained["ten"]
makers = {"SGD": steps.SGD, "momentum": partial(steps.Momentum, gamma=0.9)}
makers |= {"RMSProp": steps.RMSProp, "Adam": steps.Adam}
reach = (0, 1, 2, 3, 5, 7, 10, 16, 30, 60, 100, 200)
race = {"learned": along(model, ten, marks=reach)}
for name, maker in makers.items():
    best_step = tuned(model, family, maker, 10, x)
    race[name] = along(model, svi(family, best_step, 10), marks=reach)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 4.8))
rows = {name: (reach, row.mean(1)) for name, row in race.items()}
plots.curves(axes, rows, "iterations at the test", "mean bound, nats")
axes.axvline(10, color="black", ls=":")
top = race["learned"].mean(1).max()
ticks = (0, 1, 2, 5, 10, 30, 100, 200)
axes.set(xscale="symlog", xticks=ticks, xticklabels=ticks, xlim=(-0.1, 210))
axes.set_ylim(top - 8, top + 1)
axes.minorticks_off()
glue("fig-race", figure)

# %% [markdown]
# One run decides little. `make reproduce EXPERIMENT=iai-race TIER=mini SEEDS=5` runs the race with five seeds on two decoders, and tunes five optimisers for every number of iterations by itself, from the prior and from an encoder's answer. Here its stored results are read.

# %% tags=["hide-input"]
from pathlib import Path

from scipy.stats import t

from avi import reproduce


def recorded(experiment):
    """{row: {name: [one value for each seed]}}"""
    rows, folder = {}, Path("../reproduction")
    for record in reproduce.results(experiment, "mini", folder):
        row = rows.setdefault(record["row"], {})
        for name, value in record.get("values", {}).items():
            row.setdefault(name, []).append(value)
    return rows


# %% tags=["hide-input"]
def check_mean(key, values, claim, unit="nat"):
    """The mean over seeds, and half its 95 % interval."""
    values = torch.tensor(values)
    n = len(values)
    half = t.ppf(0.975, n - 1) * values.std() / n**0.5
    about = f"{claim}, over {n} seeds"
    expected.check(key, values.mean(), unit, f"{about}, mean.")
    expected.check(f"{key}_pm", half, unit, f"{about}, 95 % interval.")


# %% tags=["hide-input", "nbval-ignore-output"]
contests = recorded("iai-race")
shown = {"step": "decoder-with-step", "vae": "decoder-as-vae"}
for key, row in shown.items():
    for start in ("prior", "encoder"):
        for k in (1, 2, 4, 8, 16):
            claim = f"Lead from the {start}, {k} iterations, {row}"
            leads = contests[row][f"lead_{start}_{k}"]
            check_mean(f"race_{key}_{start}_{k}", leads, claim)

# %% tags=["hide-input", "nbval-ignore-output"]
names = {**shown, "x": "with-x", "recurrent": "recurrent"}
names |= {"ten": "ten-samples"}
for key, row in names.items():
    runs = contests[row]
    claim = f"Bound after 200 iterations less after 16, {row}"
    ends = runs["stays_200"]
    expected.check(f"stay_{key}_min", min(ends), claim=f"{claim}, least.")
    expected.check(f"stay_{key}_max", max(ends), claim=f"{claim}, most.")
    worst = min(runs["worst_200"])
    expected.check(f"stay_{key}_worst", worst, claim=f"{claim}, 1 %.")
    claim = f"Lead from the prior, 16 iterations, {row}"
    check_mean(f"lead_{key}", runs["lead_prior_16"], claim)

# %% [markdown]
# The same climb in pictures: the decoder's mean image for the posterior means after 0, 1, 2, 5, 10 and 200 iterations, and the image itself.

# %% tags=["hide-input", "nbval-ignore-output"]
far, shown = ten.with_steps(200), test[:4]
stages = (0, 1, 2, 5, 10, 200)
with torch.no_grad():
    noise = far.noise(1, shown, generator)
    path = far(model, shown, bound, noise)
    held = [path.q(k).mean for k in stages]
    frames = [model.predict(mean[None])[0] for mean in held] + [shown]

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
tiles = torch.stack(frames, 1).flatten(0, 1)
figure, axes = plt.subplots(figsize=(6.4, 4.0))
plots.image_grid(axes, tiles, 7, [*map(str, stages), "image"])
glue("fig-stages", figure)

# %% [markdown] tags=["slide"]
# ## Against the standard encoder
#
# The same decoder sizes, hidden sizes and number of updates; one method sees the gradients, one also $x$, one has a memory.

# %% tags=["nbval-ignore-output"]
from avi.learned import WithData, recurrent_step

trained["vae"] = decoder, vae
trained["with_x"] = train(new_decoder(), make(WithData(LogSign())))
recurrent = make(LogSign(), step=recurrent_step)
trained["recurrent"] = train(new_decoder(), recurrent)

# %% tags=["nbval-ignore-output"]
names = {"vae": "VAE", "gradients": "iterative,\ngradients"}
names |= {"with_x": "iterative,\ngradients and x"}
names |= {"recurrent": "recurrent,\ngradients"}
search = {"step": steps.Adam(0.05), "n_steps": 60, "n_samples": 5}
search |= {"objective": bound, "n_evidence": 500, "generator": generator}
found = {k: gaps(*trained[k], test[:100], **search) for k in names}

# %% tags=["hide-input", "nbval-ignore-output"]
for key, result in found.items():
    name = " ".join(names[key].split())
    value = result.means["remaining"].value
    claim = f"Gap that inference leaves, {name}."
    expected.check(f"{key}_remaining", value, claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 5.0))
of = plots.Thermometer.of
bars = []
for key, name in names.items():
    bars.append(of(name, found[key], "Gaussian", key != "vae"))
plots.thermometer(axes, bars)
glue("fig-gaps", figure)

# %% [markdown]
# These trainings are short. `make reproduce EXPERIMENT=iai-table1 TIER=mini SEEDS=5` trains eight times as long, chooses the epoch on validation images, gives the encoder as much time as the iterative model, and adds a hierarchy of two levels.

# %% tags=["hide-input", "nbval-ignore-output"]
table = recorded("iai-table1")
for row, runs in table.items():
    key = row.replace("/", "_").replace("-", "_")
    check_mean(f"t1_{key}", runs["nll"], f"-log p(x), {row}")
    claim = f"Parameters of inference, {row}."
    expected.check(f"phi_{key}", runs["n_phi"][0], "parameters", claim)
    print(f"{row:40}", [f"{nll:.2f}" for nll in runs["nll"]])

# %% tags=["hide-input", "nbval-ignore-output"]
rivals = {"single": "standard", "two-level": "top-down"}
for row, runs in table.items():
    if row.endswith("iterative"):
        level = "two-level" if "two" in row else "single"
        group = row.rpartition("/")[0]
        own = f"{group}/standard"
        first = own if own in table else f"{level}/{rivals[level]}"
        kinds = ("", "-equal-cost") if group in rivals else ("",)
        for kind in kinds:
            rival = f"{level}/{rivals[level]}{kind}" if kind else first
            pairs = zip(runs["nll"], table[rival]["nll"])
            less = [a - b for a, b in pairs]
            key = f"{group}{kind}".replace("-", "_")
            claim = f"-log p(x), {row} less {rival}"
            check_mean(f"less_{key}", less, claim)

# %% [markdown]
# Documents instead of images: the same comparison on 20 Newsgroups, in perplexity per document.

# %% tags=["hide-input", "nbval-ignore-output"]
news = recorded("iai-table2")
for row, runs in news.items():
    for kind in ("perplexity", "perplexity_bound"):
        claim = f"20 Newsgroups, {kind}, {row}"
        check_mean(f"news_{row}_{kind}", runs[kind], claim, "perplexity")

# %% [markdown]
# ### More iterations, more samples
#
# The same for the paper's Figure 7: `make reproduce EXPERIMENT=iai-figure7 TIER=mini`.

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
points = recorded("iai-figure7")
figure, panels = plt.subplots(1, 2, figsize=(8.5, 4.2), sharey=True)
sides = {"iterations": (2, 5, 10, 16), "samples": (1, 5, 10, 20)}
for axes, (side, counts) in zip(panels, sides.items()):
    kinds = dict.fromkeys(row.split("/")[1] for row in points if side in row)
    curves = {}
    for kind in kinds:
        at = [torch.tensor(points[f"{side}/{kind}/{n}"]["nll"]) for n in counts]
        curves[kind.replace("-", " ")] = counts, -torch.stack(at).mean(1)
    plots.curves(axes, curves, f"{side} in training", "mean $\\log p(x)$, nats")
    axes.set_xticks(counts, counts)
panels[1].set_ylabel("")
glue("fig-more", figure)

# %% tags=["hide-input", "nbval-ignore-output"]
for row, runs in points.items():
    key = "more_" + row.replace("/", "_").replace("-", "_")
    claim = f"-log p(x), {row}, one seed."
    expected.check(key, sum(runs["nll"]) / len(runs["nll"]), claim=claim)

# %% [markdown]
# ### The bill
#
# Decoder calls in one training step, for each image and draw, and the time it takes beside a VAE's.


# %% tags=["hide-input"]
def calls_of(key):
    model, method = trained[key]
    learners = [*model.parameters(), *method.parameters()]
    taught = [part for part in learners if part.requires_grad]
    still = torch.optim.SGD(taught, lr=0.0)
    noise = method.noise(1, x, generator)
    with count_calls(model) as counts:
        train_step(model, method, x, bound, noise, still)
    return [n // len(x) for n in counts.values()]


# %% tags=["hide-input", "nbval-ignore-output"]
for key in ("vae", "gradients"):
    for kind, n in zip(("forward", "backward"), calls_of(key)):
        claim = f"Decoder calls in a train step, {key}, {kind}."
        expected.check(f"calls_{key}_{kind}", n, "calls", claim)
for key in names:
    work = partial(calls_of, key)
    took[key] = min(repeat(work, timer=process_time, number=3, repeat=7))
    print(f"{key}: {took[key] / took['vae']:.1f} times a VAE's step")
