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
# # Lesson: beyond
#
# This notebook goes with the chapter [Beyond](../book/beyond.md).
# First the methods of the course side by side. Then one short experiment for each of five ideas that lie beyond it, each with the gap that it attacks.

# %%
DATA = "digits"  # or "mnist"
SEED = 0
from dataclasses import dataclass

from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    sizes: tuple = (8, 64, 64) if DATA == "digits" else (20, 200, 784)
    n_images: int = 1297 if DATA == "digits" else 5000
    epochs: int = 7  # of the encoders that lag
    inner: int = 10  # encoder steps for one step of the decoder
    grey_epochs: int = 60 if DATA == "digits" else 10
    flow_steps: int = 600
    simulations: int = 1500  # batches of 256


settings = Settings()
expected = Expected("beyond", DATA)

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from tqdm.auto import tqdm

from avi import data, plots, reproduce, steps
from avi.core import Problem
from avi.evaluation import best_lambda, gaps, log_evidence, score
from avi.families import DiagGaussian
from avi.flows import Flow
from avi.inference import Constant, Refine, direct
from avi.models import LinearGaussian, bernoulli_mlp, gaussian_mlp
from avi.nets import mlp
from avi.objectives import elbo
from avi.training import TrainSettings, adam, fit, train_step

use_threads()
plots.style()

# %% tags=["hide-input"]
generator = torch.Generator().manual_seed(SEED)
dataset = data.load(DATA)
images = dataset.train[: settings.n_images]
test = dataset.evaluation("test", generator)[:100]
family = DiagGaussian(settings.sizes[0])

# %% [markdown] tags=["slide"]
# ## The zoo
#
# Every method of the course, trained by one command on one model and one data set: `make reproduce EXPERIMENT=zoo TIER=mini SEEDS=5`. Its rows are objects; here one is trained and measured before your eyes.

# %% tags=["nbval-ignore-output"]
folder = Path("../reproduction")
zoo = reproduce.experiments(folder)["zoo"]
row = zoo.ROWS["vae"].at("mini")
live = row.run(SEED, None)
assert live["train_F"] == live["train_B"] == 1  # decoder calls
gap = live["approximation"] + live["remaining"]
assert abs(-live["nll"] - live["bound"] - gap) < 1e-4
expected.check("live_bound", live["bound"], claim="Bound of the VAE, live.")

# %% [markdown]
# The rows that were recorded, with five seeds each.

# %% tags=["hide-input"]
rows = {}
for record in reproduce.results("zoo", "mini", folder):
    kept = rows.setdefault(record["row"], {})
    for name, value in record["values"].items():
        kept.setdefault(name, []).append(value)
stored = {}
for key, kept in rows.items():
    stored[key] = {name: torch.tensor(v) for name, v in kept.items()}

# %% tags=["hide-input"]
shown = "bound nll approximation remaining gaussian_remaining".split()
counts = [f"{when}_{kind}" for when in ("infer", "train") for kind in "FBH"]
slugs = {key: key.replace("-", "_").replace("+", "_") for key in stored}

# %% tags=["hide-input", "nbval-ignore-output"]
for key, runs in stored.items():
    for name in shown:
        both = f"{slugs[key]}_{name}"
        claim = f"Zoo, {key}, {name}, mean over {len(runs[name])} seeds."
        expected.check(both, runs[name].mean(), claim=claim)
        claim = f"Zoo, {key}, {name}, standard deviation over seeds."
        expected.check(f"{both}_sd", runs[name].std(), claim=claim)

# %% tags=["hide-input", "nbval-ignore-output"]
for key, runs in stored.items():
    for name in counts:
        calls = runs[name].mean()
        claim = f"Zoo, {key}, decoder calls per example, {name}."
        expected.check(f"{slugs[key]}_{name}", calls, "calls", claim)

