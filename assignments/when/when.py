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
# # Assignment: when can one function answer for all?
#
# It goes with the chapter *When and why amortization suffices* and takes about 110 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments. Self-checks use other inputs than the grading does.
#
# F-VI (`eq-f-vi`) gives every latent variable parameters of its own, A-VI (`eq-a-vi`) computes them by one function $f$. You ask of a model whether $f$ can tie, and if not, what it costs. In Gaussian models every answer is a closed form, so nothing is trained here.
#
# One data set is $x = (x_1, \dots, x_N)$, a tensor $[N]$. The latent variables are $v = (\theta, z_1, \dots, z_N)$, in this order, so that vectors over them have $N + 1$ entries. The posterior is $\mathcal{N}(\mu, \Lambda^{-1})$. Logarithms are natural and gaps are in nats.
#
# First put your student id between the quotes. Some numbers below are yours alone.

# %%
STUDENT = "your-id"

import math
import zlib

import torch

torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## A posterior
#
# The model is the saw of the chapter (`eq-saw`), but $z_n$ has the standard deviation $s$:
#
# $$z_n \sim \mathcal{N}(x_{n-1}, s^2), \qquad x_n \sim \mathcal{N}(a (z_n + \theta), 1), \qquad x_0 = 0,$$
#
# with a flat prior on $\theta$. Write `saw_posterior(x, a, s)`. Return the pair of $\Lambda$, $[N + 1, N + 1]$, and $\mu$, $[N + 1]$.
# (*Hint:* $\log p(\theta, z, x)$ is $-\frac12 v^\top \Lambda v + h^\top v$ and a constant. Collect the squares, the products and the linear terms; then $\mu = \Lambda^{-1} h$.)


# %% name="saw_posterior" tags=["solution", "points=3"]
def saw_posterior(x, a, s):
    """(precision [N + 1, N + 1], mean [N + 1]) of p(theta, z | x), theta first."""
    ### BEGIN SOLUTION
    n, before = len(x), torch.cat([x.new_zeros(1), x[:-1]])
    diagonal = x.new_full((n + 1,), 1 / s**2 + a**2)
    diagonal[0] = n * a**2
    precision = torch.diag(diagonal)
    precision[0, 1:] = precision[1:, 0] = a**2
    linear = torch.cat([a * x.sum()[None], before / s**2 + a * x])
    return precision, torch.linalg.solve(precision, linear)
    ### END SOLUTION


# %% [markdown]
# ## Where F-VI ends
#
# Coordinate ascent replaces each factor by the best one, given the others (`eq-cavi`). For a Gaussian posterior the factors' variances are $1 / \Lambda_{ii}$ at once, and the means take several rounds.
# Write `sweep(precision, mu, means)`: one round from $i = 0$ to the last $i$, where each step already uses the new means of the steps before. Return the means after it. Leave the argument as it is.
#
# If you start anywhere and repeat this, where must it end? The self-check shows it.


# %% name="sweep" tags=["solution", "points=2"]
def sweep(precision, mu, means):
    """The means of a factorised Gaussian after one round of coordinate ascent, [D]."""
    ### BEGIN SOLUTION
    means = means.clone()
    for i in range(len(mu)):
        pull = precision[i] @ (means - mu) - precision[i, i] * (means[i] - mu[i])
        means[i] = mu[i] - pull / precision[i, i]
    return means
    ### END SOLUTION


# %% tags=["check"]
x_try = torch.randn(6).cumsum(0)
precision_try, mu_try = saw_posterior(x_try, 0.75, 1.0)
print("Lambda is symmetric:", torch.equal(precision_try, precision_try.T))
means_try = torch.zeros(7)
for _ in range(300):
    means_try = sweep(precision_try, mu_try, means_try)
print("coordinate ascent ends at the posterior's mean:", torch.allclose(means_try, mu_try))

# %% [markdown]
# ## What a function sees
#
# Write `windows(x, before, after)` with the row $(x_{n - \text{before}}, \dots, x_{n + \text{after}})$ for every $n$, a tensor $[N, \text{before} + 1 + \text{after}]$. Outside the data set $x$ counts as zero.


# %% name="windows" tags=["solution", "points=2"]
def windows(x, before, after):
    """Each observation with its neighbours, [N, before + 1 + after]."""
    ### BEGIN SOLUTION
    padded = torch.nn.functional.pad(x, (before, after))
    return padded.unfold(0, before + 1 + after, 1)
    ### END SOLUTION


