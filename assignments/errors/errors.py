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
# # Assignment: errors and hierarchies
#
# It goes with the chapter *Errors and hierarchies* and takes about 110 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments. Self-checks use other inputs than the grading does.
#
# A gradient of the bound is made of errors and Jacobians. You will build it by hand, ask what the errors know about curvature, turn one step of error encoding into an encoder, and infer two levels from above. All of it can be had from autograd; the point is to see the parts, so write the formulas, and use autograd to check yourself.
#
# Logarithms are natural; bounds and rates are in nats. $\rho$ is a log variance unless the text says otherwise. First put your student id between the quotes. Two numbers below are yours alone.

# %%
STUDENT = "your-id"

import zlib

import torch

torch.set_default_dtype(torch.float64)


def decode(z, a, b):
    """The small decoder of this assignment, m(z) = B tanh(A z): z [S, D] -> [S, X]."""
    return (z @ a.T).tanh() @ b.T


# %% [markdown]
# ## Errors of a decoder that is sure
#
# For binary pixels the precision-weighted error (`eq-errors`) is $\varepsilon_x = (x - m) / (m (1 - m))$ with $m = \operatorname{sigmoid}(l)$. Write `pixel_errors(x, logits)`, entry by entry. Decoders are often sure: it must be right to six digits of *every* entry for logits up to $\pm 60$ too, where $1 - m$ may round to 0. *Hint:* what is it for a white pixel, what for a black one?


# %% name="pixel_errors" tags=["solution", "points=2"]
def pixel_errors(x, logits):
    """The precision-weighted errors of binary pixels x (0.0 or 1.0), in the shape of x."""
    ### BEGIN SOLUTION
    return torch.where(x > 0.5, 1 + torch.exp(-logits), -1 - logits.exp())
    ### END SOLUTION


# %% tags=["check"]
l_try, x_try = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([1.0, 0.0, 1.0])
m_try = l_try.sigmoid()
print(
    "as by the fraction:",
    torch.allclose(pixel_errors(x_try, l_try), (x_try - m_try) / (m_try * (1 - m_try))),
)
print("sure and wrong:", pixel_errors(torch.tensor([0.0]), torch.tensor([50.0])).item())

# %% [markdown]
# ## From errors to the gradient
#
# The other factor is the Jacobian. Write `jacobian(z, a, b)` for `decode`: `z` $[S, D]$, `a` $[H, D]$, `b` $[X, H]$; return $J = \partial m / \partial z$ at every draw, $[S, X, D]$.


# %% name="jacobian" tags=["solution", "points=2"]
def jacobian(z, a, b):
    """d m_i / d z_j of m = B tanh(A z) at every draw, [S, X, D]."""
    ### BEGIN SOLUTION
    slope = 1 - (z @ a.T).tanh().square()  # of tanh, [S, H]
    return (b * slope[:, None, :]) @ a
    ### END SOLUTION


# %% tags=["check"]
generator = torch.Generator().manual_seed(1)
z_try = torch.randn(3, 2, generator=generator)
a_try, b_try = torch.randn(4, 2, generator=generator), torch.randn(5, 4, generator=generator)
by_autograd = [
    torch.autograd.functional.jacobian(lambda u: decode(u, a_try, b_try), z) for z in z_try
]
print("as by autograd:", torch.allclose(jacobian(z_try, a_try, b_try), torch.stack(by_autograd)))

# %% [markdown]
# Put them together (`eq-error-gradient`). Write `error_gradient(eps_x, eps_z, jac, log_var, noise)` for one example and $S$ draws $z_s = \mu + e^{\rho / 2} \odot$ `noise[s]`: `eps_x` $[S, X]$, `eps_z` $[S, D]$, `jac` $[S, X, D]$, `log_var` $[D]$ (that is $\rho$), `noise` $[S, D]$. Return the two gradients of the bound, by $\mu$ and by $\rho$, $[D]$ each, with expectations as means over the draws. Mind what stands inside one expectation.


# %% name="error_gradient" tags=["solution", "points=3"]
def error_gradient(eps_x, eps_z, jac, log_var, noise):
    """(gradient by mu, gradient by rho) of the bound from errors, [D] each."""
    ### BEGIN SOLUTION
    pull = torch.einsum("sxd,sx->sd", jac, eps_x) - eps_z
    width = 0.5 * (0.5 * log_var).exp() * noise
    return pull.mean(0), (pull * width).mean(0) + 0.5
    ### END SOLUTION


