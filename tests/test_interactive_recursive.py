"""The interactive figure of the chapter recursive adds components with the library's numbers."""

import json
import re
from functools import cache

import pytest
import torch
from conftest import lesson_values
from scipy.integrate import dblquad
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from avi.families import DiagGaussian, MixturePosterior
from avi.models import DeepLatentGaussian

NATS = 1e-3  # the page's own arithmetic against the library's, in nats
KINK = 1.5e-2  # what the page's grid does to the kink of |z_1|, in nats
FAMILY = DiagGaussian(2)


@cache
def values():
    return lesson_values("recursive", "recursive-demo")


@cache
def plane(fine=1):
    """The page's grid, or one so many times as fine, and the area of a cell."""
    reach, side = values()["reach"], (values()["side"] - 1) * fine + 1
    axis = torch.linspace(-reach, reach, side, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis)[:, None], (axis[1] - axis[0]) ** 2


@cache
def log_joint(x, fine=1):
    noise = torch.distributions.Normal(torch.tensor(0.0).double(), values()["noise"])
    prior = torch.distributions.Normal(torch.tensor(0.0).double(), 1.0)
    z = plane(fine)[0][:, 0]
    seen = torch.stack([z[:, 0].abs(), z[:, 1]], 1)
    return (noise.log_prob(torch.tensor(x).double() - seen) + prior.log_prob(z)).sum(1)


def component(lam):
    plain = DeepLatentGaussian(2, torch.nn.Identity(), None).double()
    return FAMILY(torch.tensor([lam], dtype=torch.float64), plain)


def density(parts, weights, fine=1):
    q = MixturePosterior(torch.tensor([weights], dtype=torch.float64).log(), parts)
    return q.log_prob(plane(fine)[0])[:, 0]


def mean(log_q, f, fine=1):
    return (log_q.exp() * f).sum().item() * plane(fine)[1].item()


@cache
def library(index, m):
    """What adding component m does: own bound, KL, slope, weight, bound, gap."""
    case = values()["cases"][index]
    log_p = log_joint(tuple(case["x"]))
    evidence = (log_p.logsumexp(0) + plane()[1].log()).item()
    parts, weights, told = [], [], []
    for lam in case["lam"][:m]:
        before = density(parts, weights) if parts else None
        parts.append(component(lam))
        new = density(parts[-1:], [1.0])
        own, kl, slope, eps = mean(new, log_p - new), 0.0, 0.0, 1.0
        if before is not None:
            kl = mean(new, new - before)
            slope = own + kl - mean(before, log_p - before)

            def loss(eps, before=before, new=new):
                both = torch.stack([before + (1 - torch.tensor(eps)).log(),
                                    new + torch.tensor(eps).log()]).logsumexp(0)  # fmt: skip
                return -mean(both, log_p - both)

            eps = minimize_scalar(loss, bounds=(1e-9, 1 - 1e-9), method="bounded").x
            eps = eps if slope > 1e-4 else 0.0
        weights = [w * (1 - eps) for w in weights] + [eps]
        whole = density(parts, weights)
        bound = mean(whole, log_p - whole)
        told = [own, kl, slope, eps, bound, evidence - bound]
    return told


@pytest.fixture(scope="module")
def page(interactive):
    return interactive("recursive", "recursive-demo")


def choose(page, point, level, m) -> str:
    page.locator("#recursive-x").select_option(str(point))
    page.locator("#recursive-c").fill(str(level))
    page.locator("#recursive-m").fill(str(m))
    return page.locator("#recursive-out").inner_text()


def exact(page):
    return json.loads(page.locator("#recursive-out").get_attribute("data-nats"))


SETTINGS = [(0, 1, 1), (0, 1, 2), (0, 1, 4), (0, 3, 3), (1, 2, 2)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_numbers_are_the_library_s(page, setting):
    point, level, m = setting
    choose(page, point, level, m)
    found, want = exact(page), library(7 * point + level, m)
    assert found == pytest.approx(want, abs=NATS, rel=2e-3)


@pytest.mark.parametrize("index", [1, 9])
def test_the_page_s_grid_is_close_to_a_finer_one(index):
    case = values()["cases"][index]
    x, q = tuple(case["x"]), [component(case["lam"][0])]
    bounds = []
    for fine in (1, 5):
        log_q, log_p = density(q, [1.0], fine), log_joint(x, fine)
        bounds.append(mean(log_q, log_p - log_q, fine))
    assert bounds[0] == pytest.approx(bounds[1], abs=KINK)


def test_the_evidence_is_an_integral_over_the_plane():
    """The grid of this file against adaptive quadrature."""
    x = tuple(values()["cases"][0]["x"])
    s = values()["noise"]

    def joint(z2, z1):
        likelihood = norm.pdf(x[0], abs(z1), s) * norm.pdf(x[1], z2, s)
        return likelihood * norm.pdf(z1) * norm.pdf(z2)

    half = dblquad(joint, 0, 2.5, -1.5, 2.5)[0]
    grid = log_joint(x).logsumexp(0).exp().item() * plane()[1].item()
    assert 2 * half == pytest.approx(grid, rel=1e-3)


def test_what_is_shown_is_what_was_computed(page):
    text = choose(page, 0, 1, 2)
    numbers = [float(n.replace("\u2212", "-")) for n in re.findall(r"\u2212?\d+\.\d\d", text)]
    own, kl, slope, weight, _, gap = exact(page)
    before = library(1, 1)[-1]
    want = [own, kl, slope, weight, before, gap, 1 - weight, weight]
    assert numbers == pytest.approx(want, abs=8e-3)


def test_the_gap_never_grows(page):
    for point in (0, 1):
        for level in range(7):
            gaps = []
            for m in range(1, 5):
                choose(page, point, level, m)
                gaps.append(exact(page)[-1])
            assert all(b <= a + 1e-6 for a, b in zip(gaps, gaps[1:])), (point, level, gaps)


def test_one_ellipse_for_each_component(page):
    for m in (1, 3):
        choose(page, 1, 2, m)
        assert page.locator("#recursive-components ellipse").count() == m
    lam = values()["cases"][7 + 2]["lam"][2]
    new = page.locator("#recursive-components ellipse.new")
    assert float(new.get_attribute("cx")) == pytest.approx(100 + lam[0] / 1.6 * 100, abs=0.06)
    assert float(new.get_attribute("cy")) == pytest.approx(100 - lam[1] / 1.6 * 100, abs=0.06)


def test_arrow_keys_add_a_component(page):
    choose(page, 0, 2, 2)
    page.locator("#recursive-m").press("ArrowRight")
    assert page.locator("#recursive-out").inner_text().startswith("Component 3")


def test_fits_a_telephone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
    assert page.locator("#recursive-out").get_attribute("aria-live") == "polite"
