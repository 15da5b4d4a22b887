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
# # Assignment: semi-amortized inference
#
# It goes with the chapter *Semi-amortized inference* and takes about 110 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments. Self-checks use other inputs than the grading does.
#
# An encoder proposes $\lambda_0$, $K$ steps of momentum refine it (`eq-momentum`), and the encoder is to learn from the bound at the end, $J = \mathcal{L}(\lambda_K)$ (`eq-sa-goal`). So you need $\mathrm{d}J / \mathrm{d}\lambda_0$: the derivative of a climb. You will compute it by automatic differentiation, and again backwards by hand.
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


def own_gradients(lam, x, keep=False):
    """Every example's own gradient g, [B, 2]; keep=True keeps the graph, to go on from it."""
    lam = lam if lam.requires_grad else lam.detach().requires_grad_()
    return torch.autograd.grad(count_bound(lam, x).sum(), lam, create_graph=keep)[0]


# %% [markdown]
# ## A Hessian, only in passing
#
# Let $H_b$ be the $2 \times 2$ matrix of second derivatives of example $b$'s bound. Write `hessian_vector(lam, x, v)`: the product $H_b v_b$ for every example, $[B, 2]$, with `v` $[B, 2]$. By autograd no Hessian needs to be formed: the product is the gradient of the number $\sum_b g_b^\top v_b$.


# %% name="hessian_vector" tags=["solution", "points=3"]
def hessian_vector(lam, x, v):
    """H_b v_b for every example, [B, 2]."""
    ### BEGIN SOLUTION
    lam = lam.detach().requires_grad_()
    g = own_gradients(lam, x, keep=True)
    return torch.autograd.grad((g * v).sum(), lam)[0]
    ### END SOLUTION


# %% [markdown]
# Is $H$ symmetric, and does it agree with a difference of gradients (`eq-finite-difference`)?

# %% tags=["check"]
lam_try, x_try = torch.tensor([[1.0, -0.5], [0.2, 0.3]]), torch.tensor([4.0, 0.0])
u, v = torch.randn(2, 2, 2)
left, right = ((a * hessian_vector(lam_try, x_try, b)).sum(-1) for a, b in ((u, v), (v, u)))
ahead, behind = (own_gradients(lam_try + step * v, x_try) for step in (1e-5, -1e-5))
print("symmetric:", torch.allclose(left, right))
difference = (ahead - behind) / 2e-5
print("a difference:", torch.allclose(hessian_vector(lam_try, x_try, v), difference, 1e-5, 1e-7))

# %% [markdown]
# ## The derivative of a climb
#
# Write `start_gradient(lam_0, x, n_steps, lr, gamma)`: climb `n_steps` of momentum from `lam_0` $[B, 2]$, with $v_0 = 0$, and return the derivative of each example's $\mathcal{L}(\lambda_K)$ with respect to its own $\lambda_0$, $[B, 2]$ (`eq-total-derivative`). Through the whole climb: every $g_k$ depends on $\lambda_k$, and that on $\lambda_0$. Unrolling takes five lines.


# %% name="start_gradient" tags=["solution", "points=4"]
def start_gradient(lam_0, x, n_steps, lr, gamma):
    """d L(lam_K) / d lam_0 through all steps of the climb, [B, 2]."""
    ### BEGIN SOLUTION
    lam_0 = lam_0.detach().requires_grad_()
    lam, v = lam_0, torch.zeros_like(lam_0)
    for _ in range(n_steps):
        v = gamma * v + own_gradients(lam, x, keep=True)
        lam = lam + lr * v
    return torch.autograd.grad(count_bound(lam, x).sum(), lam_0)[0]
    ### END SOLUTION


# %% [markdown]
# ## Backwards, with little memory
#
# Unrolling keeps the graphs of all steps. The recursion `eq-adjoint` needs only the places. Write `adjoint(places, x, lr, gamma)` for `places` $[K + 1, B, 2]$, holding $\lambda_0, \dots, \lambda_K$: return $\bar\lambda_0$, $[B, 2]$, with `own_gradients` and `hessian_vector`.
# In the grading the places need not come from a climb. The recursion does not care, and neither should you.


