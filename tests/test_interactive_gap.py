"""The interactive figure of the chapter gap climbs as the library does, with its numbers."""

import json
import re
from functools import cache

import numpy as np
import pytest
import torch
from conftest import lesson_values

from avi.core import Problem
from avi.families import DiagGaussian
from avi.inference import svi
from avi.models import bernoulli_mlp
from avi.steps import SGD

NATS = 1e-3  # the page's own arithmetic against the library's, in nats
SHOWN = 6e-3  # two decimals are shown
NUMBER = r"(\u2212?\d+\.\d\d)"
READING = re.compile(
    rf"log p\(x\) {NUMBER}, best Gaussian {NUMBER}, after (\d+) steps {NUMBER} nats\. "
    rf"Approximation gap {NUMBER}; remains {NUMBER}; closed {NUMBER}\."
)
FAMILY = DiagGaussian(2)


@cache
def values():
    return lesson_values("gap", "gap-demo")


@cache
def model():
    """The decoder that the lesson handed over, as a model of the library, in float64."""
    layers = values()["layers"]
    sizes = [2, *[len(layer["bias"]) for layer in layers]]
    net = bernoulli_mlp(sizes).double().requires_grad_(False)
    for own, layer in zip(net.decoder[::2], layers, strict=True):
        own.weight.copy_(torch.tensor(layer["weight"], dtype=torch.float64))
        own.bias.copy_(torch.tensor(layer["bias"], dtype=torch.float64))
    return net


def image(index):
    return torch.tensor([values()["images"][index]], dtype=torch.float64)


def gauss_elbo(n):
    """The bound by a product Gauss-Hermite rule of n x n points; the noise is not used."""
    points, weights = np.polynomial.hermite_e.hermegauss(n)
    nodes = torch.tensor(np.stack(np.meshgrid(points, points), -1).reshape(-1, 2))
    mass = torch.tensor(np.outer(weights, weights).reshape(-1, 1) / weights.sum() ** 2)

    def objective(model, x, q, eps):
        z = q.mean + (0.5 * q.log_var).exp() * nodes[:, None]
        return (mass * model.log_lik(x, z)).sum(0) - q.kl(model.prior)

    return objective


def bound(index, lam, n=16):
    lam = torch.tensor([lam], dtype=torch.float64)
    return gauss_elbo(n)(model(), image(index), FAMILY(lam, model()), None).item()


def climbed(index, start, n_steps, lr):
    """lam_K of the library's plain ascent."""
    begin = torch.tensor(values()["encoder"][index] if start == "encoder" else [0.0] * 4).double()
    method = svi(FAMILY, SGD(lr), n_steps, begin)
    noise = torch.zeros(n_steps + 1, 1, 1, 2).double()
    return method(model(), image(index), gauss_elbo(16), noise)


def log_evidence(index):
    """log p(x) as an integral over a finer and wider grid than the page's."""
    side = torch.linspace(-6, 6, 401, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)[:, None]
    log_joint = model().log_lik(image(index), z) + model().log_prior(z)
    return (log_joint.logsumexp(0) + 2 * (side[1] - side[0]).log()).item()


@pytest.fixture(scope="module")
def page(interactive):
    return interactive("gap", "gap-demo")


def choose(page, index, start, n_steps, lr) -> str:
    page.locator("#gap-digits button").nth(index).click()
    page.locator("#gap-start").select_option(start)
    page.locator("#gap-lr").fill(str(lr))
    page.locator("#gap-k").fill(str(n_steps))
    return page.locator("#gap-out").inner_text()


def numbers(text: str) -> list[float]:
    match = READING.fullmatch(text)
    assert match, text
    return [float(part.replace("\u2212", "-")) for part in match.groups()]


