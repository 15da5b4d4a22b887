"""The text VAE against a loop written by hand, enumeration, its samples and central differences."""

import itertools

import pytest
import torch
from test_gradients import check_parameters
from torch import nn
from torch.distributions import Categorical
from worlds import DIM, N_SE, gen, randn, text

from avi import models
from avi.conformance import Case, method_checks
from avi.core import given
from avi.families import DiagGaussian
from avi.gradients import Adjoint, Unrolled
from avi.inference import Constant, Refine, savae, theta_only, vae_svi
from avi.models.text import END, UNKNOWN, tokens
from avi.objectives import elbo
from avi.steps import Clipped, Momentum

FAMILY = DiagGaussian(DIM)
V, T = 5, 3
X = torch.tensor([[0, 4, 1], [2, 2, 1], [4, 3, 1]])
STEP = Clipped(Momentum(0.2, 0.5), 5.0)


def by_hand(model, x, z, read, embedding_scale=None, output_scale=None):
    """log p(x | z) for one sentence, token by token, by an LSTM cell with the same weights."""
    cell = nn.LSTMCell(model.lstm.input_size, model.lstm.hidden_size).double()
    for name, parameter in model.lstm.named_parameters():
        getattr(cell, name.removesuffix("_l0")).data = parameter.data
    h = model.first_state.weight @ z + model.first_state.bias
    c, total = torch.zeros_like(h), 0.0
    for t in range(len(x)):
        fed = model.embed.weight[V if t == 0 else read[t - 1]]
        fed = fed if embedding_scale is None else fed * embedding_scale[t]
        h, c = cell(torch.cat([fed, z])[None], (h[None], c[None]))
        h, c = h[0], c[0]
        seen = h if output_scale is None else h * output_scale[t]
        total += Categorical(logits=model.out.weight @ seen + model.out.bias).log_prob(x[t])
    return total


@pytest.mark.parametrize("dim", [DIM, 0])
def test_log_lik_is_the_loop_over_positions(dim):
    """With dim = 0 it is a language model, and every sample of the empty z has the same value."""
    model, z = text(dim), randn(4, 3, dim)
    want = torch.stack([torch.stack([by_hand(model, X[b], z[s, b], X[b]) for b in range(3)])
                        for s in range(4)])  # fmt: skip
    assert torch.allclose(model.log_lik(X, z), want)
    assert torch.allclose(given(model, X).log_lik(X, z), want)


def test_the_latent_reaches_the_first_state_and_every_step():
    """Each of its two ways alone changes log p(x | z)."""
    z = randn(2, 3, DIM)
    for cut in ("first_state", "lstm"):
        model = text()
        if cut == "first_state":
            model.first_state.weight.data.zero_()
        else:
            model.lstm.weight_ih_l0.data[:, -DIM:] = 0
        assert (model.log_lik(X, z)[0] - model.log_lik(X, z)[1]).abs().min() > 1e-3


def all_sequences(length):
    return torch.tensor(list(itertools.product(range(V), repeat=length)))


@pytest.mark.parametrize("dim", [DIM, 0])
def test_probabilities_of_all_sequences_add_up_to_one(dim):
    model, every = text(dim), all_sequences(T)
    z = randn(6, 1, dim).expand(6, len(every), dim)
    assert torch.allclose(model.log_lik(every, z).exp().sum(1), torch.ones(6).double())


def test_sentences_and_unfinished_ones_add_up_to_one():
    """Complete sentences of up to T tokens, and beginnings of T words that have not ended."""
    model, total = text(), 0.0
    z = randn(1, 1, DIM)
    for length in range(1, T + 1):
        every = all_sequences(length)
        no_end = (every[:, :-1] != END).all(1)
        ends = every[:, -1] == END
        kept = every[no_end & (ends | (length == T))]
        total += model.log_lik(kept, z.expand(1, len(kept), DIM)).exp().sum()
    assert total.item() == pytest.approx(1)


@pytest.mark.parametrize("dim", [DIM, 0])
def test_decoded_sentences_have_the_model_s_probabilities(dim):
    """Frequencies of all sentences of at most two tokens, all from one z, against log_lik."""
    model, n = text(dim), 20_000
    z = randn(1, dim)
    found = model.decode(z.expand(n, dim), 2, models.drawn(gen(1)))
    assert (found[found[:, 0] == END] == END).all(), "after the end there is nothing but ends"
    for first in range(V):
        for second in range(V):
            share = (found == torch.tensor([first, second])).all(1).double().mean()
            tokens = [first] if first == END else [first, second]
            if first == END and second != END:
                assert share == 0
                continue
            p = model.log_lik(torch.tensor([tokens]), z[None]).exp().item()
            assert abs(share - p) <= N_SE * (p * (1 - p) / n) ** 0.5


