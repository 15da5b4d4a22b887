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
# # Lesson: when and why amortization suffices
#
# This notebook goes with the chapter [When and why amortization suffices](../book/when.md).
# The models are Gaussian, so that every gap is a closed form: we compute the forms by hand, compare with the library, and let training find the same numbers.
# Then we look for a model that no inference function can serve, and at what a wider window buys.

# %%
DATA = "fields"  # drawn here, from models whose gaps are closed forms
SEED = 0
from dataclasses import dataclass

from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    n: int = 60  # observations in a data set
    steps: int = 1500
    lr: float = 0.1
    n_samples: int = 10
    sizes: tuple = (25, 50, 100, 200, 400)
    n_sets: int = 5  # data sets that a gap is averaged over
    chain: int = 400  # observations of the hidden Markov model


settings = Settings()
expected = Expected("when", DATA)

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from avi import plots, reproduce, training
from avi.families import MeanField
from avi.models import GaussianChain, NormalNormal, Saw
from avi.nets import mlp
from avi.objectives import elbo
from avi.plates import AlongPlate, SharedVariance, a_vi, f_vi, windows

use_threads()
plots.style()
torch.set_default_dtype(torch.float64)

# %%
generator = torch.Generator().manual_seed(SEED)
normal, saw = NormalNormal(settings.n), Saw(settings.n)
x = normal.sample(1, 1.5, generator)  # [B, N]: one data set is one example
y = saw.sample(1, 3.4159, generator)

# %% [markdown] tags=["slide"]
# ## Two ways to fill in $\lambda$
#
# F-VI has a mean and a log variance for each latent variable. A-VI has them for $\theta$ only, and computes the others from the data {eq}`eq-a-vi`. By hand:


# %% tags=["slide"]
def along(net, q_0, features):
    """[means of theta, z_1 ... z_N, then their log variances]"""
    each = net(features)  # [B, N, 2]: the same net for every n
    means = torch.cat([q_0[0].expand(len(each), 1), each[..., 0]], 1)
    log_vars = torch.cat([q_0[1].expand(len(each), 1), each[..., 1]], 1)
    return torch.cat([means, log_vars], 1)


# %%
with torch.random.fork_rng():
    torch.manual_seed(SEED)
    init = AlongPlate(nn.Linear(2, 2), windows(1, 0))
before = nn.functional.pad(y, (1, -1))  # x_0 = 0, x_1, ..., x_{N-1}
pairs = torch.stack([before, y], -1)
by_hand = along(init.net, init.q_0, pairs)
torch.testing.assert_close(by_hand, init(y, saw))
torch.testing.assert_close(pairs, windows(1, 0)(y))

# %% [markdown] tags=["slide"]
# ## Where F-VI ends
#
# Coordinate ascent, {eq}`eq-cavi`: each factor in turn becomes the best one while the others stay. For the normal-normal model and for the saw the rules take a few lines. Where does the rule for $q_n$ look at other observations?


# %%
def ascend_normal(model, x, n_rounds=60):
    """Means of theta and of every z_n; the rule for z_n is `answer`."""
    tau, var = model.tau, model.sigma**2
    precision = 1 + tau**2 / var

    def answer(x_n, m_theta):
        return tau / var * (x_n - m_theta) / precision

    m_theta = torch.zeros(len(x), 1)
    for _ in range(n_rounds):
        m_z = answer(x, m_theta)
        m_theta = (x - tau * m_z).mean(-1, keepdim=True)
    rho = [torch.tensor(var / x.shape[1]), torch.tensor(1 / precision)]
    return torch.cat([m_theta, m_z], -1), torch.stack(rho).log()


# %%
def ascend_saw(model, x, n_rounds=60):
    a, before = model.a, nn.functional.pad(x, (1, -1))

    def answer(x_before, x_n, m_theta):
        return (x_before + a * (x_n - a * m_theta)) / (1 + a**2)

    m_theta = torch.zeros(len(x), 1)
    for _ in range(n_rounds):
        m_z = answer(before, x, m_theta)
        m_theta = (x / a - m_z).mean(-1, keepdim=True)
    rho = torch.tensor([1 / (x.shape[1] * a**2), 1 / (1 + a**2)])
    return torch.cat([m_theta, m_z], -1), rho.log()