# %% tags=["check"]
mu_try, rho_try = torch.tensor([0.3, -0.2]), torch.tensor([-1.0, 0.4])
noise_try, x_try = torch.randn(3, 2, generator=generator), torch.randn(5, generator=generator)


def bound_with_draws(mu, rho):
    """The bound for Gaussian outputs of variance 1 and prior N(0, I), up to a constant."""
    z = mu + (0.5 * rho).exp() * noise_try
    return (-0.5 * (x_try - decode(z, a_try, b_try)).square().sum(-1) - 0.5 * z.square().sum(-1)).mean() + 0.5 * rho.sum()  # fmt: skip


z_try = mu_try + (0.5 * rho_try).exp() * noise_try
found = error_gradient(
    x_try - decode(z_try, a_try, b_try), z_try, jacobian(z_try, a_try, b_try), rho_try, noise_try
)
wanted = torch.autograd.functional.jacobian(bound_with_draws, (mu_try, rho_try))
print("both as by autograd:", all(torch.allclose(f, w) for f, w in zip(found, wanted)))

# %% [markdown]
# ## Curvature
#
# With Gaussian outputs of variance $\sigma^2$ and prior $\mathcal{N}(0, I)$, the Hessian of $\log p(x, z)$ is an affine function of the errors (`eq-error-curvature`). Write `curvature(x, z, a, b, var)` for the decoder $m(z) = B \tanh(A z)$ and one point: `x` $[X]$, `z` $[D]$, `var` is $\sigma^2$; return $[D, D]$.


# %% name="curvature" tags=["solution", "points=3"]
def curvature(x, z, a, b, var):
    """The Hessian of log p(x, z) by z from the errors, [D, D]."""
    ### BEGIN SOLUTION
    t = (a @ z).tanh()
    eps_x = (x - b @ t) / var
    bend = (b.T @ eps_x) * (-2 * t * (1 - t.square()))  # eps_x times the second slopes of tanh
    jac = (b * (1 - t.square())) @ a
    return a.T @ (bend[:, None] * a) - jac.T @ jac / var - torch.eye(len(z))
    ### END SOLUTION


# %% tags=["check"]
hessian = curvature(x_try, mu_try, a_try, b_try, 0.5)
print("symmetric:", torch.allclose(hessian, hessian.T))
print(
    "its eigenvalues:",
    torch.linalg.eigvalsh(hessian),
    "(not all need be negative far from the top)",
)

# %% [markdown]
# ## One step is an encoder
#
# All examples start at the same $\lambda_0$ and share their draws. The first layer of an error-encoding network computes $W \bar\varepsilon_x + U \bar\varepsilon_z + c$, where a bar is the mean over the draws. Fold it (`eq-errors-affine`): write `encoder_layer(w, u, c, m, v, eps_z)` with `w` $[H, X]$, `u` $[H, D]$, `c` $[H]$, and for each draw the output's mean `m` and variance `v` $[S, X]$ and `eps_z` $[S, D]$. Return the matrix $M$ $[H, X]$ and the vector $k$ $[H]$ with $M x + k$ equal to that layer for every $x$.


# %% name="encoder_layer" tags=["solution", "points=2"]
def encoder_layer(w, u, c, m, v, eps_z):
    """(M, k) with M x + k = W mean(eps_x) + U mean(eps_z) + c for all x, [H, X] and [H]."""
    ### BEGIN SOLUTION
    return w * (1 / v).mean(0), c + u @ eps_z.mean(0) - w @ (m / v).mean(0)
    ### END SOLUTION


# %% tags=["check"]
w_try, u_try = torch.randn(4, 5, generator=generator), torch.randn(4, 2, generator=generator)
m_try = torch.rand(3, 5, generator=generator)
matrix, vector = encoder_layer(w_try, u_try, torch.ones(4), m_try, m_try * (1 - m_try), z_try)
errors_try = ((x_try - m_try) / (m_try * (1 - m_try))).mean(0)
layer = w_try @ errors_try + u_try @ z_try.mean(0) + 1
print("the same layer:", torch.allclose(matrix @ x_try + vector, layer))