# %% tags=["hide-input", "nbval-ignore-output"]
for key, runs in stored.items():
    for name in ("infer_us", "train_us"):
        took = runs[name].median()
        claim = f"Zoo, {key}, processor time per example, {name}, median."
        expected.check(f"{slugs[key]}_{name}", took, "microsecond", claim)

# %% tags=["hide-input", "nbval-ignore-output"]
for key, runs in stored.items():
    ahead = (runs["bound"] > stored["vae"]["bound"]).sum()
    claim = f"Zoo, seeds in which {key} has a better bound than the VAE."
    expected.check(f"{slugs[key]}_ahead", ahead, "seeds", claim)
    claim = f"Zoo, {key}, share of test images with weak evidence."
    expected.check(f"{slugs[key]}_weak", runs["weak"].mean(), "1", claim)

# %% tags=["hide-input"]
names = {"vae": "VAE", "iwae": "IWAE, S = 5", "svi": "SVI, K = 20"}
names |= {"vae+svi": "VAE + SVI", "vae+svi+kl": "VAE + SVI + KL"}
names |= {"savae": "SA-VAE", "gradients": "iterative, x, gradients"}
names |= {"errors": "iterative, x, errors"}
names |= {"gradients-alone": "iterative, gradients"}
names |= {"joint-mixture": "joint mixture"}
names |= {"recursive-mixture": "recursive mixture", "flow": "flow"}


# %% tags=["hide-input"]
def bar(key):
    """Means over seeds; the whiskers are those of the gaps."""
    runs, kind = stored[key], "Gaussian"
    kind = {"flow": "bent Gaussian"}.get(key, kind)
    kind = "three Gaussians" if "mixture" in key else kind
    ends = (-runs["nll"], runs["best"], runs["bound"])
    spread = {"se_best": "approximation", "se_last": "remaining"}
    errors = {k: _error(runs[v]) for k, v in spread.items()}
    means = [end.mean().item() for end in ends]
    return plots.Thermometer(names[key], *means, **errors, family=kind)


def _error(values):
    return (values.std() / len(values) ** 0.5).item()


# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 9.4))
plots.thermometer(axes, [bar(key) for key in stored])
glue("fig-zoo", figure)

# %% [markdown] tags=["slide"]
# ## A richer family: flows
#
# A coupling scales and shifts one half of the units by functions of the other half {eq}`eq-coupling`. Written out, with the density of what it makes {eq}`eq-flow-density`:


# %% tags=["slide"]
def coupling(z0, log_q, network, keep, move):
    """z and log q(z) after one affine coupling."""
    shift, scale = network(z0[..., keep]).unflatten(-1, (-1, 2)).unbind(-1)
    log_scale = scale / (1 + (scale / math.log(1e-3)).abs())  # |.| < 6.9
    z = z0.clone()
    z[..., move] = z0[..., move] * log_scale.exp() + shift
    return z, log_q - log_scale.sum(-1)


# %%
bent = Flow(DiagGaussian(4), 1, (8,), generator=generator).double()
nn.init.normal_(bent.transforms.transforms[0].hyper[-1].weight)
lam = torch.randn(3, 8, generator=generator).double()
model = bernoulli_mlp((4, 8, 16), generator).double()
eps = torch.randn(5, 3, 4, generator=generator).double()
q = bent(lam, model)
start, network = q.base.draw(eps), bent.transforms.transforms[0].hyper
even, odd = torch.tensor([0, 2]), torch.tensor([1, 3])
z, log_q = coupling(start.z, start.log_q, network, even, odd)
torch.testing.assert_close(z, q.draw(eps).z)
torch.testing.assert_close(log_q, q.log_prob(z))  # through the inverse
print("the same draws and densities")

# %% [markdown]
# A posterior that no Gaussian fits: $x = z_2 + z_1^2 + $ noise. With two latents a grid gives the evidence.


# %%
class Banana(nn.Module):
    def forward(self, z):
        return z[..., 1:] + z[..., :1].square()


