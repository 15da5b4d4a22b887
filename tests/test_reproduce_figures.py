"""The figures' rows: maps of a bound, and what is read off them, against sampling and search."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from worlds import gen

from avi import reproduce
from avi.core import Problem
from avi.evaluation import score

FOLDER = Path(__file__).parents[1] / "reproduction"
FOUND = reproduce.experiments(FOLDER)


@pytest.fixture(scope="module")
def synthetic():
    """Figure 1 of SA-VAE: a row, its world, and one map for the best Gaussian of a sequence."""
    module = FOUND["savae-figure1"]
    row = replace(module.ROWS["svi"].at("smoke"), n_nodes=8, n_search=300)
    world = module.World.draw(row.training, 0)
    x = world.test[:3]
    best = module.best_of(row, world.truth, x, gen())
    return module, row, world, x, best


def test_the_map_is_the_bound(synthetic):
    """Quadrature against 100,000 draws, at points near the top and far from it."""
    module, row, world, x, best = synthetic
    for i, lam in enumerate(best):
        one = module.Landscape(row, world.truth, x[i : i + 1], lam)
        moved = lam + torch.tensor([[0.0, 0, 0, 0], [0.3, -0.4, 0, 0], [1.0, 0.5, 0.7, -0.3]])
        problem = Problem(world.truth, x[i : i + 1].expand(3, -1), module.FAMILY, module.BOUND)
        drawn = score(problem, moved, gen(1), 1000, 20)
        assert ((one.own(moved) - drawn.value).abs() <= 5 * drawn.se + 0.01).all()
        assert torch.allclose(one(moved[:2, :2]), one.own(moved[:2]))


def test_the_star_is_the_best_of_the_grid_and_near_the_best_gaussian(synthetic):
    module, row, world, x, best = synthetic
    row = replace(row, spacing=(0.2, 0.05, 0.01))
    for i, lam in enumerate(best):
        one = module.Landscape(row, world.truth, x[i : i + 1], lam)
        star, top = one.star()
        assert top >= one.own(lam[None]).item() - 0.01
        assert (star - lam[:2]).norm() < 0.2
        around = star + 0.05 * torch.randn(50, 2, generator=gen(2))
        assert one(around).max() <= top + 0.005


@pytest.fixture(scope="module")
def plane():
    """The plane of two latents: a row, its world and an encoder, hardly trained."""
    module = FOUND["iai-plane"]
    row = replace(module.ROWS["figure1"].at("smoke"), n_images=5, hidden=(32,))
    world = module.Plane(**vars(module.World.of(row, 0)))
    torch.nn.init.normal_(world.model.decoder[-1].weight, generator=gen(1))
    return module, row, world, world.test[:5]


@torch.no_grad()
def test_the_plane_s_best_points_are_those_of_a_full_search(plane):
    """Against one fine grid with the model's own densities; the finer grids of the row are used."""
    module, row, world, x = plane
    row = replace(row, spacing=(0.25, 0.05, 0.01))
    star, top = module.best_points(row, world.model, x)
    assert torch.allclose(top, module.joint(world.model, x, star), atol=1e-4)
    z = module.square(5.0, 0.05)
    values = (
        world.model.log_lik(x, z[:, None].expand(-1, 5, -1)) + world.model.log_prior(z)[:, None]
    )
    assert torch.allclose(module.on_all(world.model, x, z), values, atol=1e-3)
    assert (top >= values.max(0).values - 1e-4).all()
    moved = star + 0.3 * torch.randn(5, 2, generator=gen(2))
    assert (module.joint(world.model, x, moved) < top).all()


def test_ascent_arrives_and_drops_are_nats_below_the_best_point(plane):
    module, row, world, x = plane
    row = replace(row, spacing=(0.25, 0.05, 0.01))
    found = module.on_the_plane(row, world, world.method(row, 0))
    star, top = module.best_points(row, world.model, x)
    want = top - module.joint(world.model, x, world.method(row, 0).init.net(x))
    assert found["drop"] == pytest.approx(want.mean().item(), abs=1e-4)
    assert -1e-3 <= found["ascent_100"] < found["ascent_1"]


def test_reconstructions_are_read_off_the_path():
    """The first mark is the prior, the second one iteration's answer."""
    module = FOUND["iai-figure5"]
    row = module.ROWS["mnist"].at("smoke")
    world = module.World.of(row, 0)
    method, x = world.method(row, 0).with_steps(100), world.test[:20]
    found = module.along(row, world, method)
    zero = torch.zeros(1, 1, row.dims[0])
    want = (x - world.model.predict(zero)[0]).square().mean().item()
    assert found["error_0"] == pytest.approx(want, rel=1e-5)
    assert found["kl_0"] == 0 < found["kl_1"]
    with torch.no_grad():
        noise = method.noise(1, x, gen())
        lam = method(world.model, x, row.objective, noise).lam[100]
    q = method.family(lam, world.model)
    assert found["kl_100"] == pytest.approx(q.kl(world.model.prior).mean().item(), rel=1e-5)


def test_a_language_model_has_the_same_perplexity_after_any_number_of_steps():
    """Without a latent nothing can be refined, and every bound is log p(x)."""
    module = FOUND["savae-figure2"]
    training = replace(module.text.Row("lm").at("smoke"), epochs=1)
    row = module.OnText(training, marks=(0, 2))
    corpus = module.text.CORPORA[training.data]()
    learner = module.text.Learner(training, corpus, 0, Path("none"))
    test = corpus.test
    given = (lambda: test.in_order(32), test.n_tokens, module.text.STEP)
    trained = module.Trained(learner.model, learner.method, *given)
    curve = module.sweep(row, trained, learner.method.init, gen())
    want = module.text.measure(training, learner.model, learner.method, test)["perplexity"]
    assert list(curve.values()) == pytest.approx([want, want], rel=1e-6)


NEW = ("iai-plane", "iai-figure5", "rme-images", "savae-figure1", "savae-figure2", "savae-table3")


@pytest.mark.parametrize("experiment", NEW)
def test_rows_are_the_papers_size_at_full_and_need_no_files_in_small(experiment):
    for name, row in FOUND[experiment].ROWS.items():
        assert row.at("full") == row, name
        small = row.at("smoke")
        data = getattr(getattr(small, "training", small), "data", "")
        assert data in ("", "few digits", "made colours", "small grammar"), name
        assert row.claim.paper is None, "no number that could be checked belongs to these data"


def test_adam_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """The second epoch needs the moments of the first: the checkpoint has them."""
    module = FOUND["savae-table3"]
    row = module.ROWS["savae-10"].at("smoke")
    want, judge = row.run(1, tmp_path / "whole"), module.Learner.judge

    def interrupted(learner, value):
        if learner.epoch:
            raise KeyboardInterrupt
        judge(learner, value)

    with monkeypatch.context() as patch:
        patch.setattr(module.Learner, "judge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            row.run(1, tmp_path / "half")
    assert (tmp_path / "half").exists()
    assert row.run(1, tmp_path / "half") == want


def test_halved_images_are_means_of_two_by_two():
    halved = sys.modules["_sources"].halved
    x = torch.arange(32.0).view(2, 16)
    want = x.view(2, 2, 2, 2, 2).mean((2, 4)).flatten(1)
    assert torch.equal(halved(x, (4, 4)), want)
    assert want[0].tolist() == [2.5, 4.5, 10.5, 12.5]