# %% [markdown]
# With fresh draws the layer is random. The next cell draws it 500 times from a decoder of four pixels: the spread of its entries, as a share of their mean size, by the number of draws and by how sure the decoder is.

# %% tags=["demo"]
generator = torch.Generator().manual_seed(2)
for sure in (0.5, 2.0, 4.0):
    for n_draws in (1, 10, 100):
        layers = []
        for _ in range(500):
            m = (sure * torch.randn(n_draws, 4, generator=generator)).sigmoid()
            known = torch.eye(4), torch.zeros(4, 2), torch.zeros(4)
            layers.append(encoder_layer(*known, m, m * (1 - m), torch.zeros(n_draws, 2))[0].diag())
        layers = torch.stack(layers)
        share = (layers.std(0) / layers.mean(0)).mean()
        print(f"logits of size {sure}, {n_draws:3d} draws: spread {share:.2f} of the mean")

# %% [markdown]
# ## The pull on every level
#
# Two levels (`eq-hierarchical`): $z_2 \sim \mathcal{N}(0, I)$, $z_1 \mid z_2 \sim \mathcal{N}(\tanh(W z_2), \operatorname{diag} e^{G z_2})$, $x \mid z_1 \sim \mathcal{N}(B z_1, \sigma^2 I)$. Write `level_gradients(x, z1, z2, w, g, b, var)` for one point: return the gradients of $\log p(x, z_1, z_2)$ by $z_1$ and by $z_2$ (`eq-level-gradient`). The prior's variance moves with $z_2$, too.


# %% name="level_gradients" tags=["solution", "points=3"]
def level_gradients(x, z1, z2, w, g, b, var):
    """(d log p / d z1 [D1], d log p / d z2 [D2]) from the errors of the levels."""
    ### BEGIN SOLUTION
    m1 = (w @ z2).tanh()
    eps_0 = (x - b @ z1) / var
    eps_1 = (z1 - m1) / (g @ z2).exp()
    r_1 = 0.5 * ((z1 - m1) * eps_1 - 1)
    from_below = w.T @ ((1 - m1.square()) * eps_1)
    return b.T @ eps_0 - eps_1, from_below - z2 + g.T @ r_1
    ### END SOLUTION


# %% tags=["check"]
z1_try, z2_try = torch.randn(3, generator=generator), torch.randn(2, generator=generator)
w_try, g_try = torch.randn(3, 2, generator=generator), torch.randn(3, 2, generator=generator)
b_try = torch.randn(5, 3, generator=generator)


def log_joint(z1, z2):
    prior = torch.distributions.Normal((w_try @ z2).tanh(), (0.5 * g_try @ z2).exp())
    output = torch.distributions.Normal(b_try @ z1, 0.5**0.5)
    return output.log_prob(x_try).sum() + prior.log_prob(z1).sum() - 0.5 * z2.square().sum()


found = level_gradients(x_try, z1_try, z2_try, w_try, g_try, b_try, 0.5)
wanted = torch.autograd.functional.jacobian(log_joint, (z1_try, z2_try))
print("both levels:", all(torch.allclose(f, t) for f, t in zip(found, wanted)))

# %% [markdown]
# ## From above
#
# The ladder infers the same two levels. For each level the encoder offers a mean $\mu_l$ and a log *precision* $\rho_l$ (here only), and $q$ is the product with the prior (`eq-ladder`). Write `top_down(noise1, noise2, mean1, rho1, mean2, rho2, w, g)` for one example: `noise1` $[S, D_1]$, `noise2` $[S, D_2]$; a draw is mean plus standard deviation times noise. Return three tensors: `z1` $[S, D_1]$, `z2` $[S, D_2]$, and the rates $[2]$, lower level first: the mean over the draws of $\mathrm{KL}(q(z_1 \mid z_2) \,\|\, p(z_1 \mid z_2))$, and $\mathrm{KL}(q(z_2) \,\|\, p(z_2))$, each in closed form and summed over units. Which level has to be drawn first?


