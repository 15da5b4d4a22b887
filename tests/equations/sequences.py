"""Checks of the equations of book/sequences.md."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from avi.core import Problem
from avi.data import grammar
from avi.evaluation import log_evidence, perplexity
from avi.families import DiagGaussian
from avi.models.text import UNKNOWN, TextEncoder, TextVAE, keyed
from avi.objectives import elbo
from avi.training import anneal

from .registry import equation

FAMILY = DiagGaussian(2)
WORDS = 3  # unknown, end and one word


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(12)


def text_model(word_dropout: float = 0.0) -> TextVAE:
    model = TextVAE(2, WORDS, 4, 5, word_dropout=word_dropout, generator=generator()).double()
    for parameter in model.parameters():
        parameter.data *= 10  # far from its uniform start
    return model


def every_sentence(length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(WORDS), repeat=length)))


@equation("eq-text-vae")
def the_next_word_probabilities_make_a_distribution_over_sentences():
    model, z = text_model(), torch.randn(2, 1, 2, generator=generator(), dtype=torch.float64)
    x = every_sentence(3)
    total = model.log_lik(x, z.expand(-1, len(x), -1)).logsumexp(1)
    torch.testing.assert_close(total, torch.zeros(2).double(), atol=1e-12, rtol=0)


@equation("eq-text-vae")
def the_prior_adds_the_density_of_a_standard_normal():
    model, z = text_model(), torch.randn(4, 1, 2, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(model.log_prior(z), Normal(0.0, 1.0).log_prob(z).sum(-1))


@equation("eq-topic-information")
def a_topic_is_worth_log_8_nats():
    assert math.isclose(grammar.entropy() - grammar.entropy_given_topic(), math.log(8))
    assert f"{grammar.entropy():.2f} {math.log(8):.2f}" == "12.26 2.08"  # as the page says


@equation("eq-topic-information")
def the_information_is_that_of_drawn_sentences():
    random = np.random.RandomState(3)
    topics = random.randint(8, size=4000)
    gain = []
    for topic in topics:
        words = grammar.sentence(topic, random)
        ways = np.array([grammar._given_topic(words, other) for other in range(8)])
        gain.append(ways[topic] - grammar.log_prob(words))
    assert np.allclose(gain, math.log(8))  # for each sentence: it gives its topic away


def silent(model: TextVAE, encoder: TextEncoder) -> None:
    with torch.no_grad():
        model.lstm.weight_ih_l0[:, 4:] = 0
        model.first_state.weight.zero_()
        encoder.head.weight.zero_()
        encoder.head.bias.zero_()


@equation("eq-collapsed")
def at_the_silent_point_the_bound_is_log_p_and_nothing_pulls_away():
    model, g = text_model(), generator()
    encoder = TextEncoder(WORDS, 4, 4, 5, generator=g).double()
    silent(model, encoder)
    x = every_sentence(3)
    half = torch.randn(20, len(x), 2, generator=g, dtype=torch.float64)
    lam = encoder(x)
    problem = Problem(model, x, FAMILY, elbo(analytic_kl=True))
    value = problem(lam, torch.cat([half, -half]))
    alone = model.log_lik(x, torch.zeros(1, len(x), 2).double())[0]
    torch.testing.assert_close(value, alone, atol=1e-12, rtol=0)
    evidence = log_evidence(model, x, FAMILY, lam.detach(), 100, g).log_p
    torch.testing.assert_close(value, evidence, atol=1e-9, rtol=0)
    assert problem.q(lam).kl(model.prior).abs().max() == 0
    value.sum().backward()
    for gradient in (model.lstm.weight_ih_l0.grad[:, 4:], model.first_state.weight.grad):
        assert gradient.abs().max() < 1e-12
    assert max(p.grad.abs().max() for p in encoder.parameters()) < 1e-12


# One word of four, z in the logits: log p(x | z) = log softmax(b + w z c)[x]

B = torch.tensor([0.3, -0.2, 0.1, 0.7], dtype=torch.float64)
C = torch.tensor([1.0, -0.5, 0.4, -1.2], dtype=torch.float64)
NODES, WEIGHTS = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(60))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def gain(w: Tensor, mu: Tensor) -> Tensor:
    """The bound at q = N(mu(x), 1) less log p of the silent model, exact, [4]."""
    z = mu + NODES[:, None]
    log_p = (B + w * z[..., None] * C).log_softmax(-1)  # [node, x, word]
    own = log_p.diagonal(dim1=1, dim2=2)
    return WEIGHTS @ own - mu**2 / 2 - B.log_softmax(-1)


def slopes() -> tuple[Tensor, Tensor]:
    """s and h by autograd, [4] each."""
    u = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    log_p = (B + u[:, None] * C).log_softmax(-1).diagonal()
    (s,) = torch.autograd.grad(log_p.sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(s.sum(), u)
    return s.detach(), -second


@equation("eq-collapse-expansion")
def the_bound_near_the_silent_point_has_this_second_order():
    s, h = slopes()
    w, mu = 0.7, torch.tensor([0.9, -0.4, 0.2, -1.0], dtype=torch.float64)
    wanted = mu * w * s - mu**2 / 2 - w**2 * h / 2
    errors = [(gain(torch.tensor(w * t), mu * t) / t**2 - wanted).abs().max() for t in (1e-2, 1e-3)]
    assert errors[1] < 1e-2 and errors[1] < 0.2 * errors[0]


@equation("eq-collapse-threshold")
def the_best_encoder_gains_what_the_data_vary_beyond_the_model():
    s, h = slopes()
    data = torch.tensor([0.4, 0.1, 0.1, 0.4], dtype=torch.float64)
    wanted = (data @ s**2 - data @ h) / 2
    w = 1e-3
    found = data @ gain(torch.tensor(w), w * s) / w**2
    assert abs(found - wanted) < 1e-2 * abs(wanted)
    for other in (0.9, 1.1):
        assert data @ gain(torch.tensor(w), other * w * s) < data @ gain(torch.tensor(w), w * s)
    own = B.softmax(-1)  # data from the silent model itself: nothing to gain
    assert abs(own @ s**2 - own @ h) < 1e-12


@equation("eq-any-use")
def no_use_of_z_beats_the_entropy():
    g = generator()
    data = torch.tensor([0.4, 0.1, 0.1, 0.4], dtype=torch.float64)
    entropy = Categorical(data).entropy()
    z = NODES
    for _ in range(200):
        w, mu = torch.randn((), generator=g).double(), torch.randn(4, generator=g).double()
        marginal = (WEIGHTS[:, None] * (B + w * z[:, None] * C).softmax(-1)).sum(0).log()
        bound = gain(w, mu) + B.log_softmax(-1)
        assert (bound <= marginal + 1e-9).all()
        assert data @ marginal <= -entropy + 1e-12


@equation("eq-annealed")
def the_annealed_value_is_the_bound_and_a_share_of_the_kl():
    model, g = text_model(), generator()
    x = every_sentence(3)
    lam = torch.randn(len(x), 4, generator=g, dtype=torch.float64)
    eps = torch.randn(3, len(x), 2, generator=g, dtype=torch.float64)
    q = Normal(lam[:, :2], (lam[:, 2:] / 2).exp())
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    plain = Problem(model, x, FAMILY, elbo(analytic_kl=True))(lam, eps)
    ramp = anneal(0.0, 1.0, 40, analytic_kl=True)
    for step, beta in ((0, 0.0), (10, 0.25), (40, 1.0), (90, 1.0)):
        value = Problem(model, x, FAMILY, ramp(step))(lam, eps)
        torch.testing.assert_close(value, plain + (1 - beta) * kl)


@equation("eq-word-dropout")
def dropped_words_are_the_mean_over_masks_of_what_is_read():
    model, g, n = text_model(0.5), generator(), 4000
    x = torch.tensor([[2, 1, 2]])
    z = torch.randn(1, 1, 2, generator=g, dtype=torch.float64)
    found = model.log_lik(keyed(x.expand(n, -1), g), z.expand(1, n, -1))[0]
    exact = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=3):
        read = torch.where(torch.tensor(mask) > 0, UNKNOWN, x)
        context = text_model().context(read)
        exact += 0.5**3 * text_model().log_lik(x, z, context).item()
    assert abs(found.mean() - exact) < 5 * found.std() / math.sqrt(n)
    assert Bernoulli(0.5).mean == 0.5 and len(found.unique()) == 4  # the last word is never read


@equation("eq-perplexity-bound")
def a_bound_gives_an_upper_bound_on_the_perplexity():
    model, g = text_model(), generator()
    x = every_sentence(3)
    lam = torch.randn(len(x), 4, generator=g, dtype=torch.float64)
    bound = Problem(model, x, FAMILY, elbo())(
        lam, torch.randn(500, len(x), 2, generator=g, dtype=torch.float64)
    )
    log_p = log_evidence(model, x, FAMILY, lam, 2000, g).log_p
    tokens = x.numel()
    one, two = perplexity(-log_p.sum().item(), tokens), perplexity(-bound.sum().item(), tokens)
    assert math.isclose(one, math.exp(-log_p.mean().item()) ** (1 / 3))
    assert one < two


@equation("eq-output-saliency")
def both_saliencies_are_norms_of_central_differences():
    model, g, h = text_model(), generator(), 1e-5
    x = torch.tensor([[2, 0, 1]])
    z = torch.randn(1, 1, 2, generator=g, dtype=torch.float64, requires_grad=True)

    def log_p(at: Tensor) -> Tensor:
        return model.logits(at, model.context(x))[0, 0].log_softmax(-1)[torch.arange(3), x[0]]

    rows = [torch.autograd.grad(value, z, retain_graph=True)[0] for value in log_p(z)]
    ways = torch.eye(2, dtype=torch.float64)
    numeric = torch.stack([(log_p(z + h * v) - log_p(z - h * v)) / (2 * h) for v in ways], 1)
    torch.testing.assert_close(torch.cat(rows).flatten(1).norm(dim=1), numeric.norm(dim=1))

    encoder = TextEncoder(WORDS, 4, 4, 5, generator=g).double()
    embedded = encoder.embed(x).detach().requires_grad_()

    def kl(at: Tensor) -> Tensor:
        mean, log_var = encoder.head(encoder.lstm(at)[1][0][0]).chunk(2, -1)
        return kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum()

    torch.testing.assert_close(kl(embedded), FAMILY(encoder(x), model).kl(model.prior).sum())
    (slope,) = torch.autograd.grad(kl(embedded), embedded)
    for t, i in itertools.product(range(3), range(4)):
        way = torch.zeros_like(embedded)
        way[0, t, i] = h
        assert abs((kl(embedded + way) - kl(embedded - way)) / (2 * h) - slope[0, t, i]) < 1e-8