# %%
climbs = (normal, x, ascend_normal), (saw, y, ascend_saw)
for model, data, ascend in climbs:
    means, (rho_theta, rho_z) = ascend(model, data)
    best = model.best_factorised(data)
    torch.testing.assert_close(means, best[:, : model.dim])
    assert best[:, model.dim].allclose(rho_theta)
    assert best[:, model.dim + 1 :].allclose(rho_z)
print("coordinate ascent ends at the closed form")

# %% [markdown]
# An ideal inference function passes through all points $(x_n, \nu_n^*)$. Here are the points, means only.

# %% tags=["hide-input"]
one = normal.best_factorised(x)[0, 1 : normal.dim]
two = saw.best_factorised(y)[0, 1 : saw.dim]
seen = (before + saw.a * y)[0] / (1 + saw.a**2)
shown = {"normal-normal": (x[0], one, "$x_n$")}
shown |= {"saw, one input": (y[0], two, "$x_n$")}
shown |= {"saw, two inputs": (seen, two, "weighted sum")}

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, panels = plt.subplots(1, 3, figsize=(9, 3.4))
for axes, (title, (inputs, answers, label)) in zip(panels, shown.items()):
    axes.scatter(inputs, answers, s=16, color=plots.COLOURS["q"])
    axes.set(title=title, xlabel=label)
panels[0].set_ylabel("best mean of $q_n$")
glue("fig-points", figure)

# %% [markdown] tags=["slide"]
# ## The gap of a class
#
# What does a factorised Gaussian lose? The difference of two divergences, or the short form {eq}`eq-excess`.


# %% tags=["slide"]
def excess(model, lam, x):
    """KL(q || posterior) less the smallest a factorised Gaussian has."""
    posterior = model.exact_posterior(x)
    lams = lam, model.best_factorised(x)
    family = MeanField(model.dim)
    kls = [family(each, model).dense().kl(posterior) for each in lams]
    return kls[0] - kls[1]


# %%
for model, data in ((normal, x), (saw, y)):
    size = len(data), 2 * model.dim
    lam = 0.3 * torch.randn(*size, generator=generator)
    found = model.excess(lam, data)
    torch.testing.assert_close(found, excess(model, lam, data))
print("the short form is a difference of divergences")

# %% [markdown]
# The best affine $f$ minimises a quadratic form in its weights. For one data set:


# %%
def best_means(model, x, features):
    """Means of theta and z of the best affine f; features [N, F]."""
    precision, target = model.precision(), model.posterior_mean(x)[0]
    n, width = features.shape
    design = torch.zeros(1 + n, width + 2)
    design[0, 0] = 1  # theta has a mean of its own
    design[1:, 1:] = torch.cat([features, torch.ones(n, 1)], 1)
    left = design.T @ precision @ design
    right = design.T @ precision @ target
    return design @ torch.linalg.solve(left, right)


# %%
means = best_means(saw, y, y[0, :, None])
library = saw.best_affine(y, windows()(y))
torch.testing.assert_close(means, library[0, : saw.dim])


# %%
def gap(model, x, features):
    return model.excess(model.best_affine(x, features(x)), x)


def nothing(x):
    return x[..., None][..., :0]


# %% [markdown]
# What the input is worth, per observation:

# %%
inputs = {"constant": nothing, "own": windows()}
inputs |= {"before": windows(1, -1), "both": windows(1, 0)}
for name, features in inputs.items():
    for label, model, data in (("normal", normal, x), ("saw", saw, y)):
        each = gap(model, data, features).abs() / settings.n
        claim = f"Gap per observation, {label}, input {name}."
        expected.check(f"{label}_{name}", each, claim=claim)

# %% [markdown]
# How does it grow with the data?

# %% tags=["hide-input", "nbval-ignore-output"]
rows = {"normal-normal, constant": (NormalNormal, 1.5, nothing)}
titles = {"constant": "constant", "own": "$f(x_n)$", "before": "$f(x_{n-1})$"}
for name, title in titles.items():
    rows[f"saw, {title}"] = Saw, 3.4159, inputs[name]

