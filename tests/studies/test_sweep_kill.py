"""Whatever is killed at whatever time: a restarted sweep ends in the same bytes and loses only cells in progress."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
from kills import stopped_after_each_write, sweep_contents

from jaxmia.data.feature_set import feature_set, save_features
from jaxmia.studies import executors
from jaxmia.studies.executors import LostError, RayExecutor
from jaxmia.studies.sweep import run_sweep

CELL = "classes-3_shots-4_seed-"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Two recipes and four seeds: eight cells."""
    path = tmp_path_factory.mktemp("features") / "features.npz"
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), 20)
    save_features(feature_set(rng.normal(size=(3, 6))[labels] + rng.normal(size=(60, 6)), labels), path)
    return {
        "attack": ["lira", "threshold"],
        "fpr": [0.1],
        "shadows": {"models": 17},
        "datasets": [{"name": "set", "features": str(path)}],
        "recipes": [{"name": "a", "steps": 5}, {"name": "b", "steps": 5, "normalize": "standardize"}],
        "grid": {"classes": [3], "shots": [4], "seeds": [0, 1, 2, 3]},
    }


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    return run_sweep(settings, tmp_path_factory.mktemp("sweeps") / "sweep")


def cells_done(path):
    return sum(
        "finished" in json.loads(file.read_text())
        for file in path.glob("studies/*/*/checkpoints/*/cell.json")
    )