curved = gaussian_mlp((2, 2, 1), generator)
curved.decoder, curved.likelihood.log_var.data = Banana(), torch.tensor(-2.0)
curved.requires_grad_(False)
point = torch.ones(1, 1)
side = torch.linspace(-5, 5, 401)
places = torch.cartesian_prod(side, side)[:, None]
joint = curved.log_lik(point, places) + curved.log_prior(places)
log_p = joint.logsumexp(0) + 2 * math.log(10 / 400)

# %% tags=["nbval-ignore-output"]
candidates = {"Gaussian": DiagGaussian(2)}
candidates["flow"] = Flow(DiagGaussian(2), 6, (32,), generator=generator)
plan = TrainSettings(settings.flow_steps, 1, 64, 0.01, SEED)
found, missing = {}, {}
for name, own in candidates.items():
    method = Refine(Constant(torch.zeros(4), learned=True), own)
    fit(curved, method, point, plan)
    lam = method.init.value.detach()[None]
    value, se = score(Problem(curved, point, own, elbo()), lam, generator)
    found[name], missing[name] = own(lam, curved), log_p - value
    claim = f"Gap left for one curved posterior, {name}."
    expected.check(f"curved_{name.lower()}", missing[name], claim=claim)

# %% [markdown]
# The flow's draws, weighted, must find the same evidence as the grid; and its density must integrate to one.

# %%
own, lam = candidates["flow"], method.init.value.detach()[None]
sampled = log_evidence(curved, point, own, lam, 20_000, generator)
print("evidence:", bool((sampled.log_p - log_p).abs() < 5 * sampled.se))
total = found["flow"].log_prob(places).exp().sum() * (10 / 400) ** 2
print("integrates to one:", bool((total - 1).abs() < 1e-2))

# %% tags=["hide-input"]
surfaces = {"posterior": joint - log_p}
surfaces |= {name: own.log_prob(places) for name, own in found.items()}

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, panels = plt.subplots(1, 3, figsize=(8.5, 3.4), sharey=True)
for axes, (name, log_density) in zip(panels, surfaces.items()):
    height = log_density.detach().exp().view(401, 401).T
    axes.contourf(side, side, height, 8, cmap="Blues")
    axes.set(title=name, xlim=(-3, 3), ylim=(-4, 3.5), xlabel="$z_1$")
panels[0].set_ylabel("$z_2$")
glue("fig-banana", figure)

# %% [markdown] tags=["slide"]
# ## The same encoder, better trained
#
# An encoder lags behind a decoder that moves. Give it ten steps for every one of the decoder, and watch the gap and the information in $z$.


# %% tags=["slide"]
def lead(model, method, batches, optimiser, n):
    """n steps of the encoder alone, then one of both, each on new images."""
    for k in range(n + 1):
        model.requires_grad_(k == n)
        x = next(batches)
        noise = method.noise(1, x, generator)
        train_step(model, method, x, elbo(), noise, optimiser)


# %% tags=["hide-input"]
from avi.evaluation import mutual_information

search = {"step": steps.Adam(0.05), "n_steps": 60, "n_evidence": 500}


# %% tags=["hide-input"]
def state(model, method):
    """Bound, gap left and information in z on the test images, nats."""
    result = gaps(model, method, test, generator=generator, **search)
    q = family(method.init.net(test).detach(), model)
    told = mutual_information(q, 10, generator).value.mean()
    return result.last.value.mean(), result.remaining.mean(), told


# %% tags=["hide-input"]
def endless():
    """Minibatches, epoch after epoch."""
    while True:
        order = torch.randperm(len(images), generator=generator)
        for part in order.split(64):
            yield dataset.observe(images[part], generator)