# %% name="top_down" tags=["solution", "points=3"]
def top_down(noise1, noise2, mean1, rho1, mean2, rho2, w, g):
    """(z1 [S, D1], z2 [S, D2], rates [2], nats, lower level first) of the ladder."""

    ### BEGIN SOLUTION
    def product(m, s, mu, rho):
        var = 1 / (1 / s + rho.exp())
        return var * (m / s + rho.exp() * mu), var

    def divergence(mean, var, m, s):
        return 0.5 * (var / s + (mean - m).square() / s - 1 - (var / s).log()).sum(-1)

    one = torch.ones_like(mean2)
    q2 = product(0 * one, one, mean2, rho2)
    z2 = q2[0] + q2[1].sqrt() * noise2
    prior = (z2 @ w.T).tanh(), (z2 @ g.T).exp()
    q1 = product(*prior, mean1, rho1)
    z1 = q1[0] + q1[1].sqrt() * noise1
    rates = divergence(*q1, *prior).mean(0), divergence(*q2, 0 * one, one)
    return z1, z2, torch.stack(rates)
    ### END SOLUTION


# %% tags=["check"]
silent = torch.full((3,), -60.0), torch.full((2,), -60.0)
noises = torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)
z1, z2, rates = top_down(*noises, torch.ones(3), silent[0], torch.ones(2), silent[1], w_try, g_try)
print("an encoder that says nothing has no rate:", rates.abs().max().item() < 1e-9)
print("and draws from the prior:", torch.allclose(z2, noises[1]))

# %% [markdown]
# ## A derivation
#
# Let the book's chain of scalars have a noisier output: $z_2 \sim \mathcal{N}(0, 1)$, $z_1 \mid z_2 \sim \mathcal{N}(z_2, s)$, $x \mid z_1 \sim \mathcal{N}(z_1, r)$. (a) Write the precision matrix of the posterior of $(z_2, z_1)$ and its determinant. (b) For a Gaussian posterior with precision $P$, the best factorised Gaussian misses $\frac12 \log(P_{11} P_{22} / \det P)$; take that as given. The shifted family is $q(z_2)\, \mathcal{N}(z_1;\, z_2 + a,\, t)$. Show that it is a factorised family in other coordinates, and derive its gap. (c) For which $s$ are the two families equally good, and which one is better for smaller $s$? (d) How does the exact posterior mean of $z_1$ given $z_2$ depend on $z_2$, and why does the merged family (`eq-ladder`) miss nothing? For $r = 1$ it has to come out as `eq-chain-gaps`.

# %% [markdown] name="chain" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# (a) $-2 \log p = z_2^2 + (z_1 - z_2)^2 / s + (x - z_1)^2 / r + \text{const}$, so $P = \begin{pmatrix} 1 + 1/s & -1/s \\ -1/s & 1/s + 1/r \end{pmatrix}$ and $\det P = 1/s + 1/r + 1/(sr)$.
#
# (b) With $d = z_1 - z_2$ the family is $q(z_2)\, \mathcal{N}(d; a, t)$: factorised in $(z_2, d)$. The map has determinant one, so the KL stays. In these coordinates $-2 \log p = z_2^2 + d^2 / s + (x - z_2 - d)^2 / r$, with diagonal $1 + 1/r$ and $1/s + 1/r$ and the same determinant. The gap is $\frac12 \log \frac{(1 + 1/r)(1/s + 1/r)}{1/s + 1/r + 1/(sr)}$, against $\frac12 \log \frac{(1 + 1/s)(1/s + 1/r)}{1/s + 1/r + 1/(sr)}$ for the factorised family.
#
# (c) They differ in $1 + 1/r$ against $1 + 1/s$: equal at $s = r$; for smaller $s$ the shifted family is better.
#
# (d) The mean is $(z_2 / s + x / r) / (1/s + 1/r)$ with slope $r / (r + s)$. The merged family has slope $1 / (1 + s \tau)$, exact at $\tau = 1/r$, $\mu = x$: it multiplies the prior with the likelihood of $z_1$, which is Bayes' rule; $q(z_2)$ is free, so it can be the exact one.
# ### END SOLUTION

# %% [markdown]
# ## Your own chain
#
# Your id chooses $s$ and $r$. Let `my_chain()` return a dictionary of two gaps in nats, good to four decimals: `"factorised"`, what the best factorised Gaussian misses, and `"shifted"`, what the best member of the shifted family misses.

