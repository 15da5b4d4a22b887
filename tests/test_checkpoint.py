"""Checkpoints: never half a file, never a wrong one, and the same bits after any stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from worlds import DIM, binary, deep, encoder

from avi import checkpoint as ckpt
from avi.families import DiagGaussian
from avi.inference import vae_svi
from avi.models import bernoulli_mlp
from avi.steps import Momentum
from avi.training import TrainSettings, fit

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, -2]), "c": torch.tensor(0.5)}
META = {"step": 3, "run": "name"}
SETTINGS = TrainSettings(epochs=4, batch_size=5, n_samples=2, lr=0.01, checkpoint_every=3)
FAMILY = DiagGaussian(DIM)
DATA = binary(22, seed=9)
TOTAL = 20  # 4 epochs of 5 steps


def written(folder: Path) -> Path:
    path = folder / "file.safetensors"
    ckpt.write(path, TENSORS, META)
    return path


def parts():
    model, family = deep(bernoulli_mlp), FAMILY
    return model, vae_svi(encoder(DATA, family), family, Momentum(0.1), 2)


def run(path=None, settings=SETTINGS, data=DATA, stop_at=None, hidden=None, **options):
    """Train; with stop_at the run is interrupted when it begins that step."""
    model, method = parts() if hidden is None else hidden
    begun = [0]

    def observe(x, generator):
        begun[0] += 1
        if stop_at is not None and begun[0] > stop_at:
            raise KeyboardInterrupt
        return torch.bernoulli(0.2 + 0.6 * x, generator=generator)

    done = None
    try:
        done = fit(
            model,
            method,
            data,
            settings,
            observe=observe,
            checkpoint=path,
            progress=False,
            **options,
        )
    except KeyboardInterrupt:
        assert stop_at is not None
    return done, [p.detach().clone() for m in (model, method) for p in m.parameters()]


def equal(mine, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


# ---- the file ----------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "file.safetensors"
    ckpt.write(path, TENSORS, META)
    tensors, meta = ckpt.read(path)
    assert meta == META and set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_it_is_no_pickle(tmp_path):
    assert set(load_file(written(tmp_path))) == set(TENSORS)


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, place):
    path = written(tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, place, full)
    with pytest.raises(OSError, match="no space"):
        ckpt.write(path, {"a": torch.zeros(9)}, META)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no half-written file stays behind"


def test_a_truncated_file_is_refused_and_left(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ckpt.CheckpointError, match="left untouched"):
            ckpt.read(path)
        assert path.read_bytes() == whole[:length]


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_any_damaged_byte_is_noticed(tmp_path, bit):
    path = written(tmp_path)
    whole = path.read_bytes()
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(ckpt.CheckpointError):
            ckpt.read(path)
        assert path.read_bytes() == damaged


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    before = path.read_bytes()
    with pytest.raises(ckpt.CheckpointError, match="no training checkpoint"):
        run(path)
    assert path.read_bytes() == before
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(ckpt.CheckpointError, match="cannot be read"):
        run(path)
    with pytest.raises(ckpt.CheckpointError, match="cannot be read"):
        run(tmp_path)


def test_the_digest_sees_names_types_shapes_bytes_and_text():
    base = ckpt.digest(TENSORS, "text")
    others = [
        ckpt.digest(TENSORS, "texT"),
        ckpt.digest({**TENSORS, "a": TENSORS["a"].reshape(3, 2)}, "text"),
        ckpt.digest({**TENSORS, "a": TENSORS["a"].double()}, "text"),
        ckpt.digest({**TENSORS, "b": TENSORS["b"] + 1}, "text"),
        ckpt.digest({"d" if k == "c" else k: t for k, t in TENSORS.items()}, "text"),
    ]
    assert base not in others and len(set(others)) == len(others)
    assert ckpt.digest(dict(reversed(TENSORS.items())), "text") == base


# ---- resuming ----------------------------------------------------------------------------------


OPTIMISERS = {
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True),
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_stopped_run_ends_with_the_same_bits(tmp_path, name):
    """Stopped twice, in mid-epoch; the history too is that of one run."""
    make = OPTIMISERS[name]
    whole, want = run(make_optimiser=make)
    path = tmp_path / "run.safetensors"
    assert run(path, stop_at=7, make_optimiser=make)[0] is None
    assert run(path, stop_at=5, make_optimiser=make)[0] is None
    done, got = run(path, make_optimiser=make)
    assert equal(got, want)
    assert done.history == whole.history
    assert whole.steps_run == TOTAL
    assert done.steps_run == TOTAL - 9, "6 steps were kept, then 3 more"


def test_a_finished_run_is_only_read(tmp_path):
    path = tmp_path / "run.safetensors"
    _, want = run(path)
    before = path.read_bytes()
    done, got = run(path)
    assert done.steps_run == 0 and len(done.history) == TOTAL
    assert equal(got, want) and path.read_bytes() == before


def test_a_checkpoint_does_not_change_the_run(tmp_path):
    assert equal(run()[1], run(tmp_path / "run.safetensors")[1])


def test_how_often_it_is_written_may_change(tmp_path):
    path = tmp_path / "run.safetensors"
    run(path, stop_at=7)
    often = TrainSettings(**{**vars(SETTINGS), "checkpoint_every": 1})
    assert equal(run(path, often)[1], run()[1])


OTHERS = {
    "seed": {"settings": TrainSettings(**{**vars(SETTINGS), "seed": 1})},
    "lr": {"settings": TrainSettings(**{**vars(SETTINGS), "lr": 0.02})},
    "epochs": {"settings": TrainSettings(**{**vars(SETTINGS), "epochs": 5})},
    "data": {"data": 1 - DATA},
    "order of the data": {"data": DATA.flip(0)},
    "optimiser": {"make_optimiser": OPTIMISERS["sgd"]},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_runs_checkpoint_is_refused_and_left(tmp_path, name):
    path = tmp_path / "run.safetensors"
    run(path, stop_at=7)
    before = path.read_bytes()
    with pytest.raises(ckpt.CheckpointError, match="belongs to a run with other"):
        run(path, **OTHERS[name])
    assert path.read_bytes() == before


def test_another_models_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    run(path, stop_at=7)
    wider = bernoulli_mlp([DIM, 6, DATA.shape[1]]).double()
    with pytest.raises(ckpt.CheckpointError, match="belongs to a run with other"):
        run(path, hidden=(wider, parts()[1]))


def test_modules_that_do_not_fit_are_refused():
    tensors = ckpt.pack_modules(model=nn.Linear(2, 3))
    assert set(tensors) == {"model.weight", "model.bias"}
    with pytest.raises(ckpt.CheckpointError, match="another model"):
        ckpt.unpack_modules(tensors, model=nn.Linear(2, 4))
    fitting = nn.Linear(2, 3)
    ckpt.unpack_modules(tensors, model=fitting)
    assert torch.equal(fitting.weight, tensors["model.weight"])


def test_stray_parts_do_no_harm(tmp_path):
    path = tmp_path / "run.safetensors"
    run(path, stop_at=7)
    stray = tmp_path / "run.safetensorsabc.part"
    stray.write_bytes(b"half")
    done, got = run(path)
    assert equal(got, run()[1]) and done.steps_run == TOTAL - 6
    assert stray.read_bytes() == b"half"


# ---- killed ------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork: Linux, macOS or WSL")
def test_a_run_killed_ten_times_ends_with_the_same_bits(tmp_path):
    """SIGKILL at random moments and at four places inside a write, resumed after each."""
    script = Path(__file__).parent / "killed_training.py"
    command = [sys.executable, str(script), str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    seen = json.loads(out.stdout)
    attempts = seen["attempts"]
    assert len(attempts) == 10 and all(a["killed"] for a in attempts)
    in_write = [a["place"] for a in attempts if a["in_write"]]
    assert in_write == ["half", "fsync", "before", "after"]
    assert seen["codes"] == [0, 0]
    assert seen["parts"] >= 3, "killed writes leave their unfinished files, and only those"
    whole, resumed = (load_file(tmp_path / name) for name in ("whole", "resumed"))
    assert set(whole) == set(resumed)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole if k != "history")
    assert torch.equal(whole["history"], resumed["history"])
    fresh, rest = (
        json.loads((tmp_path / f"{name}.json").read_text())["steps_run"]
        for name in ("whole", "resumed")
    )
    total, every = 160, 4
    assert fresh == total and 0 < rest < total
    made = rest + sum(a["steps"] for a in attempts)
    assert made <= total + every * len(attempts), "a kill costs at most `checkpoint_every` steps"
