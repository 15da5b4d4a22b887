"""The zoo: every row runs, its numbers fit together, and its costs are those declared."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avi import reproduce
from avi.core import Problem
from avi.families import DiagGaussian
from avi.objectives import elbo

ROOT = Path(__file__).parents[1]
zoo = reproduce.experiments(ROOT / "reproduction")["zoo"]
CLIMBS = ["svi", "vae+svi", "vae+svi+kl", "savae", "gradients", "gradients-alone"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("zoo"), {}
    for name, row in zoo.ROWS.items():
        found[name] = row.at("smoke").run(0, folder / f"{name}.safetensors")
    return found


def test_every_row_gives_finite_values(smoke):
    assert len(smoke) == 12
    for values in smoke.values():
        assert all(map(math.isfinite, values.values()))


def test_the_gaps_add_up(smoke):
    for values in smoke.values():
        whole = -values["nll"] - values["bound"]
        own = values["approximation"] + values["remaining"]
        gaussian = values["gaussian_approximation"] + values["gaussian_remaining"]
        assert own == pytest.approx(whole, abs=1e-4) == gaussian
        assert values["nll"] > 0 and values["n_starts"] == 2


def test_for_gaussian_rows_both_families_are_one(smoke):
    for name in ("vae", "iwae", *CLIMBS, "errors"):
        values = smoke[name]
        assert values["gaussian_remaining"] == pytest.approx(values["remaining"], abs=1e-4)
    for name in ("joint-mixture", "recursive-mixture", "flow"):
        assert smoke[name]["gaussian_best"] != smoke[name]["best"]


def test_decoder_calls_of_inference(smoke):
    """K gradients of S draws: K S forward, and as many backward; errors need none."""
    for name, row in zoo.ROWS.items():
        want = row.n_steps * row.n_samples
        found = [smoke[name][f"infer_{kind}"] for kind in "FBH"]
        assert found == [want, 0 if name == "errors" else want, 0]


def test_decoder_calls_of_training(smoke):
    want = {
        "vae": (1, 1, 0),
        "iwae": (5, 5, 0),
        "svi": (21, 21, 0),
        "vae+svi": (7, 7, 0),  # and the first guess, scored for the encoder
        "vae+svi+kl": (6, 6, 0),
        "savae": (11, 11, 5),  # the adjoint goes through every step again
        "joint-mixture": (2, 2, 0),
        "flow": (1, 1, 0),
    }
    for name, calls in want.items():
        assert tuple(smoke[name][f"train_{kind}"] for kind in "FBH") == calls


def test_costs_leave_the_weights_alone(tmp_path):
    row = zoo.ROWS["savae"].at("smoke")
    world = zoo.World.of(row, 0)
    before = [p.clone() for p in (*world.model.parameters(), *world.method.parameters())]
    step = world.method.step
    zoo.costs(row, world)
    after = [*world.model.parameters(), *world.method.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after)) and world.method.step is step


def test_rows_of_a_seed_share_the_decoder_and_the_data():
    worlds = [zoo.World.of(row.at("smoke"), 3) for row in zoo.ROWS.values()]
    for world in worlds[1:]:
        pairs = zip(worlds[0].model.parameters(), world.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert torch.equal(world.test, worlds[0].test)


def test_an_interrupted_flow_ends_with_the_same_weights(tmp_path, monkeypatch):
    row = replace(zoo.ROWS["flow"].at("smoke"), epochs=2)
    kept = []
    monkeypatch.setattr(zoo, "measure", lambda row, world, seed: kept.append(world) or {})
    row.run(0, tmp_path / "whole.safetensors")
    half = zoo.TrainSettings
    monkeypatch.setattr(zoo, "TrainSettings", lambda *a: replace(half(*a), checkpoint_every=7))
    steps, real = [], sys.modules["avi.fast"].train_step

    def stopping(*args):
        steps.append(1)
        if len(steps) == 30:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr("avi.fast.train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            row.run(0, tmp_path / "part.safetensors")
    row.run(0, tmp_path / "part.safetensors")
    for part in ("model", "method"):
        pairs = zip(*(getattr(world, part).parameters() for world in kept), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_search_starts_from_different_places():
    row = replace(zoo.ROWS["vae"].at("smoke"), n_starts=4)
    world = zoo.World.of(row, 0)
    ends = zoo.answers(row, world, torch.Generator().manual_seed(0))
    problem = Problem(world.model, world.test, world.method.family, elbo())
    starts = [*ends, *zoo.others(row, problem, ends, torch.Generator().manual_seed(0))]
    assert len(starts) == 4 and len({tuple(start.flatten().tolist()) for start in starts}) == 4


def test_the_parts_of_a_mixture_are_gaussians_of_its_own():
    row = zoo.ROWS["joint-mixture"].at("smoke")
    world = zoo.World.of(row, 0)
    lam = zoo.answers(row, world, torch.Generator().manual_seed(0))[0]
    q = world.method.family(lam, world.model)
    for part, own in zip(q.components, zoo.inside(world.method.family, lam), strict=True):
        same = DiagGaussian(row.decoder[0])(own, world.model)
        assert torch.equal(part.mean, same.mean) and torch.equal(part.log_var, same.log_var)
