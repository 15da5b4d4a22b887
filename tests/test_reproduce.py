"""The runner of the reproductions, with an experiment of its own; then Table 1's rows in small."""

import errno
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from worlds import N_SE, gen

from avi import reproduce
from avi.checkpoint import CheckpointError
from avi.evaluation import log_evidence

ROOT = Path(__file__).parents[1]

SMALL = """
from dataclasses import dataclass, replace
from pathlib import Path
from avi.training import TrainingError

NAME = "small"

@dataclass(frozen=True)
class Row:
    number: float
    n: int = 100

    def at(self, tier):
        return replace(self, n={"smoke": 1, "mini": 10, "full": 100}[tier])

    def run(self, seed, checkpoint):
        if self.number < 0:
            raise TrainingError("step 3 of 9: the theta goal is not finite")
        return {"value": self.number + seed, "n": self.n}

ROWS = {"first/a": Row(1.0), "first/wild": Row(-1.0), "second/a": Row(2.0)}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.py").write_text(SMALL)
    return tmp_path


def work(folder, **options):
    """Run everything that the options name, and return the records made."""
    settings = {"tier": "full", "rows": "*", "seeds": [0]} | options
    module = reproduce.experiments(folder)["small"]
    return [run() for run in reproduce.runs(module, **settings, folder=folder)]


def test_every_row_and_seed_becomes_one_file_and_a_failure_stops_no_other(folder):
    work(folder, seeds=range(2))
    found = reproduce.results("small", folder=folder)
    assert [(r["row"], r["seed"]) for r in found] == [
        (name, seed) for name in ("first/a", "first/wild", "second/a") for seed in (0, 1)
    ]
    values = [r.get("values") for r in found]
    assert values == [
        {"value": number + seed, "n": 100} if number > 0 else None
        for number in (1.0, -1.0, 2.0)
        for seed in (0, 1)
    ]
    assert "theta goal is not finite" in found[2]["failure"]


def test_a_record_says_what_was_run(folder):
    (record,) = work(folder, rows="second/*", tier="mini")
    assert record["config"] == {"number": 2.0, "n": 10}
    assert record["config_hash"] == reproduce.digest({"n": 10, "number": 2.0})
    assert {"commit", "date", "device", "torch", "seconds"} <= set(record)
    path = next((folder / "results/small/mini").glob("*.json"))
    assert json.loads(path.read_text()) == record


def test_a_result_that_is_there_is_neither_measured_again_nor_overwritten(folder):
    work(folder)
    path = next((folder / "results/small/full").glob("first-a*"))
    before = path.read_bytes()
    assert work(folder) == [None] * 3
    assert path.read_bytes() == before


def test_a_changed_configuration_is_another_run_and_the_old_result_stays(folder):
    work(folder, rows="second/a")
    (folder / "small.py").write_text(SMALL.replace("Row(2.0)", "Row(5.0)"))
    assert reproduce.results("small", folder=folder) == []
    work(folder, rows="second/a")
    assert [r["values"]["value"] for r in reproduce.results("small", folder=folder)] == [5.0]
    assert len(list((folder / "results/small/full").glob("*.json"))) == 2


def test_tiers_are_kept_apart(folder):
    work(folder, tier="smoke")
    assert reproduce.results("small", folder=folder) == []
    assert len(reproduce.results("small", "smoke", folder)) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"row": "first/a"}'])
def test_a_bad_result_file_is_named(folder, text):
    work(folder)
    bad = folder / "results/small/full/half.json"
    bad.write_text(text)
    with pytest.raises(reproduce.ResultError, match="half.json.*delete it and run again"):
        reproduce.results("small", folder=folder)


def test_a_missing_folder_says_where_to_be(tmp_path):
    with pytest.raises(FileNotFoundError, match="--folder"):
        reproduce.experiments(tmp_path / "nowhere")


def command(folder, *words):
    line = [sys.executable, "-m", "avi.reproduce", *words, "--folder", str(folder)]
    return subprocess.run(line, capture_output=True, text=True)


def test_the_command_lists_runs_and_reports(folder):
    assert "first/wild" in command(folder, "--list").stdout
    unknown = command(folder, "smal")
    assert unknown.returncode == 2 and "there are: small" in unknown.stdout
    good = command(folder, "small", "--rows", "second/*")
    assert good.returncode == 0 and "value 2.000" in good.stdout
    failed = command(folder, "all")
    assert failed.returncode == 1 and "stopped: step 3 of 9" in failed.stdout
    assert "is there already" in failed.stdout
    assert command(folder, "small", "--rows", "none").returncode == 1


BROKEN = """
    def run(self, seed, checkpoint):
        if self.number == 1:
            raise FileNotFoundError("mnist is missing. Set AVI_DATA")
        if self.number < 0:
            return {}["value"]
        return {"value": self.number}
