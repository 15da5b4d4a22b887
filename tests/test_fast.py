"""Recorded steps do what plain ones do, need nothing from the host, and say where they failed."""

import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from valueless import Valueless
from worlds import (
    FAMILIES,
    METHODS,
    binary,
    deep,
    flow,
    gen,
    learned,
    method,
    sequence,
    text,
    world,
)

from avi import checkpoint as ckpt
from avi import fast, models
from avi.core import Goals
from avi.data import Sentences
from avi.families import DiagGaussian
from avi.fast import Fast, Plain, called
from avi.gradients import Unrolled
from avi.inference import direct, iterative, savae
from avi.learned import Errors, LogSign, WithData, learned_step, recurrent_step
from avi.models import bernoulli_mlp
from avi.nets import mlp
from avi.objectives import elbo, iwae
from avi.steps import Clipped, Momentum
from avi.training import TrainingError, TrainSettings, anneal, fit

FAMILY = DiagGaussian(2)
DATA = binary(22, seed=9)
SETTINGS = TrainSettings(epochs=3, batch_size=5, n_samples=2, checkpoint_every=4)  # the last has 2
RECORDED = partial(Fast, record=called)


def family_of(name: str, world_name: str):
    return FAMILIES[world_name]["mixture" if name.startswith("mixture") else "diag_gaussian"]


def case(name: str, world_name: str, family=None):
    """Model, method and data of one of the tests' worlds."""
    model, x, _ = world(world_name)
    return model, method(name, x, family or family_of(name, world_name)), x


def learner(make, signal, world_name: str, family_name: str = "diag_gaussian", **options):
    model, x, _ = world(world_name)
    family = FAMILIES[world_name][family_name]
    step = learned(make, signal, world_name, family)
    return model, iterative(step, family, 3, **options).double(), x


# An optimiser of torch's keeps its count of steps on the host: it can only be called.
ON_TOKENS = ("direct", "svi_momentum", "vae_svi_kl", "savae_adjoint_clipped")
CASES = (
    {name: partial(case, name, "bernoulli") for name in METHODS if not name.endswith("torch")}
    | {
        f"{name} on {of}": partial(case, name, of)
        for of in ("sequence", "text")
        for name in ON_TOKENS
    }
    | {
        "unrolled on sequence": partial(case, "savae_unrolled_momentum", "sequence"),
        "flow": lambda: case("direct", "linear_gaussian", flow(bent=0.15)),
        "bottom-up": partial(
            case, "direct", "hierarchical", FAMILIES["hierarchical"]["mean_field"]
        ),
        "ladder": partial(case, "direct", "hierarchical", FAMILIES["hierarchical"]["ladder"]),
        "gradients": partial(learner, learned_step, LogSign(), "bernoulli"),
        "errors": partial(learner, learned_step, LogSign(Errors()), "bernoulli"),
        "x, gradients, top-down": partial(
            learner, learned_step, WithData(LogSign()), "hierarchical", "top_down"
        ),
        "recurrent": partial(learner, recurrent_step, LogSign(), "gaussian"),
        "loop differentiated": partial(
            learner, learned_step, LogSign(), "bernoulli", gradient=Unrolled()
        ),
    }
)


def weights(*modules: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for m in modules for p in m.parameters()]


