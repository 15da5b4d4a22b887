"""The device is chosen once, checks know when not to look, and runs side by side do not meet."""

import json
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from worlds import gen

from avi import device, reproduce
from avi.data import Sentences, binarise, dequantise
from avi.data.bags import Bags
from avi.fast import Fast, called

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import device as benchmark  # noqa: E402

FOLDER = Path(__file__).parents[1] / "reproduction"
NO_GPU = not torch.cuda.is_available()


@pytest.fixture
def chosen(monkeypatch):
    monkeypatch.setattr(device, "_chosen", torch.device("cpu"))
    return device


@pytest.fixture
def gpu(chosen):
    """The GPU, chosen for one test. Its matrix products stay in full float32."""
    if NO_GPU:
        pytest.skip("no GPU here")
    before = torch.get_float32_matmul_precision()
    chosen.use("cuda", tf32=False)
    yield
    torch.set_float32_matmul_precision(before)


# ---- the choice --------------------------------------------------------------------------------


def test_auto_is_a_gpu_where_there_is_one(chosen, monkeypatch):
    assert chosen.use("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen.use("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    try:
        assert chosen.use("auto").type == "cuda"
        assert torch.get_float32_matmul_precision() == "high"
        assert chosen.use("auto", tf32=False).type == "cuda"
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_gpu_that_is_not_there_is_an_error_with_a_remedy(chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(device.DeviceError, match="finds no GPU here: take the device cpu"):
        chosen.use("cuda")
    assert device._chosen.type == "cpu"


def test_the_runner_says_so_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = ["reproduce", "avi-linear", "--device", "cuda", "--folder", str(FOLDER)]
    monkeypatch.setattr(sys, "argv", line)
    assert reproduce.main() == 2
    assert "finds no GPU here" in capsys.readouterr().out


def test_what_is_there_already_is_not_copied(chosen):
    x, net = torch.zeros(3), nn.Linear(2, 2)
    assert chosen.here(x) is x and chosen.here(net) is net


def test_everything_that_training_reads_can_be_moved(monkeypatch):
    monkeypatch.setattr(device, "_chosen", torch.device("meta"))
    sentences = Sentences.of([[2, 1], [3, 2, 1]])
    bags = Bags(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([1.0]), 3)
    for part in (sentences, bags, torch.zeros(2, 2)):
        moved = device.here(part)
        assert type(moved) is type(part) and moved.device.type == "meta"
    assert device.here(nn.Linear(2, 2)).weight.is_meta


def test_a_seed_is_the_same_generator_on_the_cpu(chosen):
    assert torch.equal(torch.randn(5, generator=chosen.seeded(3)), torch.randn(5, generator=gen(3)))


# ---- looking -----------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [binarise, dequantise])
def test_data_are_looked_at_unless_nothing_may_be(check):
    bad = torch.full((1, 2), 2.0)
    with pytest.raises(ValueError):
        check(bad, gen())
    with device.unwatched():
        dequantise(bad, gen())
        with device.unwatched():
            pass
        assert not device.watched()
    assert device.watched()


def test_another_thread_goes_on_looking():
    seen = []
    with device.unwatched():
        thread = threading.Thread(target=lambda: seen.append(device.watched()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_time_is_told_once_and_by_thread():
    device.spent()
    device.took("plain", 3, 0.3)
    device.took("recorded", 1, 0.1)
    others = []
    thread = threading.Thread(target=lambda: others.append(device.spent()))
    thread.start()
    thread.join()
    assert device.spent() == {"path": "recorded", "step_ms": 100.0}
    assert device.spent() == {} and others == [{}]


# ---- side by side ------------------------------------------------------------------------------

# Rows whose first weights are torch's own, and one that is differentiated twice.
TOGETHER = [
    ("avi-saw", "published/two-inputs/4"),
    ("avi-bnn", "published/width-64"),
    ("savae-table1", "oracle/savae"),
]
CLOCKS = ("seconds", "_us", "_ms")


def values(folder: Path) -> dict:
    found = {}
    for path in folder.glob("results/**/*.json"):
        record = json.loads(path.read_text())
        kept = {k: v for k, v in record["values"].items() if not k.endswith(CLOCKS)}
        found[record["experiment"], record["row"], record["seed"]] = kept
    return found


def test_runs_side_by_side_end_as_each_does_alone(tmp_path):
    modules = reproduce.experiments(FOLDER)
    for folder, together in (("alone", 1), ("together", 4)):
        todo = [
            reproduce.Run(
                name, row, modules[name].ROWS[row].at("smoke"), "smoke", seed, tmp_path / folder
            )
            for name, row in TOGETHER
            for seed in (0, 1)
        ]
        assert reproduce._work(todo, together) == 0
    alone = values(tmp_path / "alone")
    assert len(alone) == 6 and alone == values(tmp_path / "together")


class Broken(reproduce.Run):
    def _measure(self):
        raise RuntimeError("it broke")


def test_one_that_fails_harms_no_other(tmp_path, capsys):
    row = reproduce.experiments(FOLDER)["avi-linear"].ROWS["degree-2"].at("smoke")
    kinds = enumerate((reproduce.Run, Broken, reproduce.Run))
    todo = [kind("avi-linear", "degree-2", row, "smoke", seed, tmp_path) for seed, kind in kinds]
    assert reproduce._work(todo, 3) == 1
    assert "no result: it broke" in capsys.readouterr().out
    assert [key[2] for key in sorted(values(tmp_path))] == [0, 2]


# ---- the benchmark -----------------------------------------------------------------------------


def test_the_benchmark_says_that_there_is_no_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["device", "--out", str(tmp_path / "out")])
    assert benchmark.main() == 0
    assert "no GPU here" in capsys.readouterr().out and not (tmp_path / "out").exists()


def small() -> benchmark.Case:
    return benchmark.vae(4)


def test_the_benchmark_finds_equal_losses_and_a_floor():
    found = benchmark.compared(small, 4, partial(Fast, record=called))
    assert found["apart"] == 0 and found["path"] == "recorded"
    # two passes of products back for each one forward, but none to the pixels
    widths = [(784, 512), (512, 512), (512, 128), (64, 512), (512, 512), (512, 784)]
    products = sum(a * b for a, b in widths)
    assert found["gflop"] == pytest.approx(2e-9 * 4 * (3 * products - 784 * 512))
    assert found["operations"] > 50
    assert benchmark.row("a case", found).endswith("recorded")
    assert "it broke" in benchmark.row("a case", benchmark.attempted(broken))


def broken() -> dict:
    raise RuntimeError("it broke")


# ---- on a GPU ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", benchmark.CASES)
def test_recorded_steps_climb_what_plain_ones_do(gpu, name):
    """Sums are in other orders, and a loop of steps makes more of that."""
    found = benchmark.compared(benchmark.CASES[name], 30)
    assert found["path"] == "recorded"
    assert found["apart_first"] < 1e-4 and found["apart"] < 1e-2


def test_recorded_runs_side_by_side_on_a_gpu(gpu):
    assert benchmark.side_by_side(benchmark.learned, 30, 3) > 0


def test_a_row_runs_on_a_gpu(gpu, tmp_path):
    row = reproduce.experiments(FOLDER)["iai-table1"].ROWS["single/iterative"].at("smoke")
    record = reproduce.Run("iai-table1", "single/iterative", row, "smoke", 0, tmp_path)()
    assert record["path"] == "recorded" and record["step_ms"] > 0
    assert "float32" in record["device"] and "CPU" not in record["device"]