"""


def test_what_stops_one_run_stops_no_other(folder):
    head, tail = SMALL.split("    def run")[0], SMALL[SMALL.index("ROWS") :]
    (folder / "small.py").write_text(head + BROKEN.lstrip("\n") + "\n" + tail)
    done = command(folder, "small")
    assert done.returncode == 1
    assert "no result: mnist is missing. Set AVI_DATA" in done.stdout
    assert "KeyError: 'value'" in done.stdout  # a bug shows where it is
    assert "value 2.000" in done.stdout
    assert [p.name[:8] for p in folder.glob("results/small/smoke/*")] == ["second-a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Row(2.0)", "Row(2.0, m=5)"), "unexpected keyword argument 'm'"),
        (("ROWS =", "ROW ="), "no attribute 'ROWS'"),
        (("NAME =", "NAME ="[:-1]), "invalid syntax"),
    ],
)
def test_a_module_that_is_no_experiment_is_named(folder, change, message):
    (folder / "small.py").write_text(SMALL.replace(*change))
    with pytest.raises(reproduce.ExperimentError, match=f"small.py is no experiment.*{message}"):
        reproduce.experiments(folder)
    done = command(folder, "small")
    assert done.returncode == 2 and "small.py is no experiment" in done.stdout


def test_a_full_disk_leaves_no_half_result_and_says_so(folder, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(reproduce.os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device.*make room and run again"):
            work(folder, rows="second/a")
    assert not list((folder / "results/small/full").iterdir())
    assert work(folder, rows="second/a")[0]["values"] == {"value": 2.0, "n": 100}


def test_the_plan_names_every_run_and_where_its_result_will_be(folder):
    done = command(folder, "small", "--tier", "mini", "--seeds", "2", "--plan")
    plan = json.loads(done.stdout)
    assert [(job["row"], job["seed"]) for job in plan] == [
        (row, seed) for seed in (0, 1) for row in ("first/a", "first/wild", "second/a")
    ]
    assert not (folder / "results").exists()
    job = plan[-1]
    words = ("--rows", job["row"], "--seed", str(job["seed"]), "--tier", "mini")
    assert command(folder, "small", *words).returncode == 0
    assert json.loads(Path(job["path"]).read_text())["values"]["value"] == 3.0


# Table 1 of Kim et al. (2018)


@pytest.fixture(scope="module")
def table1():
    return reproduce.experiments(ROOT / "reproduction")["savae-table1"]


def small(table1, name, **changes):
    sizes = {"vocabulary": 30, "width": 8, "n_train": 100, "n_valid": 50, "n_test": 60}
    return replace(table1.ROWS[name].at("smoke"), **sizes | {"n_steps": 3, "epochs": 3} | changes)


NAMES = ("oracle/savae", "learned-plain/svi", "learned-annealed/savae", "learned-from-truth/vae")


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_row_ends_with_the_same_values(table1, name, tmp_path, monkeypatch):
    row = small(table1, name)
    want = row.run(1, tmp_path / "whole")
    run_epoch = table1.Learner.run_epoch

    def interrupted(training):
        if training.epoch == 2:
            raise KeyboardInterrupt
        run_epoch(training)

    monkeypatch.setattr(table1.Learner, "run_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        row.run(1, tmp_path / "half")
    epochs = []
    monkeypatch.setattr(
        table1.Learner, "run_epoch", lambda t: (epochs.append(t.epoch), run_epoch(t))
    )
    assert row.run(1, tmp_path / "half") == want
    assert epochs == [2]


def test_a_truncated_checkpoint_is_named_and_left_alone(table1, tmp_path):
    row, path = small(table1, "oracle/vae"), tmp_path / "work"
    row.run(0, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="delete it to start this run again"):
        row.run(0, path)
    assert path.stat().st_size == 1000


def test_methods_share_the_oracle_and_the_data_of_a_seed(table1):
    rows = [small(table1, name) for name in table1.ROWS]
    worlds = [table1.World.draw(row, 3) for row in rows]
    assert all(torch.equal(world.test, worlds[0].test) for world in worlds)
    other = table1.World.draw(rows[0], 4)
    assert not torch.equal(other.test, worlds[0].test)
    assert [len(part) for part in worlds[0][1:4]] == [100, 50, 60]


def test_what_is_given_stays_and_what_is_learned_moves(table1, tmp_path):
    for name, moves in (("oracle/savae", False), ("learned-plain/savae", True)):
        row = small(table1, name)
        world = table1.World.draw(row, 0)
        training = table1.Learner(row, world, 0, tmp_path / f"{moves}")
        before = [p.clone() for p in training.model.parameters()]
        training.best()
        pairs = zip(before, training.model.parameters())
        assert all(torch.equal(a, b) for a, b in pairs) != moves


def test_the_bound_lies_above_the_true_nll_and_refinement_lowers_it(table1, tmp_path):
    values = small(table1, "oracle/savae", epochs=2).run(0, tmp_path / "run")
    assert values["bound"] > values["true_nll"]
    assert values["gap"] == pytest.approx(values["bound"] - values["true_nll"], abs=1e-4)
    assert values["start_bound"] > values["bound"] > values["refined_bound"]


def test_the_true_nll_is_the_evidence(table1):
    row = small(table1, "oracle/vae", n_test=20)
    world = table1.World.draw(row, 0)
    found = table1.true_log_p(world.truth, world.test, 40_000, gen(1), rows=7)
    again = table1.true_log_p(world.truth, world.test, 40_000, gen(2))
    lam = torch.zeros(20, 4)
    want = log_evidence(world.truth, world.test, table1.FAMILY, lam, 40_000, gen(3))
    assert ((found - want.log_p).abs() <= N_SE * 2**0.5 * want.se).all()
    assert not torch.equal(found, again)


def test_tuned_svi_takes_the_best_candidate_on_the_validation_data(table1):
    row = small(table1, "oracle/svi-tuned", n_steps=5)
    world = table1.World.draw(row, 0)
    chosen = row.tuned(world, 0)
    scores = {
        step: table1.bound(
            row, world.truth, table1.svi(table1.FAMILY, step, 5), world.valid, 0
        ).mean()
        for step in table1.tuned_steps()
    }
    assert scores[chosen.step] == max(s for s in scores.values() if math.isfinite(s))
    assert table1.STEPS["published"] in scores


def test_the_step_is_halved_after_the_first_late_miss_and_then_every_epoch(table1, tmp_path):
    row = small(table1, "oracle/vae", first_halving=3)
    training = table1.Learner(row, table1.World.draw(row, 0), 0, tmp_path / "none")
    lrs = []
    for value in (-5.0, -6.0, -4.0, -4.5, -3.0, -2.0):  # misses at epochs 2 (early) and 4
        training.judge(value)
        training.epoch += 1
        lrs.append(training.lr)
    assert lrs == [1.0, 1.0, 1.0, 0.5, 0.25, 0.125]
    assert training.best_value == -2.0


def test_the_kept_weights_are_those_of_the_best_epoch(table1, tmp_path):
    row = small(table1, "learned-plain/vae")
    training = table1.Learner(row, table1.World.draw(row, 0), 0, tmp_path / "none")
    training.judge(-1.0)
    best = [p.clone() for p in training.model.parameters()]
    with torch.no_grad():
        for p in training.model.parameters():
            p.add_(1.0)
    training.judge(-2.0)
    training.epoch = row.epochs  # nothing left to train
    training.best()
    assert all(torch.equal(a, b) for a, b in zip(best, training.model.parameters()))


# Table 2 of Kim et al. (2018)


@pytest.fixture(scope="module")
def table2():
    return reproduce.experiments(ROOT / "reproduction")["savae-table2"]


def test_the_language_model_has_no_latent_unit_and_no_kl(table2, tmp_path):
    values = table2.ROWS["ptb/lm"].at("smoke").run(0, tmp_path / "run")
    assert values["kl"] == 0.0
    test = table2.CORPORA["small grammar"]().test
    nll = values["nll"] * len(test)
    assert values["perplexity"] == pytest.approx(math.exp(nll / test.n_tokens), rel=1e-9)


def test_text_is_scored_whole(table2, tmp_path):
    """Dropout is for training alone: another share changes no score of given weights."""
    row = replace(table2.ROWS["ptb/vae"].at("smoke"), word_dropout=0.5)
    learner = table2.Learner(row, table2.CORPORA["small grammar"](), 0, tmp_path / "run")
    before = table2.totals(row, learner.model, learner.method, learner.valid)
    learner.model.dropout = learner.model.word_dropout = 0.0
    assert before == table2.totals(row, learner.model, learner.method, learner.valid)


def test_an_interrupted_text_row_ends_with_the_same_values(table2, tmp_path, monkeypatch):
    row = table2.ROWS["ptb/savae-10"].at("smoke")
    want = row.run(1, tmp_path / "whole")
    judge = table2.Learner.judge

    def interrupted(learner, value):
        if learner.epoch == 1:
            raise KeyboardInterrupt
        judge(learner, value)

    with monkeypatch.context() as patch:
        patch.setattr(table2.Learner, "judge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            row.run(1, tmp_path / "half")
    assert (tmp_path / "half").exists()
    assert row.run(1, tmp_path / "half") == want


# Marino et al. (2018)

MARINO = ("iai-table1", "iai-cifar10", "iai-table2", "iai-race", "iai-figure6", "iai-figure7")


@pytest.fixture(scope="module")
def marino():
    found = reproduce.experiments(ROOT / "reproduction")
    return {name: found[name] for name in MARINO}


def test_every_row_is_smaller_at_the_smaller_tiers(marino):
    for module in marino.values():
        for row in module.ROWS.values():
            sizes = []
            for tier in reproduce.TIERS:
                at = row.at(tier)
                training = getattr(at, "training", at)
                sizes.append(training.epochs * math.prod(training.hidden))
                assert training.inference in sys.modules["_marino"].INFERENCES
                assert training.data in sys.modules["_marino"].SOURCES
            assert sizes[0] < sizes[1] < sizes[2]
            assert row.at("full") == row


ONE_OF_EACH = [
    ("iai-table1", "two-level/iterative"),
    ("iai-table1", "two-level/standard"),
    ("iai-table1", "single-recurrent/iterative"),
    ("iai-cifar10", "single/iterative"),
    ("iai-cifar10", "two-level/iterative"),
    ("iai-table2", "iterative"),
    ("iai-figure6", "rcv1"),
    ("iai-figure7", "iterations/errors/2"),
]


@pytest.mark.parametrize(("experiment", "name"), ONE_OF_EACH)
def test_a_smoke_row_gives_finite_values_twice_the_same(marino, experiment, name, tmp_path):
    row = marino[experiment].ROWS[name].at("smoke")
    values = [row.run(1, tmp_path / f"{i}.safetensors") for i in range(2)]
    for once in values:
        once.pop("train_seconds", None)
    assert values[0] == values[1] and all(map(math.isfinite, values[0].values()))


def test_methods_of_a_seed_start_from_the_same_decoder_and_see_the_same_data(marino):
    rows = [row.at("smoke") for row in marino["iai-table1"].ROWS.values() if len(row.dims) == 1]
    worlds = [sys.modules["_marino"].World.of(row, 3) for row in rows]
    first = worlds[0]
    for world in worlds[1:]:
        for a, b in zip(first.model.parameters(), world.model.parameters(), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(world.test, first.test) and torch.equal(world.valid, first.valid)


def test_the_numbers_of_a_row_fit_together(marino, tmp_path):
    row = marino["iai-table1"].ROWS["single/iterative"].at("smoke")
    values = row.run(0, tmp_path / "run.safetensors")
    assert values["gap"] == pytest.approx(-values["nll"] - values["bound"], abs=1e-4)
    assert values["gap"] > 0 and values["n_theta"] == 4 * 8 + 8 + 8 * 8 + 8 + 8 * 64 + 64
    assert values["calls_forward"] == row.n_steps + 1


def test_bits_are_those_of_the_bytes(marino, tmp_path):
    """-log p of the continuous values, 48 of them, and log 256 for the width of each byte."""
    values = marino["iai-cifar10"].ROWS["single/standard"].at("smoke").run(0, tmp_path / "run")
    want = (values["nll"] + 48 * math.log(256)) / (48 * math.log(2))
    assert values["bits_per_dim"] == pytest.approx(want, rel=1e-9)


def test_the_race_compares_with_the_best_tuned_optimiser(marino, tmp_path):
    row = marino["iai-race"].ROWS["decoder-with-step"].at("smoke")
    values = row.run(0, tmp_path / "run.safetensors")
    assert not list(tmp_path.iterdir())
    names = marino["iai-race"].OPTIMISERS
    for start in ("prior", "encoder"):
        for k in marino["iai-race"].MARKS:
            leads = [values[f"learned_{k}"] - values[f"{name}_{start}_{k}"] for name in names]
            assert any(values[f"lead_{start}_{k}"] == pytest.approx(x, abs=1e-4) for x in leads)
    change = values["learned_200"] - values["learned_16"]
    assert values["stays_200"] == pytest.approx(change, abs=1e-4)
    assert values["worst_200"] <= values["stays_200"]


# Recursive mixtures


@pytest.fixture(scope="module")
def toy():
    return reproduce.experiments(ROOT / "reproduction")["rme-toy"]


@pytest.fixture(scope="module")
def rme_digits():
    return reproduce.experiments(ROOT / "reproduction")["rme-digits"]


@pytest.mark.parametrize("name", ["joint", "annealed/recursive", "four modes/recursive"])
def test_a_toy_row_gives_finite_values_twice_the_same(toy, name, tmp_path):
    row = toy.ROWS[name].at("smoke")
    values = [row.run(1, tmp_path / "unused") for _ in range(2)]
    assert values[0] == values[1] and all(map(math.isfinite, values[0].values()))
    assert values[0]["gap"] == pytest.approx(values[0]["log_p"] - values[0]["bound"], abs=1e-4)
    assert values[0]["gap"] > 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mirror", "unequal", "four modes"])
def test_the_toy_s_evidence_is_that_of_importance_samples(toy, name):
    world = toy.WORLDS[name]
    x = toy.sample(world, 20, 3)
    near = torch.cat([x - world.shift, torch.full_like(x, 2 * math.log(1.0))], 1)
    found = log_evidence(world.model, x, toy.DiagGaussian(2), near, 40_000, gen(2))
    assert ((world.log_p(x) - found.log_p).abs() <= N_SE * found.se + 1e-4).all()


def test_modes_count_as_covered_where_a_component_is_on_each_side(toy):
    world, x = toy.WORLDS["four modes"], torch.tensor([[2.0, 2.0], [0.1, 2.0]])
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    means = corners[:, None].expand(-1, 2, -1)
    assert toy.covered(world, means, x) == 1.0
    assert toy.covered(world, means[:3], x) == 0.0


def test_starts_are_what_their_names_say(toy):
    x = torch.tensor([[0.7, -0.3]])
    answers = {}
    for name in ("same", "far", "wide", "mirrored"):
        row = replace(toy.ROWS["joint"].at("smoke"), start=name)
        first, second = (
            net(x)[0] for net in (p.net for p in toy.new_method(row, 2).init.parts[1:])
        )
        answers[name] = first, second
    assert answers["same"][0].equal(answers["same"][1])
    assert (answers["far"][1][1] - answers["wide"][1][1]).item() == pytest.approx(4.0, abs=1e-5)
    assert (answers["wide"][1][2] - answers["far"][1][2]).item() == pytest.approx(2.0, abs=1e-5)
    first, second = answers["mirrored"]
    assert second.equal(first * torch.tensor([-1.0, 1, 1, 1]))


@pytest.mark.parametrize("name", ["vae/wide", "savae", "joint/3", "recursive/2"])
def test_a_digits_row_gives_finite_values_twice_the_same(rme_digits, name, tmp_path):
    row = rme_digits.ROWS[name].at("smoke")
    values = [row.run(1, tmp_path / f"{i}.safetensors") for i in range(2)]
    for once in values:
        for clock in ("train_seconds", "test_ms"):
            assert once.pop(clock) >= 0
    assert values[0] == values[1] and all(map(math.isfinite, values[0].values()))
    assert values[0]["over_best"] <= math.log(row.n_components) + 1e-6
    assert values[0]["gap"] == pytest.approx(-values[0]["nll"] - values[0]["bound"], abs=1e-4)


def test_digits_rows_of_a_seed_share_the_decoder_and_equal_costs_repeat_their_row(rme_digits):
    rows = rme_digits.ROWS
    worlds = [rme_digits.World.of(row.at("smoke"), 3) for row in rows.values()]
    for world in worlds[1:]:
        for a, b in zip(worlds[0].model.parameters(), world.model.parameters(), strict=True):
            assert torch.equal(a, b)
    for name, row in rows.items():
        if name.endswith(" equal cost") or name.endswith("/equal cost"):
            plain = name.removesuffix(" equal cost").removesuffix("/equal cost")
            assert replace(row, times=1) == rows[plain] and row.times > 1
