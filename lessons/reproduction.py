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
# # Lesson: reproduction
#
# This notebook goes with the chapter [Reproduction](../book/reproduction.md).
# First we write by hand what makes a row known again and what judges it. Then rows run, are stopped, and fail, in a temporary folder.
# The last part reads the results of the long runs and puts them beside the papers' values.

# %%
DATA = "results"  # one file for each run, in reproduction/results
SEED = 0
from dataclasses import dataclass

from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    tier: str = "smoke"  # "mini": minutes a row; "full": hours, or a GPU
    rows: tuple = (
        ("savae-table1", "oracle/*"),
        ("iai-table1", "single/iterative"),
        ("avi-saw", "published/two-inputs/10"),
    )
    draws: int = 4000  # of seeds, for the chance of a verdict


settings = Settings()
expected = Expected("reproduction", DATA)

# %%
import dataclasses
import hashlib
import json
from collections import Counter
from math import sqrt
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from unittest.mock import patch

import matplotlib.pyplot as plt
import torch
from scipy.stats import norm
from tqdm.auto import tqdm

from avi import ledger, plots, reproduce
from avi.rows import TIERS, Claim, configuration, digest
from avi.training import TrainingError

use_threads()
plots.style()

# %% [markdown] tags=["slide"]
# ## What it means to reproduce
#
# An experiment is a module with named rows, and a row is a frozen dataclass. All it holds is its configuration.

# %%
folder = Path("../reproduction")
found = reproduce.experiments(folder)
row = found["savae-table1"].ROWS["oracle/savae"]
print(json.dumps(configuration(row), indent=1))
claim = row.claim
print(claim.quantity, f"{claim.paper:.2f}", claim.unit, "+-", claim.tolerance)

# %% [markdown]
# A row is known again by a hash of what it holds. Fields that were added later count only where they differ from their default.


# %% tags=["slide"]
def held(value):
    if not dataclasses.is_dataclass(value):
        return value
    kept = {}
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if not field.metadata.get("added") or part != field.default:
            kept[field.name] = held(part)
    return kept


