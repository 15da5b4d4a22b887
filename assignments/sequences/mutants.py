"""Known wrong answers to the assignment sequences, and the share of the points each earns."""

from avi_classroom.tasks import Mutant

MUTANTS = {
    "sequence_log_lik": [
        Mutant("padding counted", 0.6, """
def sequence_log_lik(x, logits, lengths):
    return logits.log_softmax(-1).gather(-1, x[..., None])[..., 0].sum(-1)
"""),
        Mutant("without the end token", 0, """
def sequence_log_lik(x, logits, lengths):
    every = logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]
    counts = torch.arange(x.shape[1]) < lengths[:, None] - 1
    return (every * counts).sum(-1)
"""),
        Mutant("probabilities first", 0.8, """
def sequence_log_lik(x, logits, lengths):
    every = logits.softmax(-1).gather(-1, x[..., None])[..., 0].log()
    counts = torch.arange(x.shape[1]) < lengths[:, None]
    return (every * counts).sum(-1)
"""),
        Mutant("nats per word", 0, """
def sequence_log_lik(x, logits, lengths):
    every = logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]
    counts = torch.arange(x.shape[1]) < lengths[:, None]
    return (every * counts).sum(-1) / lengths
"""),
    ],
    "perplexities": [
        Mutant("a mean of perplexities", 0, """
def perplexities(log_w, lengths):
    log_p = log_w.logsumexp(0) - math.log(len(log_w))
    return (-log_p / lengths).exp().mean(), (-log_w.mean(0) / lengths).exp().mean()
"""),
        Mutant("the bound twice", 0.4, """
def perplexities(log_w, lengths):
    limit = (-log_w.mean(0).sum() / lengths.sum()).exp()
    return limit, limit
"""),
        Mutant("weights that underflow", 0.8, """
def perplexities(log_w, lengths):
    log_p = log_w.exp().mean(0).log()
    tokens = lengths.sum()
    return (-log_p.sum() / tokens).exp(), (-log_w.mean(0).sum() / tokens).exp()
"""),
        Mutant("a sum over draws", 0.4, """
def perplexities(log_w, lengths):
    tokens = lengths.sum()
    return (-log_w.logsumexp(0).sum() / tokens).exp(), (-log_w.mean(0).sum() / tokens).exp()
"""),
        Mutant("a mean of nats per word", 0, """
def perplexities(log_w, lengths):
    log_p = log_w.logsumexp(0) - math.log(len(log_w))
    return (-log_p / lengths).mean().exp(), (-log_w.mean(0) / lengths).mean().exp()
"""),
    ],
    "annealed": [
        Mutant("beta goes on rising", 0.7, """
def annealed(bound, rate, step, n_steps):
    return bound + (1 - step / n_steps) * rate
"""),
        Mutant("the bound takes the KL away already", 0, """
def annealed(bound, rate, step, n_steps):
    return bound - min(1.0, step / n_steps) * rate
"""),
        Mutant("beta falls", 0, """
def annealed(bound, rate, step, n_steps):
    return bound + min(1.0, step / n_steps) * rate
"""),
        Mutant("the whole bound is scaled", 0.3, """
def annealed(bound, rate, step, n_steps):
    return min(1.0, step / n_steps) * bound
"""),
    ],
    "reads": [
        Mutant("reads what it has to predict", 0, """
def reads(x, keys, share, start, unknown):
    return x.where(keys >= share, torch.tensor(unknown))
"""),
        Mutant("hides the start as well", 0.4, """
def reads(x, keys, share, start, unknown):
    before = torch.cat([torch.full_like(x[:, :1], start), x[:, :-1]], 1)
    return before.where(keys >= share, torch.tensor(unknown))
"""),
        Mutant("hides what it should show", 0, """
def reads(x, keys, share, start, unknown):
    seen = x.where(keys < share, torch.tensor(unknown))
    return torch.cat([torch.full_like(x[:, :1], start), seen[:, :-1]], 1)
"""),
        Mutant("hides nothing", 0.4, """
def reads(x, keys, share, start, unknown):
    return torch.cat([torch.full_like(x[:, :1], start), x[:, :-1]], 1)
"""),
    ],
    "units": [
        Mutant("a unit is active where it has a rate", 0.5, """
def units(mean, log_var):
    rate = (0.5 * (log_var.exp() + mean**2 - 1 - log_var)).mean(0)
    return rate, rate > 0.01
"""),
        Mutant("a standard deviation above 0.01", 0.5, """
def units(mean, log_var):
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
    return rate.mean(0), mean.std(0) > 0.01
"""),
        Mutant("variance around zero", 0.5, """
def units(mean, log_var):
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
    return rate.mean(0), mean.square().mean(0) > 0.01
"""),
        Mutant("rates of sentences", 0.5, """
def units(mean, log_var):
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
    return rate.sum(-1), mean.var(0) > 0.01
"""),
    ],
    "information": [
        Mutant("the whole rate", 0.4, """
def information(posterior, prior):
    heap = posterior.mean(0)
    told = torch.xlogy(posterior, posterior) - torch.xlogy(posterior, prior)
    return told.sum(-1).mean(), (torch.xlogy(heap, heap) - torch.xlogy(heap, prior)).sum()
"""),
        Mutant("zero times infinity", 0.8, """
def information(posterior, prior):
    heap = posterior.mean(0)
    told = posterior * (posterior.log() - heap.log())
    return told.sum(-1).mean(), (heap * (heap.log() - prior.log())).sum()
"""),
        Mutant("the other direction", 0.4, """
def information(posterior, prior):
    heap = posterior.mean(0)
    told = torch.xlogy(posterior, posterior) - torch.xlogy(posterior, heap)
    return told.sum(-1).mean(), (torch.xlogy(prior, prior) - torch.xlogy(prior, heap)).sum()
"""),
        Mutant("the entropy of the heap", 0.6, """
def information(posterior, prior):
    heap = posterior.mean(0)
    rest = (torch.xlogy(heap, heap) - torch.xlogy(heap, prior)).sum()
    return -torch.xlogy(heap, heap).sum(), rest
"""),
    ],
    "room": [
        Mutant("not centred", 0, """
def room(x, bias, direction):
    p = bias.softmax(0)
    variance = p @ direction**2 - (p @ direction) ** 2
    return direction[x].sum(-1).square().mean() - x.shape[1] * variance
"""),
        Mutant("the variance of one word", 0.4, """
def room(x, bias, direction):
    p = bias.softmax(0)
    centred = direction - p @ direction
    return centred[x].sum(-1).square().mean() - p @ centred**2
"""),
        Mutant("centred by the data", 0, """
def room(x, bias, direction):
    s = direction[x].sum(-1)
    p = bias.softmax(0)
    return s.var(unbiased=False) - x.shape[1] * (p @ (direction - p @ direction) ** 2)
"""),
        Mutant("squares of single words", 0.4, """
def room(x, bias, direction):
    p = bias.softmax(0)
    centred = direction - p @ direction
    return centred[x].square().sum(-1).mean() - x.shape[1] * (p @ centred**2)
"""),
    ],
    "my_language": [
        Mutant("a latent that says everything", 0, """
def my_language():
    weight = math.atanh(math.sqrt(2 * my_r - 1))
    gain = math.log(2) + my_r * math.log(my_r) + (1 - my_r) * math.log(1 - my_r)
    return {"weight": weight, "gain": gain, "rate": my_r * math.log(2)}
"""),
        Mutant("each word right with probability r", 0, """
def my_language():
    weight = 0.5 * math.log(my_r / (1 - my_r))
    gain = math.log(2) + my_r * math.log(my_r) + (1 - my_r) * math.log(1 - my_r)
    return {"weight": weight, "gain": gain, "rate": gain}
"""),
    ],
    "test_sequence_log_lik": [
        Mutant("no padding, no sure decoder", 5 / 7, """
def test_sequence_log_lik(fn):
    x, logits = torch.tensor([[3, 1, 0], [2, 2, 1]]), torch.sin(torch.arange(24.0)).reshape(2, 3, 4)
    want = sum(logits[:, t].log_softmax(-1)[[0, 1], x[:, t]] for t in range(3))
    torch.testing.assert_close(fn(x, logits, torch.tensor([3, 3])), want)
"""),
        Mutant("a decoder that knows nothing", 5 / 7, """
def test_sequence_log_lik(fn):
    lengths = torch.tensor([2, 3])
    found = fn(torch.tensor([[3, 1, 0], [2, 2, 1]]), torch.zeros(2, 3, 4), lengths)
    torch.testing.assert_close(found, -lengths * math.log(4))
"""),
        Mutant("only the shape", 0, """
def test_sequence_log_lik(fn):
    x = torch.tensor([[3, 1, 0], [2, 2, 1]])
    assert fn(x, torch.zeros(2, 3, 4), torch.tensor([2, 3])).shape == (2,)
"""),
        Mutant("takes nats per word for the truth", 0, """
def test_sequence_log_lik(fn):
    lengths = torch.tensor([2, 3])
    found = fn(torch.tensor([[3, 1, 0], [2, 2, 1]]), torch.zeros(2, 3, 4), lengths)
    torch.testing.assert_close(found, torch.full((2,), -math.log(4)))
"""),
    ],
}  # fmt: skip