# %% tags=["nbval-ignore-output"]
course = {}
per_epoch = math.ceil(len(images) / 64)
for name, n in {"together": 0, "encoder first": settings.inner}.items():
    weights = torch.Generator().manual_seed(SEED)
    model = bernoulli_mlp(settings.sizes, weights)
    encoder = mlp((*settings.sizes[:0:-1], family.n_params), weights)
    method = direct(encoder, family)
    both = [*model.parameters(), *method.parameters()]
    optimiser, rows_here, batches = adam(both, 3e-3), [], endless()
    for epoch in tqdm(range(settings.epochs)):
        for _ in range(per_epoch):
            lead(model, method, batches, optimiser, n)
        if epoch % 2 == 0:
            rows_here.append((epoch + 1, *state(model, method)))
    course[name] = torch.tensor(rows_here).T

# %% tags=["hide-input", "nbval-ignore-output"]
for name, (_, *columns) in course.items():
    for what, column in zip(("bound", "gap", "information"), columns):
        for when, value in (("first", column[0]), ("last", column[-1])):
            key = f"lag_{name.split()[0]}_{what}_{when}"
            claim = f"Trained {name}: {what} after the {when} epoch."
            expected.check(key, value, claim=claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.8))
labels = "gap left, nats", "information in $z$, nats"
for axes, at, label in zip(panels, (2, 3), labels):
    lines = {name: (table[0], table[at]) for name, table in course.items()}
    plots.curves(axes, lines, "epochs", label)
    axes.set_ylim(bottom=0)
glue("fig-lag", figure)

# %% [markdown] tags=["slide"]
# ## Second order: Laplace
#
# For a Gaussian output, linearise the decoder around the present mean; the posterior of the linearised model is a Gaussian in closed form, with all covariances {eq}`eq-laplace-posterior`.

# %%
from torch.func import jacfwd, vmap

from avi.densities import DenseGaussian


def laplace(model, x, mean, n_steps, share=lambda t: 0.5 / (t + 1)):
    """The mean after n_steps (a_t = share(t)), and the Gaussian there."""
    noise = model.likelihood.log_var.exp()
    for t in range(n_steps + 1):
        slope = vmap(jacfwd(model.decoder))(mean)  # W [B, X, D]
        eye = torch.eye(mean.shape[1]).to(mean)
        precision = slope.mT @ slope / noise + eye
        miss = x - model.decoder(mean) + (slope @ mean[..., None])[..., 0]
        pull = slope.mT @ miss[..., None] / noise
        target = torch.linalg.solve(precision, pull)
        if t < n_steps:
            mean = mean + share(t) * (target[..., 0] - mean)
    scale = torch.linalg.cholesky(torch.linalg.inv(precision))
    return mean, DenseGaussian(mean, scale)


# %% [markdown]
# With a linear decoder a single full step is exact, from any start.

# %%
twin = gaussian_mlp((3, 6), generator).double().requires_grad_(False)
(flat,) = twin.decoder
log_var = twin.likelihood.log_var.fill_(-1.0)
linear = LinearGaussian(flat.weight, flat.bias, log_var, fixed=True)
seen = linear.sample(5, generator)
anywhere = 3 * torch.randn(5, 3, generator=generator).double()
mean, q = laplace(twin, seen, anywhere, 1, lambda t: 1.0)
exact = linear.exact_posterior(seen)
torch.testing.assert_close(mean, exact.mean)
cover = [tril @ tril.mT for tril in (q.scale_tril, exact.scale_tril)]
torch.testing.assert_close(cover[0], cover[1].expand_as(cover[0]))
print("one step is exact for a linear decoder")

# %% [markdown]
# Now a curved decoder: a VAE with Gaussian outputs on the grey images.

# %% tags=["nbval-ignore-output"]
grey = gaussian_mlp(settings.sizes, generator)
net = mlp((*settings.sizes[:0:-1], family.n_params), generator)
plan = TrainSettings(settings.grey_epochs, 64, 1, 3e-3, SEED)
fit(grey, direct(net, family), images, plan)
grey.requires_grad_(False)
x = dataset.test[:100]
answer = net(x).detach()

