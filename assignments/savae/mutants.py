"""Known wrong answers to the assignment savae, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "hessian_vector": [
        Mutant("a difference with a coarse step", 0, """
def hessian_vector(lam, x, v):
    return (own_gradients(lam + 1e-3 * v, x) - own_gradients(lam, x)) / 1e-3
"""),
        Mutant("the diagonal of the Hessian", 0, """
def hessian_vector(lam, x, v):
    first = v * torch.tensor([1.0, 0.0])
    second = v * torch.tensor([0.0, 1.0])
    parts = []
    for d, part in enumerate((first, second)):
        at = lam.detach().requires_grad_()
        g = own_gradients(at, x, keep=True)
        parts.append(torch.autograd.grad((g * part).sum(), at)[0][:, d])
    return torch.stack(parts, -1)
"""),
    ],
    "start_gradient": [
        Mutant("without the Hessian", 0.2, """
def start_gradient(lam_0, x, n_steps, lr, gamma):
    lam, v = lam_0, torch.zeros_like(lam_0)
    for _ in range(n_steps):
        v = gamma * v + own_gradients(lam, x)
        lam = lam + lr * v
    return own_gradients(lam, x)
"""),
        Mutant("the velocity held constant: one step is right", 0.5, """
def start_gradient(lam_0, x, n_steps, lr, gamma):
    lam_0 = lam_0.detach().requires_grad_()
    lam, v = lam_0, torch.zeros_like(lam_0)
    for _ in range(n_steps):
        v = gamma * v.detach() + own_gradients(lam, x, keep=True)
        lam = lam + lr * v
    return torch.autograd.grad(count_bound(lam, x).sum(), lam_0)[0]
"""),
        Mutant("at the start", 0.2, """
def start_gradient(lam_0, x, n_steps, lr, gamma):
    return own_gradients(lam_0, x)
"""),
        Mutant("a batch mean", 0, """
def start_gradient(lam_0, x, n_steps, lr, gamma):
    lam_0 = lam_0.detach().requires_grad_()
    lam, v = lam_0, torch.zeros_like(lam_0)
    for _ in range(n_steps):
        v = gamma * v + own_gradients(lam, x, keep=True)
        lam = lam + lr * v
    return torch.autograd.grad(count_bound(lam, x).mean(), lam_0)[0]
"""),
    ],
    "adjoint": [
        Mutant("forgets the velocity", 0.4, """
def adjoint(places, x, lr, gamma):
    lam_bar = own_gradients(places[-1], x)
    for lam in reversed(places[:-1]):
        lam_bar = lam_bar + hessian_vector(lam, x, lr * lam_bar)
    return lam_bar
"""),
        Mutant("the Hessian one place too late", 0, """
def adjoint(places, x, lr, gamma):
    lam_bar = own_gradients(places[-1], x)
    v_bar = torch.zeros_like(lam_bar)
    for lam in reversed(places[1:]):
        v_bar = v_bar + lr * lam_bar
        lam_bar = lam_bar + hessian_vector(lam, x, v_bar)
        v_bar = gamma * v_bar
    return lam_bar
"""),
        Mutant("climbs anew from the first place", 0, """
def adjoint(places, x, lr, gamma):
    return start_gradient(places[0], x, len(places) - 1, lr, gamma)
"""),
        Mutant("forwards through the places", 0.4, """
def adjoint(places, x, lr, gamma):
    lam_bar = own_gradients(places[-1], x)
    v_bar = torch.zeros_like(lam_bar)
    for lam in places[:-1]:
        v_bar = v_bar + lr * lam_bar
        lam_bar = lam_bar + hessian_vector(lam, x, v_bar)
        v_bar = gamma * v_bar
    return lam_bar
"""),
    ],
    "clip_product": [
        Mutant("coefficient held constant", 0.3, """
def clip_product(g, v, norm):
    return v / (g.norm(dim=-1, keepdim=True) / norm).clamp(min=1)
"""),
        Mutant("always clipped", 0, """
def clip_product(g, v, norm):
    size = g.norm(dim=-1, keepdim=True)
    unit = g / size
    return norm / size * (v - unit * (unit * v).sum(-1, keepdim=True))
"""),
        Mutant("one norm over the batch", 0.3, """
def clip_product(g, v, norm):
    size = g.norm()
    unit = g / size
    clipped = norm / size * (v - unit * (unit * v).sum())
    return clipped if size > norm else v
"""),
    ],
    "step_limit": [
        Mutant("the flattest direction", 0, """
def step_limit(hessian, gamma):
    return 2 * (1 + gamma) / (-torch.linalg.eigvalsh(hessian)).min()
"""),
        Mutant("plain ascent", 0, """
def step_limit(hessian, gamma):
    return 2 / (-torch.linalg.eigvalsh(hessian)).max()
"""),
        Mutant("the sign", 0, """
def step_limit(hessian, gamma):
    return 2 * (1 + gamma) / torch.linalg.eigvalsh(hessian).min()
"""),
    ],
    "imitation": [
        Mutant("the other direction", 0.2, """
def imitation(lam_0, lam_last):
    ratio = lam_last[:, 1] - lam_0[:, 1]
    shift = (lam_0[:, 0] - lam_last[:, 0]) ** 2 / lam_0[:, 1].exp()
    return -0.5 * (ratio.exp() + shift - 1 - ratio)
"""),
        Mutant("a divergence to descend", 0.2, """
def imitation(lam_0, lam_last):
    ratio = lam_0[:, 1] - lam_last[:, 1]
    shift = (lam_0[:, 0] - lam_last[:, 0]) ** 2 / lam_last[:, 1].exp()
    return 0.5 * (ratio.exp() + shift - 1 - ratio)
"""),
        Mutant("a squared distance", 0.2, """
def imitation(lam_0, lam_last):
    return -(lam_0 - lam_last).square().sum(-1)
"""),
    ],
    "my_climb": [
        Mutant("no damping", 0, """
def my_climb():
    end = my_a + (1 - my_lr * my_h) ** 3 * (my_start - my_a)
    slope = -my_h * (end - my_a)
    return {"end": end, "start_gradient": slope, "without_hessian": slope}
"""),
    ],
    "test_start_gradient": [
        Mutant("one step: velocities do not matter", 5 / 6, """
def test_start_gradient(fn):
    x, lam, h = torch.tensor([4.0, 9.0]), torch.tensor([[0.3, -0.5], [1.5, -1.0]]), 1e-5
    got = fn(lam, x, 1, 0.06, 0.7)
    for d in (0, 1):
        step = h * torch.eye(2)[d]
        ends = [a + 0.06 * own_gradients(a, x) for a in (lam + step, lam - step)]
        side = (count_bound(ends[0], x) - count_bound(ends[1], x)) / (2 * h)
        torch.testing.assert_close(got[:, d], side, rtol=1e-5, atol=1e-6)
"""),
        Mutant("no step", 2 / 6, """
def test_start_gradient(fn):
    x, lam = torch.tensor([4.0, 9.0]), torch.tensor([[0.3, -0.5], [1.5, -1.0]])
    torch.testing.assert_close(fn(lam, x, 0, 0.06, 0.7), own_gradients(lam, x))
"""),
        Mutant("takes the first-order answer for the truth", 0, """
def test_start_gradient(fn):
    x, lam = torch.tensor([4.0, 9.0]), torch.tensor([[0.3, -0.5], [1.5, -1.0]])
    end = lam + 0.06 * own_gradients(lam, x)
    torch.testing.assert_close(fn(lam, x, 1, 0.06, 0.7), own_gradients(end, x))
"""),
    ],
}  # fmt: skip
