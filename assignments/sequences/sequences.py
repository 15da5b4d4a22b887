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
# # Assignment: sequences and posterior collapse
#
# It goes with the chapter *Sequences and posterior collapse* and takes about 100 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments. Self-checks use other inputs than the grading does.
#
# A text VAE can lose its latent variable without losing anything that its bound would show. You will write what one needs to see that: the likelihood of sentences of unequal length, the perplexity and its bound, the numbers that say whether $z$ speaks. You will write two remedies, work out when $z$ grows at all, and watch a collapse in a language of four sentences, where every sum can be written out.
#
# $S$ draws, $B$ or $N$ sentences, $T$ places, $V$ words, $D$ latent units. Logarithms are natural and bounds are in nats.
#
# First put your student id between the quotes. Some numbers below are yours alone.

# %%
STUDENT = "your-id"

import itertools
import math
import zlib

import torch

from avi import check

torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## The likelihood of a sentence
#
# Write `sequence_log_lik(x, logits, lengths)` (`eq-text-vae`): `x` $[B, T]$ are tokens, `logits` $[B, T, V]$ what the decoder says about the token at each place, `lengths` $[B]$ how many tokens of each sentence count, its end token included. What stands behind is padding, of any token, and has no probability. Result $[B]$, nats.
# A trained decoder may be very sure: logits of $\pm 800$ occur.


# %% name="sequence_log_lik" tags=["solution", "points=3"]
def sequence_log_lik(x, logits, lengths):
    """log p(x | z) of each sentence up to its end token, nats, [B]."""
    ### BEGIN SOLUTION
    every = logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]
    counts = torch.arange(x.shape[1]) < lengths[:, None]
    return every.where(counts, torch.zeros(())).sum(-1)
    ### END SOLUTION


# %% [markdown]
# Without padding, the probabilities of all sentences of three words add up to one. Does a longer padding change anything?

# %% tags=["check"]
torch.manual_seed(0)
every = torch.tensor(list(itertools.product(range(4), repeat=3)))
places = torch.randn(1, 3, 4).expand(len(every), 3, 4)
total = sequence_log_lik(every, places, torch.full((len(every),), 3)).exp().sum()
print("they add up to one:", torch.allclose(total, torch.ones(())))
padded = torch.cat([every, torch.zeros_like(every)], 1), torch.cat([places, places], 1)
again = sequence_log_lik(*padded, torch.full((len(every),), 3)).exp().sum()
print("with padding as well:", torch.allclose(again, torch.ones(())))

# %% [markdown]
# ## Two perplexities
#
# Let `log_w` $[S, B]$ be the logarithms of $p(x, z_s) / q(z_s \mid x)$, and `lengths` $[B]$ the numbers of predicted tokens. Write `perplexities(log_w, lengths)`: the pair of the perplexity with $\log p(x)$ estimated by importance sampling (`eq-iwae`), and of the upper limit from the ELBO (`eq-perplexity-bound`), two numbers for all sentences together. For long documents log-weights may lie near $-1500$.


# %% name="perplexities" tags=["solution", "points=3"]
def perplexities(log_w, lengths):
    """(perplexity by importance sampling, its upper limit from the ELBO)."""
    ### BEGIN SOLUTION
    log_p = log_w.logsumexp(0) - math.log(len(log_w))
    tokens = lengths.sum()
    return (-log_p.sum() / tokens).exp(), (-log_w.mean(0).sum() / tokens).exp()
    ### END SOLUTION


# %% tags=["check"]
noisy = perplexities(torch.randn(50, 3) - 40, torch.tensor([8, 11, 14]))
print("the ELBO's is an upper limit:", bool(noisy[0] < noisy[1]))
same = perplexities(torch.full((50, 1), -1500.0), torch.tensor([500]))
right = [torch.allclose(p.log(), torch.tensor(3.0)) for p in same]
print("equal weights, equal perplexities:", all(right))
two = perplexities(torch.tensor([[-40.0, -270.0]]), torch.tensor([10, 90]))
print("10 words for 40 nats and 90 for 270:", torch.allclose(two[0], torch.tensor(math.exp(3.1))))

# %% [markdown]
# ## Two remedies
#
# **Annealing.** Write `annealed(bound, rate, step, n_steps)` (`eq-annealed`): from each sentence's ELBO and its KL to the prior, $[B]$ each, what is climbed at this step of training, when $\beta$ rises from 0 to 1 within `n_steps`, $[B]$.


# %% name="annealed" tags=["solution", "points=2"]
def annealed(bound, rate, step, n_steps):
    """L_beta of each sentence at this step of training, nats, [B]."""
    ### BEGIN SOLUTION
    return bound + (1 - min(1.0, step / n_steps)) * rate
    ### END SOLUTION


