"""Several processes on one run: which models each of them trains, and the messages between them.

Training needs no communication: a model's key follows from its id. What remains is a few short messages, sent through
the key-value service of jax.distributed rather than by collectives, which would tie every process to the slowest one,
cell by cell. A process that fails broadcasts why; one that dies is missed by jax.distributed's own heartbeats, which
end the others.
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
from jax._src import distributed  # JAX has no public name for the key-value service

from jaxmia._validate import InputError, check

_POLL = 1000  # milliseconds between looks at whether another process has failed
_CALLS = itertools.count()


class ProcessError(RuntimeError):
    """Another process of the run failed, which ends this one. The command line prints one line and exits with 1."""


class ModelRange(NamedTuple):
    """Models first .. end - 1 of a cell, which one process scores.

    Attributes:
        first: id of the first model.
        end: one past the id of the last.
        trained: their heads are on disk; otherwise the process trains them first.
        process: index of that process.
    """

    first: int
    end: int
    trained: bool
    process: int

    @property
    def models(self) -> tuple[int, int]:
        """Their range [first, end)."""
        return self.first, self.end


def deal(trained: Sequence[tuple[int, int]], num_models: int, count: int) -> list[ModelRange]:
    """Deal the models 0 .. num_models - 1 of a cell to processes 0 .. count - 1; the ranges are in the order of models.

    Ranges on disk stay whole and go round in turn. The missing models are cut into shares that are even to within one
    model and contiguous but for what lies between them on disk.

    Args:
        trained: disjoint ranges [first, end) in ascending order, whose heads are on disk.
        num_models: M.
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
    """The processes of one run, as one of them sees it.

    Attributes:
        index: of this process; process 0 holds the run folder, attacks and writes the tables.
        count: number of processes.
        name: first part of the keys of its messages, which no other run has.
    """

    index: int = 0
    count: int = 1
    name: str = ""

    def broadcast(self, what: str, value: Any = None) -> None:
        """Send a JSON-ready value to all other processes; each name can be sent once by each process."""
        if self.count > 1:
            _client().key_value_set(self._key(what, self.index), json.dumps(value))

    def receive(self, what: str, process: int) -> Any:
        """Wait for what a process broadcasts under a name, for as long as all processes live.

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
        """Raise what receive raises if another process has failed."""
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
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service may be what failed
            self.broadcast("failed", {"input": wrong_input, "message": message})


@contextlib.contextmanager
def group() -> Iterator[Group]:
    """The processes of the run that begins here: all of jax.distributed, or this one alone if it is not in use.

    Every process must begin the same runs in the same order. An error inside is broadcast to the others, which raise it
    too.

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
    except ProcessError:  # the one that failed has broadcast it
        raise
    except BaseException as error:
        mine._fail(error)
        raise


def start(coordinator: str | None, processes: int | None, process: int | None) -> int:
    """Make this process one of several, before JAX is used, and return its index; waits five minutes for the others.

    Args:
        coordinator: "HOST:PORT", where process 0 listens and all others reach it; "auto" where the launcher says all of
            this (Slurm, Open MPI, TPU pods); None for a process on its own, which has index 0.
        processes: how many there are; with HOST:PORT alone.
        process: index of this one, from 0; with HOST:PORT alone.

    Raises:
        InputError: if these do not fit together, the port is taken, or nothing is detected.
    """
    if coordinator in (None, "auto"):
        for name, value in (("processes", processes), ("process", process)):
            check(value is None, name, value, "be given with coordinator=HOST:PORT alone")
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
    # Backends of all processes meet here: one that fails later must not leave the others waiting there.
    return jax.process_index()


def _client() -> Any:
    return distributed.global_state.client


def _check_free(coordinator: str, port: int) -> None:
    """Refuse a port in use: the service could share it with another run's."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise InputError(f"coordinator={coordinator!r} must have a free port: {error}.") from None
