"""Feedback: right solutions pass, each slip is named, hints advance, and no number leaks.

The right solutions are torch.distributions and torch.optim, not the library checking itself.
"""

import math
import re

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from avi import check
from avi.check import bounds, gaussian, steps

EXERCISES = {
    "gaussian_kl": gaussian.GAUSSIAN_KL,
    "reparameterise": gaussian.REPARAMETERISE,
    "score_gradient": gaussian.SCORE_GRADIENT,
    "elbo": bounds.ELBO,
    "iwae": bounds.IWAE,
    "sgd_step": steps.SGD_STEP,
    "momentum_step": steps.MOMENTUM_STEP,
    "adam_step": steps.ADAM_STEP,
}


@pytest.fixture(autouse=True)
def fresh_hints():
    for exercise in EXERCISES.values():
        exercise.failures = 0


# ---- right solutions ---------------------------------------------------------------------------


def right_kl(mean, log_var):
    q = Normal(mean, (log_var / 2).exp())
    return kl_divergence(Independent(q, 1), Independent(Normal(0 * mean, 1 + 0 * mean), 1))


def right_score(mean, log_var, z, values):
    mean = mean.requires_grad_()
    log_q = Normal(mean, (log_var / 2).exp()).log_prob(z).sum(-1)
    return torch.autograd.grad((values * log_q).mean(0).sum(), mean)[0]


def right_iwae(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).logsumexp(0) - math.log(len(log_q))


def optimised(lam, g, make, state):
    """One step of a torch optimiser that climbs, from a given state; returns lam and the state."""
    param = lam.clone().requires_grad_()
    optimiser = make([param])
    optimiser.state[param].update(state)
    param.grad = g.clone()
    optimiser.step()
    return param.detach(), optimiser.state[param]


def right_sgd(lam, g, lr):
    return optimised(lam, g, lambda p: torch.optim.SGD(p, lr, maximize=True), {})[0]


def right_momentum(lam, g, v, lr, gamma):
    state = {"momentum_buffer": -v}  # torch keeps the velocity of the negated objective
    make = lambda p: torch.optim.SGD(p, lr, gamma, maximize=True)  # noqa: E731
    lam, state = optimised(lam, g, make, state)
    return lam, -state["momentum_buffer"]


def right_adam(lam, g, m, v, t, lr):
    state = {"step": torch.tensor(float(t - 1)), "exp_avg": -m, "exp_avg_sq": v.clone()}
    make = lambda p: torch.optim.Adam(p, lr, maximize=True)  # noqa: E731
    lam, state = optimised(lam, g, make, state)
    return lam, -state["exp_avg"], state["exp_avg_sq"]


RIGHT = {
    "gaussian_kl": right_kl,
    "reparameterise": lambda mean, log_var, eps: mean + (log_var / 2).exp() * eps,
    "score_gradient": right_score,
    "elbo": lambda log_lik, log_prior, log_q: (log_lik + log_prior - log_q).mean(0),
    "iwae": right_iwae,
    "sgd_step": right_sgd,
    "momentum_step": right_momentum,
    "adam_step": right_adam,
}


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_solution_passes_with_one_line(name, capsys):
    assert getattr(check, name)(RIGHT[name]) is True
    assert capsys.readouterr().out == f"{name}: right, on 3 random inputs.\n"


def test_a_solution_may_write_into_its_arguments(capsys):
    assert check.sgd_step(lambda lam, g, lr: lam.add_(g.mul_(lr)))
    assert "descends" in feedback("sgd_step", lambda lam, g, lr: lam.sub_(g.mul_(lr)), capsys)


def test_a_solution_may_compute_in_single_precision():
    assert check.gaussian_kl(lambda mean, log_var: right_kl(mean.float(), log_var.float()))


def test_a_slightly_wrong_value_does_not_pass():
    assert not check.gaussian_kl(lambda *a: right_kl(*a) * (1 + 1e-4))


def test_a_score_gradient_is_checked_inside_no_grad():
    with torch.no_grad():
        fn = lambda m, lv, z, v: (v[..., None] * (z - m) / lv.exp()).mean(0)  # noqa: E731
        assert check.score_gradient(fn)


# ---- slips -------------------------------------------------------------------------------------


def kl_of(mean, var, log_var):
    return 0.5 * (var + mean**2 - 1 - log_var).sum(-1)


def adam(lam, g, m, v, t, lr, b1=0.9, b2=0.999, sign=1, root=lambda v: v.sqrt() + 1e-8):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return lam + sign * lr * m / (1 - b1**t) / root(v / (1 - b2**t)), m, v


def uncorrected_adam(lam, g, m, v, t, lr):
    _, m, v = adam(lam, g, m, v, t, lr)
    return lam + lr * m / (v.sqrt() + 1e-8), m, v


def late_adam(lam, g, m, v, t, lr):
    _, m, v = adam(lam, g, m, v, t, lr)
    lag = torch.tensor(t - 1)
    return lam + lr * m / (1 - 0.9**lag) / ((v / (1 - 0.999**lag)).sqrt() + 1e-8), m, v