# %% [markdown]
# ## Does an inference function exist?
#
# An ideal $f$ passes through all points $(x_n, \nu_n^*)$ (`eq-ideal`). It exists exactly if equal inputs never need different answers. Write `largest_conflict(inputs, answers)` for `inputs` $[N, F]$ and `answers` $[N, P]$: over all pairs with *exactly equal* rows of inputs, the largest absolute difference between an entry of one answer and the same entry of the other. It is 0 if a function exists.


# %% name="largest_conflict" tags=["solution", "points=2"]
def largest_conflict(inputs, answers):
    """How far the answers to equal inputs are apart at most; 0 if f exists."""
    ### BEGIN SOLUTION
    equal = (inputs[:, None] == inputs).all(-1)
    apart = (answers[:, None] - answers).abs().amax(-1)
    return (equal * apart).max()
    ### END SOLUTION


# %% [markdown]
# Try it on two models and one data set without variety, $x = (1, \dots, 1)$: the saw, and the chapter's hidden Markov model (`eq-gaussian-chain`, here the random walk). For the saw $f$ sees $(x_{n-1}, x_n)$. In the chain not even the whole data set as an input would help. Which input would?

# %% tags=["check"]
from avi.models import GaussianChain

ones = torch.ones(8)
answers_saw = saw_posterior(ones, 0.75, 1.0)[1][1:, None]
print(f"saw: {largest_conflict(windows(ones, 1, 0), answers_saw):.6f}, none")
chain_try = GaussianChain(8, phi=1.0)
answers_chain = chain_try.posterior_mean(ones[None])[0][:, None]
print(f"chain: {largest_conflict(ones.expand(8, 8), answers_chain):.3f}, so no f exists")

# %% [markdown]
# ## What a wrong answer costs
#
# Write `excess(precision, mu, means, variances)`: the nats that a factorised Gaussian with these means and variances, $[D]$ each, loses to the best factorised one (`eq-excess`), a number.


# %% name="excess" tags=["solution", "points=3"]
def excess(precision, mu, means, variances):
    """L(q*) - L(q), nats."""
    ### BEGIN SOLUTION
    off, ratio = means - mu, precision.diagonal() * variances
    return 0.5 * (off @ precision @ off + (ratio - 1 - ratio.log()).sum())
    ### END SOLUTION


# %% [markdown]
# ## The gap of a class
#
# Now the smallest loss in a class, $\Delta(F)$ of `eq-plate-gap`. Let $f$ have a mean that is affine in its input and one variance for all $n$,
#
# $$q(z_n) = \mathcal{N}(w^\top \text{features}_n + c,\ s), \qquad q_0(\theta) \text{ any Gaussian.}$$
#
# Write `best_gap(precision, mu, features)` for `features` $[N, F]$: the smallest `excess` over $w$, $c$, $s$ and the mean and variance of $q_0$, a number in nats. $F = 0$ is the best constant.
#
# Two hints. The means solve a least-squares problem, weighted by $\Lambda$; $q_0$ moves along with the other factors. The variances are a problem of their own: of the form $\min_s \sum_n (\Lambda_{nn} s - \log s)$.


# %% name="best_gap" tags=["solution", "points=4"]
def best_gap(precision, mu, features):
    """The gap of affine f with one variance for all n, nats."""
    ### BEGIN SOLUTION
    n, width = features.shape
    design = mu.new_zeros(n + 1, width + 2)  # columns: theta's own mean, w, c
    design[0, 0] = 1
    design[1:, 1:] = torch.cat([features, features.new_ones(n, 1)], 1)
    weighted = design.T @ precision
    weights = torch.linalg.lstsq(weighted @ design, weighted @ mu[:, None]).solution
    diagonal = precision.diagonal()
    shared = (1 / diagonal[1:].mean()).expand(n)
    variances = torch.cat([1 / diagonal[:1], shared])
    return excess(precision, mu, (design @ weights)[:, 0], variances)
    ### END SOLUTION


# %% [markdown]
# The self-check tests three properties: a sufficient input closes the gap, more inputs never hurt, and in the saw an insufficient one costs something.

# %% tags=["check"]
x_try = 3 + torch.randn(20).cumsum(0)
posterior_try = saw_posterior(x_try, 0.75, 1.0)
own_try, both_try = (best_gap(*posterior_try, windows(x_try, k, 0)) for k in (0, 1))
constant_try = best_gap(*posterior_try, torch.zeros(20, 0))
print("two observations suffice:", bool(abs(both_try) < 1e-8))
print("more never hurts:", bool(constant_try >= own_try >= both_try))
print("one observation is too few:", bool(own_try > 0.1))

# %% [markdown]
# ## Your own saw
#
# Your id chooses $a$, $s$ and a data set. Let `my_prices()` return a dictionary of three gaps *per observation*, good to three decimals: `"constant"`, `"own"` for $f(x_n)$, and `"before"` for $f(x_{n-1})$. Which single observation is the better input?

