"""Faults planted in an encoder and in a decoder show in the segment of the thermometer they should.

A small VAE of digits, trained once. The weak encoder has one hidden unit. The changed decoder sees
a rotated z: p(x) is the same, because the prior is, but a diagonal q no longer fits as well.
"""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn
from worlds import DIM, N_SE, N_X, gen, linear_gaussian, randn

from avi import data
from avi.core import Model
from avi.evaluation import Gaps, gaps
from avi.families import DiagGaussian
from avi.inference import Refine, direct
from avi.models import bernoulli_mlp
from avi.nets import mlp
from avi.objectives import elbo
from avi.plots import Thermometer
from avi.steps import Adam
from avi.training import TrainSettings, fit

LATENT, HIDDEN, N_TRAIN, N = 6, 64, 600, 150
BOUND = elbo(analytic_kl=True)
FAMILY = DiagGaussian(LATENT)


class World(NamedTuple):
    x: torch.Tensor
    model: Model
    method: Refine

    def gaps(self, model=None, method=None) -> Gaps:
        """On the first N images, with the same noise each time."""
        chosen = (model or self.model, method or self.method, self.x[:N])
        return gaps(*chosen, Adam(0.05), 200, gen(1), BOUND, n_samples=5, n_evidence=2000)


def train(model, method, x, epochs) -> None:
    settings = TrainSettings(epochs=epochs, lr=3e-3)
    fit(model, method, x, settings, objective=lambda step: BOUND, progress=False)


@pytest.fixture(scope="module")
def sound() -> World:
    x = data.load("digits").evaluation("train", gen())[:N_TRAIN]
    model = bernoulli_mlp([LATENT, HIDDEN, 64], gen())
    method = direct(mlp([64, HIDDEN, 2 * LATENT], gen(1)), FAMILY)
    train(model, method, x, 60)
    return World(x, model.requires_grad_(False), method)


@pytest.fixture(scope="module")
def sound_gaps(sound) -> Gaps:
    return sound.gaps()


def segments(found: Gaps):
    """approximation and remaining, as the thermometer draws them."""
    return Thermometer.of("", found, "Gaussian").segments


def test_the_sound_vae_has_gaps_that_are_positive_and_small(sound_gaps):
    approximation, remaining = segments(sound_gaps)
    assert 0 < approximation.width < 0.5 and 0 < remaining.width < 0.5


def test_a_weak_encoder_shows_in_the_second_segment_alone(sound, sound_gaps):
    weak = direct(mlp([64, 1, 2 * LATENT], gen(2)), FAMILY)
    train(sound.model, weak, sound.x, 60)
    before, after = segments(sound_gaps), segments(sound.gaps(method=weak))
    assert after[1].width - before[1].width > 1
    error = (before[0].se ** 2 + after[0].se ** 2) ** 0.5
    search = 0.01  # one start of the search for q* is another one
    assert abs(after[0].width - before[0].width) <= N_SE * error + search


def rotated(model, generator):
    """The same p(x): its decoder reads Q z, with Q orthogonal."""
    turn = nn.Linear(LATENT, LATENT, bias=False).requires_grad_(False)
    turn.weight.copy_(torch.linalg.qr(torch.randn(LATENT, LATENT, generator=generator))[0])
    changed = copy.deepcopy(model)
    changed.decoder = nn.Sequential(turn, changed.decoder)
    return changed


def test_a_rotated_decoder_shows_in_the_first_segment_and_leaves_the_evidence(sound, sound_gaps):
    found = sound.gaps(model=rotated(sound.model, gen(3)))
    (log_p, se), (want, se_before) = found.evidence.mean(), sound_gaps.evidence.mean()
    assert abs(log_p - want) <= N_SE * (se**2 + se_before**2) ** 0.5
    before, after = segments(sound_gaps)[0], segments(found)[0]
    assert after.width - before.width > N_SE * (after.se**2 + before.se**2) ** 0.5
    assert after.width > 1.5 * before.width


def test_rotating_a_linear_decoder_moves_only_the_first_segment_by_the_closed_form():
    """Columns of W made orthogonal: the posterior is diagonal. Turned by 45 degrees it is not."""
    x, aligned, turned = 1.3 * randn(60, N_X, seed=6), linear_gaussian(), linear_gaussian()
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double() / 2**0.5
    with torch.no_grad():
        noise = (0.5 * aligned.log_var).exp()[:, None]
        u, s, _ = torch.linalg.svd(aligned.weight / noise, full_matrices=False)
        aligned.weight.copy_(noise * u * s)
        turned.weight.copy_(aligned.weight @ turn)
        assert torch.allclose(aligned.log_evidence(x), turned.log_evidence(x))
        found = {}
        for model in (aligned, turned):
            exact = Refine(model.exact_encoder(), DiagGaussian(DIM))
            found[model] = gaps(model, exact, x, Adam(0.02), 100, gen(), n_samples=10)
            q = DiagGaussian(DIM)(model.exact_encoder()(x), model).dense()
            want = q.kl(model.exact_posterior(x)).mean().item()
            approximation, remaining = segments(found[model])
            assert abs(approximation.width - want) <= N_SE * approximation.se + 1e-9
            assert abs(remaining.width) <= N_SE * remaining.se + 0.005
        first, second = (segments(found[model])[0] for model in (aligned, turned))
        assert abs(first.width) <= N_SE * first.se + 1e-9 and second.width > 0.05
