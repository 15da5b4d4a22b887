"""Steps: each is torch.optim's on the negated objective, and clips example by example."""

import pytest
import torch
from worlds import BATCH, DIM, N_X, linear_gaussian, randn

from avi.core import Problem
from avi.families import DiagGaussian
from avi.objectives import elbo
from avi.steps import (
    SGD,
    AdaGrad,
    Adam,
    BatchClipped,
    ClipHeld,
    Clipped,
    Momentum,
    RMSProp,
    TorchOptimiser,
    gradient,
)

P = 5
OPTIM = torch.optim
PAIRS = {
    "sgd": (SGD(0.1), lambda p: OPTIM.SGD(p, lr=0.1)),
    "momentum": (Momentum(0.1, 0.9), lambda p: OPTIM.SGD(p, lr=0.1, momentum=0.9)),
    "momentum_default": (Momentum(0.1), lambda p: OPTIM.SGD(p, lr=0.1, momentum=0.5)),
    "adagrad": (AdaGrad(0.1), lambda p: OPTIM.Adagrad(p, lr=0.1)),
    "rmsprop": (RMSProp(0.1), lambda p: OPTIM.RMSprop(p, lr=0.1)),
    "rmsprop_decay": (
        RMSProp(0.1, 0.9, 1e-4),
        lambda p: OPTIM.RMSprop(p, lr=0.1, alpha=0.9, eps=1e-4),
    ),
    "adam": (Adam(0.1), lambda p: OPTIM.Adam(p, lr=0.1)),
    "adam_betas": (
        Adam(0.1, (0.5, 0.9), 1e-3),
        lambda p: OPTIM.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3),
    ),
    "wrapped": (
        TorchOptimiser(lambda p: OPTIM.NAdam(p, lr=0.1)),
        lambda p: OPTIM.NAdam(p, lr=0.1),
    ),
}


def climbed(step, signals) -> list[torch.Tensor]:
    lam, lams = randn(BATCH, P), []
    state = step.start(lam)
    for signal in signals:
        lam, state = step(lam, signal, state)
        lams.append(lam)
    return lams


def descended(make, signals) -> list[torch.Tensor]:
    lam, lams = randn(BATCH, P).requires_grad_(), []
    optimiser = make([lam])
    for signal in signals:
        lam.grad = -signal
        optimiser.step()
        lams.append(lam.detach().clone())
    return lams


@pytest.mark.parametrize("name", PAIRS)
def test_step_is_torchs(name):
    """On gradients of very different sizes, some of them exactly zero."""
    step, make = PAIRS[name]
    signals = [randn(BATCH, P, seed=k) * 10.0 ** (k % 5 - 2) for k in range(30)]
    signals = [s * (s.abs() > 0.01) for s in signals]
    for mine, theirs in zip(climbed(step, signals), descended(make, signals), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_an_untouched_coordinate_stays_finite():
    zero = torch.zeros(BATCH, P).double()
    for name, (step, _) in PAIRS.items():
        assert torch.equal(climbed(step, [zero])[0], randn(BATCH, P)), name


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "wrapped"])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_step_is_pure_and_differentiable(name, size):
    """lam, signal and state are left as they were; the derivative is finite even at zero."""
    step, _ = PAIRS[name]
    lam = randn(BATCH, P).requires_grad_()
    signal = (size * randn(BATCH, P, seed=1)).requires_grad_()
    state = step.start(lam)
    before = [t.clone() for t in (lam, signal, *state)]
    moved, _ = step(lam, signal, state)
    assert all(torch.equal(a, b) for a, b in zip((lam, signal, *state), before, strict=True))
    grads = torch.autograd.grad(moved.sum(), [lam, signal])
    assert all(g.isfinite().all() for g in grads)
    assert torch.equal(grads[0], torch.ones_like(lam))


@pytest.mark.parametrize("name", PAIRS)
def test_state_has_one_row_for_each_example(name):
    step, _ = PAIRS[name]
    for part in step.start(randn(BATCH, P)):
        assert not isinstance(part, torch.Tensor) or len(part) == BATCH


def test_wrapped_optimiser_leaves_its_state_as_it_was():
    step, _ = PAIRS["wrapped"]
    lam = randn(BATCH, P)
    _, state = step(lam, randn(BATCH, P, seed=1), step.start(lam))
    once, _ = step(lam, randn(BATCH, P, seed=2), state)
    again, _ = step(lam, randn(BATCH, P, seed=2), state)
    assert torch.equal(once, again)


def test_wrapped_optimiser_refuses_to_be_unrolled():
    step, _ = PAIRS["wrapped"]
    lam = randn(BATCH, P)
    with pytest.raises(ValueError, match="Detached mode only"):
        step(lam, randn(BATCH, P).requires_grad_(), step.start(lam))


