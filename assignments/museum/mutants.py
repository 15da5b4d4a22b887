"""Known wrong answers to the assignment museum: tests that are too weak, too strict, or wrong."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "test_rate": [
        Mutant("lets everything pass", 0, """
def test_rate(fn):
    fn(torch.zeros(3, 2), torch.zeros(3, 2))
"""),
        Mutant("zero at the prior, and positive: true of all four as well", 0, """
def test_rate(fn):
    assert not fn(torch.zeros(3, 2), torch.zeros(3, 2)).any()
    assert (fn(randn(3, 2), randn(3, 2, seed=2)) > 0).all()
"""),
        Mutant("one example of one unit tells none of the sums apart", 0, """
def test_rate(fn):
    torch.testing.assert_close(fn(torch.ones(1, 1), torch.zeros(1, 1)), torch.tensor([0.5]))
"""),
        Mutant("doubles the units only", 0.5, """
def test_rate(fn):
    kl = fn(randn(5, 3), torch.zeros(5, 3))
    twice = fn(torch.cat([randn(5, 3)] * 2, -1), torch.zeros(5, 6))
    torch.testing.assert_close(twice, 2 * kl)
"""),
    ],
    "test_steps_kl": [
        Mutant("positive away from the prior, but no zero at it", 0.25, """
def test_steps_kl(fn):
    assert (fn(torch.zeros(3, 2, 4), randn(3, 2, 4)) > 0).all()
"""),
        Mutant("zero at the prior alone", 0.5, """
def test_steps_kl(fn):
    assert not fn(torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)).any()
"""),
    ],
    "test_log_normal": [
        Mutant("a difference, in which constants cancel", 0.5, """