def equal(mine, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def fitted(make, path, settings=SETTINGS, data=None, **options):
    model, method, x = make()
    done = fit(
        model, method, x if data is None else data, settings, path=path, progress=False, **options
    )
    return [tuple(map(float.hex, r[2:])) for r in done.history], weights(model, method)


def vae():
    return deep(bernoulli_mlp), direct(mlp([4, 5, 4], gen(1)), FAMILY).double(), DATA


# ---- the same numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_recorded_steps_end_with_the_bits_of_plain_ones(name):
    settings = TrainSettings(epochs=4, batch_size=2, n_samples=2)  # of three examples: 2, then 1
    plain, recorded = (fitted(CASES[name], path, settings) for path in (Plain, RECORDED))
    assert plain[0] == recorded[0] and equal(plain[1], recorded[1])


def made(monkeypatch) -> list[Fast]:
    """Every Fast that is made from here on."""
    found, init = [], Fast.__init__

    def remember(self, *args, **options):
        init(self, *args, **options)
        found.append(self)

    monkeypatch.setattr(Fast, "__init__", remember)
    return found


@pytest.mark.parametrize("every", [1, 4, 100])
def test_what_was_noted_is_told_in_order_however_seldom_it_is_read(monkeypatch, every):
    monkeypatch.setattr(fast, "READ_EVERY", every)
    paths, plain = made(monkeypatch), fitted(vae, Plain)
    recorded = fitted(vae, RECORDED)
    assert plain[0] == recorded[0] and len(plain[0]) == 15
    (path,) = paths
    assert [r is not None for r in path.recordings.values()] == [True, True]  # 5 rows, and 2


def test_a_ramp_is_one_recording_and_its_top_another(monkeypatch):
    paths, ramp = made(monkeypatch), {"objective": anneal(0.1, 1.0, 6, analytic_kl=True)}
    plain, recorded = (fitted(vae, path, **ramp) for path in (Plain, RECORDED))
    assert plain[0] == recorded[0] and equal(plain[1], recorded[1])
    assert len(paths[0].recordings) == 4  # two sizes each
    other = fitted(vae, Plain, objective=anneal(0.1, 1.0, 7, analytic_kl=True))
    assert other[0] != plain[0], "the ramp is felt"


def test_observed_batches_are_trained_on_as_they_come():
    binarised = {"data": 0.8 * DATA + 0.1, "observe": lambda x, g: torch.bernoulli(x, generator=g)}
    plain, recorded = (fitted(vae, path, **binarised) for path in (Plain, RECORDED))
    assert plain[0] == recorded[0] and equal(plain[1], recorded[1])


def test_sentences_of_several_lengths_with_dropout():
    words = torch.randint(2, 5, (10, 3), generator=gen(1)).tolist()
    data = Sentences.of([[*w[: 1 + i % 2], 1] for i, w in enumerate(words)])

    def make():
        encoder = models.TextEncoder(5, 4, 3, 4, generator=gen(2))
        model = text(dropout=0.3, word_dropout=0.3).float()
        return model, savae(encoder, FAMILY, Clipped(Momentum(0.2), 5.0), 2), data

    plain, recorded = (fitted(make, p, observe=models.keyed) for p in (Plain, RECORDED))
    assert plain[0] == recorded[0] and equal(plain[1], recorded[1])


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, weight_decay=0.01)


def test_another_optimiser():
    plain, recorded = (fitted(vae, p, make_optimiser=sgd) for p in (Plain, RECORDED))
    assert plain[0] == recorded[0] and equal(plain[1], recorded[1])


def test_the_optimiser_is_left_as_it_was():
    optimisers = []

    def make_optimiser(parameters, lr):
        optimisers.append(torch.optim.Adam(parameters, lr=lr, fused=True))
        return optimisers[-1]

    for path in (Plain, RECORDED):
        fitted(vae, path, make_optimiser=make_optimiser)
    assert repr(optimisers[0]) == repr(optimisers[1])
    assert vars(optimisers[0]).keys() == vars(optimisers[1]).keys()


@pytest.mark.parametrize("first", [Plain, RECORDED])
def test_a_run_goes_on_along_the_other_path(tmp_path, first):
    """And what is written is the same."""
    second = RECORDED if first is Plain else Plain
    whole = fitted(vae, Plain, checkpoint=tmp_path / "whole")
    seen = []

    def observe(x, generator):
        if len(seen) == 10:
            raise KeyboardInterrupt
        seen.append(x)
        return x

    with pytest.raises(KeyboardInterrupt):
        fitted(vae, first, observe=observe, checkpoint=tmp_path / "parts")
    parts = fitted(vae, second, checkpoint=tmp_path / "parts")
    assert whole[0] == parts[0] and equal(whole[1], parts[1])
    (mine, meta), (theirs, other) = (ckpt.read(tmp_path / name) for name in ("whole", "parts"))
    assert ckpt.digest(mine, str(meta)) == ckpt.digest(theirs, str(other))


# ---- what stops it -----------------------------------------------------------------------------