# %% tags=["hide-input", "nbval-ignore-output"]
growth = {}
for label, (kind, theta, features) in rows.items():
    gaps = []
    for n in settings.sizes:
        data = kind(n).sample(settings.n_sets, theta, generator)
        gaps.append(gap(kind(n), data, features).mean())
    growth[label] = settings.sizes, gaps

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 4.4))
plots.curves(axes, growth, "observations $N$", "amortization gap, nats")
axes.set(xscale="log", yscale="log")
axes.set_xticks(settings.sizes, settings.sizes)
axes.minorticks_off()
glue("fig-growth", figure)

# %% [markdown]
# ## Training finds the same
#
# Nothing but the bound, its gradient and Adam, as in any other chapter. $q_0$ is trained along.


# %%
def trained(method, model, x):
    """The gap that training leaves."""
    method = method.double()
    optimiser = training.adam(list(method.parameters()), settings.lr)
    for step in range(settings.steps):
        rate = settings.lr * (1 - step / settings.steps)
        optimiser.param_groups[0]["lr"] = rate
        noise = method.noise(settings.n_samples, x, generator)
        training.train_step(model, method, x, elbo(), noise, optimiser)
    with torch.no_grad():
        return model.excess(method.init(x, model), x).item()


# %% tags=["hide-input"]
def affine(n_inputs):
    net = nn.Linear(n_inputs, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return SharedVariance(net)


# %% tags=["nbval-ignore-output"]
settled = {"F-VI": (f_vi(saw.dim), 0.0)}
for name, n_inputs in {"own": 1, "before": 1, "both": 2}.items():
    method = a_vi(affine(n_inputs), inputs[name], saw.dim)
    settled[name] = method, gap(saw, y, inputs[name]).item()
for name, (method, closed) in settled.items():
    left = trained(method, saw, y)
    assert abs(left - closed) < 0.1 + 0.02 * closed, (name, left, closed)
    print(f"{name}: within a tenth of a nat, or 2 %, of the closed form")

# %% [markdown]
# ## How wide a network?
#
# Suppose the normal-normal data were recorded as signed square roots. The ideal function is then curved, and a network with one hidden layer of ReLUs has to bend to it. We minimise the exact gap, from three starts each, and keep the best.


# %%
def roots(x):
    return (x.sign() * x.abs().sqrt())[..., None]


def smallest_gap(width, seed):
    weights = torch.Generator().manual_seed(seed)
    net = mlp([1, width, 1], weights, nn.ReLU)
    method = a_vi(SharedVariance(net), roots, normal.dim).double()
    search = torch.optim.LBFGS(
        method.parameters(), max_iter=120, line_search_fn="strong_wolfe"
    )

    def gap_now():
        search.zero_grad()
        value = normal.excess(method.init(x, normal), x).sum()
        value.backward()
        return value

    search.step(gap_now)
    return gap_now().item() / settings.n


# %% tags=["hide-input", "nbval-ignore-output"]
widths = (1, 2, 4, 8, 16)
narrow = []
for width in widths:
    found = [smallest_gap(width, 10 * SEED + i) for i in range(3)]
    narrow.append(min(found))
    claim = f"Gap per observation, {width} ReLUs, recoded input."
    expected.check(f"width_{width}", 1000 * min(found), "0.001 nat", claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 3.8))
line = {"network of ReLUs": (widths, narrow)}
plots.curves(axes, line, "hidden units", "gap per observation, nats")
best_line = gap(normal, x, roots).item() / settings.n
axes.axhline(best_line, ls=":", color="black", label="affine function")
axes.set(xscale="log", yscale="log")
axes.set_xticks(widths, widths)
axes.minorticks_off()
axes.legend()
glue("fig-width", figure)

# %% [markdown] tags=["slide"]
# ## Where the gap stays open
#
# A hidden Markov model with Gaussian states: $z_n$ depends on every observation. First a data set that has the same value everywhere, so any function of $x_n$, and any function of the whole of $x$ that is not told $n$, gives one answer.

# %% tags=["slide"]
walk = GaussianChain(100, phi=1.0)
alike = torch.ones(1, 100)
answers = walk.best_factorised(alike)[0, :100]
print([f"{value:.3f}" for value in answers[[0, 1, 2, 50, 99]]])
spread = answers.max() - answers.min()
claim = "x = (1, ..., 1), random walk: largest less smallest mean."
expected.check("alike", spread, "", claim)

