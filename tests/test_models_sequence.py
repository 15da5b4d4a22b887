"""The sequence model against a loop written by hand, enumeration, and its own samples."""

import itertools

import pytest
import torch
from torch.distributions import Categorical
from worlds import DIM, N_SE, gen, randn, sequence

from avi import models
from avi.core import Given, Problem, given
from avi.evaluation import count_calls, log_evidence
from avi.families import DiagGaussian
from avi.gradients import Adjoint, Unrolled
from avi.inference import savae, svi
from avi.objectives import elbo
from avi.steps import SGD, Momentum

FAMILY = DiagGaussian(DIM)
X = torch.tensor([[0, 4, 2], [1, 1, 3], [4, 0, 0]])


def test_log_lik_is_the_loop_over_positions():
    model, z = sequence(), randn(4, 3, DIM)
    want = torch.zeros(4, 3).double()
    for s in range(4):
        for b in range(3):
            token, state = torch.tensor([[5]]), None
            for t in range(3):
                out, state = model.lstm(model.embed(token), state)
                logits = model.from_state.weight @ out[0, 0] + model.from_state.bias
                logits = logits + model.from_latent.weight @ z[s, b]
                want[s, b] += Categorical(logits=logits).log_prob(X[b, t])
                token = X[b, t].view(1, 1)
    assert torch.allclose(model.log_lik(X, z), want)


def all_sequences(vocabulary, length):
    return torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))


def test_probabilities_of_all_sequences_add_up_to_one():
    model, every = sequence(), all_sequences(5, 3)
    z = randn(1, 1, DIM).expand(6, len(every), DIM) * torch.arange(6.0).view(6, 1, 1)
    assert torch.allclose(model.log_lik(every, z).exp().sum(1), torch.ones(6).double())


def test_samples_have_the_model_s_probabilities():
    """Frequencies of all 25 sequences of length two, against log p(x) from prior samples."""
    model, every, n = sequence(), all_sequences(5, 2), 20_000
    code = (model.sample(n, 2, gen(1)) * torch.tensor([5, 1])).sum(1)
    found = torch.bincount(code, minlength=25) / n
    lam = torch.zeros(25, 2 * DIM).double()  # the prior
    evidence = log_evidence(model, every, FAMILY, lam, 20_000, gen(2))
    p = evidence.log_p.exp()
    error = (p * (1 - p) / n + (p * evidence.se).square()).sqrt()
    assert ((found - p).abs() <= N_SE * error).all()
    assert abs(p.sum().item() - 1) <= N_SE * (p * evidence.se).square().sum().sqrt()


def test_the_context_is_what_z_does_not_reach():
    model, z = sequence(), randn(2, 3, DIM)
    with_context = Given(model, model.context(X))
    assert torch.equal(with_context.log_lik(X, z), model.log_lik(X, z))
    assert torch.equal(with_context.log_prior(z), model.log_prior(z))
    assert isinstance(given(model, X), Given)
    plain = models.bernoulli_mlp([DIM, 4, 3])
    assert given(plain, X) is plain


def test_a_batch_pays_for_the_lstm_once():
    model, calls = sequence(), []
    model.lstm.register_forward_hook(lambda *_: calls.append(1))
    method = svi(FAMILY, SGD(0.1), 20).double()
    path = method(model, X, elbo(), method.noise(2, X, gen()).double())
    path.value(-1)
    assert len(calls) == 1


def test_decoder_calls_are_counted_with_a_context():
    model = sequence()
    problem = Problem(model, X, FAMILY, elbo())
    with count_calls(model) as counts:
        problem(torch.zeros(3, 2 * DIM).double(), randn(7, 3, DIM))
    assert counts == {"forward": 21, "backward": 0}


@pytest.mark.parametrize("frozen", ["", "lstm", "from_latent", "all"])
def test_the_adjoint_hands_gradients_through_the_context(frozen):
    """LSTM and embedding learn from every step; what is frozen is left alone."""
    model = sequence()
    if frozen:
        (model if frozen == "all" else getattr(model, frozen)).requires_grad_(False)
    encoder = models.SequenceEncoder(5, 2 * DIM, embedding=3, hidden=4).double()
    learners = [p for p in (*model.parameters(), *encoder.parameters()) if p.requires_grad]
    found = []
    for mode in (Unrolled(), Adjoint()):
        method = savae(encoder, FAMILY, Momentum(0.2, 0.5), 5, mode)
        noise = torch.randn(6, 2, 3, DIM, generator=gen(1), dtype=torch.float64)
        value = method(model, X, elbo(), noise).value(-1).sum()
        found.append(torch.autograd.grad(value, learners))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", [[[0, 5]], [[-1, 0]]])
def test_tokens_outside_the_vocabulary_are_refused(tokens):
    with pytest.raises(ValueError, match=r"tokens must lie in 0 \.\.\. 4"):
        sequence().log_lik(torch.tensor(tokens), randn(1, 1, DIM))


def test_an_oracle_is_fixed_and_speaks_through_z():
    model = models.oracle(vocabulary=50, generator=gen(), embedding=8, hidden=8)
    assert not any(p.requires_grad for p in model.parameters())
    assert model.from_latent.weight.abs().max() > 4
    others = [p for n, p in model.named_parameters() if "from_latent" not in n]
    assert all(p.abs().max() <= 1 for p in others)
    assert max(p.abs().max() for p in others) > 0.99
    again = models.oracle(vocabulary=50, generator=gen(), embedding=8, hidden=8)
    assert torch.equal(model.from_latent.weight, again.from_latent.weight)
    assert torch.equal(model.sample(4, 5, gen(1)), again.sample(4, 5, gen(1)))


def test_an_encoder_answers_from_the_last_state():
    encoder = models.SequenceEncoder(5, 4, embedding=3, hidden=6).double()
    out, _ = encoder.lstm(encoder.embed(X))
    assert torch.allclose(encoder(X), encoder.head(out[:, -1]))


def test_steep_latent_weights_cost_no_digits():
    """Logits of the latent part some hundred apart, in float32, against float64."""
    model = models.oracle(dim=DIM, vocabulary=50, generator=gen(1), embedding=8, hidden=8)
    x, z = model.sample(20, 5, gen(2)), 15 * randn(4, 20, DIM).float()
    tilt = model.from_latent(z)
    assert (tilt.amax(-1) - tilt.amin(-1)).max() > 200
    found = model.log_lik(x, z)
    want = model.double().log_lik(x, z.double())
    assert found.isfinite().all()
    assert (found - want).abs().max() <= 1e-5 * want.abs().max()