# %%
generator = torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
drawn, noise = torch.rand(3, generator=generator), torch.randn(2, 30, generator=generator)
my_a, my_s, my_theta = 0.6 + 0.3 * drawn[0], 0.8 + 0.7 * drawn[1], 1 + drawn[2]
my_x, last = [], torch.zeros(())
for z_noise, x_noise in noise.T:
    last = my_a * (last + my_s * z_noise + my_theta) + x_noise
    my_x.append(last)
my_x = torch.stack(my_x)


# %% name="my_prices" tags=["solution", "points=3"]
def my_prices():
    """{"constant": nats, "own": nats, "before": nats}, per observation."""
    ### BEGIN SOLUTION
    pairs = windows(my_x, 1, 0)
    inputs = {"constant": pairs[:, :0], "own": pairs[:, 1:], "before": pairs[:, :1]}
    posterior = saw_posterior(my_x, my_a, my_s)
    return {name: best_gap(*posterior, seen).item() / 30 for name, seen in inputs.items()}
    ### END SOLUTION


# %% [markdown]
# ## How fast a chain forgets
#
# In the chain $\nu_n^*$ depends on all observations, on $x_m$ like $r^{|n - m|}$ far from both ends (`eq-chain-decay`). Write `decay(phi, noise_var)` for $r$, a number. For `phi` = 1 the chain is the random walk with steps of variance one, and the book's $a$ and $b$ need another look: they divide by zero. (*Hint:* the variance of a step stands in three places.)


# %% name="decay" tags=["solution", "points=3"]
def decay(phi, noise_var):
    """r of the Gaussian chain, 0 < r < 1."""
    ### BEGIN SOLUTION
    step = 1 - phi**2 if phi != 1 else 1.0
    a, b = (1 + phi**2) / step + 1 / noise_var, phi / step
    return (a - math.sqrt(a**2 - 4 * b**2)) / (2 * b)
    ### END SOLUTION


# %% tags=["check"]
print(f"random walk, noise_var = 1: r = {decay(1.0, 1.0):.4f}; it should be 0.3820")

# %% [markdown]
# ## A test for gaps
#
# Write `test_best_gap(fn)` for functions that claim to be `best_gap`. It returns if the claim is true and raises if it is not. It is tried on right and on wrong versions. The three printed properties are a beginning, and not enough: find small cases, $N = 2$ with a constant for example, in which you know the number by hand. Let $\Lambda_{nn}$ differ in one of them, and couple $\theta$ to one $z_n$ in another.


# %% name="test_best_gap" tags=["solution", "points=3"]
def test_best_gap(fn):
    """Raises unless fn(precision, mu, features) is the smallest gap."""
    ### BEGIN SOLUTION
    mu, nothing = torch.tensor([5.0, 0.0, 4.0]), torch.zeros(2, 0)

    def expect(precision, features, gap):
        found = torch.as_tensor(fn(precision, mu, features))
        torch.testing.assert_close(found, torch.tensor(gap))

    # equal precisions: the constant is 2, and costs 2 (2^2 + 2^2) / 2
    expect(torch.diag(torch.tensor([1.0, 2.0, 2.0])), nothing, 8.0)
    # precisions 1 and 3: the constant is 3, the variance 1 / 2
    expect(torch.diag(torch.tensor([1.0, 1.0, 3.0])), nothing, 6 + 0.5 * math.log(4 / 3))
    # theta gives way: with means (-c, c, c - 4) away, (2 c^2 + 3 (c - 4)^2) / 2 at c = 2.4
    coupled = torch.tensor([[1.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 3.0]])
    expect(coupled, nothing, 9.6)
    expect(coupled, torch.tensor([[0.0], [1.0]]), 0.0)  # a line through two points
    ### END SOLUTION


# %% tags=["check"]
test_best_gap(best_gap)
print("your test lets your own gap pass")

# %% [markdown]
# ## A window that grows
#
# No window closes the gap of a chain. The next cell prints what each buys: 300 observations, $\phi = 0.5$, ten data sets, and the library's `best_affine`. Beside each gap stands the factor by which it fell. Compare it with $r^2$, and see where that ends.

# %% tags=["demo"]
from avi.plates import windows as library_windows

chain = GaussianChain(300, phi=0.5)
sets = chain.sample(10, torch.Generator().manual_seed(zlib.crc32(STUDENT.encode())))
print(f"r^2 = {decay(0.5, 1.0) ** 2:.4f}")
previous = None
for w in range(7):
    lam = chain.best_affine(sets, library_windows(w, w)(sets))
    total = chain.excess(lam, sets).mean().item()
    fell = "" if previous is None else f", {total / previous:.4f} of the one before"
    print(f"w = {w}: {total:9.5f} nats for the whole data set{fell}")
    previous = total

