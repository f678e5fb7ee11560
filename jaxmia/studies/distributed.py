"""Several processes on one run: how models are divided between processes, and the messages between them.

Training needs no communication, since a model's key follows from its id. The few short messages go through the
key-value service of jax.distributed. Collectives would make every process wait for the slowest one in each cell. A
process that fails broadcasts its error. If a process dies, the heartbeats of jax.distributed notice and end the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from jaxmia._validate import InputError, check

_POLL = 1000  # milliseconds between checks for a failed process
_CALLS = itertools.count()


class ProcessError(RuntimeError):
    """Another process of the run failed, so this one ends. The command line prints one line and exits with code 1."""


class ModelRange(NamedTuple):
    """The models first .. end - 1 of a cell, which one process scores.

    Attributes:
        first: id of the first model.
        end: one past the id of the last.
        trained: whether their heads are on disk; if not, the process trains them first.
        process: index of the process.
    """

    first: int
    end: int
    trained: bool
    process: int

    @property
    def models(self) -> tuple[int, int]:
        """Return the range [first, end)."""
        return self.first, self.end


def deal(trained: Sequence[tuple[int, int]], num_models: int, count: int) -> list[ModelRange]:
    """Divide the models 0 .. num_models - 1 of a cell between processes 0 .. count - 1; returns ranges in model order.

    Ranges on disk stay whole and are assigned in turn. The missing models are divided into shares that differ by at
    most one model and are contiguous except for ranges on disk in between.

    Args:
        trained: disjoint ranges [first, end) in ascending order, whose heads are on disk.
        num_models: number of models M.
        count: number of processes.
    """
    ranges = [ModelRange(first, end, True, turn % count) for turn, (first, end) in enumerate(trained)]
    edges = [0, *itertools.chain(*trained), num_models]
    gaps = [(first, end) for first, end in zip(edges[::2], edges[1::2], strict=True) if first < end]
    total, seen = sum(end - first for first, end in gaps), 0
    for first, end in gaps:
        for process in range(count):
            share = [total * edge // count - seen + first for edge in (process, process + 1)]
            mine = max(first, share[0]), min(end, share[1])
            if mine[0] < mine[1]:
                ranges.append(ModelRange(*mine, False, process))
        seen += end - first
    return sorted(ranges)


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of one run, from the view of one process.

    Attributes:
        index: index of this process; process 0 holds the run folder, runs the attacks and writes the tables.
        count: number of processes.
        name: prefix of the keys of its messages, unique to this run.
    """

    index: int = 0
    count: int = 1
    name: str = ""

    def broadcast(self, what: str, value: Any = None) -> None:
        """Send a JSON-ready value to all other processes; a process can use each name once."""
        if self.count > 1:
            _client().key_value_set(self._key(what, self.index), json.dumps(value))

    def receive(self, what: str, process: int) -> Any:
        """Wait for the value that a process broadcasts under a name, as long as all processes live, and return it.

        Raises:
            InputError: if another process failed on wrong input, with its message.
            ProcessError: if another process failed otherwise.
        """
        while True:
            self.check()
            try:
                return json.loads(_client().blocking_key_value_get(self._key(what, process), _POLL))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def check(self) -> None:
        """Raise the same errors as receive if another process has failed."""
        if self.count == 1:
            return
        for _, message in _client().key_value_dir_get(f"{self.name}/failed"):
            failure = json.loads(message)
            raise (InputError if failure["input"] else ProcessError)(failure["message"])

    def _key(self, what: str, process: int) -> str:
        return f"{self.name}/{what}/{process}"

    def _fail(self, error: BaseException) -> None:
        wrong_input = isinstance(error, InputError)
        reason = str(error) if wrong_input else f"{type(error).__name__}: {error}".removesuffix(": ")
        message = reason if wrong_input else f"process {self.index} of {self.count} failed: {reason}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service itself may have failed
            self.broadcast("failed", {"input": wrong_input, "message": message})


@contextlib.contextmanager
def group() -> Iterator[Group]:
    """Return the processes of a new run: all of jax.distributed, or this one alone if it is not in use.

    Every process must begin the same runs in the same order. An error in the context is broadcast, and the other
    processes raise it too.

    Raises:
        InputError: if JAX has several processes, but jax.distributed was not initialised.
    """
    index, count = jax.process_index(), jax.process_count()
    if count == 1:
        yield Group()
        return
    check(jax.distributed.is_initialized(), "jax.process_count()", count, "come from jax.distributed")
    mine = Group(index, count, f"jaxmia/{next(_CALLS)}")
    try:
        yield mine
    except ProcessError:  # the failed process has broadcast the error
        raise
    except BaseException as error:
        mine._fail(error)
        raise


def start(coordinator: str | None, processes: int | None, process: int | None) -> int:
    """Join this process to the others, before JAX is used, and return its index; waits up to five minutes for them.

    Args:
        coordinator: "HOST:PORT", where process 0 listens and the others connect; "auto" if the launcher provides all
            three values (Slurm, Open MPI, TPU pods); None for a single process, which has index 0.
        processes: number of processes; only with HOST:PORT.
        process: index of this process, from 0; only with HOST:PORT.

    Raises:
        InputError: if the arguments are inconsistent, the port is taken, or nothing is detected.
    """
    if coordinator in (None, "auto"):
        for name, value in (("processes", processes), ("process", process)):
            check(value is None, name, value, "be given only with coordinator=HOST:PORT")
        if coordinator is None:
            return 0
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise InputError(
                f"coordinator='auto' must be HOST:PORT here; nothing was found: {error}"
            ) from None
    else:
        place = re.fullmatch(r".+:(\d{1,5})", coordinator)
        port = int(place[1]) if place else 0
        check(0 < port < 2**16, "coordinator", coordinator, "be HOST:PORT or auto")
        count, index = processes or 0, -1 if process is None else process
        check(count >= 1, "processes", processes, "be given with coordinator, at least 1")
        check(0 <= index < count, "process", process, f"be given with coordinator, from 0 to {count - 1}")
        if index == 0:
            _check_free(coordinator, port)
        jax.distributed.initialize(coordinator, count, index)
    # The backends of all processes connect here, so that a process that fails later does not leave the others waiting.
    return jax.process_index()


def _client() -> Any:
    # JAX has no public name for the key-value service; a run of one process does without.
    from jax._src import distributed

    return distributed.global_state.client


def _check_free(coordinator: str, port: int) -> None:
    """Refuse a port in use, which the service could share with another run."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise InputError(f"coordinator={coordinator!r} must have a free port: {error}.") from None
