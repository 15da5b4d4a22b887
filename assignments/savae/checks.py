"""Hidden checks of the assignment savae."""

import zlib

import torch
from torch import Generator, Tensor
from torch.distributions import Normal, kl_divergence

from avi_classroom.tasks import Function, Part, Personal, Tests, normal, within

# --- references: first and second derivatives by hand ---------------------------------------------


def slope(lam: Tensor, x: Tensor) -> Tensor:
    """The derivatives of eq-count-elbo, [B, 2]."""
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate - mean, 0.5 - 0.5 * var * (rate + 1)], -1)


def hessian(lam: Tensor) -> Tensor:
    """The second derivatives, [B, 2, 2]."""
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    cross = -0.5 * var * rate
    curve = -0.5 * var * (rate + 0.5 * var * rate + 1)
    return torch.stack([torch.stack([-rate - 1, cross], -1), torch.stack([cross, curve], -1)], -2)


def product(lam, x, v):
    return torch.einsum("bij,bj->bi", hessian(lam), v)


def climb(lam_0, x, n_steps, lr, gamma) -> Tensor:
    places, v = [lam_0], torch.zeros_like(lam_0)
    for _ in range(n_steps):
        v = gamma * v + slope(places[-1], x)
        places.append(places[-1] + lr * v)
    return torch.stack(places)


def forwards(places, x, lr, gamma) -> Tensor:
    """d lam_K / d lam_0, carried forwards as a matrix, times g(lam_K): no recursion backwards."""
    jacobian = torch.eye(2, dtype=torch.float64).expand(len(x), 2, 2)
    velocity = torch.zeros_like(jacobian)  # d v / d lam_0
    for lam in places[:-1]:
        velocity = gamma * velocity + hessian(lam) @ jacobian
        jacobian = jacobian + lr * velocity
    return torch.einsum("bij,bi->bj", jacobian, slope(places[-1], x))


def through_climb(lam_0, x, n_steps, lr, gamma):
    return forwards(climb(lam_0, x, n_steps, lr, gamma), x, lr, gamma)


def clip_by_autograd(g, v, norm):
    def clip(g):
        return g / (g.norm(dim=-1, keepdim=True) / norm).clamp(min=1)

    return torch.autograd.functional.jvp(clip, g, v)[1]


def limit(matrix, gamma):
    """By the spectral norm, which for a symmetric matrix is its largest curvature."""
    return 2 * (1 + gamma) / torch.linalg.matrix_norm(matrix, 2)


def minus_kl(lam_0, lam_last):
    q, last = (Normal(lam[:, 0], (0.5 * lam[:, 1]).exp()) for lam in (lam_0, lam_last))
    return -kl_divergence(q, last)


def parabola(student: str) -> dict:
    g = Generator().manual_seed(zlib.crc32(student.encode()))
    noise = torch.rand(4, generator=g, dtype=torch.float64).tolist()
    h, a = 2.0 + noise[0], 1.0 + noise[1]
    lam, lr = -1.0 - noise[2], 0.1 + 0.1 * noise[3]
    jacobian = 1.0
    for _ in range(3):
        lam, jacobian = lam - lr * h * (lam - a), jacobian - lr * h * jacobian
    last = -h * (lam - a)
    return {"end": lam, "start_gradient": jacobian * last, "without_hessian": last}


# --- inputs ---------------------------------------------------------------------------------------


def count(g: Generator, n: int) -> Tensor:
    return torch.randint(0, 12, (n,), generator=g).double()


def place(g: Generator, *shape: int) -> Tensor:
    return torch.stack([0.5 * normal(g, *shape) + 0.5, 0.5 * normal(g, *shape) - 0.7], -1)


def rates(g: Generator) -> tuple[float, float]:
    lr, gamma = torch.rand(2, generator=g, dtype=torch.float64).tolist()
    return 0.03 + 0.03 * lr, 0.4 + 0.4 * gamma


def whole_climb(steps: int):
    return lambda g: (place(g, 5), count(g, 5), steps, *rates(g))


def any_places(steps: int):
    return lambda g: (place(g, steps + 1, 4), count(g, 4), *rates(g))


def long_and_short(g: Generator) -> tuple:
    """Gradients on both sides of the norm."""
    unit = torch.nn.functional.normalize(normal(g, 6, 3), dim=-1)
    size = torch.tensor([0.3, 0.9, 1.5, 2.0, 3.0, 5.0], dtype=torch.float64)
    return size[:, None] * unit, normal(g, 6, 3), 1.2


def short(g: Generator) -> tuple:
    return 0.2 * torch.nn.functional.normalize(normal(g, 4, 3), dim=-1), normal(g, 4, 3), 1.2


def hill(g: Generator) -> tuple:
    root = normal(g, 3, 3)
    return -(root @ root.T) - 0.1 * torch.eye(3, dtype=torch.float64), rates(g)[1]


