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
# # Assignment: iterative inference
#
# It goes with the chapter *Iterative inference*, takes one look ahead at *Errors and hierarchies*, which has an assignment of its own, and needs about 110 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments. Self-checks use other inputs than the grading does.
#
# A learned step looks at a signal and at the estimate, and answers with the next estimate (`eq-learned-step`). You will write what it sees, what it answers, the loop, and what it learns from; and a test for signals that let examples interact.
#
# The model is that of a count $x$, with $z \sim \mathcal{N}(0, 1)$ and $x \mid z \sim \mathrm{Poisson}(e^z)$. Its bound is exact (`eq-count-elbo`), so there is no noise. $\lambda = [\mu, \rho]$, one row for each of $B$ examples. Logarithms are natural; bounds are in nats and go up.
#
# First put your student id between the quotes. Some numbers below are yours alone.

# %%
STUDENT = "your-id"

import zlib

import torch

torch.set_default_dtype(torch.float64)


def count_bound(lam, x):
    """The exact ELBO of q = N(mu, exp(rho)) for a count x, nats: lam [B, 2], x [B] -> [B]."""
    mean, var = lam[:, 0], lam[:, 1].exp()
    log_lik = x * mean - (mean + 0.5 * var).exp() - torch.lgamma(x + 1)
    return log_lik - 0.5 * (var + mean**2 - 1 - lam[:, 1])


def own_gradients(lam, x):
    """Every example's own gradient of its bound, a constant, [B, 2]."""
    lam = lam.detach().requires_grad_()
    return torch.autograd.grad(count_bound(lam, x).sum(), lam)[0]


# %% [markdown]
# ## What the network sees
#
# Gradients span many powers of ten. Two remedies, both for a signal `g` $[B, P]$:
#
# * `log_sign(g, floor)` returns `eq-log-sign`, $[B, 2P]$: first all the logarithms, then all the signs; `floor` is the $\delta$.
# * `unit_norm(g)` normalises over the units *of one example*: $(g - m) / \sqrt{v + 10^{-5}}$ with the mean $m$ and the variance $v$ (divided by $P$) of its $P$ units; result $[B, P]$.


# %% name="log_sign" tags=["solution", "points=2"]
def log_sign(g, floor):
    """[log(|g| + floor), sign g], [B, 2P]."""
    ### BEGIN SOLUTION
    return torch.cat([(g.abs() + floor).log(), g.sign()], -1)
    ### END SOLUTION


# %% name="unit_norm" tags=["solution", "points=2"]
def unit_norm(g):
    """The signal normalised over the units of each example by itself, [B, P]."""
    ### BEGIN SOLUTION
    centred = g - g.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    ### END SOLUTION


# %% tags=["check"]
g_try = torch.tensor([[1e-4, -3.0, 250.0], [0.0, 1.0, -1.0]])
print("alone as in company:", torch.equal(unit_norm(g_try)[:1], unit_norm(g_try[:1])))
seen = log_sign(g_try, 1e-5)
print(
    "from", seen[:, :3].min().item(), "to", seen[:, :3].max().item(), "and the signs", seen[0, 3:]
)

# %% [markdown]
# ## What it answers
#
# Write the gated update `gated_update(lam, h, w, b, v, c)` (`eq-gated-update`): `lam` $[B, P]$, hidden layer `h` $[B, H]$, `w` and `v` $[P, H]$, `b` and `c` $[P]$. Return the new `lam`.


# %% name="gated_update" tags=["solution", "points=2"]
def gated_update(lam, h, w, b, v, c):
    """r * lam + (1 - r) * (W h + b) with r = sigmoid(V h + c), [B, P]."""
    ### BEGIN SOLUTION
    gate = (h @ v.T + c).sigmoid()
    return gate * lam + (1 - gate) * (h @ w.T + b)
    ### END SOLUTION


# %% tags=["check"]
lam_try, h_try = torch.randn(3, 2), torch.randn(3, 4)
w_try, zero = torch.randn(2, 4), torch.zeros(2, 4)
closed = gated_update(lam_try, h_try, w_try, torch.ones(2), zero, torch.full((2,), 50.0))
print("a closed gate keeps the estimate:", torch.allclose(closed, lam_try))