def in_a_process(settings, out, executor="'local'", **options):
    code = (
        "import json, sys; from jaxmia.studies.executors import RayExecutor;"
        "from jaxmia.studies.sweep import run_sweep;"
        f"result = run_sweep(json.loads(sys.argv[1]), sys.argv[2], executor={executor}); print(len(result.failures))"
    )
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(settings), str(out)], **options)


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < end, "the stage never came"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("stage", "done"),
    [
        pytest.param("manifest.json", range(2), marks=pytest.mark.slow),
        pytest.param(f"studies/set/a/checkpoints/{CELL}0/models-0-17", range(2), marks=pytest.mark.slow),
        pytest.param(f"results/set__a__{CELL}1.parquet", range(1, 3), marks=pytest.mark.thorough),
        (f"studies/set/b/checkpoints/{CELL}2/cell.json", range(7, 9)),
    ],
)
def test_a_killed_driver_loses_at_most_the_cell_in_flight(settings, finished, tmp_path, stage, done):
    out = tmp_path / "sweep"
    with in_a_process(settings, out) as process:
        wait_for((out / stage).exists, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert json.loads((out / "manifest.json").read_text())["status"] == "running"
    before = cells_done(out)
    assert before in done
    result = run_sweep(settings, out, resume=True)
    assert result.cells_computed == 8 - before
    assert sweep_contents(out) == sweep_contents(finished.path)


@pytest.mark.parametrize(
    "every", [pytest.param(6, marks=pytest.mark.thorough), pytest.param(1, marks=pytest.mark.slow)]
)
def test_a_kill_between_two_writes_loses_nothing(settings, tmp_path, monkeypatch, every):
    small = settings | {"recipes": settings["recipes"][:1], "grid": settings["grid"] | {"seeds": [0, 1]}}
    expected = sweep_contents(run_sweep(small, tmp_path / "whole").path)
    for out in stopped_after_each_write(
        monkeypatch, tmp_path, lambda out: run_sweep(small, out), every=every
    ):
        run_sweep(small, out, resume=True)
        assert sweep_contents(out) == expected


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here (that needs root): {mount.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.thorough
def test_a_full_disk_stops_the_sweep_and_loses_nothing(settings, finished, tmp_path, small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2**20 + 2**19))
    out = small_disk / "sweep"
    words = [sys.executable, "-m", "jaxmia", "sweep", tmp_path / "sweep.toml", "--out", out]
    (tmp_path / "sweep.toml").write_text(toml(settings))
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert re.search(r"the disk of .*/sweep is full; free some space, then continue with --resume", line)
    before = cells_done(out)
    assert 0 < before < 8
    filler.unlink()
    ended = subprocess.run([*words, "--resume"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"{8 - before} cells computed" in ended.stdout
    assert sweep_contents(out) == sweep_contents(finished.path)


def toml(settings):
    """As TOML: JSON's strings, numbers and lists of these are TOML's."""
    lines = [f"{key} = {json.dumps(settings[key])}" for key in ("attack", "fpr")]
    for name in ("shadows", "grid"):
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings[name].items())]
    for name in ("datasets", "recipes"):
        for entry in settings[name]:
            lines += [f"[[{name}]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"


needs_ray = pytest.mark.skipif(
    shutil.which("ray", path=str(pathlib.Path(sys.executable).parent)) is None,
    reason="Ray is not installed: pip install 'jaxmia[ray]'",
)


def descendants(pid):
    """Process ids and titles of all descendants of a process."""
    parents, titles = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status, title = (entry / "status").read_text(), (entry / "cmdline").read_bytes()
            except OSError:  # it is gone
                continue
            parents[int(entry.name)] = int(re.search(r"^PPid:\s+(\d+)", status, re.M)[1])
            titles[int(entry.name)] = title.replace(b"\0", b" ").decode(errors="replace")
    found, todo = {}, [pid]
    while todo:
        parent = todo.pop()
        children = [child for child, of in parents.items() if of == parent]
        found |= {child: titles[child] for child in children}
        todo += children
    return found


def workers(pid):
    return [child for child, title in descendants(pid).items() if title.startswith("ray::compute_cell")]


@needs_ray
def test_ray_gives_the_same_bytes_and_a_killed_worker_loses_nothing(settings, finished, tmp_path):
    """A worker is killed while it computes a cell: another worker computes it again, and the sweep continues."""
    out = tmp_path / "sweep"
    with in_a_process(settings, out, "RayExecutor()", stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: cells_done(out) and workers(process.pid), process)
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        failures, _ = process.communicate(timeout=400)
    assert (process.returncode, failures.splitlines()[-1]) == (0, "0")
    assert sweep_contents(out) == sweep_contents(finished.path)


@needs_ray
def test_a_killed_driver_of_ray_loses_only_cells_in_flight(settings, finished, tmp_path):
    out = tmp_path / "sweep"
    with in_a_process(settings, out, "RayExecutor()") as process:
        wait_for(lambda: cells_done(out) >= 2, process)
        children = workers(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    end = time.monotonic() + 60  # its cluster ends with it
    while any(pathlib.Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < end:
        time.sleep(0.1)
    before = cells_done(out)
    result = run_sweep(settings, out, resume=True)
    assert 2 <= before < 8
    assert result.cells_computed == 8 - before
    assert sweep_contents(out) == sweep_contents(finished.path)


@needs_ray
@pytest.mark.slow
def test_a_cell_whose_workers_all_die_fails_and_the_others_go_on(settings, finished, tmp_path):
    """Killed as often as it is tried: with one try, one cell is lost and named, and found again by --resume."""
    out = tmp_path / "sweep"
    with in_a_process(settings, out, "RayExecutor(retries=0)", stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: cells_done(out) and workers(process.pid), process)
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        failures, _ = process.communicate(timeout=400)
    assert (process.returncode, failures.splitlines()[-1]) == (0, "1")
    manifest = json.loads((out / "manifest.json").read_text())
    entries = [entry for study in manifest["studies"].values() for entry in study["cells"].values()]
    (error,) = [entry["error"] for entry in entries if "error" in entry]
    assert error.startswith("WorkerCrashedError: ")
    result = run_sweep(settings, out, resume=True)
    assert result.cells_computed == 1
    assert sweep_contents(out) == sweep_contents(finished.path)


@needs_ray
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("'127.0.0.1:1'", "address='127.0.0.1:1' must be the address of a running Ray cluster"),
        ("cpus=10000", "cpus=10000 must be at most the cluster's"),
        ("gpus=99.0", "gpus=99.0 must be at most the cluster's"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(settings, tmp_path, options, message):
    with in_a_process(
        settings, tmp_path / "sweep", f"RayExecutor({options})", stderr=subprocess.PIPE, text=True
    ) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert said.strip().splitlines()[-1].startswith(f"jaxmia._validate.InputError: {message}")
    assert not cells_done(tmp_path / "sweep")


@needs_ray
@pytest.mark.slow
def test_a_running_cluster_is_used_and_left_running(settings, finished, tmp_path):
    # Recent Ray requires a token to join a cluster; this one is made for the test.
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    code = "import ray; print(ray.init(include_dashboard=False).address_info['gcs_address'], flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as cluster:
        try:
            address = cluster.stdout.readline().strip()
            assert re.fullmatch(r"[\d.]+:\d+", address)
            out = tmp_path / "sweep"
            for cells in (8, 0):  # the second time there is nothing to do
                words = ["--executor", "ray", "--address", address, "--out", out]
                (tmp_path / "sweep.toml").write_text(toml(settings))
                ended = subprocess.run(
                    [sys.executable, "-m", "jaxmia", "sweep", tmp_path / "sweep.toml", *words],
                    capture_output=True,
                    text=True,
                    check=False,
                    env=environment,
                )
                assert ended.returncode == 0, ended.stderr
                assert f"{cells} cells computed" in ended.stdout or "nothing to do" in ended.stdout
                assert cluster.poll() is None
            assert sweep_contents(out) == sweep_contents(finished.path)
        finally:
            cluster.communicate("\n", timeout=60)


class FakeRay:
    """Ray's calls that the executor makes, answered in this process, so that what it holds can be counted."""

    class exceptions:  # noqa: N801
        RayError = type("RayError", (Exception,), {})
        RayTaskError = type("RayTaskError", (RayError,), {"cause": None})

    def __init__(self):
        self.waiting, self.most, self.put_values, self.cancelled = {}, 0, [], []

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 3.0}

    def put(self, value):
        self.put_values.append(value)
        return value

    def remote(self, function):
        ray = self

        class Remote:
            def options(self, **options):
                ray.options = options
                return self

            def remote(self, *arguments):
                reference = object()
                ray.waiting[reference] = lambda: function(*arguments)
                ray.most = max(ray.most, len(ray.waiting))
                return reference

        return Remote()

    def wait(self, references, num_returns):
        return references[-1:], references[:-1]

    def get(self, reference):
        return self.waiting.pop(reference)()

    def cancel(self, reference, force):
        self.cancelled.append(reference)


class Number(int):
    needs = ("offset",)


def test_ray_holds_few_tasks_at_once_and_shares_values_once(monkeypatch):
    ray = FakeRay()
    monkeypatch.setattr(executors, "_import_ray", lambda: ray)
    tasks = [Number(value) for value in range(100)]
    answers = dict(RayExecutor().run(lambda offset, task: offset + task, tasks, {"offset": 7, "other": 0}))
    assert answers == {task: task + 7 for task in tasks}
    assert ray.most == 6  # two for each core
    assert ray.put_values == [7]
    assert (ray.options["num_cpus"], ray.options["num_gpus"], ray.options["max_retries"]) == (1, 0.0, 3)
    running = RayExecutor(cpus=3).run(lambda offset, task: task, tasks, {"offset": 0})
    next(running)
    running.close()  # stopped early: what is in flight is cancelled
    assert len(ray.cancelled) == 1


def test_a_lost_task_is_an_answer(monkeypatch):
    ray = FakeRay()
    monkeypatch.setattr(executors, "_import_ray", lambda: ray)

    def die(offset, task):
        raise ray.exceptions.RayError("the worker\ndied")

    ((_, answer),) = RayExecutor().run(die, [Number(0)], {"offset": 0})
    assert isinstance(answer, LostError)
    assert str(answer) == "RayError: the worker died"
