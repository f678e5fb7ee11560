"""Several processes on loopback: they give one process's numbers, train each model once, and end together."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest

from jaxmia._validate import InputError
from jaxmia.cli import main
from jaxmia.data.feature_set import demo_features
from jaxmia.data.membership import draw_membership
from jaxmia.studies import distributed as processes
from jaxmia.studies import run
from jaxmia.studies.cell import Cell, draw_pool
from jaxmia.studies.distributed import Group, ModelRange, ProcessError, deal, group, start
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.run import run_experiment
from jaxmia.studies.settings.toml import parse_config
from jaxmia.training.ensemble import ShadowEnsemble, empty_heads
from jaxmia.training.scoring import score

SETTINGS = {
    "attack": ["lira", "threshold", "whitebox"],
    "fpr": [0.1],
    "grid": {"shots": [4, 8], "classes": [3], "seeds": [0]},
    "shadows": {"models": 17},
    # Not Adam, whose first step follows the sign of gradients that are zero but for rounding.
    "train": {"optimizer": "sgd", "learning_rate": 1.0, "steps": 10},
}
OVERRIDES = [
    "--set=fpr=[0.1]",
    '--set=attack=["lira","threshold","whitebox"]',
    "--set=grid.shots=[4,8]",
    "--set=shadows.models=17",
    *(f"--set=train.{name}={value}" for name, value in SETTINGS["train"].items()),
]
CELLS = (Cell(3, 4, 0), Cell(3, 8, 0))
LIMIT = 200  # seconds; a process that takes longer hangs, is killed and fails its test

# A process that uses the library; `beforehand` is code that runs first.
PROGRAM = """
import json, os, signal, sys
import jax
address, count, index, settings, out, beforehand = sys.argv[1:]
jax.distributed.initialize(address, int(count), int(index), heartbeat_timeout_seconds=10)
from jaxmia.studies.run import run_experiment
from jaxmia.studies.folder.run import RunFolder
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
exec(beforehand)
print(run_experiment(json.loads(settings), out, resume=True).heads_trained)
"""


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def outcomes(commands):
    """Run commands at the same time; return (exit code, stdout, stderr) of each."""
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        told = [process.communicate(timeout=LIMIT) for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, *words) for process, words in zip(running, told, strict=True)]


def in_terminals(out, *words):
    """The command line in two processes."""
    command = [sys.executable, "-m", "jaxmia", "run", "smoke", "--out", out, *OVERRIDES, *words]
    several = ["--coordinator", free_address(), "--processes", "2", "--process"]
    return outcomes([[*command, *several, index] for index in "01"])


def in_programs(out, *beforehand):
    """Use the library in several processes, one for each line of code to run beforehand."""
    words = (free_address(), str(len(beforehand)))
    return outcomes(
        [sys.executable, "-c", PROGRAM, *words, str(index), json.dumps(SETTINGS), str(out), lines]
        for index, lines in enumerate(beforehand)
    )


def parts(out, cell):
    """The folders of heads of a cell."""
    return sorted(path.name for path in (out / "checkpoints" / str(cell)).glob("models-*") if path.is_dir())


def all_scores(out, cell):
    """Log-odds of all heads of a cell, computed from what is on disk."""
    config, folder = parse_config(SETTINGS), RunFolder(out, {})
    pool = draw_pool(config, demo_features(), cell).data
    rows = []
    for models in folder.trained_models(cell):
        template = empty_heads(pool, num_models=models[1] - models[0])
        heads = folder.load_heads(cell, models, template)
        masks = draw_membership(jax.random.key(0), pool.labels, num_models=models[1] - models[0])
        rows.append(score(ShadowEnsemble(heads, masks), pool).log_odds)
    return np.concatenate(rows)


def assert_same_results(out, reference):
    """Scores agree to 1e-5, and rows up to one score of one model, a tie that rounding may break."""
    for cell in CELLS:
        np.testing.assert_allclose(all_scores(out, cell), all_scores(reference.path, cell), atol=1e-5)
    results, expected = pd.read_parquet(out / "results.parquet"), reference.results
    one_score = 1 / expected["num_members"].min()
    ranks = ["tpr", "tpr_low", "tpr_high", "advantage", "fpr_realised", "auc"]
    np.testing.assert_allclose(results[ranks], expected[ranks], atol=2 * one_score)
    facts = [
        "shots",
        "attack",
        "evaluation",
        "fpr",
        "status",
        "num_models",
        "num_members",
        "num_nonmembers",
        "accuracy",
    ]
    pd.testing.assert_frame_equal(results[facts], expected[facts], rtol=1e-5)
    per_example = pd.read_parquet(out / "per_example.parquet")
    pd.testing.assert_frame_equal(
        per_example, pd.read_parquet(reference.path / "per_example.parquet"), rtol=1e-3, atol=1e-5
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run_experiment(SETTINGS, tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "two"
    return out, in_terminals(out)


@pytest.mark.thorough
def test_two_processes_give_the_results_of_one(reference, by_two):
    out, ((code, stdout, stderr), (other_code, other_stdout, other_stderr)) = by_two
    assert (code, other_code) == (0, 0), stderr + other_stderr
    assert "16 heads trained; 2 cells computed" in stdout
    assert other_stdout == "process 1: 18 heads trained; process 0 has the tables\n"
    assert_same_results(out, reference)
    assert json.loads((out / "manifest.json").read_text())["status"] == "finished"


@pytest.mark.thorough
def test_each_process_trains_its_own_models_and_leaves_no_messages(by_two):
    out, _ = by_two
    for cell in CELLS:
        assert parts(out, cell) == ["models-0-8", "models-8-17"]
        assert not list((out / "checkpoints" / str(cell)).glob("*scores*"))


@pytest.mark.thorough
def test_a_refused_start_ends_all_with_one_message_and_code_2(by_two):
    out, _ = by_two
    before = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    (code, _, error), (other_code, _, other_error) = in_terminals(out, "--set", "train.steps=11")
    assert (code, other_code) == (2, 2)
    assert error == other_error
    assert re.fullmatch(r"error: settings.train.steps=11 must equal the 10 that .* another folder.\n", error)
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == before


def test_only_the_folder_of_process_0_is_joined(reference, tmp_path):
    manifest = json.loads((reference.path / "manifest.json").read_text())
    seen = RunFolder(reference.path, manifest).manifest_hash()
    assert RunFolder.join(reference.path, identity=manifest["identity"], manifest_hash=seen).cells == [*CELLS]
    for place, manifest_hash in ((reference.path, "that of process 0"), (tmp_path / "nothing", seen)):
        with pytest.raises(InputError, match="must be a folder that all processes share"):
            RunFolder.join(place, identity=manifest["identity"], manifest_hash=manifest_hash)
    with pytest.raises(InputError, match="features='other' must equal"):
        RunFolder.join(
            reference.path, identity={**manifest["identity"], "features": "other"}, manifest_hash=seen
        )


@pytest.mark.thorough
def test_a_killed_process_ends_the_other_and_one_process_can_finish(tmp_path, reference):
    """Process 1 dies in its second cell, after its heads are on disk and before their scores are."""
    out = tmp_path / "run"
    dies_late = """