def early_adam(lam, g, m, v, t, lr):
    _, m, v = adam(lam, g, m, v, t, lr)
    return adam(lam, g, (m - 0.1 * g) / 0.9, (v - 0.001 * g**2) / 0.999, t + 1, lr)[0], m, v


def forgetful_adam(lam, g, m, v, t, lr):
    lam, m, v = adam(lam, g, m, v, t, lr)
    return lam, m / (1 - 0.9**t), v / (1 - 0.999**t)


SLIPS = {
    "gaussian_kl": [
        (lambda m, lv: -kl_of(m, lv.exp(), lv), "never negative"),
        (lambda m, lv: 2 * kl_of(m, lv.exp(), lv), "1/2"),
        (lambda m, lv: 0.5 * (lv.exp() + m**2 - 1 - lv).mean(-1), "D units were averaged"),
        (lambda m, lv: kl_of(m, lv, lv.log()), "as if it were the variance"),
        (lambda m, lv: kl_of(m, (2 * lv).exp(), 2 * lv), "logarithm of the standard deviation"),
        (lambda m, lv: kl_divergence(Normal(0, 1), Normal(m, (lv / 2).exp())).sum(-1), "swapped"),
        (lambda m, lv: kl_of(m, lv.exp(), lv).mean(), "Every example keeps its own value"),
        (lambda m, lv: kl_of(m, lv.exp(), lv).squeeze(), "batch of one"),
        (lambda m, lv: 0.5 * (lv.exp() + m**2 - 1 - lv), "summed or averaged away"),
        (lambda m, lv: 0.5 * (lv.exp() + m**2 - 1 - lv).sum(0), "axes are mixed up"),
        (lambda m, lv: kl_of(m, lv.exp(), lv) + torch.nan, "NaN"),
        (lambda m, lv: kl_of(m, lv.exp(), lv) + 1, "values of KL [B] are not"),
        (lambda m, lv: kl_of(m, lv.exp(), lv).numpy(), "came back as a ndarray"),
        (lambda m, lv: (m, lv), "2 result(s) came back"),
        (lambda m, lv: None, "`return`"),
        (lambda m, lv: ..., "`return`"),
    ],
    "reparameterise": [
        (lambda m, lv, e: m + lv.exp() * e, "instead of the standard deviation"),
        (lambda m, lv, e: m + lv * e, "still needs an exp"),
        (lambda m, lv, e: m - (lv / 2).exp() * e, "sign of the noise"),
        (lambda m, lv, e: (lv / 2).exp() * e, "mean is missing"),
        (lambda m, lv, e: Normal(m, (lv / 2).exp()).sample((len(e),)), "values of z"),
    ],
    "score_gradient": [
        (lambda m, lv, z, v: (v[..., None] * (m - z) / lv.exp()).mean(0), "sign is flipped"),
        (lambda m, lv, z, v: (v[..., None] * (z - m) / lv.exp()).sum(0), "draws were summed"),
        (lambda m, lv, z, v: (v[..., None] * (z - m)).mean(0), "lacks its division"),
        (
            lambda m, lv, z, v: (v[..., None] * (z - m) / (lv / 2).exp()).mean(0),
            "instead of the variance",
        ),
        (lambda m, lv, z, v: (v[..., None] * (z - m) / lv).mean(0), "as if it were the variance"),
        (lambda m, lv, z, v: ((z - m) / lv.exp()).mean(0), "values play no part"),
    ],
    "elbo": [
        (lambda lik, p, q: -(lik + p - q).mean(0), "that is a loss"),
        (lambda lik, p, q: (lik + p - q).sum(0), "draws were summed"),
        (right_iwae, "importance-weighted bound"),
        (lambda lik, p, q: (lik + p + q).mean(0), "log_q was added"),
        (lambda lik, p, q: (lik - q).mean(0), "log_prior plays no part"),
        (lambda lik, p, q: (lik + p).mean(0), "log_q plays no part"),
        (lambda lik, p, q: (lik + p - q).mean(), "Every example keeps its own value"),
        (lambda lik, p, q: (lik + p - q).mean(1), "axes are mixed up"),
    ],
    "iwae": [
        (lambda lik, p, q: (lik + p - q).exp().mean(0).log(), "underflows"),
        (lambda lik, p, q: (lik + p - q).logsumexp(0), "summed, not averaged"),
        (lambda lik, p, q: (lik + p - q).mean(0), "That is the ELBO"),
        (lambda lik, p, q: -right_iwae(lik, p, q), "sign is flipped"),
        (lambda lik, p, q: right_iwae(lik, p, -q), "log_q was added"),
        (lambda lik, p, q: right_iwae(lik, 0 * p, q), "log_prior plays no part"),
    ],
    "sgd_step": [
        (lambda lam, g, lr: lam - lr * g, "descends"),
        (lambda lam, g, lr: lam + g, "learning rate plays no part"),
        (lambda lam, g, lr: lr * g, "Only the way moved"),
        (lambda lam, g, lr: lam, "as it went in"),
    ],
    "momentum_step": [
        (lambda lam, g, v, lr, k: (lam - lr * (k * v + g), k * v + g), "descends"),
        (lambda lam, g, v, lr, k: (lam + lr * v, k * v + g), "along the old velocity"),
        (
            lambda lam, g, v, lr, k: (lam + lr * (k * v + (1 - k) * g), k * v + (1 - k) * g),
            "weighted by 1 - gamma",
        ),
        (lambda lam, g, v, lr, k: (lam + k * v + lr * g, k * v + lr * g), "went into the velocity"),
        (lambda lam, g, v, lr, k: (lam + lr * g, k * v + g), "along the gradient alone"),
        (lambda lam, g, v, lr, k: (k * v + g, lam + lr * (k * v + g)), "wrong order"),
        (lambda lam, g, v, lr, k: lam + lr * (k * v + g), "expected (lam [B, P], v [B, P])"),
        (lambda lam, g, v, lr, k: (lam + lr * (k * v + g), v), "values of v [B, P] are not"),
    ],
    "adam_step": [
        (lambda *a: adam(*a, sign=-1), "descends"),
        (uncorrected_adam, "start at zero is missing"),
        (late_adam, "one was taken"),
        (early_adam, "as if it counted from 0"),
        (lambda *a: adam(*a, root=lambda v: v + 1e-8), "square root"),
        (lambda *a: adam(*a, root=lambda v: (v + 1e-8).sqrt()), "under the root"),
        (lambda *a: adam(*a, b1=0.999, b2=0.9), "swapped"),
        (forgetful_adam, "before the correction"),
        (
            lambda *a: (*adam(*a)[:2], 0.999 * a[3] + 0.001 * a[1]),
            "averaged g itself",
        ),
    ],
}


