"""Known wrong answers to the assignment errors, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "pixel_errors": [
        Mutant("by the fraction: the variance rounds to zero", 0.5, """
def pixel_errors(x, logits):
    m = logits.sigmoid()
    return (x - m) / (m * (1 - m))
"""),
        Mutant("a floor under the variance", 0.5, """
def pixel_errors(x, logits):
    m = logits.sigmoid()
    return (x - m) / (m * (1 - m)).clamp(min=1e-6)
"""),
        Mutant("not weighed by the precision", 0, """
def pixel_errors(x, logits):
    return x - logits.sigmoid()
"""),
    ],
    "jacobian": [
        Mutant("the slope of tanh forgotten", 0, """
def jacobian(z, a, b):
    return (b @ a).expand(len(z), -1, -1)
"""),
        Mutant("transposed", 0, """
def jacobian(z, a, b):
    slope = 1 - (z @ a.T).tanh().square()
    return ((b * slope[:, None, :]) @ a).transpose(1, 2)
"""),
    ],
    "error_gradient": [
        Mutant("a product of expectations, as printed in the paper", 0.5, """
def error_gradient(eps_x, eps_z, jac, log_var, noise):
    pull = torch.einsum("sxd,sx->sd", jac, eps_x) - eps_z
    apart = jac.mean(0).T @ eps_x.mean(0) - eps_z.mean(0)
    return apart, (pull * 0.5 * (0.5 * log_var).exp() * noise).mean(0) + 0.5
"""),
        Mutant("without the entropy", 0.5, """
def error_gradient(eps_x, eps_z, jac, log_var, noise):
    pull = torch.einsum("sxd,sx->sd", jac, eps_x) - eps_z
    return pull.mean(0), (pull * 0.5 * (0.5 * log_var).exp() * noise).mean(0)
"""),
        Mutant("the sign of the prior's error", 0, """
def error_gradient(eps_x, eps_z, jac, log_var, noise):
    pull = torch.einsum("sxd,sx->sd", jac, eps_x) + eps_z
    return pull.mean(0), (pull * 0.5 * (0.5 * log_var).exp() * noise).mean(0) + 0.5
"""),
    ],
    "curvature": [
        Mutant("Gauss and Newton: the errors left out", 0.4, """
def curvature(x, z, a, b, var):
    t = (a @ z).tanh()
    jac = (b * (1 - t.square())) @ a
    return -jac.T @ jac / var - torch.eye(len(z))
"""),
        Mutant("without the prior", 0, """
def curvature(x, z, a, b, var):
    t = (a @ z).tanh()
    bend = (b.T @ (x - b @ t)) / var * (-2 * t * (1 - t.square()))
    jac = (b * (1 - t.square())) @ a
    return a.T @ (bend[:, None] * a) - jac.T @ jac / var
"""),
        Mutant("errors not divided by the variance", 0.4, """
def curvature(x, z, a, b, var):
    t = (a @ z).tanh()
    bend = (b.T @ (x - b @ t)) * (-2 * t * (1 - t.square()))
    jac = (b * (1 - t.square())) @ a
    return a.T @ (bend[:, None] * a) - jac.T @ jac / var - torch.eye(len(z))
"""),
    ],
    "encoder_layer": [
        Mutant("divides by the mean variance", 0, """
def encoder_layer(w, u, c, m, v, eps_z):
    return w / v.mean(0), c + u @ eps_z.mean(0) - w @ (m.mean(0) / v.mean(0))
"""),
        Mutant("the mean of a fraction taken apart", 0.5, """
def encoder_layer(w, u, c, m, v, eps_z):
    return w * (1 / v).mean(0), c + u @ eps_z.mean(0) - w @ (m.mean(0) * (1 / v).mean(0))
"""),
        Mutant("the latent errors forgotten", 0.5, """
def encoder_layer(w, u, c, m, v, eps_z):
    return w * (1 / v).mean(0), c - w @ (m / v).mean(0)
"""),
    ],
    "level_gradients": [
        Mutant("the paper's two terms: the prior's variance held still", 0.4, """
def level_gradients(x, z1, z2, w, g, b, var):
    m1 = (w @ z2).tanh()
    eps_1 = (z1 - m1) / (g @ z2).exp()
    return b.T @ (x - b @ z1) / var - eps_1, w.T @ ((1 - m1.square()) * eps_1) - z2
"""),
        Mutant("a standard prior for the lower level", 0.6, """
def level_gradients(x, z1, z2, w, g, b, var):
    m1 = (w @ z2).tanh()
    eps_1 = (z1 - m1) / (g @ z2).exp()
    r_1 = 0.5 * ((z1 - m1) * eps_1 - 1)
    upper = w.T @ ((1 - m1.square()) * eps_1) - z2 + g.T @ r_1
    return b.T @ (x - b @ z1) / var - z1, upper
"""),
        Mutant("divided by the standard deviation", 0, """
def level_gradients(x, z1, z2, w, g, b, var):
    m1 = (w @ z2).tanh()
    eps_1 = (z1 - m1) / (0.5 * g @ z2).exp()
    r_1 = 0.5 * ((z1 - m1) * eps_1 - 1)
    upper = w.T @ ((1 - m1.square()) * eps_1) - z2 + g.T @ r_1
    return b.T @ (x - b @ z1) / var - eps_1, upper