# %% [markdown]
# Or let two neighbours agree in a data set that was drawn.

# %%
drawn = walk.sample(1, generator)
drawn[0, 49] = drawn[0, 48]  # x_50 = x_49
pair = walk.best_factorised(drawn)[0, 48:50]
assert (pair[0] - pair[1]).abs() > 1e-6
left = gap(walk, drawn, windows())
print("same input, different answers:", bool(left > 0))

# %% [markdown]
# A wider window sees more of what $z_n$ depends on. The influence of $x_m$ falls like $r^{|n - m|}$ {eq}`eq-chain-decay`.

# %%
chain = GaussianChain(settings.chain, phi=0.9)
weights = torch.linalg.inv(chain.precision())[200, 200:206]
ratios = weights[1:] / weights[:-1]
torch.testing.assert_close(ratios, torch.full((5,), chain.decay))

# %% tags=["hide-input", "nbval-ignore-output"]
kinds = {"a": (0.9, 1.0), "b": (0.5, 1.0), "c": (0.95, 0.25)}
spans = range(8)
lines = {}

# %% tags=["hide-input", "nbval-ignore-output"]
for key, (phi, noise_var) in kinds.items():
    model = GaussianChain(settings.chain, phi, noise_var)
    data = model.sample(settings.n_sets, generator)
    gaps = [gap(model, data, windows(w, w)).mean() for w in spans]
    lines[key] = torch.stack(gaps) / settings.chain
    for w in spans:
        claim = f"Window n-{w}..n+{w}, phi {phi}, noise variance {noise_var}."
        share = 1000 * lines[key][w]
        expected.check(f"window_{key}_{w}", share, "0.001 nat", claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 4.6))
curves = {}
for key, (phi, noise_var) in kinds.items():
    label = f"$\\phi$ = {phi}, $s^2$ = {noise_var}"
    curves[label] = spans, lines[key]
plots.curves(axes, curves, "window $w$", "gap per observation, nats")
for line, key in zip(list(axes.lines), kinds):
    r = GaussianChain(2, *kinds[key]).decay
    guide = [lines[key][0] * r ** (2 * w) for w in spans]
    axes.plot(spans, guide, ":", color=line.get_color(), lw=1)
axes.set(yscale="log", ylim=(1e-6, 2))
glue("fig-window", figure)

# %% [markdown]
# The lines bend to a floor. What is it made of? Take the means of the best factorised $q$ as they are, and only share one variance: the first part. The rest is in the means, at the two ends of the chain.

# %% tags=["hide-input"]
floors = {}
for n in (100, 200, 400):
    model = GaussianChain(n, 0.5)
    diagonal = model.precision().diagonal()
    shared = 0.5 * (diagonal.mean().log() - diagonal.log().mean()) * n
    data = model.sample(settings.n_sets, generator)
    floors[n] = gap(model, data, windows(7, 7)).mean(), shared

# %% tags=["hide-input"]
for n, (whole, shared) in floors.items():
    part = f"floor of {n} observations, phi 0.5, w = 7"
    expected.check(f"floor_{n}", 1000 * whole, "0.001 nat", f"The {part}.")
    claim = f"One variance's part in the {part}."
    expected.check(f"shared_{n}", 1000 * shared, "0.001 nat", claim)

# %% [markdown] tags=["slide"]
# ## Width and speed
#
# The paper's experiments run apart from the lesson, for hours in all: `make reproduce EXPERIMENT=avi-linear TIER=full`, and `avi-saw`; of `avi-nonlinear` there is a smaller version, `TIER=mini`. Here the stored results are read.

# %% tags=["hide-input"]
from pathlib import Path
from statistics import median


def recorded(experiment, tier):
    """{row: {name: [one value for each seed]}}"""
    rows, folder = {}, Path("../reproduction")
    for record in reproduce.results(experiment, tier, folder):
        for name, value in record.get("values", {}).items():
            row = rows.setdefault(record["row"], {})
            row.setdefault(name, []).append(value)
    return rows