# %% [markdown]
# **Word dropout.** At place $t$ the decoder predicts $x_t$ and reads the token before it, at the first place the token `start`. Write `reads(x, keys, share, start, unknown)` (`eq-word-dropout`): what it reads at each place, $[B, T]$. `keys` $[B, T]$ are uniform draws; the decoder reads `unknown` in place of word $x_t$ exactly if `keys[b, t] < share`. `start` is never hidden.


# %% name="reads" tags=["solution", "points=2"]
def reads(x, keys, share, start, unknown):
    """The token read at each place, [B, T]."""
    ### BEGIN SOLUTION
    seen = x.where(keys >= share, torch.tensor(unknown))
    return torch.cat([torch.full_like(x[:, :1], start), seen[:, :-1]], 1)
    ### END SOLUTION


# %% tags=["check"]
words = torch.tensor([[5, 6, 7, 2]])
keys = torch.tensor([[0.9, 0.1, 0.8, 0.3]])
print("every word has its own key:", reads(words, keys, 0.5, 1, 0).tolist() == [[1, 5, 0, 7]])

# %% [markdown]
# ## Does z speak?
#
# **By units.** Of Gaussian posteriors with `mean` and `log_var`, $[N, D]$, `units(mean, log_var)` shall return the pair of every unit's mean rate, $[D]$ in nats (`eq-gaussian-kl`), and of which units are active, $[D]$ of bools: those whose posterior mean varies over the sentences with a variance above 0.01 (`mean.var(0)`).


# %% name="units" tags=["solution", "points=2"]
def units(mean, log_var):
    """(mean rate of each unit in nats, is it active), [D] each."""
    ### BEGIN SOLUTION
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
    return rate.mean(0), mean.var(0) > 0.01
    ### END SOLUTION


# %% tags=["check"]
def kl(mean, log_var):
    """The KL of every row by itself, as if there were two such sentences."""
    rows = zip(mean, log_var)
    return torch.stack([units(m.expand(2, -1), v.expand(2, -1))[0].sum() for m, v in rows])


check.gaussian_kl(kl)

# %% [markdown]
# **By information.** A rate need not be information: `eq-rate-split` takes it apart. Let $z$ have $K$ values, so that nothing has to be sampled: `posterior` $[N, K]$ holds $q(z = k \mid x_n)$, `prior` $[K]$ holds $p(z = k)$. Write `information(posterior, prior)`: the pair of the mutual information of $n$ and $z$, and of the KL from the aggregate posterior (`eq-aggregate`) to the prior, two numbers in nats. Posteriors may be exactly 0 at some $k$, even at the same $k$ for all sentences: $0 \log 0 = 0$ here.


# %% name="information" tags=["solution", "points=3"]
def information(posterior, prior):
    """(mutual information of n and z, KL(q(z) || p(z))), nats."""
    ### BEGIN SOLUTION
    heap = posterior.mean(0)
    told = torch.xlogy(posterior, posterior) - torch.xlogy(posterior, heap)
    return told.sum(-1).mean(), (torch.xlogy(heap, heap) - torch.xlogy(heap, prior)).sum()
    ### END SOLUTION


# %% tags=["check"]
some, even = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]]), torch.full((3,), 1 / 3)
told, waste = information(some, even)
mean_rate = (torch.xlogy(some, some) - some * even.log()).sum(-1).mean()
print("both parts make the mean rate:", torch.allclose(told + waste, mean_rate))

# %% [markdown]
# ## When z grows
#
# Near the silent point (`eq-collapsed`) the second order decides. Take one latent number $z$ and a decoder without memory, $p(x_t \mid z) = \operatorname{softmax}(b + w z\, v)_{x_t}$ at every place: `bias` $b$ $[V]$ are the silent model's logits, `direction` $v$ $[V]$ says which words $z$ makes likelier. Write `room(x, bias, direction)` for sentences `x` $[N, T]$ of tokens, all of $T$ words: the number $\mathrm{E}_{\text{data}}[s^2] - \mathrm{E}_{\text{data}}[h]$ of `eq-collapse-threshold`, with $s$ and $h$ as in the chapter: the first derivative of $\log p(x \mid z)$ by $w z$ at zero, and minus the second. Where it is negative, $z$ is pushed back to silence.


# %% name="room" tags=["solution", "points=3"]
def room(x, bias, direction):
    """E[s^2] - E[h] over the sentences; z grows only where it is positive."""
    ### BEGIN SOLUTION
    p = bias.softmax(0)
    centred = direction - p @ direction
    s = centred[x].sum(-1)
    return s.square().mean() - x.shape[1] * (p @ centred**2)
    ### END SOLUTION


# %% [markdown]
# The chapter's exercise with two words $\pm 1$ that agree with probability $r$ has $4 r - 2$ here.