# %% name="adjoint" tags=["solution", "points=4"]
def adjoint(places, x, lr, gamma):
    """bar lam_0 by the reverse recursion, from the places alone, [B, 2]."""
    ### BEGIN SOLUTION
    lam_bar = own_gradients(places[-1], x)
    v_bar = torch.zeros_like(lam_bar)
    for lam in reversed(places[:-1]):
        v_bar = v_bar + lr * lam_bar
        lam_bar = lam_bar + hessian_vector(lam, x, v_bar)
        v_bar = gamma * v_bar
    return lam_bar
    ### END SOLUTION


# %% tags=["check"]
places, v = [torch.tensor([[0.0, 0.0], [0.5, -1.0]])], 0
for _ in range(6):
    v = 0.5 * v + own_gradients(places[-1], x_try)
    places.append(places[-1] + 0.05 * v)
by_hand = adjoint(torch.stack(places), x_try, 0.05, 0.5)
unrolled = start_gradient(places[0], x_try, 6, 0.05, 0.5)
print("both roads, one number:", torch.allclose(by_hand, unrolled))

# %% [markdown]
# ## A clip belongs to the loop
#
# Each example's gradient is shortened to at most `norm`: $c(g) = g \min(1, n / |g|)$. Its derivative is `eq-clip-derivative`. Write `clip_product(g, v, norm)`, the product of that derivative at $g_b$ with $v_b$ for every example: `g` and `v` $[B, P]$, result $[B, P]$.


# %% name="clip_product" tags=["solution", "points=3"]
def clip_product(g, v, norm):
    """(d c / d g) v for each example's clip, [B, P]."""
    ### BEGIN SOLUTION
    size = g.norm(dim=-1, keepdim=True)
    unit = g / size
    outside = norm / size * (v - unit * (unit * v).sum(-1, keepdim=True))
    return torch.where(size > norm, outside, v)
    ### END SOLUTION


# %% [markdown]
# ## The largest step
#
# Along a direction of curvature $h$ momentum converges for $0 < \alpha h < 2 (1 + \gamma)$ (`eq-step-limit`). Write `step_limit(hessian, gamma)` for a symmetric negative definite Hessian of the bound, $[P, P]$: the step size at which the climb near this optimum just fails to converge. Note that a bound curves *down* at its top, and that one step size has to serve every direction.


# %% name="step_limit" tags=["solution", "points=2"]
def step_limit(hessian, gamma):
    """The smallest step size that no longer converges."""
    ### BEGIN SOLUTION
    return 2 * (1 + gamma) / (-torch.linalg.eigvalsh(hessian)).max()
    ### END SOLUTION


# %% [markdown]
# ## The encoder as an imitator
#
# In VAE+SVI+KL the encoder does not see the climb. It climbs $-\mathrm{KL}(q(\cdot\,; \lambda_0) \Vert q(\cdot\,; \lambda_K))$, with $\lambda_K$ held fixed (`eq-kl-to-last`). Write `imitation(lam_0, lam_last)` for rows $[\mu, \rho]$: that goal, in nats and upwards, $[B]$. No gradient may reach `lam_last`.


# %% name="imitation" tags=["solution", "points=2"]
def imitation(lam_0, lam_last):
    """-KL(q_0 || q_K), q_K held fixed, nats, [B]."""
    ### BEGIN SOLUTION
    mean, log_var = lam_0.unbind(-1)
    to_mean, to_log_var = lam_last.detach().unbind(-1)
    ratio = log_var - to_log_var
    shift = (mean - to_mean) ** 2 / to_log_var.exp()
    return -0.5 * (ratio.exp() + shift - 1 - ratio)
    ### END SOLUTION