def test_log_normal(fn):
    z, mean, log_var = randn(5, 2, 3), randn(2, 3, seed=2), randn(2, 3, seed=3)
    zero = torch.zeros_like(mean)
    right = Normal(mean, (0.5 * log_var).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(fn(z, mean, log_var) - fn(z, zero, zero), right.sum(-1))
"""),
        Mutant("asks for equal bits", 0, """
def test_log_normal(fn):
    z, mean, log_var = randn(5, 2, 3), randn(2, 3, seed=2), randn(2, 3, seed=3)
    assert (fn(z, mean, log_var) == Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(-1)).all()
"""),
    ],
    "test_gaussian_pixels": [
        Mutant("unit variance only, one pixel", 0.5, """
def test_gaussian_pixels(fn):
    x = torch.linspace(-30, 30, 6001)[:, None]
    mass = fn(x, torch.zeros(1, 1, 1), torch.tensor(0.0)).exp() * 0.01
    torch.testing.assert_close(mass.sum(), torch.tensor(1.0))
"""),
    ],
    "test_grey_images": [
        Mutant("compares with one distribution where several are right", 0, """
def test_grey_images(fn):
    from torch.distributions import Binomial
    x, logits = torch.arange(17)[:, None] / 16, torch.tensor([0.3])
    right = Binomial(16, logits=logits).log_prob(16 * x).sum(-1)
    torch.testing.assert_close(fn(x, logits), right)
"""),
        Mutant("probabilities below one", 0.25, """
def test_grey_images(fn):
    assert (fn(torch.ones(1, 1), torch.tensor([2.0])) < 0).all()
"""),
    ],
    "test_mixture": [
        Mutant("one unit only", 0.75, """
def test_mixture(fn):
    pi, mean = torch.tensor([0.8, 0.2]), torch.tensor([[-3.0], [3.0]])
    log_var = torch.tensor([[-1.0], [1.0]])
    grid = torch.linspace(-20, 20, 4001)[:, None]
    mass = fn(grid[:, None], pi.log(), mean, log_var)[:, 0].exp() * 0.01
    torch.testing.assert_close(mass.sum(), torch.tensor(1.0))
    torch.testing.assert_close(mass @ grid, pi @ mean)
    torch.testing.assert_close(mass @ grid**2, pi @ (mean**2 + log_var.exp()))
"""),
    ],
    "test_validation_bound": [
        Mutant("one draw against the expectation: too strict", 0, """
def test_validation_bound(fn):
    weight, x = randn(5, 2), randn(3, 5, seed=2)
    mean, log_var = randn(3, 2, seed=3), randn(3, 2, seed=4)
    model = models.LinearGaussian(weight, torch.zeros(5), torch.zeros(()), fixed=True)
    missed = Gaussian(mean, log_var).dense().kl(model.exact_posterior(x))
    value = fn(x, mean, log_var, randn(1, 3, 2), weight)
    torch.testing.assert_close(value, model.log_evidence(x) - missed)
"""),
        Mutant("asks only whether the noise matters", 0.25, """
def test_validation_bound(fn):
    weight, x, mean = randn(5, 2), randn(3, 5, seed=2), randn(3, 2, seed=3)
    a, b = (fn(x, mean, mean, randn(4, 3, 2, seed=seed), weight) for seed in (5, 6))
    assert not torch.equal(a, b)
"""),
    ],
    "test_elbo": [
        Mutant("a bound below log p(x), at one loose q", 0.4, """
def test_elbo(fn):
    x = randn(6)
    z = x + 0.1 * randn(1000, 6, seed=3)
    log_q = Normal(x, 0.1).log_prob(z)
    value = fn(Normal(z, 1.0).log_prob(x), Normal(0.0, 1.0).log_prob(z), log_q)
    assert (value < Normal(0.0, math.sqrt(2)).log_prob(x)).all()
"""),
    ],
    "test_iwae": [
        Mutant("one draw only: finds no slip over draws", 0.2, """
def test_iwae(fn):
    log_w = randn(1, 4)
    torch.testing.assert_close(fn(log_w), log_w[0])
"""),
        Mutant("no low weights", 0.8, """
def test_iwae(fn):
    log_w = randn(6, 4)
    torch.testing.assert_close(fn(log_w), log_w.exp().mean(0).log())
"""),
    ],
    "test_minibatch": [
        Mutant("a batch that divides the data", 0.75, """
def test_minibatch(fn):
    log_lik, kl = randn(4), torch.tensor(3.0)
    value = fn(log_lik, kl, 8)
    torch.testing.assert_close(value, 2 * log_lik.sum() - kl)
"""),
    ],
    "test_slope": [
        Mutant("finite and not zero", 0, """
def test_slope(fn):
    found = fn(randn(3, 4), randn(6, 3, 2), randn(3, 5), randn(5, 2))
    assert found.isfinite().all() and found.abs().max() > 0
"""),
        Mutant("a batch of one, the means only", 0.4, """
def test_slope(fn):
    weight, x, lam, eps = randn(5, 2), randn(1, 5, seed=2), randn(1, 4, seed=3), randn(6, 1, 2)
    mean, log_var = lam.chunk(2, -1)
    z = mean + (0.5 * log_var).exp() * eps
    right = ((x - z @ weight.T) @ weight - z).mean(0)
    torch.testing.assert_close(fn(lam, eps, x, weight)[:, :2], right)
"""),
    ],
    "test_score_gradient": [
        Mutant("fifty draws, wide tolerance", 0.5, """
def test_score_gradient(fn):
    z = 2 + randn(50, 20_000)
    estimate = fn(z**2, (z - 2)[..., None]).mean()
    assert abs(estimate - 4) < 0.2
"""),
        Mutant("any baseline other than none fails", 0, """
def test_score_gradient(fn):
    reward, score = randn(4, 3), randn(4, 3, 2, seed=2)
    torch.testing.assert_close(fn(reward, score), (reward[..., None] * score).mean(0))
"""),
    ],
    "test_encoder": [
        Mutant("asks for two different results", 0.6, """
def test_encoder(fn):
    x, a, b = randn(4, 3), randn(3, 2, seed=2), randn(3, 2, seed=3)
    mean, log_var = fn(x, a, b)
    assert not torch.equal(mean, log_var)
    torch.testing.assert_close(mean, x @ a)
"""),
    ],
    "test_selection": [
        Mutant("unbiased for equal candidates: choosing nothing passes", 0.6, """
def test_selection(fn):
    value = fn(randn(40, 5000), randn(40, 5000, seed=2))
    assert abs(value.mean()) < 0.1
"""),
        Mutant("insists that the first scores choose", 0, """
def test_selection(fn):
    first, second = randn(40, 50), randn(40, 50, seed=2)
    chosen = second.gather(0, first.argmax(0, keepdim=True))[0]
    torch.testing.assert_close(fn(first, second), chosen)
"""),
    ],
    "test_perplexity": [
        Mutant("an even choice: true of any average", 0.5, """
def test_perplexity(fn):
    lengths = torch.tensor([10.0, 100.0, 5.0])
    torch.testing.assert_close(fn(lengths * math.log(50), lengths), torch.tensor(50.0))
"""),
    ],
    "test_image_log_lik": [
        Mutant("a symmetric image", 0.6, """
def test_image_log_lik(fn):
    x = torch.eye(3).expand(2, 3, 3)
    torch.testing.assert_close(
        fn(x, 40 * (x - 0.5).flatten(1)), torch.zeros(2), atol=1e-6, rtol=0
    )
"""),
    ],
}  # fmt: skip