# %% tags=["check"]
agree = torch.tensor([[0, 0], [1, 1], [0, 0], [1, 0]])  # r = 3/4
found = room(agree, torch.zeros(2), torch.tensor([1.0, -1.0]))
print("two words that like to agree:", torch.allclose(found, torch.ones(())))

# %% [markdown]
# ## Your own language
#
# It has four sentences of two words, each $+1$ or $-1$. The words agree with your probability $r$, and both ways to agree are equally likely, as are both to differ. The latent variable is a fair coin, $z = \pm 1$ with probability $\frac12$ each, and the decoder has no memory: $p(x_t \mid z) = \sigma(2 w z x_t)$. So $p(x)$ and $p(z \mid x)$ are sums of two terms.
# Let `my_language()` return a dictionary of three numbers, good to three decimals. `"weight"`: the $w > 0$ with the largest $\mathrm{E}_{\text{data}}[\log p(x)]$. `"gain"`: by how many nats that exceeds the silent model's, $w = 0$. `"rate"`: the mean over the data of $\mathrm{KL}(p(z \mid x) \Vert p(z))$ at this $w$. By a formula or by a search, as you like.

# %%
generator = torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
my_r = 0.72 + 0.23 * torch.rand((), generator=generator).item()
print(f"your words agree with probability {my_r:.4f}")