def known_by(value):
    text = json.dumps(held(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# %%
every = [
    row.at(tier)
    for module in found.values()
    for row in module.ROWS.values()
    for tier in TIERS
]
own = [known_by(row) for row in every]
assert own == [digest(configuration(row)) for row in every]
print("every row of every experiment, the same hash: True")

# %%
wider = dataclasses.replace(row, tolerance=5.0)
print("another tolerance, another hash:", known_by(wider) != known_by(row))

# %% [markdown]
# The rule {eq}`eq-verdict-rule` has three answers, and no answer below three seeds.


# %% tags=["slide"]
def judge(values, paper, tolerance):
    inside = [abs(value - paper) <= tolerance for value in values]
    if len(values) < 3:
        return "open: fewer than 3 seeds"
    if abs(sum(values) / len(values) - paper) <= tolerance:
        return "reproduced"
    return "partly" if any(inside) else "not reproduced"


# %% tags=["slide"]
generator = torch.Generator().manual_seed(SEED)
claim = Claim("gap", "nats", paper=0.0, tolerance=0.5)
seen = Counter()
for n in (1, 2, 3, 5):
    for values in torch.randn(500, n, generator=generator).tolist():
        seen[judge(values, 0.0, 0.5)] += 1
        assert judge(values, 0.0, 0.5) == claim.verdict(values)
print(*sorted(seen), sep="\n")

# %% [markdown]
# How often is a method called reproduced that is off by `bias`? By {eq}`eq-chance`, and by asking the library's rule about simulated seeds.


# %%
def chance(n, bias, sd, tolerance):
    """That the mean of n seeds lies within the tolerance."""
    wide = sd / sqrt(n)
    above = norm.cdf((tolerance - bias) / wide)
    return above - norm.cdf((-tolerance - bias) / wide)


def simulated(n, bias, sd):
    noise = torch.randn(settings.draws, n, generator=generator)
    answers = map(claim.verdict, (bias + sd * noise).tolist())
    return sum(answer == "reproduced" for answer in answers) / settings.draws


# %%
for n, bias, sd in ((3, 0.0, 0.5), (3, 1.0, 1.0), (5, 1.0, 0.5)):
    p = chance(n, bias, sd, 0.5)
    error = sqrt(p * (1 - p) / settings.draws)
    assert abs(simulated(n, bias, sd) - p) < 5 * error
print("the rule answers as often as the formula says: True")

# %% tags=["hide-input", "nbval-ignore-output"]
biases = torch.linspace(0, 3, 121)
figure, panels = plt.subplots(1, 2, figsize=(8.5, 4.2), sharey=True)
for n in (1, 3, 5, 10):
    p = torch.tensor([chance(n, b, 1.0, 1.0) for b in biases.tolist()])
    once = torch.tensor([chance(1, b, 1.0, 1.0) for b in biases.tolist()])
    label = f"{n} seeds" if n > 1 else "1 seed"
    panels[0].plot(biases, p, label=label)
    panels[1].plot(biases, 1 - (1 - once) ** n, label=label)
plt.close(figure)  # shown once it is complete

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
for axes, title in zip(panels, ("the mean is within", "any seed is within")):
    axes.axvline(1, color="black", ls=":")
    axes.set(title=title, xlabel="distance to the paper / tolerance")
panels[0].set_ylabel("chance")
panels[0].legend()
glue("fig-chance", figure)

# %% tags=["hide-input", "nbval-ignore-output"]
for n in (1, 3, 5, 10):
    far, bias = chance(n, 2.0, 1.0, 1.0), "off by two tolerances"
    about = f"bias {bias}, spread of one, {n} seeds."
    one = chance(1, 2.0, 1.0, 1.0)
    key, any_one = f"lucky_{n}", 1 - (1 - one) ** n
    expected.check(key, far, "chance", f"Mean within: {about}")
    key = f"lucky_any_{n}"
    expected.check(key, any_one, "chance", f"Any seed within: {about}")

# %% [markdown] tags=["slide"]
# ## How a row runs
#
# The rows of `settings`, at its tier, into a temporary folder. The runner is the one behind `make reproduce`.

# %% tags=["nbval-ignore-output"]
temporary = TemporaryDirectory()
here = Path(temporary.name)


def runs(name, pattern, tier=settings.tier):
    return list(reproduce.runs(found[name], tier, pattern, [SEED], here))


todo = [run for pair in settings.rows for run in runs(*pair)]
records = [run() for run in tqdm(todo)]
for record in records:
    print(record["experiment"], record["row"], record["config_hash"])

# %% [markdown]
# One record. At the smoke tier its values say that the code works, and nothing else.

# %% tags=["nbval-ignore-output"]
shown = dict(records[0], config="...")
print(json.dumps(shown, indent=1))

# %% [markdown]
# What is there is not run again; a changed setting is another run, in another file.

# %%
assert all(run() is None for run in todo)
longer = dataclasses.replace(todo[0].row, n_steps=10)
changed = dataclasses.replace(todo[0], row=longer)
print("another file:", changed.path != todo[0].path)

# %% [markdown] tags=["slide"]
# ### Stopped and continued
#
# A run is stopped in its second epoch. It goes on from its checkpoint, and ends with the values of one that was never stopped.

# %%
table = found["savae-table1"]
(whole,) = runs("savae-table1", "oracle/vae", "smoke")
stopped = dataclasses.replace(whole, name="stopped")
epoch = table.Learner.run_epoch


def one_epoch(learner):
    if learner.epoch:
        raise KeyboardInterrupt
    epoch(learner)


# %% tags=["nbval-ignore-output", "slide"]
with patch.object(table.Learner, "run_epoch", one_epoch):
    try:
        stopped()
    except KeyboardInterrupt:
        print("checkpoint:", stopped.checkpoint.exists())
        print("result:", stopped.path.exists())

# %% tags=["nbval-ignore-output"]
unbroken = dataclasses.replace(whole, name="unbroken")()
assert stopped()["values"] == unbroken["values"]

# %% [markdown]
# ### A row of our own, and one that fails
#
# Gradient ascent on $-2 z^2$ from one: a row in fifteen lines. One of the step sizes diverges. The other rows do not notice.


# %%
@dataclass(frozen=True)
class Climb:
    rate: float
    paper: float = 0.0
    tolerance: float = 0.01
    steps: int = 50

    def at(self, tier):
        return self

    def run(self, seed, checkpoint):
        z = 1 + 0.1 * seed
        for step in range(self.steps):
            z = z - self.rate * 4 * z
            if abs(z) > 100:
                raise TrainingError(f"step {step}: z left [-100, 100]")
        return {"z": z}

    @property
    def claim(self):
        return Claim("z", "1", self.paper, self.tolerance)


# %%
for rate in (0.1, 0.6, 0.3):
    run = reproduce.Run("climbs", f"rate-{rate}", Climb(rate), "full", 0, here)
    record = run()
    print(rate, record.get("failure", "has a value"))

# %% [markdown] tags=["slide"]
# ## What has been run
#
# From here on nothing is computed anew: the records of the long runs are read. Every number is counted in the files.


# %%
def recorded(experiment, tier):
    """{row: its records}, in the order of the table."""
    rows = {}
    for record in reproduce.results(experiment, tier, folder):
        rows.setdefault(record["row"], []).append(record)
    return rows


def values_of(row, records):
    name = row.claim.quantity
    return [r["values"][name] for r in records if "values" in r]


# %% tags=["hide-input"]
full = {name: recorded(name, "full") for name in found}
mini = {name: recorded(name, "mini") for name in found}


# %% tags=["hide-input"]
def verdicts(name):
    """{row: the rule's answer}; "" where the paper gives no number."""
    rows = found[name].ROWS
    runs = {key: full[name].get(key, []) for key in rows}
    measured = {key: values_of(rows[key], runs[key]) for key in rows}
    return {k: rows[k].at("full").claim.verdict(v) for k, v in measured.items()}


# %% [markdown]
# The ledger counts in its own way. The two must agree.

# %%
answers = Counter(a for name in found for a in verdicts(name).values())
text = ledger.page(folder)
for answer in ("reproduced", "partly", "not reproduced"):
    assert text.count(f"| {answer} |") == answers[answer]
print("counted as in the ledger: True")


# %% tags=["hide-input"]
PAPERS = {"savae": "savae-", "iai": "iai-", "avi": "avi-", "rme": "rme-"}


def counted(names):
    """What there is, and what came out, for some experiments together."""
    rows = [row for name in names for row in found[name].ROWS.values()]
    claims = [row.claim for row in rows]
    said = Counter(a for name in names for a in verdicts(name).values())
    kept = [r for t in (full, mini) for n in names for r in t[n].values()]
    seconds = sum(record["seconds"] for records in kept for record in records)
    return {
        "rows": len(rows),
        "numbers": sum(None not in (c.paper, c.tolerance) for c in claims),
        "full": sum(len(full[name]) for name in names),
        "mini": sum(len(mini[name]) for name in names),
        "reproduced": said["reproduced"],
        "partly": said["partly"],
        "missed": said["not reproduced"],
        "few": said["open: fewer than 3 seeds"],
        "hours": seconds / 3600,
    }


# %% tags=["hide-input", "nbval-ignore-output"]
groups = {
    key: [name for name in found if name.startswith(start)]
    for key, start in PAPERS.items()
}
rest = set(found) - {name for names in groups.values() for name in names}
groups |= {"other": sorted(rest), "all": list(found)}

# %% tags=["hide-input", "nbval-ignore-output"]
for key, names in groups.items():
    for what, number in counted(names).items():
        unit = "hours" if what == "hours" else "rows"
        about = f"Reproduction, {key}: {what}."
        expected.check(f"{key}_{what}", number, unit, about)

# %% [markdown]
# ## Table 1 of SA-VAE
#
# Ours against the paper's, with the tolerance as a band. And the claim that is in no single row: the order of the methods.

# %% tags=["hide-input"]
SHOWN = {
    "oracle": "generator given",
    "learned-plain": "learned",
    "learned-from-truth": "learned, from the truth",
}
sa_rows, sa = table.ROWS, full["savae-table1"]


def gaps(key):
    return values_of(sa_rows[key], sa.get(key, []))


# %% tags=["hide-input"]
def gap_by_seed(key):
    kept = [r for r in sa.get(key, []) if "values" in r]
    return {r["seed"]: r["values"]["gap"] for r in kept}


# %% tags=["hide-input"]
def orders(column):
    """Seeds in which the gaps are in the paper's order, and seeds run."""
    methods = [key for key in sa_rows if key.startswith(f"{column}/")]
    methods = [key for key in methods if not key.endswith("tuned")]
    order = sorted(methods, key=lambda key: sa_rows[key].claim.paper)
    gaps = [gap_by_seed(key) for key in order]
    seeds = set.intersection(*map(set, gaps))
    pairs = list(zip(gaps, gaps[1:]))
    right = [all(near[s] < far[s] for near, far in pairs) for s in seeds]
    return sum(right), len(right)


# %% tags=["hide-input", "nbval-ignore-output"]
figure, axes = plt.subplots(figsize=(6.4, 5.2))
span = torch.tensor([0.0, 8.0])
axes.fill_between(span, span - 0.5, span + 0.5, color="0.85", label="tolerance")
for shift, (column, label) in zip((-0.1, -0.1, 0.1), SHOWN.items()):
    keys = [key for key in sa_rows if key.startswith(f"{column}/")]
    papers = {k: sa_rows[k].claim.paper for k in keys}
    at = [(papers[k] + shift, gap) for k in keys for gap in gaps(k)]
    axes.plot(*zip(*at), "o", ms=6, alpha=0.75, label=label)
plt.close(figure)  # shown once it is complete

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
papers = sorted({row.claim.paper for row in sa_rows.values()})
axes.plot(papers, papers, "x", color="black", ms=9, mew=2, label="paper")
axes.set(xlabel="the paper's gap, nats", ylabel="our gap, nats")
axes.set(xlim=(0, 8), ylim=(0, 8), aspect="equal")
axes.legend(loc="upper left")
glue("fig-savae", figure)

# %% tags=["hide-input", "nbval-ignore-output"]
columns = list(dict.fromkeys(key.split("/")[0] for key in sa_rows))
said = verdicts("savae-table1")
for column in columns:
    if all(f"{column}/{m}" in sa_rows for m in ("vae", "svi", "savae")):
        right, seeds = orders(column)
        key = "order_" + column.replace("-", "_")
        about = f"Table 1, {column}: seeds"
        expected.check(key, right, "seeds", f"{about} in the paper's order.")
        expected.check(f"{key}_of", seeds, "seeds", f"{about} run.")

# %% tags=["hide-input", "nbval-ignore-output"]
for part in ("oracle", "learned"):
    rows = [answer for key, answer in said.items() if key.startswith(part)]
    good = rows.count("reproduced")
    expected.check(f"sa_{part}", good, "rows", f"Rows reproduced, {part}.")
    expected.check(f"sa_{part}_of", len(rows), "rows", f"Rows, {part}.")
good = said["oracle/savae"] == "reproduced"
expected.check("sa_nearest", good, "1", "SA-VAE's row, generator given.")

# %% [markdown]
# Every row, with the rule's answer.

# %% tags=["hide-input", "nbval-ignore-output"]
from IPython.display import Markdown, display


def table_of(name):
    """The experiment's part of the ledger, without its box."""
    part = ledger.section(found[name], folder).split(":::")[1]
    return Markdown(part.removeprefix("{div} ledger"))


display(table_of("savae-table1"))

# %% [markdown] tags=["slide"]
# ## The linear model and the saw
#
# Final losses beside the stored values of the published notebooks, in units of the row's tolerance.

# %% tags=["hide-input", "nbval-ignore-output"]
places = []
for name in ("avi-linear", "avi-saw"):
    for key, row in found[name].ROWS.items():
        if row.claim.paper is not None:
            got = values_of(row, full[name].get(key, []))
            label = f"{name[4:]} {key.removeprefix('published/')}"
            off = [(v - row.claim.paper) / row.claim.tolerance for v in got]
            places.append((label, off, verdicts(name)[key] or "not yet run"))

# %% tags=["hide-input", "nbval-ignore-output"]
figure, axes = plt.subplots(figsize=(7.2, 6.2))
axes.axvspan(-1, 1, color="0.85")
axes.plot([0] * len(places), range(len(places)), "x", color="black", mew=2)
beside = {"va": "center", "transform": axes.get_yaxis_transform()}
for place, (_, off, answer) in enumerate(places):
    axes.plot(off, [place] * len(off), "o", color=plots.COLOURS["elbo"])
    axes.text(1.02, place, answer.split(":")[0], fontsize=11, **beside)
plt.close(figure)  # shown once it is complete

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
axes.set_yticks(range(len(places)), [label for label, *_ in places])
axes.set(xlabel="(ours − paper) / tolerance", ylim=(len(places) - 0.5, -0.5))
axes.set_xscale("symlog", linthresh=1)
axes.xaxis.set_major_formatter("{x:g}")
low, high = axes.get_xlim()
axes.set_xlim(min(-3, low), max(3, high))
glue("fig-avi", figure)

# %% tags=["hide-input", "nbval-ignore-output"]
off = [o for _, values, _ in places for o in values]
within = sum(abs(o) <= 1 for o in off)
expected.check("avi_runs", len(off), "runs", "Full runs with a paper's value.")
expected.check("avi_within", within, "runs", "Of them within the tolerance.")

# %% tags=["hide-input", "nbval-ignore-output"]
for name in ("avi-linear", "avi-saw"):
    display(table_of(name))

# %% [markdown] tags=["slide"]
# ## Iterative inference, smaller
#
# The paper's figures at the mini tier: other data, smaller networks, fewer epochs. What can be compared is the shape.


# %% tags=["hide-input"]
def sizes(records):
    """Gradient magnitudes [epoch, iteration], mean over seeds."""
    values = records[0]["values"]
    pairs = [tuple(map(int, key.split("_")[1:])) for key in values]
    shape = max(e for _, e in pairs), 1 + max(k for k, _ in pairs)
    grids = torch.zeros(len(records), *shape)
    for grid, record in zip(grids, records):
        for k, e in pairs:
            grid[e - 1, k] = record["values"][f"size_{k}_{e}"]
    return grids.mean(0)


# %% tags=["hide-input"]
def mean_of(name, row, key):
    runs = mini[name][row]
    return fmean(r["values"][key] for r in runs if "values" in r)


# %% tags=["hide-input", "nbval-ignore-output"]
figure, panels = plt.subplots(2, 2, figsize=(9, 8.4))
news = {"rcv1": "Figure 6, newsgroups", "mnist": "Figure 6, digits"}
falls = {}
for axes, (row, title) in zip(panels[0], news.items()):
    grid = falls[row] = sizes(mini["iai-figure6"][row])
    epochs = range(1, len(grid) + 1)
    shown = {f"{k}": (epochs, grid[:, k]) for k in (0, 1, 2, 5, 15)}
    plots.curves(axes, shown, "epoch", "mean gradient")
    axes.set(title=title, ylim=(0, None))
    axes.get_legend().remove()
plt.close(figure)  # shown once it is complete

# %% tags=["hide-input"]
panels[0, 1].set_ylabel("")
_ = panels[0, 1].legend(title="iteration", ncols=2, loc="upper right")

# %% tags=["hide-input", "nbval-ignore-output"]
axes, marks = panels[1, 0], (1, 2, 4, 8, 16)
names = {"decoder-with-step": "with the step", "decoder-as-vae": "as a VAE"}
for row, label in names.items():
    leads = [mean_of("iai-race", row, f"lead_prior_{k}") for k in marks]
    axes.plot(marks, leads, "o-", label=f"decoder {label}")
axes.axhline(0, color="black", lw=1)
axes.set(xscale="log", title="Figure 4", xlabel="iteration")
axes.set_ylabel("lead, nats")
axes.set_xticks(marks, marks)
axes.legend()
axes.minorticks_off()  # and nothing that would be printed

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
axes, counts = panels[1, 1], (2, 5, 10, 16)
for kind in ("gradients", "x-and-gradients", "errors", "x-and-errors"):
    rows = [f"iterations/{kind}/{n}" for n in counts]
    nll = [-mean_of("iai-figure7", row, "nll") for row in rows]
    axes.plot(counts, nll, "o-", label=kind.replace("-", " "))
axes.set(title="Figure 7", xlabel="iterations", ylabel="mean log p(x), nats")
axes.set_xticks(counts, counts)
axes.legend()
glue("fig-iai", figure)

# %% tags=["hide-input", "nbval-ignore-output"]
for row, grid in falls.items():
    most = grid.max(0).values
    about = f"Figure 6, {row}: largest gradient, first iteration over"
    expected.check(f"fall_{row}", most[0] / most[1], "1", f"{about} second.")
    expected.check(f"rest_{row}", most[0] / most[-1], "1", f"{about} last.")

# %% tags=["hide-input", "nbval-ignore-output"]
for row, label in names.items():
    key = "lead_" + label.split()[-1].lower()
    lead = mean_of("iai-race", row, "lead_prior_16")
    claim = f"Figure 4, lead after 16 iterations, decoder {label}."
    expected.check(key, lead, claim=claim)

# %% [markdown] tags=["slide"]
# ## What it cost
#
# The seconds are in the records.

# %% tags=["hide-input", "nbval-ignore-output"]
spent = {}
for tier, kept in (("full", full), ("mini", mini)):
    for name, rows in kept.items():
        seconds = [r["seconds"] for records in rows.values() for r in records]
        if seconds:
            spent[f"{name}, {tier}"] = sum(seconds) / 60, len(seconds)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, axes = plt.subplots(figsize=(6.4, 0.4 * len(spent) + 1))
minutes = [total for total, _ in spent.values()]
bars = axes.barh(list(spent), minutes, color=plots.COLOURS["elbo"])
axes.bar_label(bars, [f"{n} runs" for _, n in spent.values()], padding=4)
axes.set(xscale="log", xlabel="minutes, all runs together")
axes.set_xlim(1, 10 * max(minutes))
axes.invert_yaxis()
glue("fig-cost", figure)

# %% [markdown]
# Choose an experiment: its rows, as they stand in the ledger.

# %% tags=["hide-input", "nbval-ignore-output"]
import ipywidgets

choice = ipywidgets.Dropdown(options=list(found), description="experiment")
screen = ipywidgets.Output()


# %% tags=["hide-input", "nbval-ignore-output"]
def show(change=None):
    screen.clear_output()
    with screen:
        display(table_of(choice.value))


choice.observe(show, "value")
show()
display(ipywidgets.VBox([choice, screen]))

# %% tags=["hide-input"]
temporary.cleanup()