SETTINGS = [
    (0, "encoder", 0, 0.02),
    (1, "prior", 10, 0.02),
    (2, "prior", 50, 0.05),
    (4, "encoder", 7, 0.1),
    (5, "encoder", 20, 0.2),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_four_ends_are_the_library_s(page, setting):
    index, _, n_steps, _ = setting
    text = choose(page, *setting)
    path = climbed(*setting)
    last, first = path.value(-1).item(), path.value(0).item()
    want = [log_evidence(index), bound(index, values()["best"][index]), last, first]
    exact = json.loads(page.locator("#gap-out").get_attribute("data-nats"))
    assert exact == pytest.approx(want, abs=NATS)
    log_p, best = want[:2]
    shown = [log_p, best, n_steps, last, log_p - best, best - last, last - first]
    assert numbers(text) == pytest.approx(shown, abs=SHOWN)


def test_the_rule_of_the_page_is_close_to_a_finer_one():
    for index in range(6):
        for lam in (values()["best"][index], values()["encoder"][index], [0.0] * 4):
            assert bound(index, lam) == pytest.approx(bound(index, lam, 50), abs=0.05)


def test_the_best_gaussian_is_not_surpassed():
    for index in range(6):
        x = image(index)
        problem, lam = Problem(model(), x, FAMILY, gauss_elbo(16)), torch.zeros(1, 4).double()
        encoder = torch.tensor([values()["encoder"][index]]).double()
        for start in (lam, encoder):
            lam = start.clone().requires_grad_()
            optimiser = torch.optim.LBFGS([lam], max_iter=200, line_search_fn="strong_wolfe")

            def loss(lam=lam, problem=problem, optimiser=optimiser):
                optimiser.zero_grad()
                value = -problem(lam, torch.zeros(1, 1, 2)).sum()
                value.backward()
                return value

            optimiser.step(loss)
            assert -loss().item() <= bound(index, values()["best"][index]) + NATS


def test_the_drawn_path_has_one_point_for_every_iterate(page):
    setting = (3, "prior", 12, 0.05)
    choose(page, *setting)
    d = page.locator("#gap-path path.path").get_attribute("d")
    points = [tuple(map(float, p.split(","))) for p in d[1:].split("L")]
    z = torch.cat(climbed(*setting).lam)[:, :2]
    want = torch.stack([40 + (z[:, 0] + 4) / 8 * 350, 259 - (z[:, 1] + 4) / 8 * 253], -1)
    np.testing.assert_allclose(points, want.numpy(), atol=0.06)


def test_the_segments_of_the_bar_are_the_gaps(page):
    text = choose(page, 3, "prior", 10, 0.03)
    log_p, _, _, _, *gaps = numbers(text)
    bars = page.locator("#gap-segments rect[data-part]").all()
    widths = [float(bar.get_attribute("width")) for bar in bars]
    shares = [350 * gap / sum(gaps) for gap in gaps]
    assert widths == pytest.approx(shares, abs=350 * 0.02 / sum(gaps))


def test_the_bands_are_those_of_the_joint_density(page):
    """One pixel in the middle of each of a few cells of the landscape, by its drop."""
    choose(page, 1, "encoder", 0, 0.02)
    inks = [(247, 251, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225),
            (107, 174, 214), (66, 146, 198), (33, 113, 181)]  # fmt: skip
    side = torch.linspace(-4, 4, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)[:, None]
    top = (model().log_lik(image(1), grid) + model().log_prior(grid)).max().item()
    matches = 0
    for i, j in [(30, 40), (120, 90), (175, 126), (220, 60), (260, 200), (330, 20)]:
        z = torch.tensor([[[-4 + 8 * i / 349, 4 - 8 * j / 252]]], dtype=torch.float64)
        drop = top - (model().log_lik(image(1), z) + model().log_prior(z)).item()
        pixel = page.evaluate(
            "([i, j]) => [...document.getElementById('gap-land').getContext('2d')"
            ".getImageData(i, j, 1, 1).data].slice(0, 3)",
            [i, j],
        )
        matches += tuple(pixel) == inks[sum(drop > d for d in (1, 2, 5, 10, 20, 50))]
    assert matches == 6


def test_arrow_keys_take_one_step_more(page):
    choose(page, 2, "prior", 3, 0.02)
    page.locator("#gap-k").press("ArrowRight")
    assert numbers(page.locator("#gap-out").inner_text())[2] == 4


def test_the_chosen_image_is_marked(page):
    choose(page, 4, "prior", 3, 0.02)
    pressed = page.locator("#gap-digits button").evaluate_all(
        "buttons => buttons.map((b) => b.getAttribute('aria-pressed'))"
    )
    assert pressed == ["true" if index == 4 else "false" for index in range(6)]


def test_fits_a_telephone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
    assert page.locator("#gap-out").get_attribute("aria-live") == "polite"