def feedback(name, fn, capsys):
    """What a failing solution gets to read, with the line breaks taken out."""
    assert getattr(check, name)(fn) is False
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "name, fn, says", [(name, *slip) for name, slips in SLIPS.items() for slip in slips]
)
def test_a_slip_is_named(name, fn, says, capsys):
    assert says in feedback(name, fn, capsys).split("Hint 1 of 3")[0]


@pytest.mark.parametrize("name", EXERCISES)
def test_every_listed_mistake_has_its_slip_here(name):
    """A mistake nobody tries could say the wrong thing unnoticed."""
    listed = {mistake.says for mistake in EXERCISES[name].mistakes}
    tried = {says for _, says in SLIPS[name]}
    assert [m for m in listed if not any(says in m for says in tried)] == []


# ---- hints -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_advance_stay_at_the_third_and_start_anew(name, capsys):
    wrong = SLIPS[name][0][0]
    seen = [feedback(name, wrong, capsys) for _ in range(4)]
    assert [re.search(r"Hint (\d) of 3", text)[1] for text in seen] == ["1", "2", "3", "3"]
    assert all(" ".join(h.split()) in text for h, text in zip(EXERCISES[name].hints, seen))
    assert getattr(check, name)(RIGHT[name])
    capsys.readouterr()
    assert "Hint 1 of 3" in feedback(name, wrong, capsys)


def test_exercises_count_their_failures_apart(capsys):
    feedback("elbo", SLIPS["elbo"][0][0], capsys)
    assert "Hint 1 of 3" in feedback("iwae", SLIPS["iwae"][0][0], capsys)


@pytest.mark.parametrize("name", EXERCISES)
def test_no_expected_number_and_no_wide_line_is_printed(name, capsys):
    for fn, _ in SLIPS[name] * 3:
        assert getattr(check, name)(fn) is False
    out = capsys.readouterr().out
    assert re.findall(r"\d\.\d", out) == []  # every expected value has a fraction
    assert max(map(len, out.splitlines())) <= 79


def test_an_exception_becomes_one_line_and_costs_no_hint(capsys):
    def broken(mean, log_var):
        raise KeyError("mu\nand a second line")

    def silent(mean, log_var):
        raise NotImplementedError

    assert check.gaussian_kl(broken) is False
    out = capsys.readouterr().out
    assert out.startswith("gaussian_kl: your function raised KeyError: ") and out.count("\n") == 1
    assert check.gaussian_kl(silent) is False
    assert "raised NotImplementedError: no message" in capsys.readouterr().out
    assert "Hint 1 of 3" in feedback("gaussian_kl", SLIPS["gaussian_kl"][0][0], capsys)


def test_the_global_random_state_is_left_alone(capsys):
    before = torch.get_rng_state()
    check.reparameterise(lambda m, lv, e: m + (lv / 2).exp() * torch.randn(e.shape))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_inputs_come_back_whatever_the_global_seed():
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        check.gaussian_kl(lambda mean, log_var: seen.append(mean.clone()))
    first, second = seen[:3], seen[3:]
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert [tuple(mean.shape) for mean in first] == [(4, 2), (3, 7), (1, 3)]


@pytest.mark.parametrize("name", EXERCISES)
def test_the_docstring_states_the_signature(name):
    assert re.match(r"fn\(\w+.*\) -> ", " ".join(getattr(check, name).__doc__.split()))