# %% [markdown]
# ## The loop
#
# Put them together. Write `refine(x, n_steps, u, a, w, b, v, c)`. Start every count at the prior, $\lambda_0 = 0$. In every step, take the example's own gradient $g_k$, let the network see
# $s = [\log(|g_k| + 10^{-5}), \operatorname{sign} g_k, \lambda_k]$ (six numbers for each example, in this order), compute $h = \tanh(U s + a)$ and update. `u` is $[H, 6]$, `a` $[H]$, the rest as above. Return all iterates, $[K + 1, B, 2]$.


# %% name="refine" tags=["solution", "points=4"]
def refine(x, n_steps, u, a, w, b, v, c):
    """lam_0, ..., lam_K of a learned step from the prior, [K + 1, B, 2]."""
    ### BEGIN SOLUTION
    path = [torch.zeros(len(x), 2)]
    for _ in range(n_steps):
        lam = path[-1]
        seen = torch.cat([log_sign(own_gradients(lam, x), 1e-5), lam], -1)
        path.append(gated_update(lam, (seen @ u.T + a).tanh(), w, b, v, c))
    return torch.stack(path)
    ### END SOLUTION


# %% [markdown]
# ## What it learns from
#
# Take the smallest learned step there is, $f_\alpha(g, \lambda) = \lambda + \alpha g$ with one parameter $\alpha$ (`eq-learned-linear`), from $\lambda_0 = 0$. As published, the signal and the estimate are held still before every step, and $\alpha$ learns from the mean over *all* iterates (`eq-every-iterate`),
#
# $$J = \frac{1}{K + 1} \sum_{k=0}^{K} \mathcal{L}(\lambda_k), \qquad \lambda_{k+1} = \bar\lambda_k + \alpha\, \bar g_k .$$
#
# Write `step_goal_gradient(alpha, x, n_steps)`: $\mathrm{d}J / \mathrm{d}\alpha$ of every example, where a bar means a constant, $[B]$. `alpha` is a number.


# %% name="step_goal_gradient" tags=["solution", "points=4"]
def step_goal_gradient(alpha, x, n_steps):
    """dJ / d alpha, every estimate held still before its step, [B]."""
    ### BEGIN SOLUTION
    lam, total = torch.zeros(len(x), 2), torch.zeros(len(x))
    for _ in range(n_steps):
        g = own_gradients(lam, x)
        lam = lam + alpha * g
        total = total + (own_gradients(lam, x) * g).sum(-1)  # d L(lam + alpha g) / d alpha
    return total / (n_steps + 1)
    ### END SOLUTION


# %% tags=["check"]
x_try = torch.tensor([0.0, 4.0])
first = torch.zeros(2, 2) + 0.05 * own_gradients(torch.zeros(2, 2), x_try)
ahead, behind = (
    count_bound(a * own_gradients(torch.zeros(2, 2), x_try), x_try) for a in (0.05001, 0.04999)
)
wanted = 0.5 * (ahead - behind) / 2e-5
print("one step, by differences:", torch.allclose(step_goal_gradient(0.05, x_try, 1), wanted, 1e-6))

# %% [markdown]
# ## Errors in place of gradients
#
# A step may look at what the model got wrong (`eq-errors`): $\varepsilon_x$, the error of the predicted mean of $x$ over its variance, and $\varepsilon_z$, the error of the prior's. A Poisson variable with rate $e^z$ has this mean *and* this variance. Write `errors(x, z)` for counts `x` $[B]$ and draws `z` $[S, B]$: return three tensors $[S, B]$: $\varepsilon_x$, $\varepsilon_z$, and $\partial \log p(x, z) / \partial z$ put together from them (`eq-error-gradient`).


# %% name="errors" tags=["solution", "points=3"]
def errors(x, z):
    """(eps_x, eps_z, d log p(x, z) / d z), [S, B] each."""
    ### BEGIN SOLUTION
    rate = z.exp()  # the predicted mean, its derivative by z, and the variance
    eps_x = (x - rate) / rate
    return eps_x, z, rate * eps_x - z
    ### END SOLUTION


# %% [markdown]
# ## Your own step
#
# Your id chooses four counts. For $K = 1$ step $\lambda_1 = \alpha g_0$ from the prior, let `my_step()` return a dictionary of two numbers: under `"alpha"` the step size with the largest *mean* bound $\mathcal{L}(\lambda_1)$ over your counts, good to four decimals, and under `"regret"` the mean number of nats that are lost because the counts have to share it: what each would gain on average with the best step size of its own. Good to three decimals.

