# ---
# jupyter:
#   jupytext:
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
# # Assignment: the amortization gap
#
# It goes with the chapter *The amortization gap* and takes about 100 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments. Self-checks use other inputs than the grading does.
#
# First you measure gaps where both ends are known, in the linear-Gaussian model (`eq-linear-gaussian`, here without a bias)
#
# $$z \sim \mathcal{N}(0, I), \qquad x \mid z \sim \mathcal{N}(W z, \operatorname{diag} \psi).$$
#
# Then you measure one where they are not, and say how well it is known. $B$ or $N$ examples, $D$ latent units, $X$ entries of $x$. Logarithms are natural; bounds and gaps are in nats.
#
# First put your student id between the quotes. Some numbers below are yours alone.

# %%
STUDENT = "your-id"

import math
import zlib

import torch

torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## The best member of the family
#
# The posterior has precision $\Lambda = I + W^\top \operatorname{diag}(1/\psi)\, W$ and mean $\Lambda^{-1} W^\top \operatorname{diag}(1/\psi)\, x$ (`eq-lg-posterior`). Among diagonal Gaussians the best is `eq-lg-best`.
# Write `best_diagonal(weight, psi, x)` for `weight` $[X, D]$, `psi` $[X]$, `x` $[B, X]$. Return the pair of its mean and its *log variance*, $[B, D]$ each.


# %% name="best_diagonal" tags=["solution", "points=3"]
def best_diagonal(weight, psi, x):
    """(mean, log variance) of q* among diagonal Gaussians, [B, D] each."""
    ### BEGIN SOLUTION
    scaled = weight / psi[:, None]
    precision = torch.eye(weight.shape[1]) + scaled.T @ weight
    mean = torch.linalg.solve(precision, scaled.T @ x.T).T
    return mean, -precision.diagonal().log().expand_as(mean)
    ### END SOLUTION


# %% [markdown]
# ## Two gaps
#
# Write `exact_gaps(weight, psi, x, mean, log_var)` for an encoder that answers $q = \mathcal{N}(\text{mean}, \operatorname{diag} e^{\text{log\_var}})$, $[B, D]$ each. Return the pair (approximation gap, amortization gap) of `eq-gap-split`, $[B]$ each.
#
# Two hints. By `eq-inference-gap` their sum is one KL between two Gaussians, one of them with a full covariance. And the amortization gap is a difference of two bounds; it is not $\mathrm{KL}(q \Vert q^*)$.


# %% name="exact_gaps" tags=["solution", "points=4"]
def exact_gaps(weight, psi, x, mean, log_var):
    """(log p(x) - L(q*), L(q*) - L(q)) of a diagonal Gaussian q, nats, [B] each."""
    ### BEGIN SOLUTION
    scaled = weight / psi[:, None]
    precision = torch.eye(weight.shape[1]) + scaled.T @ weight
    best, best_log_var = best_diagonal(weight, psi, x)

    def divergence(m, v):  # KL(N(m, diag e^v) || posterior); the posterior's mean is best
        square = ((m - best) @ precision * (m - best)).sum(-1)
        trace = (precision.diagonal() * v.exp()).sum(-1)
        return 0.5 * (square + trace - m.shape[-1] - v.sum(-1) - torch.logdet(precision))

    approximation = divergence(best, best_log_var)
    return approximation, divergence(mean, log_var) - approximation
    ### END SOLUTION


# %% [markdown]
# Some properties that must hold: neither gap is negative, the amortization gap vanishes at $q^*$, and the approximation gap does not depend on the encoder.

# %% tags=["check"]
w_try, psi_try, x_try = torch.randn(5, 3), torch.rand(5) + 0.2, torch.randn(4, 5)
first = exact_gaps(w_try, psi_try, x_try, *best_diagonal(w_try, psi_try, x_try))
other = exact_gaps(w_try, psi_try, x_try, torch.randn(4, 3), torch.randn(4, 3))
print("no amortization gap at q*:", torch.allclose(first[1], torch.zeros(4)))
print("never negative:", bool((first[0] >= 0).all() and (other[1] >= 0).all()))
print("the same family, the same approximation gap:", torch.allclose(first[0], other[0]))