def test_samples_draw_a_z_for_each_sentence():
    """The share of each first token, against its probability averaged over the prior.

    The latent's part is made so steep that the average is not what z = 0 says.
    """
    model, n = text(), 20_000
    model.first_state.weight.data *= 5
    model.out.weight.data *= 3
    first = model.sample(n, 1, gen(1))[:, 0]
    z = randn(n, 1, DIM, seed=2)
    for token in range(V):
        p = model.log_lik(torch.tensor([[token]]), z).exp()[:, 0]
        share = (first == token).double()
        error = ((p.var() + share.var()) / n).sqrt()
        assert abs(share.mean() - p.mean()) <= N_SE * error
    assert torch.equal(model.sample(5, 4, gen(3)), model.sample(5, 4, gen(3)))


def test_the_likeliest_token_is_taken_by_default():
    model = text()
    z = randn(7, DIM)
    found = model.decode(z, 4)
    assert found.shape == (7, 4)
    prefix = torch.empty(7, 0, dtype=torch.long)
    for t in range(4):
        each = [torch.cat([prefix, torch.full((7, 1), v)], 1) for v in range(V)]
        best = torch.stack([model.log_lik(x, z[None])[0] for x in each]).argmax(0)
        alive = (prefix != END).all(1)
        assert torch.equal(found[alive, t], best[alive])
        prefix = found[:, : t + 1]


@pytest.mark.parametrize("bad", [[[0, 5]], [[-1, 0]]])
def test_tokens_outside_the_vocabulary_are_refused(bad):
    with pytest.raises(ValueError, match=r"tokens must lie in 0 \.\.\. 4.*another vocabulary"):
        text().log_lik(torch.tensor(bad), randn(1, 1, DIM))


@pytest.mark.parametrize("shares", [{"dropout": 1.0}, {"word_dropout": -0.1}])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares to drop"):
        text(**shares)