# %%
my_s = 0.2 + 0.1 * (zlib.crc32(STUDENT.encode()) % 10)
my_r = 1.3 + 0.1 * ((zlib.crc32(STUDENT.encode()) >> 8) % 8)
print(f"your chain: s = {my_s:.1f}, r = {my_r:.1f}")


# %% name="my_chain" tags=["solution", "points=2"]
def my_chain():
    """{"factorised": nats, "shifted": nats}."""
    ### BEGIN SOLUTION
    s, r = torch.tensor(my_s), torch.tensor(my_r)
    det = 1 / s + 1 / r + 1 / (s * r)
    factorised = 0.5 * torch.log((1 + 1 / s) * (1 / s + 1 / r) / det)
    shifted = 0.5 * torch.log((1 + 1 / r) * (1 / s + 1 / r) / det)
    return {"factorised": factorised.item(), "shifted": shifted.item()}
    ### END SOLUTION


# %% [markdown]
# ## A test for the rates of the levels
#
# Write `test_rates(fn)` for functions `fn(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2)` that return the rates of two levels, $[B, 2]$, lower level first: for the lower level the KL between diagonal Gaussians, $\mathrm{KL}(q(z_1 \mid z_2) \,\|\, p(z_1 \mid z_2))$, as a mean over draws of $z_2$, for the upper one $\mathrm{KL}(q(z_2) \,\|\, \mathcal{N}(0, I))$. The first four are $[S, B, D_1]$, the last two $[B, D_2]$. Your test returns if `fn` is right and raises if it is not. It is tried on right and wrong functions.


# %% name="test_rates" tags=["solution", "points=3"]
def test_rates(fn):
    """Raises unless fn returns the right rates of both levels, [B, 2]."""
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(0)
    lower = [torch.randn(3, 4, 5, generator=generator) for _ in range(4)]
    upper = [torch.randn(4, 2, generator=generator) for _ in range(2)]
    q1, p1, q2 = (
        torch.distributions.Normal(mean, (0.5 * log_var).exp())
        for mean, log_var in (lower[:2], lower[2:], upper)
    )
    first = torch.distributions.kl_divergence(q1, p1).sum(-1).mean(0)
    second = torch.distributions.kl_divergence(q2, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(fn(*lower, *upper), torch.stack([first, second], -1))
    ### END SOLUTION


# %% tags=["check"]
def silent_levels(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    """Thinks that no level has a rate."""
    return torch.zeros(mean2.shape[0], 2)


try:
    test_rates(silent_levels)
except Exception:
    print("your test catches a function that returns zeros")
else:
    print("your test does not yet catch a function that returns zeros")

# %% [markdown]
# ## A question
#
# (a) A learned step of $K$ iterations sees errors, or gradients. How many decoder calls, forward and back, does each make for an image at the test, and why does the saving vanish in training? (b) A program takes one draw $z_1$, computes $\log q(z_1 \mid z_2) - \log p(z_1 \mid z_2)$ unit by unit, and sets negative values to zero before it adds them up. Is the bound it reports too high, too low or right on average? For which $q(z_1 \mid z_2)$ does the clamp change nothing? (c) In a comparison on digits the rate of the upper level is 0.02 nats in every model, and the bottom-up encoder has the best $\log p$. A reader concludes that top-down inference is useless. What can be concluded, and what would you look at? Two sentences each.

# %% [markdown] name="cost_and_rates" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# (a) Errors take $K$ calls forward and none back, gradients $K$ forward and $K$ back. In training every estimate is scored and the score's gradient is needed for the step to learn, which goes back through the decoder whatever the signal was.
#
# (b) Too low: $\max(0, r) \ge r$, so the reported rate is too large on average. Only for $q = p$, where every $r$ is zero, does nothing change: the mean of $p / q$ under $q$ is one, so in a unit where they differ some draws have $p > q$, that is $r < 0$.
#
# (c) With a silent upper level the prior of $z_1$ does not depend on $z_2$, so there is nothing that inference from above could bring: the comparison says nothing about hierarchies. Look at data or a training in which the upper rate is several nats, and at how tight the prior of $z_1$ is, with several seeds.
# ### END SOLUTION