# %% [markdown]
# ## Your own thermometer
#
# Your id chooses a model with two latent units, one observation, and the answer of an encoder. Let `my_thermometer()` return a dictionary of three numbers in nats, good to three decimals: `"log_p"`, `"approximation"` and `"amortization"`.

# %%
generator = torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
noise = torch.rand(12, generator=generator)
my_weight = torch.tensor([[1.0, 0.6], [0.7, 1.2], [0.9, 0.8]]) + 0.3 * noise[:6].view(3, 2)
my_psi = 0.3 + 0.3 * noise[6:9]
my_x = 1 + torch.stack([noise[9], -noise[10], noise[11]])[None]
my_mean, my_log_var = torch.tensor([[0.9, 0.1]]), torch.tensor([[-1.0, -1.0]])


# %% name="my_thermometer" tags=["solution", "points=3"]
def my_thermometer():
    """{"log_p": nats, "approximation": nats, "amortization": nats}."""
    ### BEGIN SOLUTION
    covariance = my_weight @ my_weight.T + torch.diag(my_psi)
    square = (my_x @ torch.linalg.inv(covariance) * my_x).sum()
    log_p = -0.5 * (square + torch.logdet(2 * math.pi * covariance))
    gaps = exact_gaps(my_weight, my_psi, my_x, my_mean, my_log_var)
    names = "log_p", "approximation", "amortization"
    return {name: value.item() for name, value in zip(names, (log_p, *gaps))}
    ### END SOLUTION


# %% [markdown]
# ## The price of a narrow encoder
#
# An affine encoder of rank $r$ cannot follow all $D$ directions of the posterior means. Write `limited_gap(weight, psi, x, rank)`, the smallest *mean* amortization gap over the $N$ rows of `x` $[N, X]$ that such an encoder can have (`eq-limited-gap`), a number in nats. Rank 0 is a constant, rank $D$ loses nothing.


# %% name="limited_gap" tags=["solution", "points=3"]
def limited_gap(weight, psi, x, rank):
    """Mean nats lost by the best affine encoder of this rank."""
    ### BEGIN SOLUTION
    mean, _ = best_diagonal(weight, psi, x)
    precision = torch.eye(weight.shape[1]) + (weight / psi[:, None]).T @ weight
    root = torch.linalg.cholesky(precision)  # precision = root root^T
    sizes = torch.linalg.svdvals((mean - mean.mean(0)) @ root)
    return 0.5 * sizes[rank:].square().sum() / len(x)
    ### END SOLUTION


# %% [markdown]
# ## A turned decoder
#
# Turn the latent space of a model whose posteriors are diagonal with precisions $\tau$ by an orthogonal matrix $R$. Nothing changes for $x$ (`eq-rotation`), yet diagonal Gaussians now miss something. Write `rotated_gap(tau, rotation)` (`eq-rotated-gap`) for `tau` $[D]$ and `rotation` $[D, D]$: a number in nats.


# %% name="rotated_gap" tags=["solution", "points=2"]
def rotated_gap(tau, rotation):
    """The approximation gap that the rotation R creates, nats."""
    ### BEGIN SOLUTION
    turned = (rotation.square() * tau[:, None]).sum(0)  # diagonal of R^T diag(tau) R
    return 0.5 * (turned.log() - tau.log()).sum()
    ### END SOLUTION


# %% tags=["check"]
quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
print("a quarter turn costs nothing:", abs(rotated_gap(torch.tensor([1.0, 9.0]), quarter)) < 1e-9)
eighth = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
print(f"an eighth: {rotated_gap(torch.tensor([1.0, 9.0]), eighth):.3f} = log(5 / 3) nats")

# %% [markdown]
# ## A gap from noisy scores
#
# Where bounds are estimated, a gap needs two errors. Each of $N$ images was scored $R$ times with fresh, independent noise, at $q^*$ and at the encoder's $q$: `best` and `last`, $[N, R]$ each.
# Write `gap_with_errors(best, last)`. Return three numbers: the mean amortization gap; its standard error *as a statement about all such images*, the standard deviation over images of the image's own gap divided by $\sqrt{N}$; and the *Monte Carlo* standard error of the mean of exactly these $N$ images, which is due to the scores' noise alone. Use unbiased variances, dividing by $N - 1$ and $R - 1$.