def test_parameters_start_small_and_from_the_generator():
    one, two = (models.TextVAE(2, 7, 3, 4, generator=gen(1)) for _ in range(2))
    encoder = models.TextEncoder(7, 4, 3, 4, generator=gen(1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    for parameter in (*one.parameters(), *encoder.parameters()):
        assert 0 < parameter.abs().max() <= 0.1


# ---- dropout -----------------------------------------------------------------------------------


def test_without_keys_nothing_is_dropped():
    z = randn(2, 3, DIM)
    assert torch.equal(text(dropout=0.5, word_dropout=0.5).log_lik(X, z), text().log_lik(X, z))
    keyed = models.keyed(X, gen())
    assert torch.equal(tokens(keyed), X)
    assert torch.allclose(text().log_lik(keyed, z), text().log_lik(X, z)), "shares of zero"


def test_the_same_keys_give_the_same_value_and_others_another():
    model, z = text(dropout=0.5, word_dropout=0.5), randn(2, 3, DIM)
    one, other = models.keyed(X, gen(1)), models.keyed(X, gen(2))
    assert torch.equal(model.log_lik(one, z), model.log_lik(one, z))
    assert (model.log_lik(one, z) - model.log_lik(other, z)).abs().min() > 1e-4
    assert torch.equal(one, models.keyed(X, gen(1)))


def test_a_dropped_word_is_read_as_unknown_and_predicted_all_the_same():
    """Of all ways to hide the two words that are read, exactly one fits each sentence."""
    model, z = text(word_dropout=0.5), randn(1, 3, DIM)
    x = torch.tensor([[2, 3, 1], [3, 4, 1], [4, 2, 1]])
    seen = set()
    for seed in range(5):
        found = model.log_lik(models.keyed(x, gen(seed)), z)[0]
        for b in range(3):
            ways = {}
            for hidden in itertools.product([False, True], repeat=2):
                read = torch.where(torch.tensor([*hidden, False]), UNKNOWN, x[b])
                ways[hidden] = by_hand(model, x[b], z[0, b], read)
            fits = [w for w, v in ways.items() if torch.isclose(v, found[b], atol=1e-12)]
            assert len(fits) == 1
            seen |= set(fits)
    assert len(seen) == 4


def test_all_words_can_be_dropped_but_never_the_start():
    model, z = text(word_dropout=1.0), randn(1, 3, DIM)
    want = [by_hand(model, X[b], z[0, b], torch.full((T,), UNKNOWN)) for b in range(3)]
    assert torch.allclose(model.log_lik(models.keyed(X, gen()), z)[0], torch.stack(want))


def test_units_are_dropped_from_embeddings_and_outputs_alone():
    """The masks read off the context explain the value in the loop by hand."""
    model, z, keyed = text(dropout=0.5), randn(2, 3, DIM), models.keyed(X, gen(1))
    plain, _ = model.context(X)
    embedded, out = model.context(keyed)
    inside = embedded / plain
    for mask, width in ((inside, 3), (out, 4)):
        assert mask.shape == (3, T, width)
        assert set(mask.round(decimals=9).unique().tolist()) == {0.0, 2.0}
    for s, b in itertools.product(range(2), range(3)):
        want = by_hand(model, X[b], z[s, b], X[b], inside[b], out[b])
        assert torch.isclose(model.log_lik(keyed, z)[s, b], want)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_masks_have_their_share_and_no_pattern(share):
    """Shares by unit, by position and over neighbours in every direction, each within 5 s.e."""
    model = models.TextVAE(2, 50, 40, 40, dropout=share, word_dropout=share)
    x = torch.randint(2, 50, (400, 10), generator=gen())
    keyed = models.keyed(x, gen(1))
    embedded, out = model.context(keyed)
    kept = [(mask != 0).double() for mask in (embedded, out)]
    for mask in kept:
        for axes in ((0, 1), (0, 2), (1, 2)):
            n = mask.numel() / mask.mean(axes).numel()
            assert ((mask.mean(axes) - (1 - share)).abs() <= N_SE * _sd(share) / n**0.5).all()
        for axis in range(3):
            low, high = (mask.narrow(axis, i, mask.shape[axis] - 1) for i in (0, 1))
            _uncorrelated(low, high, share)
    _uncorrelated(*kept, share)
    model.dropout = 0.0
    start_to_end = model.embed.weight[UNKNOWN]
    unread = (model.context(keyed)[0][:, 1:] == start_to_end).all(-1).double()
    assert abs(unread.mean() - share) <= N_SE * _sd(share) / unread.numel() ** 0.5


def _sd(share):
    return (share * (1 - share)) ** 0.5


def _uncorrelated(one, two, share):
    product = (one - (1 - share)) * (two - (1 - share))
    assert product.mean().abs() <= N_SE * product.std() / product.numel() ** 0.5


# ---- semi-amortized inference ------------------------------------------------------------------


def learners(mode, keys=True):
    model = text(dropout=0.4, word_dropout=0.4)
    encoder = models.TextEncoder(V, 2 * DIM, 3, 4).double()
    models.uniform_(encoder, 0.7, gen(7))
    x = models.keyed(X, gen(2)) if keys else X
    return model, savae(encoder, FAMILY, STEP, 4, mode), x


def goal(model, method, x):
    noise = torch.randn(5, 2, 3, DIM, generator=gen(1), dtype=torch.float64)
    return method(model, x, elbo(), noise).value(-1).sum()


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("mode", [Unrolled(), Adjoint()], ids=["unrolled", "adjoint"])
def test_the_gradient_through_savae_is_that_of_central_differences(mode, keys):
    model, method, x = learners(mode, keys)
    for module in (model, method):
        check_parameters(module, lambda: goal(model, method, x))


def test_the_two_exact_modes_agree():
    found = []
    for mode in (Unrolled(), Adjoint()):
        model, method, x = learners(mode)
        parameters = [*model.parameters(), *method.parameters()]
        found.append(torch.autograd.grad(goal(model, method, x), parameters))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", ["savae", "vae_svi"])
def test_methods_conform_where_words_are_dropped(make):
    """The conformance suite on a batch with keys, which no oracle but itself could list."""
    model, method, x = learners(Adjoint())
    if make == "vae_svi":
        method = vae_svi(method.init.net, FAMILY, STEP, 3)
    case = Case(method, model, x)
    for check in method_checks(case):
        check(case)


def test_a_batch_is_embedded_once():
    model, method, x = learners(Unrolled())
    calls = []
    model.embed.register_forward_hook(lambda *_: calls.append(1))
    goal(model, method, x)
    assert len(calls) == 1


def test_a_language_model_is_a_method_without_a_latent():
    """The bound of a latent of width zero is log p(x), and theta alone learns."""
    model, family = text(0), DiagGaussian(0)
    method = Refine(Constant(torch.zeros(0)), family, credit=theta_only).double()
    path = method(model, X, elbo(), torch.zeros(1, 1, 3, 0).double())
    assert torch.equal(path.value(0), model.log_lik(X, torch.zeros(1, 3, 0).double())[0])
    goals = method.credit(path)
    grads = torch.autograd.grad(goals.theta.sum(), [*model.parameters()])
    assert goals.phi is None
    assert all(g.numel() == 0 or g.abs().max() > 0 for g in grads)


def test_the_encoder_reads_every_word():
    encoder = models.TextEncoder(V, 4, 3, 6).double()
    out, _ = encoder.lstm(encoder.embed(X))
    assert torch.allclose(encoder(X), encoder.head(out[:, -1]))
    assert torch.equal(encoder(models.keyed(X, gen())), encoder(X))