# %% tags=["nbval-ignore-output"]
noise = torch.randn(200, 100, family.dim, generator=generator)
problem = Problem(grey, x, family, elbo())
best = best_lambda(problem, [answer, answer * 0], steps.Adam(0.02), 300)
levels = {"encoder": problem(answer, noise)}
levels["best_diagonal"] = problem(best, noise)
with torch.no_grad():
    for n in (0, 1, 2, 4, 8, 16):
        q = laplace(grey, x, family(answer, grey).mean, n)[1]
        levels[f"laplace_{n}"] = elbo()(grey, x, q, noise)
    draw = q.ancestral(2000, generator)
    weights = grey.log_lik(x, draw.z) + grey.log_prior(draw.z) - draw.log_q
evidence = (weights.logsumexp(0) - math.log(2000)).mean()
for name, value in levels.items():
    claim = f"Grey images, nats below log p: {name}."
    expected.check(f"below_{name}", evidence - value.mean(), claim=claim)

# %% [markdown] tags=["slide"]
# ## Learning from simulations
#
# A simulator gives pairs $(z, x)$. Neural posterior estimation trains $q(z \mid x)$ by maximum likelihood on such pairs {eq}`eq-npe`. Our simulator is linear and Gaussian, so the answer is known.

# %% tags=["nbval-ignore-output"]
weight = torch.tensor([[1.0, 0.8], [0.6, 1.2], [0.9, 0.2]])
parts = weight, torch.zeros(3), torch.tensor(-1.0)
sim = LinearGaussian(*parts, fixed=True)
guess = mlp((3, 32, 4), generator)
optimiser = torch.optim.Adam(guess.parameters(), 0.01)
Cosine = torch.optim.lr_scheduler.CosineAnnealingLR
decay = Cosine(optimiser, settings.simulations)
for _ in tqdm(range(settings.simulations)):
    z = torch.randn(256, 2, generator=generator)
    wrong = torch.randn(256, 3, generator=generator) * math.exp(-0.5)
    q = DiagGaussian(2)(guess(sim.predict(z) + wrong), sim)
    optimiser.zero_grad()
    (-q.log_prob(z).mean()).backward()
    optimiser.step()
    decay.step()

# %% [markdown]
# The mean should be the posterior's, the variances its marginal ones, $(\Lambda^{-1})_{dd}$: wider than the $1 / \Lambda_{dd}$ that the bound would choose {eq}`eq-npe-moments`.

# %% tags=["nbval-ignore-output"]
x = sim.sample(1000, generator)
with torch.no_grad():
    q, exact = DiagGaussian(2)(guess(x), sim), sim.exact_posterior(x)
covariance = torch.linalg.inv(sim.precision())
off = (q.mean - exact.mean).square().mean().sqrt()
claim = "Root mean square error of the mean."
expected.check("npe_mean_error", off, "1", claim)
variances = {"npe": q.log_var.exp().mean()}
variances["marginal"] = covariance.diagonal().mean()
variances["bound"] = (1 / sim.precision().diagonal()).mean()
for name, value in variances.items():
    claim = f"Mean variance of q: {name}."
    expected.check(f"npe_variance_{name}", value, "1", claim)

# %% [markdown] tags=["slide"]
# ## Diffusion: an encoder that is given
#
# Noise is added in $T$ steps; a model learns to take it away. Written as a latent-variable model this has an encoder without a parameter. For Gaussian data the bound is closed form {eq}`eq-diffusion-gap`. We compare with draws from the encoder.


# %% tags=["slide"]
def deficit(c0, n_steps, total=6.0):
    """E log q(x_0) - E L, nats: (the end's part, the sum over steps)."""
    kept = math.exp(-total / n_steps)  # 1 - beta
    c = [1 + (c0 - 1) * kept**t for t in range(n_steps + 1)]
    ratios = [before / after for before, after in zip(c, c[1:])]
    chain = sum(r - 1 - math.log(r) for r in ratios)
    return 0.5 * (c[-1] - 1 - math.log(c[-1])), 0.5 * chain