def test_clipping_shortens_long_signals_example_by_example():
    signal = torch.stack([torch.full((P,), 3.0), torch.full((P,), 0.01), torch.zeros(P)]).double()
    moved = climbed(Clipped(SGD(1.0), 2.0), [signal])[0] - randn(BATCH, P)
    assert moved[0].norm().item() == pytest.approx(2.0)
    assert torch.allclose(moved[0] / moved[0].norm(), signal[0] / signal[0].norm())
    assert torch.allclose(moved[1:], signal[1:])


def test_clipping_hands_on_signal_and_memory():
    inner = Momentum(0.1)
    step = Clipped(inner, 1.0)
    assert step.signal is inner.signal
    signals = [randn(BATCH, P, seed=k) for k in range(4)]
    short = [s / s.norm(dim=-1, keepdim=True).clamp(min=1) for s in signals]
    for mine, plain in zip(climbed(step, signals), climbed(inner, short), strict=True):
        assert torch.allclose(mine, plain)


def test_gradient_is_every_examples_own():
    problem = Problem(linear_gaussian(), randn(BATCH, N_X), DiagGaussian(DIM), elbo())
    lam, eps = randn(BATCH, 2 * DIM, seed=1), randn(2, BATCH, DIM, seed=2)
    got = gradient(problem, lam, eps)
    for b in range(BATCH):
        one = Problem(problem.model, problem.x[b : b + 1], problem.family, elbo())
        row = lam[b : b + 1].clone().requires_grad_()
        want = torch.autograd.grad(one(row, eps[:, b : b + 1])[0], row)[0]
        assert torch.allclose(got[b], want[0])


def test_gradient_works_where_gradients_are_off_and_teaches_nobody():
    model = linear_gaussian()
    problem = Problem(model, randn(BATCH, N_X), DiagGaussian(DIM), elbo())
    lam, eps = randn(BATCH, 2 * DIM, seed=1), randn(2, BATCH, DIM, seed=2)
    with torch.no_grad():
        assert torch.equal(gradient(problem, lam, eps), gradient(problem, lam, eps))
    assert not gradient(problem, lam, eps).requires_grad
    assert all(p.grad is None for p in model.parameters())
    kept = gradient(problem, lam.requires_grad_(), eps, keep=True)
    assert torch.autograd.grad(kept.sum(), lam)[0].abs().sum() > 0


# ---- named approximations of published code ------------------------------------------------------


def test_a_held_clip_moves_lam_alike_and_leaves_its_coefficient_out_of_the_derivative():
    signal = (5 * randn(BATCH, P, seed=1)).requires_grad_()
    lam, norm = randn(BATCH, P), 2.0
    full, _ = Clipped(SGD(1.0), norm)(lam, signal, ())
    held, _ = ClipHeld(SGD(1.0), norm)(lam, signal, ())
    assert torch.equal(full, held)
    toward = randn(BATCH, P, seed=2)
    (slope_full,) = torch.autograd.grad((full * toward).sum(), signal)
    (slope_held,) = torch.autograd.grad((held * toward).sum(), signal)
    size = signal.detach().norm(dim=-1, keepdim=True)
    assert (size > norm).all()
    assert torch.allclose(slope_held, norm / size * toward)
    unit = signal.detach() / size
    across = toward - unit * (unit * toward).sum(-1, keepdim=True)  # along itself it cannot grow
    assert torch.allclose(slope_full, norm / size * across)


def test_the_published_step_divides_by_the_batch_and_clips_each_half_over_it():
    signal, lam = 50 * randn(BATCH, P, seed=1), randn(BATCH, P)
    moved = BatchClipped(SGD(1.0), 2.0)(lam, signal, ())[0] - lam
    for half, given in zip(moved.chunk(2, -1), signal.chunk(2, -1), strict=True):
        assert half.norm().item() == pytest.approx(2.0)
        assert torch.allclose(half / half.norm(), given / given.norm())
    gentle = BatchClipped(SGD(1.0), 1e9)(lam, signal, ())[0] - lam
    assert torch.allclose(gentle, signal / BATCH)


def test_in_the_published_step_examples_interact():
    signal, lam = 50 * randn(BATCH, P, seed=1), randn(BATCH, P)
    other = signal.clone()
    other[1:] = 50 * randn(BATCH - 1, P, seed=2)
    step = BatchClipped(SGD(1.0), 2.0)
    assert (step(lam, signal, ())[0][0] - step(lam, other, ())[0][0]).abs().max() > 0.01