# %% [markdown]
# ## A question
#
# (a) In eight schools, $z_n \sim \mathcal{N}(\theta, \tau^2)$ and $x_n \sim \mathcal{N}(z_n, s_n^2)$ with known, different $s_n$ and a flat prior on $\theta$. Which inputs must $f$ see, so that an ideal one exists for every data set? Is the function that you trained on these eight also ideal for eight others? (b) The saw with $f(x_n)$ has a large gap. One friend makes the network ten times wider, another collects ten times as many observations. What happens to the gap per observation, and to the total? (c) A third friend has a network that passes through all $N$ points $(x_n, \nu_n^*)$ of one data set of a hidden Markov model. "The gap is zero, so amortization suffices here too." What is right, and what is wrong about that? Two or three sentences each.

# %% [markdown] name="inputs" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# (a) Given $\theta$, $z_n$ depends on $x_n$ and $s_n$, so $f$ needs both: by the shared rule, equal pairs have equal answers, while equal $x_n$ with different $s_n$ do not. It is not ideal for others: it depends on $q_0$, and through it on the whole data set. The eight others have another $q_0$.
#
# (b) A wider network can bend more and so fit the cloud of points somewhat better, but it cannot supply $x_{n-1}$. What it gains is particular to the data set. With more observations the gap per observation stays about what it was, and the total grows in proportion to $N$. The missing input would close it.
#
# (c) Right: where no two inputs are equal some function passes through all points, and for this data set the gap is zero. Wrong: it is interpolation. $\nu_n^*$ depends on all observations and on $n$, so that the function means nothing for other data, is wild where inputs are close, and does not exist at all where two are equal and their answers are not.
# ### END SOLUTION

# %% [markdown]
# ## A derivation
#
# Let the posterior be $\mathcal{N}(\mu, \Lambda^{-1})$, here without $\theta$, and $q$ a factorised Gaussian with means $m$ and variances $s_i$. (i) Derive `eq-excess`; that the best one has means $\mu$ and variances $1 / \Lambda_{ii}$ may be used. (ii) Let the means be $\mu$ and all $N$ variances be one number $s$. Find the best $s$. (iii) Show that it loses $\frac N2 \bigl( \log \bar\Lambda - \overline{\log \Lambda} \bigr)$, where the bars are means over the $\Lambda_{nn}$, and that this is not negative; when is it zero? (iv) In a chain all $\Lambda_{nn}$ are $\alpha$ except two at the ends, which are $\rho \alpha$. To what does the loss tend as $N$ grows?

# %% [markdown] name="one_variance" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# (i) $\mathrm{KL}(q \Vert p(\cdot \mid x)) = \frac12 \bigl[ (m - \mu)^\top \Lambda (m - \mu) + \sum_i \Lambda_{ii} s_i - N - \sum_i \log s_i - \log |\Lambda| \bigr]$, since $\mathrm{E}_q[(z - \mu)^\top \Lambda (z - \mu)]$ is the square of the means plus $\operatorname{tr}(\Lambda \operatorname{diag} s)$. At the best one it is $\frac12 [\sum_i \log \Lambda_{ii} - \log |\Lambda|]$. Both bounds are $\log p(x)$ minus these, so $\mathcal{L}(q^*) - \mathcal{L}(q)$ is the first minus the second: $|\Lambda|$ cancels and $\log \Lambda_{ii}$ joins $\log s_i$.
#
# (ii) The derivative of $\frac12 \sum_n (\Lambda_{nn} s - \log s)$ is zero at $s = N / \sum_n \Lambda_{nn} = 1 / \bar\Lambda$, a minimum by convexity.
#
# (iii) There $\sum_n (\Lambda_{nn} s - 1) = 0$, and what is left is $-\frac12 \sum_n \log (\Lambda_{nn} / \bar\Lambda)$, the stated form. By Jensen the mean of logarithms is at most the logarithm of the mean, with equality only if all $\Lambda_{nn}$ are equal.
#
# (iv) $\bar\Lambda = \alpha (1 + 2 (\rho - 1) / N)$ and $\overline{\log \Lambda} = \log \alpha + (2 / N) \log \rho$. So the loss is $\frac N2 \log (1 + 2 (\rho - 1) / N) - \log \rho$, which tends to $\rho - 1 - \log \rho$. It does not grow with $N$: it is the price of the two ends.
# ### END SOLUTION