"""),
    ],
    "top_down": [
        Mutant("the prior below from the mean above, not from the draws", 0.2, """
def top_down(noise1, noise2, mean1, rho1, mean2, rho2, w, g):
    var2 = 1 / (1 + rho2.exp())
    centre = var2 * rho2.exp() * mean2
    z2 = centre + var2.sqrt() * noise2
    m, s = (w @ centre).tanh(), (g @ centre).exp()
    var1 = 1 / (1 / s + rho1.exp())
    mid = var1 * (m / s + rho1.exp() * mean1)
    low = 0.5 * (var1 / s + (mid - m).square() / s - 1 - (var1 / s).log()).sum()
    high = 0.5 * (var2 + centre.square() - 1 - var2.log()).sum()
    return mid + var1.sqrt() * noise1, z2, torch.stack([low, high])
"""),
        Mutant("rates against a standard normal", 0.6, """
def top_down(noise1, noise2, mean1, rho1, mean2, rho2, w, g):
    var2 = 1 / (1 + rho2.exp())
    centre = var2 * rho2.exp() * mean2
    z2 = centre + var2.sqrt() * noise2
    m, s = (z2 @ w.T).tanh(), (z2 @ g.T).exp()
    var1 = 1 / (1 / s + rho1.exp())
    mid = var1 * (m / s + rho1.exp() * mean1)
    low = 0.5 * (var1 + mid.square() - 1 - var1.log()).sum(-1).mean()
    high = 0.5 * (var2 + centre.square() - 1 - var2.log()).sum()
    return mid + var1.sqrt() * noise1, z2, torch.stack([low, high])
"""),
        Mutant("the encoder's Gaussian, not the product", 0, """
def top_down(noise1, noise2, mean1, rho1, mean2, rho2, w, g):
    z2 = mean2 + (-0.5 * rho2).exp() * noise2
    z1 = mean1 + (-0.5 * rho1).exp() * noise1
    m, log_s = (z2 @ w.T).tanh(), z2 @ g.T
    low = ((-rho1 - log_s).exp() + (mean1 - m).square() / log_s.exp() - 1 + rho1 + log_s)
    high = 0.5 * ((-rho2).exp() + mean2.square() - 1 + rho2).sum()
    return z1, z2, torch.stack([0.5 * low.sum(-1).mean(), high])
"""),
        Mutant("upper level's rate first", 0.6, """
def top_down(noise1, noise2, mean1, rho1, mean2, rho2, w, g):
    var2 = 1 / (1 + rho2.exp())
    centre = var2 * rho2.exp() * mean2
    z2 = centre + var2.sqrt() * noise2
    m, s = (z2 @ w.T).tanh(), (z2 @ g.T).exp()
    var1 = 1 / (1 / s + rho1.exp())
    mid = var1 * (m / s + rho1.exp() * mean1)
    low = 0.5 * (var1 / s + (mid - m).square() / s - 1 - (var1 / s).log()).sum(-1).mean()
    high = 0.5 * (var2 + centre.square() - 1 - var2.log()).sum()
    return mid + var1.sqrt() * noise1, z2, torch.stack([high, low])
"""),
    ],
    "my_chain": [
        Mutant("the book's chain: r = 1", 0, """
def my_chain():
    s = torch.tensor(my_s)
    a, det = 1 + 1 / s, 1 + 2 / s
    gaps = 0.5 * torch.log(a**2 / det), 0.5 * torch.log(2 * a / det)
    return {"factorised": gaps[0].item(), "shifted": gaps[1].item()}
"""),
        Mutant("the two exchanged", 0, """
def my_chain():
    s, r = torch.tensor(my_s), torch.tensor(my_r)
    det = 1 / s + 1 / r + 1 / (s * r)
    gaps = [0.5 * torch.log((1 + 1 / u) * (1 / s + 1 / r) / det).item() for u in (s, r)]
    return {"factorised": gaps[1], "shifted": gaps[0]}
"""),
    ],
    "test_rates": [
        Mutant("only where both levels agree with their priors", 1 / 8, """
def test_rates(fn):
    lower, upper = torch.ones(3, 4, 5), torch.zeros(4, 2)
    torch.testing.assert_close(fn(lower, lower, lower, lower, upper, upper), torch.zeros(4, 2))
"""),
        Mutant("only the shape and the sign", 0, """
def test_rates(fn):
    found = fn(*[torch.randn(3, 4, 5) for _ in range(4)], *[torch.randn(4, 2) for _ in range(2)])
    assert found.shape == (4, 2) and (found >= 0).all()
"""),
        Mutant("fails on the right ones: a sum over the draws", 0, """
def test_rates(fn):
    lower = [torch.ones(3, 4, 5), torch.zeros(3, 4, 5), torch.zeros(3, 4, 5), torch.zeros(3, 4, 5)]
    found = fn(*lower, torch.zeros(4, 2), torch.zeros(4, 2))
    torch.testing.assert_close(found[:, 0], torch.full((4,), 7.5))
"""),
    ],
}  # fmt: skip