# %% name="my_language" tags=["solution", "points=3"]
def my_language():
    """{"weight": ..., "gain": ..., "rate": ...} of your own language."""
    ### BEGIN SOLUTION

    def entropy(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    weight = math.atanh(math.sqrt(2 * my_r - 1))  # then the words agree as often as in the data
    sure = 1 / (1 + math.exp(-4 * weight))  # p(z | x) where the words agree; else 1/2
    rate = my_r * (math.log(2) - entropy(sure))
    return {"weight": weight, "gain": math.log(2) - entropy(my_r), "rate": rate}
    ### END SOLUTION


# %% [markdown]
# ## A test for the likelihood
#
# Write `test_sequence_log_lik(fn)` for functions that claim to be `sequence_log_lik`: it returns if the claim is true and raises if it is not. It is tried on right versions and on wrong ones. Think of what sentences, lengths and logits have to be like for every mistake to show.


# %% name="test_sequence_log_lik" tags=["solution", "points=3"]
def test_sequence_log_lik(fn):
    """Raises unless fn(x, logits, lengths) is log p(x | z) of each sentence, [B]."""
    ### BEGIN SOLUTION
    x, lengths = torch.tensor([[3, 1, 4, 0, 2], [2, 2, 0, 1, 3]]), torch.tensor([3, 5])
    logits = torch.sin(torch.arange(50.0)).reshape(2, 5, 5)
    for scale in (1.0, 800.0):
        want = []
        for b, length in enumerate(lengths.tolist()):
            rows = [scale * logits[b, t] for t in range(length)]
            want.append(sum(row[x[b, t]] - row.logsumexp(0) for t, row in enumerate(rows)))
        found = fn(x, scale * logits, lengths)
        torch.testing.assert_close(found, torch.stack(want), rtol=1e-9, atol=1e-9)
    ### END SOLUTION


# %% tags=["check"]
test_sequence_log_lik(sequence_log_lik)
print("your test lets your own likelihood pass")

# %% [markdown]
# ## A collapse, written out
#
# The next cell trains a VAE on your language, with all sums exact. $z = \pm 1$ as before; the encoder is $q(z \mid x) = \sigma(2 z (a x_1 + b x_2))$, which can be the exact posterior. The decoder either forgets the first word when it predicts the second, or remembers it with a weight $m$. The weights that have to do with $z$ start at 0.02, $m$ at 0. $\beta$ is 1, or rises from 0 during the first 200 of 1,000 steps. "Highest" is the largest value that what was climbed, $\mathcal{L}_\beta$, took on the way.

# %% tags=["demo"]
first, second = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
data = torch.tensor([my_r, 1 - my_r, 1 - my_r, my_r]) / 2
coin = torch.tensor([[1.0], [-1.0]])


def bound_and_rate(weights, memory):
    w, m, a, b = weights
    log_sigmoid = torch.nn.functional.logsigmoid
    log_lik = log_sigmoid(2 * w * coin * first)
    log_lik = log_lik + log_sigmoid(2 * (w * coin + memory * m * first) * second)
    log_q = log_sigmoid(2 * coin * (a * first + b * second))
    rate = (log_q.exp() * (log_q + math.log(2))).sum(0)
    return (log_q.exp() * log_lik).sum(0) - rate, rate


def train(memory, ramp, n_steps=1000):
    weights, highest = torch.tensor([0.02, 0.0, 0.02, 0.02]), -math.inf
    for step in range(n_steps):
        weights = weights.detach().requires_grad_()
        bound, rate = bound_and_rate(weights, memory)
        goal = data @ annealed(bound, rate, step, ramp) if ramp else data @ bound
        weights = weights + 0.5 * torch.autograd.grad(goal, weights)[0]
        highest = max(highest, goal.item())
    bound, rate = bound_and_rate(weights.detach(), memory)
    return (data @ bound).item(), (data @ rate).item(), highest


print(f"minus the entropy of a sentence: {(data * data.log()).sum():.3f} nats")
for name, memory, ramp in (("forgets", 0, 0), ("remembers", 1, 0), ("remembers, annealed", 1, 200)):
    ends = train(memory, ramp)
    print(f"{name:20s} bound {ends[0]:.3f}, rate {ends[1]:.3f}, highest {ends[2]:.3f}")

# %% [markdown]
# ## A question
#
# (a) Compare the three bounds in your table with each other and with minus the entropy, and then the three rates. Why can the bound not tell these models apart, and what does that say about choosing a model by its bound? (b) In the last row something rose above minus the entropy on the way. Does that contradict `eq-any-use`? (c) A friend cures the collapse of her text VAE: the rate has risen from 0 to 4 nats. Name three further numbers or comparisons that you want to see before you call it a cure, and what each would rule out. About two sentences each.

# %% [markdown] name="cure" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# (a) All three reach minus the entropy, the ceiling of `eq-any-use`, the middle one with a rate near zero and the others with several tenths of a nat. Each is a perfect model of the sentences with an exact posterior: the pair's agreement can be explained by $z$, by memory, or by some of both. The bound scores the model of $x$ and the posterior, and does not ask how much goes through $z$; who wants a speaking $z$ has to measure it apart.
#
# (b) No. While $\beta < 1$ the goal is the bound plus $(1 - \beta)$ times the rate, and that is no bound on $\log p(x)$. Only the value at $\beta = 1$ is to be reported, and it stays below.
#
# (c) For instance: the first part of `eq-rate-split`, since a rate may be waste, the same shift for all sentences, and tell nothing. The bound or the perplexity on held-out sentences, with $\beta = 1$ and no words hidden, beside that of a language model of the same size: a use of $z$ may be paid for by a worse model. Several seeds, as one lucky run proves little; and what $z$ tells (topic or length), as a remedy can make $z$ serve a task that only the remedy creates.
# ### END SOLUTION

# %% [markdown]
# ## A derivation
#
# Take the decoder of `room`, without memory. (a) Derive $s(x)$ and $h(x)$. (b) Suppose that at every place the words of the data, taken by themselves, are distributed as the silent model says, by $\operatorname{softmax}(b)$. Show that
#
# $$\mathrm{E}_{\text{data}}[s^2] - \mathrm{E}_{\text{data}}[h] = \sum_{t \ne t'} \operatorname{Cov}_{\text{data}}(v_{x_t}, v_{x_{t'}}).$$
#
# (c) What does it say about $z$ in sentences of one word, and in sentences of two words that avoid each other? (d) Now let the decoder read the words before, and let the silent decoder be perfect: its sentences are distributed as the data. What becomes of the difference, why, and what does word dropout change about it?

# %% [markdown] name="shared" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# (a) With $u = w z$, $\log p(x \mid z) = \sum_t \bigl[ b_{x_t} + u v_{x_t} - \log \sum_k e^{b_k + u v_k} \bigr]$. The derivative of the log-sum is the mean of $v$ under $\pi = \operatorname{softmax}(b + u v)$, its second derivative the variance of $v$. At zero: $s = \sum_t (v_{x_t} - \bar v)$ with $\bar v = \mathrm{E}_\pi[v]$, and $h = T \operatorname{Var}_\pi(v)$ for every sentence, $\pi = \operatorname{softmax}(b)$.
#
# (b) Each word has the distribution $\pi$, so each term of $s$ has mean zero, and $\mathrm{E}[s^2] = \sum_{t, t'} \operatorname{Cov}(v_{x_t}, v_{x_{t'}})$. The $T$ terms with $t = t'$ are $\operatorname{Var}_\pi(v)$ each, together $\mathrm{E}[h]$. What is left are the terms with $t \ne t'$.
#
# (c) With one word there is no such term: the difference is zero, and $z$ gains nothing at this order. Where the covariance is negative the difference is negative too, and $z$ is pushed back to silence: one $z$ for all places pushes all of them the same way. (A $z$ with one direction for each place could serve that case.)
#
# (d) It is zero. Differentiating $\sum_x p(x \mid u) = 1$ twice by $u$ at zero gives $\mathrm{E}_p[s^2 - h] = 0$ under the silent model, and that is the data's distribution. With words hidden the decoder can no longer be perfect: what the hidden words would have told about the next ones is again covariance that it does not expect, and $z$ can supply it.
# ### END SOLUTION
