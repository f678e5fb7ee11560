"""Executors, which compute the cells of a sweep in this process or as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jaxmia
from jaxmia._validate import InputError, check, check_at_least

EXECUTORS = ("local", "ray")
T = TypeVar("T")


class LostError(RuntimeError):
    """A task without a result: its worker died, and so did the workers of all retries."""


@runtime_checkable
class Task(Protocol):
    """The part of a task that an executor uses: the names of the shared values that it needs."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of shared values, in the order of the function's arguments."""
        ...


TaskT = TypeVar("TaskT", bound=Task)


@runtime_checkable
class Executor(Protocol):
    """Runs function(*shared_values, task) for every task, with the shared values that the task needs."""

    @property
    def name(self) -> str:
        """One of EXECUTORS."""
        ...

    def start(self) -> None:
        """Acquire workers, before anything is written and before this process starts JAX.

        Raises:
            InputError: if no workers are available.
        """
        ...

    def stop(self) -> None:
        """Release the workers."""
        ...

    def run(
        self, function: Callable[..., T], tasks: Sequence[TaskT], shared: Mapping[str, Any]
    ) -> Iterator[tuple[TaskT, T | LostError]]:
        """Yield each finished task with the function's result, in any order; the caller may stop early.

        Only the function's result is kept, so it should be small. An exception in the function is raised here and ends
        the run.
        """
        ...


class LocalExecutor:
    """Runs one task after another in this process."""

    name = "local"

    def start(self) -> None:
        """See Executor."""

    def stop(self) -> None:
        """See Executor."""

    def run(
        self, function: Callable[..., T], tasks: Sequence[TaskT], shared: Mapping[str, Any]
    ) -> Iterator[tuple[TaskT, T | LostError]]:
        """See Executor."""
        for task in tasks:
            yield task, function(*(shared[name] for name in task.needs), task)


class RayExecutor:
    """Runs Ray tasks, on a running cluster or on this machine.

    Shared values go to Ray's object store once, and all workers of a node read one copy. A task whose worker dies is
    given to another worker, up to `retries` times. At most twice as many tasks as can run at once are submitted to Ray,
    so the driver's memory does not grow with the number of tasks.

    Attributes:
        address: address of a running cluster, as for ray.init ("auto", "HOST:PORT"); None starts Ray on this machine.
        cpus: number of cores per task. JAX in a task uses no more threads, so that concurrent tasks do not compete for
            cores.
        gpus: number of GPUs per task, possibly a fraction; None means one if the cluster has any, else none.
        retries: how often a task whose worker died is retried.
    """

    name = "ray"

    def __init__(
        self, address: str | None = None, *, cpus: int = 1, gpus: float | None = None, retries: int = 3
    ) -> None:
        check_at_least("cpus", cpus, 1)
        check(gpus is None or gpus >= 0, "gpus", gpus, "be 0 or more")
        check_at_least("retries", retries, 0)
        self.address, self.cpus, self.gpus, self.retries = address, cpus, gpus, retries
        self._ray: Any = None  # the ray module, after start

    def start(self) -> None:
        """See Executor. Starting Ray forks, which is unsafe once JAX has threads."""
        ray = _import_ray()
        if not ray.is_initialized():
            _connect(ray, self.address)
            self._ray = ray
        has = ray.cluster_resources()
        gpus = min(1.0, has.get("GPU", 0.0)) if self.gpus is None else self.gpus
        try:
            check(
                self.cpus <= has.get("CPU", 0),
                "cpus",
                self.cpus,
                f"be at most the cluster's {has.get('CPU', 0):g}",
            )
            check(gpus <= has.get("GPU", 0), "gpus", gpus, f"be at most the cluster's {has.get('GPU', 0):g}")
        except InputError:
            self.stop()
            raise

    def stop(self) -> None:
        """See Executor. A Ray cluster that was already running stays."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def run(
        self, function: Callable[..., T], tasks: Sequence[TaskT], shared: Mapping[str, Any]
    ) -> Iterator[tuple[TaskT, T | LostError]]:
        """See Executor."""
        ray = _import_ray()
        has = ray.cluster_resources()
        gpus = min(1.0, has.get("GPU", 0.0)) if self.gpus is None else self.gpus
        slots = has["CPU"] // self.cpus
        if gpus:
            slots = min(slots, has["GPU"] // gpus)
        remote = ray.remote(function).options(
            num_cpus=self.cpus,
            num_gpus=gpus,
            max_retries=self.retries,
            runtime_env={"env_vars": worker_environment(self.cpus, gpus)},
        )
        references: dict[str, Any] = {}
        waiting: dict[Any, TaskT] = {}
        upcoming = iter(tasks)
        try:
            while True:
                while len(waiting) < 2 * slots and (task := next(upcoming, None)) is not None:
                    for name in task.needs:
                        if name not in references:
                            references[name] = ray.put(shared[name])
                    waiting[remote.remote(*(references[name] for name in task.needs), task)] = task
                if not waiting:
                    return
                (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(ready), _answer(ray, ready)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _answer(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise InputError(
            f"a Ray worker could not run a cell at all ({type(cause).__name__}: {cause}): every node"
            " must have jaxmia and its dependencies."
        ) from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        return LostError(f"{type(error).__name__}: {reason}")


def worker_environment(cpus: int, gpus: float) -> dict[str, str]:
    """Return a worker's environment: this jaxmia first on the path, and no more threads than the task has cores."""
    here = str(pathlib.Path(jaxmia.__file__).parent.parent)
    path = os.pathsep.join([here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    # XLA takes the size of its thread pools from NPROC.
    threads = dict.fromkeys(
        ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(cpus)
    )
    # Preallocating most of a GPU's memory would leave none for concurrent tasks.
    device = {"JAX_PLATFORMS": "cpu"} if not gpus else {}
    if 0 < gpus < 1:
        device = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {"PYTHONPATH": path, **threads, **device}


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise InputError("executor='ray' must have Ray installed: pip install 'jaxmia[ray]'.") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {"include_dashboard": False}
    place = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or "")
    try:
        if place:  # without this check Ray would retry for minutes
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        ray.init(address=address or "local", **options)
    except (ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"address={address!r} must be the address of a running Ray cluster: {reason}."
        ) from None