# %% [markdown]
# ## Your own climb
#
# Your id chooses a parabola $\mathcal{L}(\lambda) = -\frac12 h (\lambda - a)^2$ with one $\lambda$, a start and a step size. Three plain steps ($\gamma = 0$) follow. Let `my_climb()` return a dictionary of three numbers, good to three decimals: `"end"`, $\lambda_3$; `"start_gradient"`, $\mathrm{d}\mathcal{L}(\lambda_3) / \mathrm{d}\lambda_0$; and `"without_hessian"`, what the encoder would receive if all Hessian terms were left out.

# %%
generator = torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
noise = torch.rand(4, generator=generator).tolist()
my_h, my_a = 2.0 + noise[0], 1.0 + noise[1]
my_start, my_lr = -1.0 - noise[2], 0.1 + 0.1 * noise[3]
print(f"h = {my_h:.3f}, a = {my_a:.3f}, start = {my_start:.3f}, step = {my_lr:.3f}")


# %% name="my_climb" tags=["solution", "points=3"]
def my_climb():
    """{"end": ..., "start_gradient": ..., "without_hessian": ...} of your own parabola."""
    ### BEGIN SOLUTION
    damping = (1 - my_lr * my_h) ** 3
    end = my_a + damping * (my_start - my_a)
    slope = -my_h * (end - my_a)
    return {"end": end, "start_gradient": damping * slope, "without_hessian": slope}
    ### END SOLUTION


# %% [markdown]
# ## A test for the derivative
#
# Write `test_start_gradient(fn)` for functions that claim to be `start_gradient`: it returns if the claim is true and raises if it is not. It is tried on right versions and on wrong ones. Choose $K$, $\gamma$ and the step size so that every way to be wrong matters.


# %% name="test_start_gradient" tags=["solution", "points=3"]
def test_start_gradient(fn):
    """Raises unless fn(lam_0, x, n_steps, lr, gamma) is d L(lam_K) / d lam_0, [B, 2]."""
    ### BEGIN SOLUTION
    x, lr, gamma = torch.tensor([4.0, 0.0, 9.0]), 0.06, 0.7
    lam_0 = torch.tensor([[0.3, -0.5], [-0.4, 0.2], [1.5, -1.0]])

    def end(lam, n_steps):
        v = torch.zeros_like(lam)
        for _ in range(n_steps):
            v = gamma * v + own_gradients(lam, x)
            lam = lam + lr * v
        return count_bound(lam, x)

    for n_steps in (0, 1, 4):
        steps = 1e-5 * torch.eye(2)
        sides = [(end(lam_0 + h, n_steps) - end(lam_0 - h, n_steps)) / 2e-5 for h in steps]
        found = fn(lam_0, x, n_steps, lr, gamma)
        torch.testing.assert_close(found, torch.stack(sides, -1), rtol=1e-5, atol=1e-6)
    ### END SOLUTION


# %% tags=["check"]
test_start_gradient(start_gradient)
print("your test lets your own derivative pass")

# %% [markdown]
# ## What reaches the encoder
#
# Look at what the encoder receives, for a count of 20, as the climb grows longer: the derivative at its own start, beside the gradient at the end. The mean $\mu$ is a steep direction here, $\rho$ a flat one.

# %% tags=["demo"]
start, twenty = torch.tensor([[2.0, -1.0]]), torch.tensor([20.0])
for n_steps in (0, 1, 2, 5, 10, 20):
    lam, v = start, torch.zeros(1, 2)
    for _ in range(n_steps):
        v = 0.5 * v + own_gradients(lam, twenty)
        lam = lam + 0.02 * v
    received = start_gradient(start, twenty, n_steps, 0.02, 0.5)[0]
    bound, last = count_bound(lam, twenty).item(), own_gradients(lam, twenty)[0]
    print(f"K = {n_steps:2d}: bound {bound:6.3f} nats, received ({received[0]:+8.4f},"
          f" {received[1]:+8.4f}), at the end ({last[0]:+8.4f}, {last[1]:+8.4f})")  # fmt: skip

