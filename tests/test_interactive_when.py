"""The interactive figure of the chapter when-and-why has the library's gaps."""

import json
import re

import pytest
import torch
from worlds import gen

from avi.models import GaussianChain
from avi.plates import windows

N, WIDEST = 40, 8
READING = re.compile(
    r"Input of (\d+) observations?: a gap of (\S+) nats for each of 40, "
    r"(\S+) % of the gap at w = 0\. r² = (\d\.\d{3})\."
)


def expected_gaps(phi: float, noise_var: float) -> list[float]:
    """E[excess] per observation of the best fixed linear f, from the library's dense algebra.

    A mean W x, W the sum of weights times shifts, is off by (W - A) x with x ~ N(0, C), so its
    expected excess is tr(Lambda (W - A) C (W - A)^T) / 2: least squares in the root of both.
    """
    field = GaussianChain(N, phi, noise_var)
    precision, eye = field.precision(), torch.eye(N, dtype=torch.float64)
    distance = (torch.arange(N)[:, None] - torch.arange(N)).abs().double()
    left = torch.linalg.cholesky(precision).T
    right = torch.linalg.cholesky(phi**distance + noise_var * eye)
    target = left @ field.posterior_mean(eye).T @ right
    gaps = []
    for w in range(WIDEST + 1):
        shifts = windows(w, w)(eye)  # [N, N, 2 w + 1]: unit vectors in, windows out
        design = torch.stack([left @ s.T @ right for s in shifts.unbind(-1)], -1)
        flat = design.flatten(0, 1)
        weights = torch.linalg.lstsq(flat, target.flatten()[:, None]).solution
        off = (flat @ weights)[:, 0] - target.flatten()
        diagonal = precision.diagonal()
        shared = diagonal.mean().log() - diagonal.log().mean()
        gaps.append((0.5 * (off.square().sum() / N + shared)).item())
    return gaps


@pytest.fixture(scope="module")
def page(interactive):
    return interactive("when")


def choose(page, w, phi, noise) -> str:
    for name, value in (("w", w), ("phi", phi), ("noise", noise)):
        page.locator(f"#when-{name}").fill(str(value))
    return page.locator("#when-out").inner_text()


def exact(page) -> list[float]:
    return json.loads(page.locator("#when-out").get_attribute("data-gaps"))


@pytest.mark.parametrize("setting", [(1, 0.9, 1), (0, 0.5, 1), (5, 0.95, 0.2), (8, 0.1, 4)])
def test_every_gap_is_the_library_s(page, setting):
    text = choose(page, *setting)
    w, phi, noise = setting
    want = expected_gaps(phi, noise)
    assert exact(page) == pytest.approx(want, rel=1e-6, abs=1e-12)
    found = READING.fullmatch(text)
    assert found, text
    shown = [float(part) for part in found.groups()]
    r = GaussianChain(N, phi, noise).decay
    numbers = [2 * w + 1, want[w], 100 * want[w] / want[0], r * r]
    assert shown[:3] == pytest.approx(numbers[:3], rel=0.006)
    assert shown[3] == pytest.approx(numbers[3], abs=6e-4)


def test_the_expected_gap_is_that_of_many_data_sets():
    """The best f of each data set is a little better than the one for all."""
    field = GaussianChain(N, 0.9, 1.0)
    x = field.sample(400, gen(0))
    found = field.excess(field.best_affine(x, windows(1, 1)(x)), x) / N
    error = found.std().item() / 20
    fitted = 3 / N / 2  # three weights and an intercept, each half a nat where noise were white
    want = expected_gaps(0.9, 1.0)[1]
    assert found.mean().item() < want + 5 * error
    assert found.mean().item() > want - 5 * error - 2 * fitted


def test_bars_inside_the_window_are_filled(page):
    choose(page, 3, 0.9, 1)
    assert page.locator("#when-weights rect.seen").count() == 7
    assert page.locator("#when-weights rect.unseen").count() == 10
    heights = [
        float(bar.get_attribute("height")) for bar in page.locator("#when-weights rect").all()
    ]
    field = GaussianChain(N, 0.9, 1.0)
    weights = torch.linalg.inv(field.precision())[N // 2, N // 2 - 8 : N // 2 + 9]
    want = (100 * weights / weights.max()).tolist()
    assert heights == pytest.approx(want, abs=0.02)


def test_the_marked_point_is_the_chosen_window(page):
    choose(page, 2, 0.5, 1)
    dots = page.locator("#when-gaps circle").all()
    assert [dot.get_attribute("class") for dot in dots].index("now") == 2 and len(dots) == 9


def test_arrow_keys_widen_the_window(page):
    choose(page, 2, 0.9, 1)
    page.locator("#when-w").press("ArrowRight")
    assert page.locator("#when-out").inner_text().startswith("Input of 7 observations")


def test_fits_a_telephone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
    assert page.locator("#when-out").get_attribute("aria-live") == "polite"