# %% name="gap_with_errors" tags=["solution", "points=4"]
def gap_with_errors(best, last):
    """(mean gap, standard error over images, Monte Carlo standard error), nats."""
    ### BEGIN SOLUTION
    n, repeats = best.shape
    gap = best.mean(1) - last.mean(1)
    noise = (best.var(1) + last.var(1)) / repeats  # variance of each image's gap
    return gap.mean(), gap.std() / math.sqrt(n), noise.sum().sqrt() / n
    ### END SOLUTION


# %% [markdown]
# ## Class, training, generalisation
#
# Write `amortization_parts(best, encoder, refit, new_best, new_encoder)` (`eq-amortization-split`). The first three are bounds on the training images, $[N]$: at $q^*$, at the encoder, and at the best encoder found in its class for the fixed decoder. The last two are bounds on held-out images, $[M]$. Return a dictionary with the means `"class"`, `"training"` and `"generalisation"`.


# %% name="amortization_parts" tags=["solution", "points=2"]
def amortization_parts(best, encoder, refit, new_best, new_encoder):
    """{"class": nats, "training": nats, "generalisation": nats}."""
    ### BEGIN SOLUTION
    seen = (best - encoder).mean()
    return {
        "class": (best - refit).mean(),
        "training": (refit - encoder).mean(),
        "generalisation": (new_best - new_encoder).mean() - seen,
    }
    ### END SOLUTION


# %% [markdown]
# ## A test for gaps
#
# Write `test_gaps(fn)` for functions that claim to be `exact_gaps`. It returns if the claim is true and raises if it is not. It is tried on right and on wrong versions. The printed properties above are a beginning, and not enough: find a case in which you know both numbers by hand, with a posterior that is *not* diagonal.


# %% name="test_gaps" tags=["solution", "points=3"]
def test_gaps(fn):
    """Raises unless fn(weight, psi, x, mean, log_var) is (approximation, amortization)."""
    ### BEGIN SOLUTION
    # W = [[1, 1]], psi = 1: precision [[2, 1], [1, 2]], posterior mean (x / 3, x / 3)
    weight, psi, x = torch.ones(1, 2), torch.ones(1), torch.tensor([[3.0], [-6.0], [0.0]])
    best, half = x.expand(3, 2) / 3, -math.log(2) * torch.ones(3, 2)
    family = torch.full((3,), 0.5 * math.log(4 / 3))

    def expect(mean, log_var, amortization):
        approximation, found = fn(weight, psi, x, mean, log_var)
        torch.testing.assert_close(approximation, family)
        torch.testing.assert_close(found, torch.tensor(amortization))

    expect(best, half, [0.0] * 3)
    shift = torch.tensor([[1.0, 1.0], [1.0, -1.0], [2.0, 0.0]])  # cost: half of v^T precision v
    expect(best + shift, half, [3.0, 1.0, 4.0])
    expect(best, half + math.log(2), [1 - math.log(2)] * 3)  # variances twice as large
    ### END SOLUTION


# %% tags=["check"]
test_gaps(exact_gaps)
print("your test lets your own gaps pass")

# %% [markdown]
# ## A real thermometer
#
# The next cell trains a small VAE on 8×8 digits and measures its gaps on 100 held-out images with the library. It takes about half a minute. "≥" means that $\log p(x)$ is only known to be too small for at least one image; ± is one standard error over images.

# %% tags=["demo"]
from avi import data, evaluation, models, steps
from avi.families import DiagGaussian
from avi.inference import direct
from avi.nets import mlp
from avi.training import TrainSettings, fit