# %% [markdown]
# ## A question
#
# (a) In your table, what becomes of the two received components as $K$ grows, and what will the encoder therefore learn, and not learn? (b) An SA-VAE trained with $K = 20$ is to be used on a phone that can afford no steps. What do you expect of $q(z; \lambda_0)$, and which of the chapter's four methods would you train instead? (c) SA-VAE beats a VAE after the same number of updates. Name two comparisons that a fair reader would still ask for. Two sentences each.

# %% [markdown] name="starts" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# (a) The steep component (the mean's) dies quickly, for the climb forgets where it started in steep directions, by a factor $1 - \alpha h$ a step; the flat one (the log variance's) stays much longer. So the encoder learns to start with good values in flat directions and is hardly told about the steep ones.
#
# (b) It is a start and no answer: nats below what an encoder of the same size could reach, above all by its means. Train a VAE, or VAE+SVI+KL if refinement is available in training: both teach the encoder to answer.
#
# (c) Equal cost: a step costs decoder calls forward, backward, and twice backward, so a VAE may train several times as long. And the VAE refined by the same $K$ steps at the test, since most of the lead may be refinement as such. (Also: several seeds; gaps at one decoder, or $\log p(x)$.)
# ### END SOLUTION

# %% [markdown]
# ## A derivation
#
# Take $K = 2$ steps of momentum, $v_{k+1} = \gamma v_k + g(\lambda_k)$, $\lambda_{k+1} = \lambda_k + \alpha v_{k+1}$, $v_0 = 0$. (a) Write $\mathrm{d}\lambda_2 / \mathrm{d}\lambda_0$ as a polynomial in $\alpha$, $\gamma$ and the Hessians $H_0$, $H_1$; mind their order. (b) Run the recursion `eq-adjoint` by hand for $K = 2$ and show that it returns $(\mathrm{d}\lambda_2 / \mathrm{d}\lambda_0)^\top g(\lambda_2)$. (c) Which place of the recursion stores what one step did to the *velocity*, and what would go wrong if `v_bar` were set to zero after each step?

# %% [markdown] name="two_steps" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# (a) $v_1 = g(\lambda_0)$, so $\lambda_1 = \lambda_0 + \alpha g(\lambda_0)$ and $\mathrm{d}\lambda_1 / \mathrm{d}\lambda_0 = I + \alpha H_0$.
# $\lambda_2 = \lambda_1 + \alpha \gamma g(\lambda_0) + \alpha g(\lambda_1)$, so by the chain rule
# $\mathrm{d}\lambda_2 / \mathrm{d}\lambda_0 = (I + \alpha H_0) + \alpha \gamma H_0 + \alpha H_1 (I + \alpha H_0) = I + \alpha (1 + \gamma) H_0 + \alpha H_1 + \alpha^2 H_1 H_0$.
#
# (b) Start: $\bar\lambda_2 = g(\lambda_2) =: g_2$, $\bar v = 0$. At $k = 1$: $\bar v = \alpha g_2$, $\bar\lambda_1 = g_2 + \alpha H_1 g_2$, then $\bar v = \gamma \alpha g_2$.
# At $k = 0$: $\bar v = \gamma \alpha g_2 + \alpha \bar\lambda_1 = \alpha (1 + \gamma) g_2 + \alpha^2 H_1 g_2$, and
# $\bar\lambda_0 = \bar\lambda_1 + H_0 \bar v = \bigl( I + \alpha H_1 + \alpha (1 + \gamma) H_0 + \alpha^2 H_0 H_1 \bigr) g_2$.
# Hessians are symmetric, so the transpose of $H_1 H_0$ is $H_0 H_1$: this is $(\mathrm{d}\lambda_2 / \mathrm{d}\lambda_0)^\top g_2$.
#
# (c) $\bar v$ carries the influence of $v_{k+1}$ on everything after it: on $\lambda_{k+1}$, and by $\gamma$ on the later velocities. Set to zero, the term $\alpha \gamma H_0$ is lost (and all such terms for larger $K$): the derivative of a climb without memory along the places of one with memory, which is the derivative of nothing.
# ### END SOLUTION