# %%
my_counts = torch.tensor([float(2 + (zlib.crc32(STUDENT.encode()) >> k) % 9) for k in (0, 5, 10)])
my_counts = torch.cat([my_counts, torch.tensor([14.0])])
print("your counts:", my_counts.int().tolist())


# %% name="my_step" tags=["solution", "points=3"]
def my_step():
    """{"alpha": step size, "regret": nats}."""

    ### BEGIN SOLUTION
    alphas, n = torch.linspace(0, 0.6, 60_001), len(my_counts)
    g = own_gradients(torch.zeros(n, 2), my_counts)
    reached = (alphas[:, None, None] * g).flatten(0, 1)  # every step size for every count
    found = count_bound(reached, my_counts.repeat(len(alphas))).view(-1, n)
    best = found.mean(1).argmax()
    regret = found.max(0).values.mean() - found[best].mean()
    return {"alpha": alphas[best].item(), "regret": regret.item()}
    ### END SOLUTION


# %% [markdown]
# ## A test for signals
#
# A signal must keep examples apart: what an example's network sees may not depend on which other examples came along, nor on how many. Write `test_signal(fn)` for functions `fn(g)` that take every example's own gradient `g` $[B, P]$ and return a signal $[B, Q]$, with any $Q$. It returns if `fn` keeps examples apart and raises if it does not. It is tried on honest signals of several kinds and on others. Functions are deterministic and may have thresholds: try large and small gradients.


# %% name="test_signal" tags=["solution", "points=3"]
def test_signal(fn):
    """Raises unless row b of fn(g [B, P]) depends on row b of g alone."""
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        g = scale * torch.randn(6, 4, generator=generator)
        seen = fn(g)
        for rows in ([0], [1, 2], [5, 3, 1], [2, 2, 2, 2]):  # fewer, others, another order
            torch.testing.assert_close(fn(g[rows]), seen[rows])
        louder = torch.cat([g[:3], 1000 * g[3:]])
        torch.testing.assert_close(fn(louder)[:3], seen[:3])
    ### END SOLUTION


# %% tags=["check"]
test_signal(unit_norm)
test_signal(lambda g: log_sign(g, 1e-5))
print("your test lets your own signals pass")

# %% [markdown]
# ## Training a step
#
# The next cell trains a learned step with your functions: 12 hidden units, $K = 4$ iterations, counts up to 20, `eq-every-iterate`. Then it runs it for 400 iterations, beside plain gradient ascent with a step size that the steepest count survives: first on the counts it knows, then on counts it has never seen. It takes about twenty seconds.

# %% tags=["demo"]
generator = torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
shapes = (12, 6), (12,), (2, 12), (2,), (2, 12), (2,)
weights = [0.3 * torch.randn(shape, generator=generator) for shape in shapes]
weights = [weight.requires_grad_() for weight in weights]
optimiser = torch.optim.Adam(weights, lr=1e-2)
for _ in range(600):
    x = torch.randint(0, 21, (64,), generator=generator).double()
    lam, goal = torch.zeros(64, 2), 0.0
    for _ in range(4):
        still = lam.detach()
        seen = torch.cat([log_sign(own_gradients(still, x), 1e-5), still], -1)
        lam = gated_update(still, (seen @ weights[0].T + weights[1]).tanh(), *weights[2:])
        goal = goal + count_bound(lam, x).mean() / 5
    optimiser.zero_grad()
    (-goal).backward()
    optimiser.step()


def ascend(x, n_steps, size):
    path = [torch.zeros(len(x), 2)]
    for _ in range(n_steps):
        path.append(path[-1] + size * own_gradients(path[-1], x))
    return path


for counts, size in ((torch.arange(21.0), 0.05), (torch.arange(30.0, 41.0), 0.025)):
    top = count_bound(ascend(counts, 3000, size)[-1], counts)
    learned = refine(counts, 400, *[weight.detach() for weight in weights])
    ascent = ascend(counts, 400, size)
    print(f"counts {counts[0]:.0f} to {counts[-1]:.0f}: nats left, mean over the counts")
    for k in (0, 1, 2, 4, 40, 400):
        left = [(top - count_bound(path[k], counts)).mean() for path in (learned, ascent)]
        print(f"  after {k:3d}: learned {left[0]:9.5f}, ascent {left[1]:9.5f}")

