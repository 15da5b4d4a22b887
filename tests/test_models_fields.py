"""Models whose amortization gap is closed form, against dense Gaussian algebra and other routes."""

import math

import pytest
import torch
from torch.distributions import Normal
from worlds import gen, randn

from avi.families import MeanField
from avi.models import GaussianChain, GaussianField, NormalNormal, Saw
from avi.plates import windows

N = 12
FIELDS = {
    "normal_normal": NormalNormal(N, 1.155, 2.43),
    "saw": Saw(N, 0.75),
    "chain": GaussianChain(N, 0.9, 1.0),
    "random_walk": GaussianChain(N, 1.0, 1.0),
}
fields = pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)


def data(field: GaussianField, n: int = 3, seed: int = 0, theta: float = 0.7) -> torch.Tensor:
    more = (theta,) if field.n_global else ()
    return field.sample(n, *more, generator=gen(seed))


def f64(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def joint(field: GaussianField, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return field.log_lik(x, v) + field.log_prior(v)


def written_out(field: GaussianField, x: torch.Tensor, v: torch.Tensor) -> float:
    """log p(x, v) of one data set, factor by factor, as the model is stated."""
    if isinstance(field, NormalNormal):
        theta, z = v[0], v[1:]
        parts = [Normal(0, 1).log_prob(z), Normal(theta + 1.155 * z, 2.43).log_prob(x)]
    elif isinstance(field, Saw):
        theta, z = v[0], v[1:]
        before = torch.cat([torch.zeros(1), x[:-1]])
        parts = [Normal(before, 1).log_prob(z), Normal(0.75 * (z + theta), 1).log_prob(x)]
    else:
        width = 1.0 if field.phi == 1 else math.sqrt(1 - field.phi**2)
        parts = [Normal(0, 1).log_prob(v[:1]), Normal(field.phi * v[:-1], width).log_prob(v[1:])]
        parts.append(Normal(v, 1).log_prob(x))
    return sum(part.sum().item() for part in parts)


@fields
def test_the_joint_density_is_the_models(field):
    x, v = data(field), randn(2, 3, field.dim, seed=1)
    got = joint(field, x, v)
    for s in range(2):
        for b in range(3):
            want = written_out(field, x[b], v[s, b])
            assert got[s, b].item() == pytest.approx(want, rel=1e-12)


@fields
def test_posterior_and_evidence_are_the_joint_density(field):
    """log p(x, v) = log p(x) + log p(v | x) at any v: nothing else has this property."""
    x, v = data(field), randn(4, 3, field.dim, seed=2)
    again = field.log_evidence(x) + field.exact_posterior(x).log_prob(v)
    assert joint(field, x, v).allclose(again, rtol=1e-10, atol=1e-10)


@fields
def test_the_best_factorised_gaussian_is_best(field):
    x, best = data(field), field.best_factorised(data(field))
    assert field.excess(best, x).abs().max() < 1e-10
    q, p = MeanField(field.dim)(best, field), field.exact_posterior(x)
    assert q.dense().kl(p).allclose(field.approximation_gap(), rtol=1e-10, atol=1e-10)


@fields
def test_the_excess_is_a_difference_of_kls(field):
    x = data(field)
    lam = 0.5 * randn(3, 2 * field.dim, seed=3)
    q, p = MeanField(field.dim)(lam, field), field.exact_posterior(x)
    want = q.dense().kl(p) - field.approximation_gap()
    assert field.excess(lam, x).allclose(want, rtol=1e-10, atol=1e-10)


@fields
@pytest.mark.parametrize("width", [0, 1, 2])
def test_no_affine_f_is_better_than_the_best(field, width):
    """The gradient of the excess along every direction of the class is zero, and it is convex."""
    x = data(field)
    features = windows(width, 0)(x)
    best = field.best_affine(x, features)
    g = field.n_global
    moves = {"intercept": torch.ones(3, field.n)}
    moves |= {f"feature {i}": features[..., i] for i in range(features.shape[-1])}
    for name, move in moves.items():
        lam = torch.zeros_like(best)
        lam[:, g : field.dim] = move
        assert slope_along(field, best, lam, x) < 1e-9, name
    shared = torch.zeros_like(best)
    shared[:, field.dim + g :] = 1
    assert slope_along(field, best, shared, x) < 1e-9
    for i in range(g):
        alone = torch.zeros_like(best)
        alone[:, [i, field.dim + i]] = torch.tensor([1.0, 0.0], dtype=torch.float64)
        assert slope_along(field, best, alone, x) < 1e-9
    assert best[:, field.dim + g :].std(-1).max() < 1e-12


def slope_along(field, lam, move, x) -> float:
    h = 1e-4
    ahead, behind = field.excess(lam + h * move, x), field.excess(lam - h * move, x)
    return ((ahead - behind) / (2 * h)).abs().max().item() / 1e2


def test_a_rank_deficient_class_has_a_best_member_too():
    field = FIELDS["normal_normal"]
    x = data(field)
    twice = torch.cat([x[..., None], x[..., None]], -1)
    once = field.excess(field.best_affine(x, x[..., None]), x)
    assert field.excess(field.best_affine(x, twice), x).allclose(once, atol=1e-10)


# ---- the closed forms, written out -------------------------------------------------------------


def test_normal_normal():
    tau, sigma = 1.155, 2.43
    field, v = FIELDS["normal_normal"], tau**2 + sigma**2
    x = data(field)
    centred = x - x.mean(-1, keepdim=True)
    mean, log_var = field.best_factorised(x).chunk(2, -1)
    assert mean[:, 0].allclose(x.mean(-1), rtol=1e-10)
    assert mean[:, 1:].allclose(tau / v * centred, rtol=1e-10, atol=1e-12)
    assert log_var[:, 0].exp().allclose(f64(sigma**2 / N), rtol=1e-10)
    assert log_var[:, 1:].exp().allclose(f64(sigma**2 / v), rtol=1e-10)
    gap = field.approximation_gap().item()
    assert gap == pytest.approx(0.5 * math.log(1 + tau**2 / sigma**2), abs=1e-10)
    assert gap == pytest.approx(0.101845, abs=5e-7)
    # a constant f leaves S tau^2 / (2 sigma^2 v), an affine one nothing
    constant = field.excess(field.best_affine(x, windows()(x)[..., :0]), x)
    want = centred.square().sum(-1) * tau**2 / (2 * sigma**2 * v)
    assert constant.allclose(want, rtol=1e-10)
    assert field.excess(field.best_affine(x, windows()(x)), x).abs().max() < 1e-10


def test_saw():
    a, field = 0.75, FIELDS["saw"]
    x = data(field)
    before = torch.cat([torch.zeros(3, 1), x[:, :-1]], 1)
    y = x - a * before
    mean, log_var = field.best_factorised(x).chunk(2, -1)
    centre = y.mean(-1, keepdim=True)
    assert mean[:, :1].allclose(centre / a, rtol=1e-10)
    assert mean[:, 1:].allclose(before + a / (1 + a * a) * (y - centre), rtol=1e-10, atol=1e-12)
    assert log_var[:, 0].exp().allclose(f64(1 / (N * a * a)), rtol=1e-10)
    assert log_var[:, 1:].exp().allclose(f64(1 / (1 + a * a)), rtol=1e-10)
    assert field.approximation_gap().item() == pytest.approx(0.223144, abs=5e-7)
    assert field.excess(field.best_affine(x, windows(1, 0)(x)), x).abs().max() < 1e-10
    assert (field.excess(field.best_affine(x, windows(0, 0)(x)), x) > 0.1).all()


def test_random_walk():
    field = GaussianChain(100, 1.0, 1.0)
    want = torch.diag(torch.full((100,), 3.0)).double()
    want[-1, -1] = 2
    want -= torch.diag(torch.ones(99), 1) + torch.diag(torch.ones(99), -1)
    assert field.precision().allclose(want, atol=1e-12)
    ones = torch.ones(1, 100, dtype=torch.float64)
    shown = torch.tensor([0.6180, 0.8541, 0.9443, 0.9787, 0.9919]).double()
    assert field.posterior_mean(ones)[0, :5].allclose(shown, atol=5e-5)
    assert field.decay == pytest.approx((3 - math.sqrt(5)) / 2, rel=1e-12)
    middle = torch.linalg.inv(want)[50, 40:61]
    r = field.decay ** (torch.arange(-10, 11).abs().double())
    assert middle.allclose(r / math.sqrt(5), rtol=1e-6)


@pytest.mark.parametrize(
    "phi, s2, decay, gap",
    [(0.9, 1, 0.6268, 0.1657), (0.5, 1, 0.268, 0.0346), (0.95, 0.25, 0.531, 0.1244)],
)
def test_stationary_chain(phi, s2, decay, gap):
    """Decay rate and approximation gap for each observation, found by another program."""
    field = GaussianChain(400, phi, s2)
    assert field.decay == pytest.approx(decay, abs=5e-4)
    assert field.approximation_gap().item() / 400 == pytest.approx(gap, rel=5e-3)


# ---- simulated gaps ----------------------------------------------------------------------------


def gap_of(field, x, *window) -> torch.Tensor:
    features = windows(*window)(x) if window else x[..., None][..., :0]
    return field.excess(field.best_affine(x, features), x)


def agrees(gaps: torch.Tensor, mean: float, sd: float, n: int) -> None:
    """Two means of independent data sets, within four standard errors of their difference."""
    error = math.sqrt(gaps.var().item() / len(gaps) + sd**2 / n)
    assert abs(gaps.mean().item() - mean) < 4 * error


@pytest.mark.parametrize(
    ("window", "mean", "sd"),
    [((), 3256, 350), ((0, 0), 511.6, 16), ((1, -1), 280, 9)],
    ids=["constant", "x_n", "x_n-1"],
)
def test_gaps_of_the_saw(window, mean, sd):
    """Against 20 data sets simulated and solved by another program; N = 1000."""
    field = Saw(1000)
    x = field.sample(5, 3.4159, gen(1))
    agrees(gap_of(field, x, *window), mean, sd, 20)


@pytest.mark.parametrize("width", [0, 1, 2, 3])
def test_gaps_of_the_chain(width):
    """Again another program's 20 data sets of N = 1000, whose spread is taken to be the same."""
    x = GaussianChain(1000, 0.9, 1.0).sample(5, gen(2))
    got = gap_of(GaussianChain(1000, 0.9, 1.0), x, width, width) / 1000
    agrees(got, [0.338, 0.130, 0.0444, 0.0159][width], got.std().item(), 20)


def test_gaps_of_the_chain_fall_like_its_memory():
    """By r^2 for every further observation on both sides, until the ends of the chain show."""
    field = GaussianChain(1000, 0.5, 1.0)
    x = field.sample(5, gen(3))
    got = torch.stack([gap_of(field, x, w, w) for w in range(6)]).mean(1)
    assert (got[1:3] / got[:2]).allclose(f64(field.decay**2), rtol=0.1)
    assert got[5] / got[4] > 0.7  # a floor: no window closes the gap


def moments(field: GaussianField, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of x given theta, by hand."""
    n = torch.arange(field.n, dtype=torch.float64)
    if isinstance(field, NormalNormal):
        return theta + 0 * n, (field.tau**2 + field.sigma**2) * torch.eye(field.n).double()
    if isinstance(field, Saw):  # x = a shift(x) + a theta + noise of variance a^2 + 1
        shift = torch.diag(torch.ones(field.n - 1, dtype=torch.float64), -1)
        back = torch.linalg.inv(torch.eye(field.n) - field.a * shift)
        return back @ (field.a * theta + 0 * n), (1 + field.a**2) * back @ back.T
    first = torch.minimum(n[:, None], n) + 1  # a random walk's covariance
    far = (n[:, None] - n).abs()
    states = first if field.phi == 1 else field.phi**far
    return 0 * n, states + field.noise**2 * torch.eye(field.n)


@fields
def test_samples_have_the_models_moments(field):
    """Each squared Mahalanobis distance has mean N and variance 2 N; the mean is N(0, C / n)."""
    count = 4000
    mean, covariance = moments(field, 0.7)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), (data(field, count, seed=3) - mean).T, upper=False
    )
    assert (white.mean(1) * math.sqrt(count)).abs().max() < 5
    square = white.square().sum(0)
    assert abs(square.mean().item() - field.n) < 5 * math.sqrt(2 * field.n / count)
    products = (white @ white.T / count)[*torch.triu_indices(field.n, field.n, 1)]
    assert products.abs().max() < 5 / math.sqrt(count)


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="at least one observation"):
        Saw(0)


class GaussianProcess(GaussianField):
    """z ~ N(0, K), x_n ~ N(z_n, s2): a field by two residuals, and a model no f(x_n) serves."""

    def __init__(self, covariance: torch.Tensor, noise_var: float):
        super().__init__(len(covariance))
        self.root = torch.linalg.cholesky(covariance)
        self.noise = math.sqrt(noise_var)

    def prior_residuals(self, v):
        return torch.linalg.solve_triangular(self.root, v.mT, upper=False).mT

    def data_residuals(self, x, v):
        return (x - v) / self.noise


def test_a_gaussian_process_depends_on_every_observation():
    eye = torch.eye(N, dtype=torch.float64)
    place = torch.linspace(0, 3, N, dtype=torch.float64)
    covariance = (-0.5 * (place[:, None] - place).square()).exp() + 0.01 * eye
    field, x = GaussianProcess(covariance, 0.3), randn(3, N, seed=8)
    weights = covariance @ torch.linalg.inv(covariance + 0.3 * eye)
    precision = torch.linalg.inv(covariance) + eye / 0.3
    mean, log_var = field.best_factorised(x).chunk(2, -1)
    assert mean.allclose(x @ weights.T, rtol=1e-10, atol=1e-10)
    assert log_var.exp().allclose((1 / precision.diagonal()).expand(3, N), rtol=1e-10)
    assert (weights.abs() > 1e-4).all(1).all()
    assert (field.excess(field.best_affine(x, windows()(x)), x) > 0.05).all()