save = RunFolder.save_scores
RunFolder.save_scores = lambda self, cell, *rest: die() if cell.shots == 8 else save(self, cell, *rest)
"""
    (code, _, error), (killed, _, _) = in_programs(out, "", dies_late)
    assert killed == -signal.SIGKILL
    assert code not in (0, 2)
    assert "another task died" in error
    assert "models-8-17" in parts(out, CELLS[1])
    with pytest.raises(InputError, match="unfinished run"):
        run_experiment(SETTINGS, out)
    resumed = run_experiment(SETTINGS, out, resume=True)
    assert resumed.heads_trained in (0, 8)  # process 0 may have been in its second cell
    assert_same_results(out, reference)


@pytest.mark.slow
def test_a_run_of_one_process_is_grown_by_two_and_finished_by_one(tmp_path, reference):
    """Process 0 dies before it has written the rows of its first cell."""
    out = tmp_path / "run"
    for models in (9, 13):
        run_experiment(
            {**SETTINGS, "shadows": {"models": models}, "grid": {**SETTINGS["grid"], "shots": [4]}}, out
        )
    assert parts(out, CELLS[0]) == ["models-0-9", "models-9-13"]
    (killed, _, _), (code, _, error) = in_programs(out, "RunFolder.finish_cell = die", "")
    assert killed == -signal.SIGKILL
    assert code not in (0, 2)
    assert "another task died" in error
    assert parts(out, CELLS[0]) == ["models-0-9", "models-13-15", "models-15-17", "models-9-13"]
    resumed = run_experiment(SETTINGS, out, resume=True)
    assert resumed.heads_trained in (8, 17)  # process 1 may have been in its second cell
    assert_same_results(out, reference)


# Without processes: the division of models, and reports of failures.


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "trained", [[], [(0, 17)], [(0, 5)], [(9, 17)], [(2, 3), (5, 9), (9, 10)], [(0, 4), (16, 17)]]
)
def test_every_model_is_dealt_once_and_evenly(trained, count):
    pieces = deal(trained, 17, count)
    assert [model for piece in pieces for model in range(piece.first, piece.end)] == list(range(17))
    assert [piece.models for piece in pieces if piece.trained] == trained
    missing = [
        sum(piece.end - piece.first for piece in pieces if piece.process == process and not piece.trained)
        for process in range(count)
    ]
    assert max(missing) - min(missing) <= 1
    owners = [piece.process for piece in pieces if not piece.trained]
    assert owners == sorted(owners)  # each process's missing models are contiguous among the missing ones


def test_one_process_trains_what_is_missing_in_one_piece():
    assert deal([], 17, 1) == [ModelRange(0, 17, False, 0)]
    assert deal([(0, 9)], 17, 1) == [ModelRange(0, 9, True, 0), ModelRange(9, 17, False, 0)]


def test_heads_trained_twice_are_taken_once(tmp_path):
    """Ranges can overlap if a process of a run that was thought dead wrote once more."""
    for name in ("models-0-9", "models-4-17", "models-9-12", "models-14-17"):
        (tmp_path / "checkpoints" / str(CELLS[0]) / name).mkdir(parents=True)
    assert RunFolder(tmp_path, {}).trained_models(CELLS[0]) == [(0, 9), (9, 12), (14, 17)]


class Service:
    """The key-value service, in this process."""

    def __init__(self):
        self.sent = {}

    def key_value_set(self, key, value):
        self.sent[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        if key not in self.sent:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: timed out")
        return self.sent[key]

    def key_value_dir_get(self, prefix):
        return [(key, value) for key, value in self.sent.items() if key.startswith(prefix + "/")]


@pytest.mark.parametrize(
    ("error", "heard", "message"),
    [
        (InputError("out='x' must be y."), InputError, r"^out='x' must be y\.$"),
        (OSError("disk full"), ProcessError, r"^process 1 of 2 failed: OSError: disk full$"),
        (KeyboardInterrupt(), ProcessError, r"^process 1 of 2 failed: KeyboardInterrupt$"),
    ],
)
def test_a_failure_is_heard_by_whoever_waits(monkeypatch, error, heard, message):
    service = Service()
    monkeypatch.setattr(processes, "_client", lambda: service)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with contextlib.suppress(type(error)), group() as failing:
        failing.broadcast("cell", [1, "a"])
        raise error
    waiting = Group(0, 2, failing.name)
    with pytest.raises(heard, match=message):
        waiting.receive("another cell", 1)
    with pytest.raises(heard, match=message):
        waiting.check()
    Group(0, 2, "the next run").check()  # has failures of its own


def test_the_command_line_says_in_one_line_that_another_process_failed(monkeypatch, capsys, tmp_path):
    def fail(*_, **__):
        raise ProcessError("process 1 of 2 failed: OSError: disk full")

    monkeypatch.setattr(run, "run_experiment", fail)
    monkeypatch.setattr(sys, "argv", ["jaxmia", "run", "smoke", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert capsys.readouterr() == ("", "error: process 1 of 2 failed: OSError: disk full\n")


def test_what_is_broadcast_is_received(monkeypatch):
    service = Service()
    monkeypatch.setattr(processes, "_client", lambda: service)
    Group(1, 2, "run").broadcast("cell", [1, "a"])
    assert Group(0, 2, "run").receive("cell", 1) == [1, "a"]
    Group().broadcast("cell")  # one process sends no messages
    assert list(service.sent) == ["run/cell/1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost", 2, 0), r"coordinator='localhost' must be HOST:PORT or auto"),
        (("localhost:1234", None, 0), r"processes=None must be given with coordinator"),
        (("localhost:1234", 2, None), r"process=None must be given with coordinator, from 0 to 1"),
        (("localhost:1234", 2, 2), r"process=2 must be .* from 0 to 1"),
        (("localhost:99999", 2, 0), r"coordinator='localhost:99999' must be HOST:PORT or auto"),
        (("auto", 2, None), r"processes=2 must be given only with coordinator=HOST:PORT"),
        ((None, None, 1), r"process=1 must be given only with coordinator=HOST:PORT"),
        (("TAKEN", 2, 0), r"must have a free port: .*in use"),
    ],
)
def test_a_wrong_way_to_start_is_refused(arguments, message):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        coordinator, *others = [address if word == "TAKEN" else word for word in arguments]
        with pytest.raises(InputError, match=message):
            start(coordinator, *others)
