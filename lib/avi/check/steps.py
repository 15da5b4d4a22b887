"""Exercises about one step of gradient ascent on lambda."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from avi import steps
from avi.check.exercise import Exercise, Mistake, normal

LR, GAMMA = 0.3, 0.7  # unlike 1 and 1/2, so that a forgotten or squared factor shows


def _sgd_inputs(generator: Generator, _s: int, b: int, p: int) -> tuple:
    return normal(generator, b, p), normal(generator, b, p), LR


def _sgd(lam: Tensor, g: Tensor, lr: float) -> Tensor:
    return steps.SGD(lr)(lam, g, ())[0]


SGD_STEP = Exercise(
    "sgd_step",
    ("lam [B, P]",),
    _sgd_inputs,
    _sgd,
    (
        "The new lam has the shape of the old one. The objective is a bound, and the step climbs.",
        "Start from lam and add something proportional to g; what sets how far to go?",
        "With g = 0 nothing moves; doubling lr doubles the way from the old lam to the new one, "
        "and that way points along g.",
    ),
    (
        Mistake("This step descends. A bound is climbed.", lambda lam, g, lr: _sgd(lam, g, -lr)),
        Mistake("The learning rate plays no part.", lambda lam, g, lr: lam + g),
        Mistake(
            "Only the way moved came back: return where the step ends.", lambda lam, g, lr: lr * g
        ),
        Mistake("lam came back as it went in.", lambda lam, g, lr: lam),
    ),
)


def _momentum_inputs(generator: Generator, _s: int, b: int, p: int) -> tuple:
    return *(normal(generator, b, p) for _ in range(3)), LR, GAMMA


def _momentum(lam: Tensor, g: Tensor, v: Tensor, lr: float, gamma: float) -> tuple:
    lam, (v,) = steps.Momentum(lr, gamma)(lam, g, (v,))
    return lam, v


MOMENTUM_STEP = Exercise(
    "momentum_step",
    ("lam [B, P]", "v [B, P]"),
    _momentum_inputs,
    _momentum,
    (
        "Two results, (lam, v), each with the shape it came in with. The step climbs.",
        "First the velocity: the old one shrinks by gamma, then the gradient joins it as it is. "
        "Then lam moves along the velocity.",
        "With gamma = 0 this must be plain gradient ascent; with g = 0 the velocity must be gamma "
        "times the old one, and lam must move by lr times that new velocity.",
    ),
    (
        Mistake(
            "This step descends. A bound is climbed.",
            lambda lam, g, v, lr, gamma: _momentum(lam, g, v, -lr, gamma),
        ),
        Mistake(
            "lam moved along the old velocity: update v first, then move along the new one.",
            lambda lam, g, v, lr, gamma: (lam + lr * v, _momentum(lam, g, v, lr, gamma)[1]),
        ),
        Mistake(
            "The gradient was weighted by 1 - gamma. Here it joins the velocity as it is.",
            lambda lam, g, v, lr, gamma: _momentum(lam, (1 - gamma) * g, v, lr, gamma),
        ),
        Mistake(
            "lr went into the velocity. It scales the move of lam, not what v remembers.",
            lambda lam, g, v, lr, gamma: _momentum(lam, lr * g, v, 1.0, gamma),
        ),
        Mistake(
            "lam moved along the gradient alone: the velocity plays no part in the move.",
            lambda lam, g, v, lr, gamma: (lam + lr * g, _momentum(lam, g, v, lr, gamma)[1]),
        ),
        Mistake(
            "The results are in the wrong order: return (lam, v).",
            lambda *a: _momentum(*a)[::-1],
        ),
    ),
)


def _adam_inputs(generator: Generator, s: int, b: int, p: int) -> tuple:
    """Gradients near 1e-4, where it matters on which side of the root eps stands; t = 2, 4, 1."""
    lam, g, m, v = (normal(generator, b, p) for _ in range(4))
    return lam, 1e-4 * g, 1e-4 * m, 1e-8 * v.square(), s - 1, LR


def _adam(lam: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float, **options) -> tuple:
    before = torch.full_like(lam[:, :1], t - 1)
    lam, (m, v, _) = steps.Adam(lr, **options)(lam, g, (m, v, before))
    return lam, m, v


def _moved(move, lam, g, m, v, t, lr) -> tuple:
    """The right averages with another move: lam + lr * move(m, v, t)."""
    _, m, v = _adam(lam, g, m, v, t, lr)
    return lam + lr * move(m, v, t), m, v


def _corrected(m: Tensor, v: Tensor, t: int) -> tuple[Tensor, Tensor]:
    return m / (1 - 0.9**t), v / (1 - 0.999**t)


def _eps_inside(m: Tensor, v: Tensor, t: int) -> Tensor:
    m, v = _corrected(m, v, t)
    return m / (v + 1e-8).sqrt()


def _no_root(m: Tensor, v: Tensor, t: int) -> Tensor:
    m, v = _corrected(m, v, t)
    return m / (v + 1e-8)


def _returns_corrected(lam, g, m, v, t, lr) -> tuple:
    lam, m, v = _adam(lam, g, m, v, t, lr)
    return lam, *_corrected(m, v, t)


def _counts_from_zero(lam, g, m, v, t, lr) -> tuple:
    return _moved(lambda m, v, t: _adam_move(m, v, torch.tensor(t - 1.0)), lam, g, m, v, t, lr)


def _adam_move(m: Tensor, v: Tensor, t) -> Tensor:
    m, v = _corrected(m, v, t)
    return m / (v.sqrt() + 1e-8)


ADAM_STEP = Exercise(
    "adam_step",
    ("lam [B, P]", "m [B, P]", "v [B, P]"),
    _adam_inputs,
    _adam,
    (
        "Three results, (lam, m, v), each [B, P]. The step climbs. m averages the gradient, v its "
        "square, and t counts from 1.",
        "Update m and v first, as running averages whose weights add to one. For the move, and "
        "only there, correct both for having started at zero.",
        "After t steps from zero the weights inside a running average with decay beta add up to "
        "1 - beta^t, so dividing by that sum removes the bias. The move is the corrected m over "
        "the root of the corrected v; eps joins after the root.",
    ),
    (
        Mistake(
            "This step descends. A bound is climbed.",
            lambda lam, g, m, v, t, lr: _adam(lam, g, m, v, t, -lr),
        ),
        Mistake(
            "The correction for the start at zero is missing.",
            lambda *a: _moved(lambda m, v, t: m / (v.sqrt() + 1e-8), *a),
        ),
        Mistake(
            "t counts from 1; it was used as if it counted from 0.",
            lambda *a: _moved(lambda m, v, t: _adam_move(m, v, t + 1), *a),
        ),
        Mistake("t counts from 1; one was taken from it.", _counts_from_zero),
        Mistake("The square root over v is missing.", lambda *a: _moved(_no_root, *a)),
        Mistake(
            "eps stands under the root; it joins after it.", lambda *a: _moved(_eps_inside, *a)
        ),
        Mistake(
            "The two decay rates are swapped: v has the longer memory.",
            lambda *a: _adam(*a, betas=(0.999, 0.9)),
        ),
        Mistake(
            "The corrected averages came back. The next step needs m and v before the correction.",
            _returns_corrected,
        ),
        Mistake(
            "v averages the squares of g, and here it averaged g itself.",
            lambda lam, g, m, v, t, lr: (*_adam(lam, g, m, v, t, lr)[:2], 0.999 * v + 0.001 * g),
        ),
    ),
)
