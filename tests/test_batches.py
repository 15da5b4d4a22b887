"""Training on batches of equal length: every row, the same bits after a stop; and annealing."""

import pytest
import torch
from worlds import gen, text

from avi import models
from avi.batches import Rows
from avi.checkpoint import CheckpointError
from avi.data import Sentences
from avi.evaluation import score
from avi.families import DiagGaussian
from avi.inference import Constant, Refine, direct, savae, theta_only
from avi.models.text import END
from avi.objectives import elbo
from avi.steps import Clipped, Momentum
from avi.training import TrainSettings, anneal, fit, train_step

V, DIM = 5, 2
SETTINGS = TrainSettings(epochs=3, batch_size=3, lr=0.01, checkpoint_every=2)
N_STEPS = 15  # 4 sentences of 2 tokens, 5 of 3 and 1 of 4: 2 + 2 + 1 batches an epoch
FAMILY = DiagGaussian(DIM)


def sentences() -> Sentences:
    words = torch.randint(2, V, (10, 3), generator=gen(1)).tolist()
    lengths = [1] * 4 + [2] * 5 + [3]
    return Sentences.of([[*w[:n], END] for w, n in zip(words, lengths, strict=True)])


def parts():
    encoder = models.TextEncoder(V, 2 * DIM, 3, 4, generator=gen(2)).double()
    return text(dropout=0.3, word_dropout=0.3), savae(
        encoder, FAMILY, Clipped(Momentum(0.2), 5.0), 2
    )


def trained(data=None, path=None, stop_at=None, settings=SETTINGS):
    """Train; with stop_at the run is interrupted when it begins that step."""
    model, method = parts()
    seen = []

    def observe(x, generator):
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(x)
        return models.keyed(x, generator)

    options = {"observe": observe, "objective": anneal(0.1, 1.0, 10), "progress": False}
    try:
        fit(
            model.float(),
            method.float(),
            sentences() if data is None else data,
            settings,
            checkpoint=path,
            **options,
        )
    except KeyboardInterrupt:
        assert stop_at is not None
    return [p.detach().clone() for m in (model, method) for p in m.parameters()], seen


def equal(mine, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_every_sentence_is_seen_once_an_epoch():
    _, seen = trained()
    want = sorted(row.tolist() for group in sentences().groups for row in group)
    assert len(seen) == N_STEPS
    for epoch in range(3):
        batches = seen[5 * epoch : 5 * epoch + 5]
        assert sorted(row for x in batches for row in x.tolist()) == want


def test_the_loop_is_the_steps_one_after_another():
    """Plan, keys and noise from one generator, in this order."""
    data, g = sentences(), gen(0)
    model, method = (part.float() for part in parts())
    learners = [*model.parameters(), *method.parameters()]
    optimiser = torch.optim.Adam(learners, 0.01, fused=True)
    for epoch in range(3):
        for k, rows in enumerate(data.plan(3, g)):
            x = models.keyed(data[rows], g)
            beta = min(1.0, 0.1 + 0.9 * (5 * epoch + k) / 10)
            train_step(model, method, x, elbo(beta), method.noise(1, x, g), optimiser)
    for mine, theirs in zip(learners, trained()[0], strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7, 14])
def test_a_continued_run_ends_with_the_same_bits(tmp_path, stop_at):
    path = tmp_path / "run.safetensors"
    whole, all_seen = trained()
    trained(path=path, stop_at=stop_at)
    again, seen = trained(path=path)
    assert equal(whole, again)
    assert equal(all_seen[N_STEPS - len(seen) :], seen)
    assert len(seen) == N_STEPS - stop_at // 2 * 2, "it went on from the last even step"


def test_other_sentences_are_another_run(tmp_path):
    path = tmp_path / "run.safetensors"
    trained(path=path, stop_at=3)
    groups = [group.clone() for group in sentences().groups]
    groups[1][0, 0] = 0
    with pytest.raises(CheckpointError, match="other settings, sizes, optimiser or data"):
        trained(Sentences(tuple(groups), sentences().origin), path)


def test_rows_are_what_a_tensor_becomes():
    x = torch.arange(22.0).view(11, 2)
    rows = Rows(x)
    order = torch.randperm(11, generator=gen(3))
    plan = rows.plan(4, gen(3))
    assert torch.equal(torch.cat(plan), order) and [len(p) for p in plan] == [4, 4, 3]
    assert rows.n_batches(4) == 3 and rows.n_batches(11) == 1 and rows.n_batches(12) == 1
    assert torch.equal(rows[plan[1]], x[order[4:8]]) and len(rows) == 11


# ---- annealing ---------------------------------------------------------------------------------


def test_annealing_goes_in_a_straight_line_and_stays():
    """The published schedule: from 0.1, 1/(10 batches an epoch) more at each step, to 1."""
    schedule = anneal(0.1, 1.0, 90)  # 9 epochs of 10 batches
    for step in range(200):
        want = min(1.0, 0.1 + step / 100)
        assert schedule(step) == elbo(pytest.approx(want))
    assert schedule(90) == schedule(1000) == elbo(1.0), "at the end the bound itself, exactly"
    assert anneal(0.0, 1.0, 1, analytic_kl=True)(0) == elbo(0.0, analytic_kl=True)
    assert anneal(1.0, 0.5, 2)(1) == elbo(0.75)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        anneal(0.1, 1.0, 0)


# ---- it learns ---------------------------------------------------------------------------------


def test_a_language_model_and_a_text_vae_learn_a_bigram_language():
    """Two kinds of sentences, three letters each: at best log 2 nats a sentence."""
    kinds = [[2, 3, 2, END], [4, 4, 3, END]]
    data = Sentences.of(kinds * 8)
    for dim in (0, DIM):
        model = models.TextVAE(dim, V, 8, 8, generator=gen(3))
        family = DiagGaussian(dim)
        start = Constant(torch.zeros(0))
        method = Refine(start, family, credit=theta_only)
        if dim:
            method = direct(models.TextEncoder(V, 2 * dim, 8, 8, generator=gen(4)), family)
        settings = TrainSettings(epochs=150, batch_size=16, lr=0.02)
        fit(model, method, data, settings, progress=False)
        x = data.groups[0][:2]
        problem = method(model, x, elbo(), method.noise(1, x, gen(5))).problem
        bound = score(problem, method.init(x, model), gen(6), repeats=20)
        assert bound.value.mean() > -1.0 and bound.value.mean() < -0.6