# %% tags=["hide-input"]
def quote(rows, names, prefix):
    """Check the medians over seeds, and how many seeds there are."""
    for row, runs in rows.items():
        key = f"{prefix}_{row}".replace("/", "_").replace("-", "_")
        n = len(runs["loss"])
        expected.check(f"{key}_n", n, "seeds", f"Seeds, {prefix} {row}.")
        for name, unit in names.items():
            claim = f"{name} of {prefix}, {row}, median of {n} seeds."
            middle = median(runs[name])
            expected.check(f"{key}_{name}", middle, unit, claim)


# %% tags=["hide-input", "nbval-ignore-output"]
full = {name: recorded(f"avi-{name}", "full") for name in ("linear", "saw")}

# %% tags=["hide-input", "nbval-ignore-output"]
names = {"loss": "nat", "excess": "nat"}
names |= {f"to_{mark}": "iterations" for mark in (50, 10, 1)}
for name, rows in full.items():
    quote(rows, names, name)

# %% tags=["hide-input", "nbval-ignore-output"]
wave = recorded("avi-nonlinear", "mini")
for row, runs in wave.items():
    key = row.replace("/", "_").replace("-", "_")
    losses = torch.tensor(runs["loss"]) / 1000  # per observation
    claim = f"nonlinear model, mini, {row}, {len(losses)} seeds"
    best = losses.min()
    expected.check(f"wave_{key}", best, claim=f"Best loss, {claim}.")

# %% tags=["hide-input", "nbval-ignore-output"]
module = reproduce.experiments(Path("../reproduction"))["avi-saw"]
for name in ("published", "corrected"):
    level = module.world_of(1000, name).optimum
    claim = f"Optimal loss of the saw, {name} data."
    expected.check(f"level_{name}", level, claim=claim)



# %% tags=["hide-input"]
def curve(runs):
    """Iterations, and the median distance to the optimum there, nats."""
    at = [int(k[5:]) for k in runs if k.startswith("loss_")]
    far = [
        torch.tensor(runs[f"loss_{i}"]) - torch.tensor(runs["optimum"])
        for i in at
    ]
    return at, torch.stack(far).median(1).values


# %% tags=["hide-input", "nbval-ignore-output"]
titles = {"f-vi": "F-VI, step 0.001", "f-vi/equal-lr": "F-VI, step 0.01"}
titles |= {"degree-1": "A-VI, step 0.01", "published/f-vi": "F-VI"}
titles |= {"published/two-inputs/10": "$f(x_{n-1}, x_n)$"}
titles |= {"published/one-input/20": "$f(x_n)$"}

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, panels = plt.subplots(1, 2, figsize=(9, 4.2))
for axes, (name, rows) in zip(panels, full.items()):
    shown = {titles[k]: curve(rows[k]) for k in titles if k in rows}
    plots.curves(axes, shown, "iteration", "nats above the optimum")
    axes.set(xscale="log", yscale="log", title=name)
panels[1].set_ylabel("")
glue("fig-speed", figure)

# %% [markdown]
# Move the sliders: the same picture for other chains.

# %% tags=["hide-input"]
from io import BytesIO

import ipywidgets
from IPython.display import display

# %% tags=["hide-input"]
phi = ipywidgets.FloatSlider(0.9, min=0.1, max=0.95, step=0.05)
noise = ipywidgets.FloatSlider(1.0, min=0.1, max=4.0, step=0.1)
window = ipywidgets.IntSlider(1, min=0, max=7, description="window")
picture = ipywidgets.Image(format="png")


# %% tags=["hide-input"]
def redraw(change=None):
    model = GaussianChain(40, phi.value, noise.value)
    data = model.sample(200, torch.Generator().manual_seed(SEED))
    gaps = [gap(model, data, windows(w, w)).mean() / 40 for w in spans]
    figure, axes = plt.subplots(figsize=(5, 3.6))
    axes.semilogy(spans, gaps, "o-")
    axes.plot(window.value, gaps[window.value], "s", ms=12)
    axes.set(xlabel="window", ylabel="gap per observation, nats")
    figure.savefig(buffer := BytesIO(), format="png")
    plt.close(figure)
    picture.value = buffer.getvalue()


# %% tags=["hide-input", "nbval-ignore-output"]
for control in (phi, noise, window):
    control.observe(redraw, "value")
display(ipywidgets.VBox([phi, noise, window, picture]))
redraw()