torch.set_default_dtype(torch.float32)
digits, seeded = data.load("digits"), torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
model = models.bernoulli_mlp([8, 64, 64], seeded)
method = direct(mlp([64, 16, 16], seeded), DiagGaussian(8))
settings = TrainSettings(epochs=60, lr=3e-3)
fit(model, method, digits.train, settings, observe=digits.observe, progress=False)
held = data.binarise(digits.valid[:100], seeded)
found = evaluation.gaps(model, method, held, steps.Adam(0.05), 100, seeded)
for name in ("approximation", "remaining", "inference"):
    print(f"{name:13s} {found.means[name]} nats")
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## A question
#
# (a) In your three lines, which biases are left (`eq-gap-biases`), and which of the three numbers errs in a known direction? (b) A friend searches $q^*$ with a quarter of the steps and reports a smaller amortization gap. Is her encoder better? How would you find out? (c) Another friend trains decoder and encoder together with four hidden units in the encoder and finds a smaller amortization gap than with 256. She concludes that narrow encoders are better. What else has to be looked at, and why? Two sentences each.

# %% [markdown] name="reading" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# (a) $\log \hat p$ is too low by $\beta \ge 0$ on average and the search ends too low by $\delta \ge 0$. So the measured amortization gap is too small by $\delta$ and the inference gap too small by $\beta$, while the approximation gap errs by $\delta - \beta$, either way.
#
# (b) Not necessarily: a shorter search has a larger $\delta$, which is taken from the amortization gap and given to the approximation gap. Score both encoders against the same $q^*$, or search longer and from more starts: if the best bound rises, the difference was $\delta$.
#
# (c) $\log p(x)$, or at least the bound. The decoder adapts to posteriors that its encoder can express, so a small gap may be paid for by a worse model. Encoders are compared at one decoder, models by $\log p(x)$.
# ### END SOLUTION

# %% [markdown]
# ## A derivation
#
# Let the posterior be $\mathcal{N}(m, \Lambda^{-1})$. Among all Gaussians $q = \mathcal{N}(\mu, \operatorname{diag} v)$ find the one that minimises $\mathrm{KL}(q \Vert p(\cdot \mid x))$, and the value there: derive `eq-lg-best` and `eq-lg-gap`. Show that the gap is not negative, and zero only if $\Lambda$ is diagonal. Then say in one sentence how the best variances compare with the posterior's own, $(\Lambda^{-1})_{dd}$. (*Hint for the sign:* for a positive definite matrix with ones on the diagonal, the mean of the eigenvalues is one.)

# %% [markdown] name="best_member" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# The divergence is $\mathrm{E}_q[\log q] - \mathrm{E}_q[\log p(z \mid x)]$. With the entropy of a diagonal Gaussian and $\mathrm{E}_q[(z - m)^\top \Lambda (z - m)] = (\mu - m)^\top \Lambda (\mu - m) + \sum_d \Lambda_{dd} v_d$ it is
# $\frac12 \bigl[ (\mu - m)^\top \Lambda (\mu - m) + \sum_d \Lambda_{dd} v_d - D - \sum_d \log v_d - \log |\Lambda| \bigr]$.
# The square is smallest, zero, at $\mu = m$, as $\Lambda$ is positive definite. Setting the derivative by $v_d$ to zero, $\Lambda_{dd} = 1 / v_d$, a minimum since $v - \log v$ is convex. Inserted: $\frac12 (\sum_d \log \Lambda_{dd} - \log |\Lambda|)$.
#
# With $\Delta = \operatorname{diag} \Lambda$ and $C = \Delta^{-1/2} \Lambda \Delta^{-1/2}$ this is $-\frac12 \log |C| = -\frac12 \sum_d \log c_d$ for the eigenvalues $c_d$ of $C$. By Jensen $\frac1D \sum \log c_d \le \log \frac1D \sum c_d = \log \frac1D \operatorname{tr} C = 0$, with equality only if all $c_d = 1$, so $C = I$ and $\Lambda$ is diagonal.
#
# $1 / \Lambda_{dd} \le (\Lambda^{-1})_{dd}$: the best diagonal Gaussian is too narrow, unless $\Lambda$ is diagonal. (It is the conditional variance, given the other units, in place of the marginal one.)
# ### END SOLUTION