# --- versions of start_gradient -------------------------------------------------------------------

SHARED = """
import torch


def slope(lam, x):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate - mean, 0.5 - 0.5 * var * (rate + 1)], -1)


def product(lam, v):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    first = -(rate + 1) * v[:, 0] - 0.5 * var * rate * v[:, 1]
    curve = -0.5 * var * (rate + 0.5 * var * rate + 1)
    return torch.stack([first, -0.5 * var * rate * v[:, 0] + curve * v[:, 1]], -1)


def climb(lam, x, n_steps, lr, gamma):
    places, v = [lam], torch.zeros_like(lam)
    for _ in range(n_steps):
        v = gamma * v + slope(places[-1], x)
        places.append(places[-1] + lr * v)
    return places


"""

BACKWARDS = """
def fn(lam_0, x, n_steps, lr, gamma):
    places = climb(lam_0, x, n_steps, lr, gamma)
    lam_bar, v_bar = slope(places[-1], x), torch.zeros_like(lam_0)
    for lam in reversed(places[:-1]):
        v_bar = v_bar + lr * lam_bar
        lam_bar = lam_bar + product(lam, v_bar)
        v_bar = gamma * v_bar
    return lam_bar
"""

UNROLLED = """
def fn(lam_0, x, n_steps, lr, gamma):
    lam_0 = lam_0.detach().requires_grad_()
    with torch.enable_grad():
        last = climb(lam_0, x, n_steps, lr, gamma)[-1]
        mean, var = last[:, 0], last[:, 1].exp()
        bound = x * mean - (mean + 0.5 * var).exp() - 0.5 * (var + mean**2 - last[:, 1])
    return torch.autograd.grad(bound.sum(), lam_0)[0]
"""

FIRST_ORDER = """
def fn(lam_0, x, n_steps, lr, gamma):
    return slope(climb(lam_0, x, n_steps, lr, gamma)[-1], x)
"""

RIGHT = [BACKWARDS, UNROLLED]
WRONG = {
    "the Hessian": FIRST_ORDER,
    "the end of the climb": "def fn(lam_0, x, n_steps, lr, gamma):\n    return slope(lam_0, x)\n",
    "the memory of the velocity": BACKWARDS.replace("v_bar = gamma * v_bar", "v_bar = 0 * v_bar"),
    "the sign of the Hessian": BACKWARDS.replace("lam_bar + product", "lam_bar - product"),
    "the number of steps": BACKWARDS.replace("x, n_steps, lr, gamma)\n    lam_bar",
                                             "x, n_steps + 1, lr, gamma)\n    lam_bar"),
    "a batch mean": UNROLLED.replace("bound.sum()", "bound.mean()"),
}  # fmt: skip

CHECKS = {
    "hessian_vector": Function(
        Part(
            "any place", 1.0, lambda g: (place(g, 5), count(g, 5), normal(g, 5, 2)), product,
            "Not the product of each example's Hessian with its own vector.",
        ),
    ),
    "start_gradient": Function(
        Part(
            "no step", 0.2, whole_climb(0), through_climb,
            "Without a step it is the gradient at the start.",
        ),
        Part(
            "one step", 0.3, whole_climb(1), through_climb,
            "After one step something is missing: how does the step itself move with lam_0?",
        ),
        Part(
            "six steps", 0.5, whole_climb(6), through_climb,
            "After several steps it is off: velocities depend on lam_0 too.",
        ),
    ),
    "adjoint": Function(
        Part(
            "one step", 0.4, any_places(1), forwards,
            "With one step it is off: look at the order of the three lines, and at which place "
            "the Hessian is taken.",
        ),
        Part(
            "five steps", 0.6, any_places(5), forwards,
            "With several steps it is off: what does v_bar carry from step to step?",
        ),
    ),
    "clip_product": Function(
        Part("all short", 0.3, short, clip_by_autograd, "Where nothing is clipped v passes."),
        Part(
            "short and long", 0.7, long_and_short, clip_by_autograd,
            "Where the clip is active its coefficient depends on g as well.",
        ),
    ),
    "step_limit": Function(
        Part(
            "several directions", 1.0, hill, limit,
            "Which direction limits the step, and with which sign does its curvature enter?",
        ),
    ),
    "imitation": Function(
        Part(
            "any two", 0.8, lambda g: (place(g, 5), place(g, 5)), minus_kl,
            "Not minus the KL from q_0 to q_K: mind the direction and the sign.",
        ),
        Part(
            "equal", 0.2, lambda g: (place(g, 5),) * 2, minus_kl, "Equal posteriors: it is zero.",
            within(1e-9),
        ),
    ),
    "my_climb": Function(
        Personal(
            "your own parabola", 1.0, parabola,
            "At least one of the three numbers is off by more than rounding.", within(0.0011),
        ),
    ),
    "test_start_gradient": Tests(RIGHT, WRONG, preamble=SHARED),
}  # fmt: skip