def misfit(c0, n_steps, total=6.0):
    """E log q(x_0) - E log p(x_0), nats: the chain run back from N(0, 1)."""
    kept, v = math.exp(-total / n_steps), 1.0
    for t in range(n_steps, 0, -1):
        before, after = (1 + (c0 - 1) * kept ** (t - i) for i in (1, 0))
        v = kept * (before / after) ** 2 * v + 1 - kept
    return 0.5 * (c0 / v - 1 - math.log(c0 / v))


# %%
def normal(x, mean, var):
    return -0.5 * ((x - mean) ** 2 / var + math.log(2 * math.pi * var))


def drawn(c0, n_steps, n=20_000, total=6.0):
    """log q(x_0) less the bound, from n draws of the whole chain, [n]."""
    kept = math.exp(-total / n_steps)
    x, c = math.sqrt(c0) * torch.randn(n, generator=generator).double(), c0
    loss = normal(x, 0, c0)
    for _ in range(n_steps):
        fresh = torch.randn(n, generator=generator).double()
        after = math.sqrt(kept) * x + math.sqrt(1 - kept) * fresh
        behind, c = c, kept * c + 1 - kept
        loss += normal(after, math.sqrt(kept) * x, 1 - kept)
        loss -= normal(x, math.sqrt(kept) * behind / c * after, 1 - kept)
        x = after
    return loss - normal(x, 0, 1)


# %%
agree = []
for n_steps in (1, 3, 30):
    many = drawn(0.2, n_steps)
    off = many.mean() - sum(deficit(0.2, n_steps))
    agree.append(bool(off.abs() < 5 * many.std() / len(many) ** 0.5))
print("closed form and draws agree:", agree)
falling = [sum(deficit(0.2, n)) for n in (1, 2, 4, 8, 16, 64, 256)]
print("falls with T:", falling == sorted(falling, reverse=True))

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
marks = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
figure, axes = plt.subplots()
lines = {f"$c_0 = {c0}$": (marks, [sum(deficit(c0, n)) for n in marks])
         for c0 in (0.05, 0.2, 0.5, 4.0)}  # fmt: skip
plots.curves(axes, lines, "steps $T$", "nats lost against $\\log q(x_0)$")
axes.set(xscale="log", yscale="log", xticks=(1, 10, 100, 1000))
axes.set_xticklabels((1, 10, 100, 1000))
glue("fig-diffusion", figure)

# %% tags=["hide-input", "nbval-ignore-output"]
for n in (1, 10, 100):
    claim = f"Nats lost by {n} diffusion steps, data variance 0.2."
    expected.check(f"diffusion_{n}", sum(deficit(0.2, n)), claim=claim)
    claim = f"Of these, the gap between the bound and log p, {n} steps."
    gap = sum(deficit(0.2, n)) - misfit(0.2, n)
    expected.check(f"diffusion_gap_{n}", gap, claim=claim)

# %% [markdown]
# Both sliders of the chapter's figure, live:

# %% tags=["hide-input"]
import ipywidgets
from IPython.display import display

controls = {
    "T": ipywidgets.IntSlider(10, min=1, max=200),
    "variance": ipywidgets.FloatSlider(0.2, min=0.05, max=4, step=0.05),
}
text = ipywidgets.Label()


# %% tags=["hide-input"]
def redraw(change=None):
    end, chain = deficit(controls["variance"].value, controls["T"].value)
    text.value = f"end {end:.4f} nats, steps {chain:.4f} nats"


# %% tags=["hide-input", "nbval-ignore-output"]
for name, control in controls.items():
    control.description = name
    control.observe(redraw, "value")
redraw()
display(ipywidgets.VBox([*controls.values(), text]))