def failing(path, at: int, **faults):
    """The message and the weights of a run whose step `at` meets a fault."""
    model, method, x = vae()
    seen = []

    def observe(x, generator):
        seen.append(x)
        if len(seen) - 1 == at:
            return faults["batch"](x)
        return x

    if "credit" in faults:
        method.credit = faults["credit"]
    with pytest.raises(TrainingError) as stopped:
        fit(model, method, x, SETTINGS, observe=observe, path=path, progress=False)
    return str(stopped.value), weights(model, method)


def theta_only_bad(path):
    value = path.value(-1)
    return Goals(value, value.clamp(max=1e9) * (1 if path.problem.x.max() < 7 else math.nan))


def steep(path):
    """Finite, but for x = 7 with a slope that is not."""
    value = path.value(-1)
    kink = (path.lam[0] * 0).sum().abs().sqrt() if path.problem.x.max() == 7 else 0
    return Goals(value + kink, value + kink)


@pytest.mark.parametrize("at", [3, 7, 13, 14])
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"batch": lambda x: x * math.nan}, "theta goal is not finite"),
        ({"batch": lambda x: x * 0 + math.inf}, "theta goal is not finite"),
        ({"batch": lambda x: x * 0 + 7, "credit": theta_only_bad}, "phi goal is not finite"),
        ({"batch": lambda x: x * 0 + 7, "credit": steep}, "gradients not finite"),
    ],
)
def test_a_step_that_fails_is_named_and_the_weights_are_those_before_it(at, fault, says):
    plain, recorded = (failing(path, at, **fault) for path in (Plain, RECORDED))
    assert plain[0].startswith(f"step {at} of 15: ") and says in plain[0]
    assert recorded[0].startswith(f"step {at} of 15: ") and says in recorded[0]
    assert equal(plain[1], recorded[1])


def refused(step):
    raise RuntimeError("operation not permitted\nand more")


def test_what_cannot_be_recorded_goes_on_plainly_and_says_why():
    plain = fitted(vae, Plain)
    with pytest.warns(UserWarning, match=r"plain path.*\(operation not permitted\)"):
        other = fitted(vae, partial(Fast, record=refused))
    assert plain[0] == other[0] and equal(plain[1], other[1])


def test_an_objective_that_is_new_at_each_step_is_never_recorded(monkeypatch):
    monkeypatch.setattr(fast, "MOST_RECORDINGS", 6)
    new = {"objective": lambda step: lambda *given: elbo()(*given)}
    plain = fitted(vae, Plain)
    with pytest.warns(UserWarning, match="more than 6 sizes and objectives"):
        other = fitted(vae, RECORDED, **new)
    assert plain[0] == other[0]


def test_an_objective_without_a_hash_is_taken_plainly():
    class Unhashable(list):
        def __call__(self, *given):
            return iwae()(*given)

    plain = fitted(vae, Plain, objective=lambda step: iwae())
    with pytest.warns(UserWarning, match="unhashable"):
        other = fitted(vae, RECORDED, objective=lambda step: Unhashable())
    assert plain[0] == other[0]


def test_a_cpu_takes_the_plain_path_and_warns_of_nothing(monkeypatch):
    paths = made(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(vae, None)
    assert not paths


# ---- nothing from the host ---------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_step_needs_no_value_and_no_tensor_of_the_cpu(name):
    """What a CUDA graph demands, on a device that has no values to look at."""
    model, method, x = CASES[name]()
    noise = method.noise(2, x, gen(3))
    model, method, x, noise = (part.to("meta") for part in (model, method, x, noise))
    parameters = [p for m in (model, method) for p in m.parameters() if p.requires_grad]
    path = Fast(model, method, torch.optim.SGD(parameters, 0.1), record=called)
    with Valueless():
        path._recorded(x, elbo(), noise)(x, noise)
    assert all(p.grad.is_meta for p in parameters)


def test_who_looks_at_a_value_or_stays_on_the_cpu_is_found():
    x = torch.zeros(3, device="meta")
    with Valueless() as mode:
        with pytest.raises(AssertionError, match="looks at a value"):
            bool(x.sum())
        with pytest.raises(AssertionError, match="different devices"):
            x @ torch.zeros(3)
        with pytest.raises(AssertionError, match="generator of another device"):
            torch.randn(3, device="meta", generator=gen())
        torch.randn(3, device="meta", generator=mode.seeded(0))
        assert sequence().context(torch.tensor([[0, 1]]))  # and the CPU is left alone
