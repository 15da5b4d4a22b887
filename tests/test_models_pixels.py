"""The image model that reads pixel by pixel: what it sees, its sums, samples and derivatives."""

import itertools

import pytest
import torch
from test_gradients import check_parameters
from torch.distributions import Bernoulli
from worlds import DIM, N_SE, encoder, gen, randn

from avi import models
from avi.conformance import Case, method_checks
from avi.families import DiagGaussian
from avi.gradients import Adjoint, Unrolled
from avi.inference import Constant, Refine, savae, theta_only
from avi.objectives import elbo
from avi.steps import Clipped, Momentum

FAMILY = DiagGaussian(DIM)
STEP = Clipped(Momentum(0.2, 0.5), 5.0)


def pixels(event=(3, 4), dim=DIM, kernels=(5, 3, 3), scale=2.0):
    """Weights larger than at first, so that what can matter does."""
    model = models.PixelVAE(dim, event, 2, 3, kernels, gen()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def images(n=3, size=12, seed=1):
    return (randn(n, size, seed=seed) > 0).double()


@pytest.mark.parametrize("kernels", [(3,), (5, 3, 3), (9, 9, 3)])
def test_a_pixel_sees_the_earlier_ones_and_no_other(kernels):
    """The derivative of logit i by pixel j is zero exactly where j is not before i."""
    model, z = pixels(kernels=kernels), randn(1, 1, DIM)
    x = images(1).requires_grad_()
    logits = model.logits(x, z)[0, 0]
    slopes = torch.stack([torch.autograd.grad(out, x, retain_graph=True)[0][0] for out in logits])
    assert (slopes.triu() == 0).all()
    if kernels[0] == 9:  # wide enough for all of them
        assert (slopes.tril(-1)[torch.ones(12, 12).tril(-1).bool()] != 0).all()


def test_every_pixel_but_the_first_sees_the_latent():
    model, x = pixels(), images(1)
    z = randn(1, 1, DIM).requires_grad_()
    logits = model.logits(x, z)[0, 0]
    sizes = [torch.autograd.grad(out, z, retain_graph=True)[0].abs().max() for out in logits]
    assert sizes[0] == 0
    assert all(size > 1e-6 for size in sizes[1:])


def every_image(n_pixels=4):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n_pixels))).double()


@pytest.mark.parametrize("dim", [DIM, 0])
def test_the_probabilities_of_all_images_add_up_to_one(dim):
    model, x = pixels((2, 2), dim), every_image()
    for z in randn(5, dim):
        total = model.log_lik(x, z.expand(1, len(x), dim)).exp().sum()
        assert total.item() == pytest.approx(1, abs=1e-12)


def test_log_lik_is_the_product_of_the_pixels_one_at_a_time():
    """Pixels not read yet are filled with nonsense, which changes nothing."""
    model, x, z = pixels(), images(), randn(2, 3, DIM)
    want = torch.zeros(2, 3).double()
    for i in range(x.shape[1]):
        part = torch.cat([x[:, :i], 0.3 + randn(3, 12 - i, seed=i)], 1)
        want += Bernoulli(logits=model.logits(part, z)[..., i]).log_prob(x[:, i])
    assert torch.allclose(model.log_lik(x, z), want)


def test_samples_have_the_models_probabilities():
    """Frequencies of all sixteen images, against their probabilities averaged over the prior."""
    model, n = pixels((2, 2), scale=1.0), 20_000
    found, z = model.sample(n, gen(1)), randn(n, 1, DIM, seed=2)
    for x in every_image():
        p = model.log_lik(x[None], z).exp()[:, 0].detach()
        share = (found == x).all(1).double()
        error = ((p.var() + p.mean() * (1 - p.mean())) / n).sqrt()
        assert abs(share.mean() - p.mean()) <= N_SE * error
    assert torch.equal(model.sample(4, gen(3)), model.sample(4, gen(3)))


def test_without_a_latent_it_is_a_model_of_images_alone():
    model = pixels(dim=0)
    method = Refine(Constant(torch.zeros(0)), DiagGaussian(0), credit=theta_only).double()
    x, none = images(), torch.zeros(1, 3, 0).double()
    goals = method.credit(method(model, x, elbo(), none[None]))
    assert torch.equal(goals.theta, model.log_lik(x, none)[0])
    grads = torch.autograd.grad(goals.theta.sum(), [*model.parameters()])
    assert all(g.abs().max() > 0 for g in grads)


@pytest.mark.parametrize("kernels", [(), (4,), (3, 1)])
def test_kernels_that_cannot_work_are_refused(kernels):
    with pytest.raises(ValueError, match="kernels must be odd"):
        models.PixelVAE(2, (3, 3), kernels=kernels)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="images must have 12 pixels, not 9"):
        pixels().log_lik(images(size=9), randn(1, 3, DIM))


def learners(mode, net=encoder):
    model, x = pixels((2, 2), kernels=(3, 3), scale=1.0), images(3, 4, seed=5)
    return model, savae(net(x, FAMILY), FAMILY, STEP, 3, mode), x


def reading(x, family):
    return models.PixelEncoder((2, 2), family.n_params, 3, 1, gen(7)).double()


@pytest.mark.parametrize("mode", [Unrolled(), Adjoint()], ids=["unrolled", "adjoint"])
def test_the_gradient_through_savae_is_that_of_central_differences(mode):
    """With a smooth encoder: the corners of the image encoder's ReLU would spoil differences."""
    model, method, x = learners(mode)
    noise = randn(4, 2, 3, DIM)
    for module in (model, method):
        check_parameters(module, lambda: method(model, x, elbo(), noise).value(-1).sum())


def test_savae_conforms():
    model, method, x = learners(Adjoint(), reading)
    case = Case(method, model, x)
    for check in method_checks(case):
        check(case)


def test_the_encoder_answers_each_image_by_itself():
    net = models.PixelEncoder((28, 28), 6, 4, generator=gen())
    x = (torch.rand(3, 784, generator=gen(1)) > 0.5).float()
    together = net(x)
    assert together.shape == (3, 6)
    assert torch.allclose(together, torch.cat([net(one[None]) for one in x]), atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_weights_come_from_the_generator_and_have_the_stated_spread():
    one, two = (models.PixelVAE(32, (28, 28), kernels=(3,), generator=gen(1)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    weight = one.spread.weight.flatten()
    assert abs(weight.var() - 2 / 32) <= N_SE * (2 / weight.numel()) ** 0.5 * 2 / 32
    wide = one.layers[0].across
    assert 0.9 / wide.in_channels**0.5 < wide.weight.abs().max() <= 1 / wide.in_channels**0.5