# %% [markdown]
# ## A question
#
# (a) Compare your learned step with plain ascent on the counts it knows, after one, four and four hundred iterations. Where does the learned one win, where does it lose, and why? (b) What did it exploit that no fixed rule can know? How much of that is left on counts it has never seen, and what would you check before trusting it there? (c) A user reports that her learned step, trained with batches of 64, works well on the test set in batches of 64, and badly when images come one at a time. Her signal takes the logarithm of the gradient of `loss.mean()`. What shifts, by how much, and what is the remedy? Two sentences each.

# %% [markdown] name="learned_or_not" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# (a) After one and four iterations the learned step is far ahead: its first moves are as long as they need be, while one step size small enough for the steepest count creeps elsewhere. After four hundred ascent is exact, for it converges to the optimum; the learned step stays about where its four training iterations ended, because nothing asked it to be exact or to go on.
#
# (b) What the counts have in common: the gradient at the prior tells which count it is, hence where its optimum lies. On larger counts its first steps leave many times as much, though it still goes the right way and is ahead of ascent for a while; that is luck of a smooth problem, no promise. Score it there with the bound, per example, against a search, and keep the best estimate.
#
# (c) The gradient of a mean over $B$ is $g_b / B$, and $\log(|g| / B) = \log |g| - \log B$: all inputs are too large by $\log 64 \approx 4.2$ with a batch of one. Take each example's own gradient, of the sum, in training and at the test.
# ### END SOLUTION

# %% [markdown]
# ## A derivation
#
# Let $f_\phi(g, \lambda)$ be a smooth learned step, $\lambda_0$ a constant, and $\lambda_{k+1} = f_\phi(g(\lambda_k), \lambda_k)$ with $g = \nabla_\lambda \mathcal{L}$. (a) Show that for $K = 1$ holding signal and estimate still changes nothing: the gradient of $\mathcal{L}(\lambda_1)$ with respect to $\phi$ is the same. (b) For $K = 2$ write the full derivative of $\mathcal{L}(\lambda_2)$ with respect to $\phi$, and mark the term that is left out when $\lambda_1$ and $g(\lambda_1)$ are held still. Where does the Hessian enter? (c) For $f_\alpha(g, \lambda) = \lambda + \alpha g$ on the parabola $\mathcal{L} = -\frac12 h \lambda^2$, show that at $\alpha = 1 / h$ both derivatives are zero, and find an $\alpha$ between $1/h$ and $2/h$ at which the sign of the left-out term is opposite to that of the term kept, or show that there is none.

# %% [markdown] name="held_still" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# (a) $\lambda_0$ and therefore $g(\lambda_0)$ do not depend on $\phi$. In $\lambda_1 = f_\phi(g(\lambda_0), \lambda_0)$ only the explicit $\phi$ has a derivative, and that is kept.
#
# (b) With $f_k = f_\phi(g(\lambda_k), \lambda_k)$, $g_2 = g(\lambda_2)$ and $H_1$ the Hessian at $\lambda_1$,
# $\frac{\mathrm{d} \mathcal{L}(\lambda_2)}{\mathrm{d}\phi} = g_2^\top \frac{\partial f_1}{\partial \phi} + g_2^\top \Bigl( \frac{\partial f_1}{\partial \lambda} + \frac{\partial f_1}{\partial g} H_1 \Bigr) \frac{\partial f_0}{\partial \phi}$.
# The first term is kept. The second, what the first step does to the second, is left out; the Hessian enters because the signal moves with $\lambda_1$.
#
# (c) $g = -h \lambda$, so $\lambda_{k+1} = (1 - \alpha h) \lambda_k$. Write $d = 1 - \alpha h$: $g_2 = -h d^2 \lambda_0$, $\partial f_1 / \partial \alpha = g_1 = -h d \lambda_0$, $\partial f_0 / \partial \alpha = -h \lambda_0$, and $\partial f_1 / \partial \lambda + \alpha H = d$. Kept: $h^2 d^3 \lambda_0^2$. Left out: $(-h d^2 \lambda_0)\, d\, (-h \lambda_0) = h^2 d^3 \lambda_0^2$, the same number. Both vanish at $\alpha = 1/h$, where $d = 0$, and they always have the same sign: there is no such $\alpha$. On a parabola the detached rule has half the derivative, and its direction is right.
# ### END SOLUTION
