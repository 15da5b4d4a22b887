"""Training with selection: the best weights come back, and an interrupted run loses nothing."""

import itertools
import math

import pytest
import torch
from worlds import gen

from avi.checkpoint import CheckpointError
from avi.families import DiagGaussian
from avi.inference import direct
from avi.models import bernoulli_mlp
from avi.nets import mlp
from avi.objectives import elbo
from avi.selection import fit_best
from avi.training import TrainingError, TrainSettings

SETTINGS = TrainSettings(epochs=5, batch_size=16, lr=1e-2, seed=3)


def world():
    model = bernoulli_mlp([2, 6, 8], gen())
    method = direct(mlp([8, 6, 4], gen(1)), DiagGaussian(2))
    x = torch.bernoulli(torch.full((40, 8), 0.4), generator=gen(2))
    return model, method, x


def weights(model, method):
    return torch.cat([p.detach().flatten() for m in (model, method) for p in m.parameters()])


def train(pair, x, values, **options):
    """Selection by the given values; also the weights at each judgement."""
    seen, each = [], iter(values)

    def judge():
        seen.append(weights(*pair))
        return next(each)

    options = {"every": 1, "progress": False} | options
    return fit_best(*pair, x, SETTINGS, judge, **options), seen


def test_the_weights_of_the_best_judgement_come_back():
    *pair, x = world()
    best, seen = train(pair, x, [1.0, math.nan, 3.0, 2.0, 3.0])
    assert (best.epoch, best.value) == (3, 3.0) and best.seconds > 0
    assert torch.equal(weights(*pair), seen[2])
    assert not torch.equal(seen[2], seen[4])


def test_judgements_may_be_rare_and_the_last_rest_of_epochs_is_trained():
    *pair, x = world()
    best, seen = train(pair, x, [1.0, 2.0, 3.0], every=2)
    assert best.epoch == 5 and len(seen) == 3


def test_the_objective_counts_steps_over_the_whole_run():
    *pair, x = world()
    steps = []

    def objective(step):
        steps.append(step)
        return elbo()

    train(pair, x, itertools.count(), objective=objective)
    assert steps == list(range(15))  # 40 rows in batches of 16: three steps an epoch


def test_every_epoch_has_random_numbers_of_its_own():
    *pair, x = world()
    drawn = []

    def observe(batch, generator):
        drawn.append(torch.rand(1, generator=generator).item())
        return batch

    train(pair, x, itertools.count(), observe=observe)
    assert len(set(drawn)) == 15


def test_the_step_size_decays_with_the_epochs():
    ends = []
    for decay in (1.0, 0.0):  # 0^0 = 1: the first epoch still moves
        *pair, x = world()
        _, seen = train(pair, x, itertools.count(), decay=decay)
        ends.append([not torch.equal(a, b) for a, b in itertools.pairwise(seen)])
    assert ends == [[True] * 4, [False] * 4]


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    *pair, x = world()
    values = [1.0, 3.0, 2.0, 5.0, 4.0]
    train(pair, x, values)
    want = weights(*pair)
    *pair, x = world()
    with pytest.raises(StopIteration):
        train(pair, x, values[:3], checkpoint=tmp_path / "run")
    *pair, x = world()
    best, seen = train(pair, x, values[3:], checkpoint=tmp_path / "run")
    assert (best.epoch, best.value, len(seen)) == (4, 5.0, 2)
    assert torch.equal(weights(*pair), want)
    *pair, x = world()
    best, seen = train(pair, x, [], checkpoint=tmp_path / "run")
    assert best.epoch == 4 and not seen and torch.equal(weights(*pair), want)


def test_a_checkpoint_of_other_data_is_refused_and_left_alone(tmp_path):
    *pair, x = world()
    train(pair, x, itertools.count(), checkpoint=tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(CheckpointError, match="other settings or data"):
        train(pair, 1 - x, itertools.count(), checkpoint=tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == before


def test_nothing_to_select_is_an_error():
    *pair, x = world()
    with pytest.raises(TrainingError, match="no judgement was a finite number"):
        train(pair, x, [math.nan] * 5)
