"""Progress displays: a bar for a grid of cells with rate and remaining time, a table for a sweep, a bar for items."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import rich.box
import rich.console
import rich.live
import rich.progress
import rich.table
import rich.text

_LINES = 12  # largest number of lines of a live table, which must fit on a screen
_REDRAW = 0.25  # seconds between pictures in a notebook
_NOTEBOOK_WIDTH = 100  # letters


class GridProgress:
    """Counts heads for the rate and work for the bar: cells of many shots take longer than cells of few."""

    def __init__(self, progress: rich.progress.Progress, task: rich.progress.TaskID):
        self._progress = progress
        self._task = task
        self._heads = 0

    def cell(self, name: str) -> None:
        """Show the name of the current cell."""
        self._progress.update(self._task, description=name)

    def heads(self, count: int, work: float) -> None:
        """Count trained heads and the work they took."""
        self._heads += count
        self._progress.update(self._task, advance=work, heads=self._heads)


class _Description(rich.progress.ProgressColumn):
    """The description, without markup; the only column that is truncated if the line is too narrow."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        return rich.text.Text(task.description, no_wrap=True, overflow="ellipsis")


class _HeadsPerSecond(rich.progress.ProgressColumn):
    def get_table_column(self) -> rich.table.Column:
        return rich.table.Column(no_wrap=True)

    def render(self, task: rich.progress.Task) -> str:
        elapsed = task.finished_time or task.elapsed
        heads = task.fields["heads"]
        return f"{heads / elapsed:.0f} heads/s" if elapsed and heads else "- heads/s"


class _NotebookProgress(rich.progress.Progress):
    """A bar in a notebook's cell, removed when it is done.

    rich itself would need ipywidgets. The bar is drawn on updates, at most a few times a second.
    """

    def __enter__(self) -> _NotebookProgress:
        self._cell = _NotebookCell(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._cell.clear()

    def update(self, *args: Any, **values: Any) -> None:
        super().update(*args, **values)
        self._cell.draw()


class _NotebookCell:
    """An area of a notebook's output that is redrawn."""

    def __init__(self, shown: rich.console.RenderableType):
        import IPython.display  # always installed in a notebook

        self._shown = shown
        self._html = IPython.display.HTML
        self._place: Any = IPython.display.display(self._html(""), display_id=True)
        self._next = 0.0

    def draw(self) -> None:
        """Redraw the area, unless it was drawn a moment ago."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _REDRAW
        drawn = rich.console.Console(
            file=io.StringIO(), record=True, width=_NOTEBOOK_WIDTH, force_jupyter=False
        )
        drawn.print(self._shown)
        code = '<pre style="font-family:monospace;line-height:1.2;background:none;color:inherit">{code}</pre>'
        self._place.update(self._html(drawn.export_html(inline_styles=True, code_format=code)))

    def clear(self) -> None:
        """Leave nothing."""
        self._place.update(self._html(""))


@contextlib.contextmanager
def grid_progress(console: rich.console.Console | None, total_work: float) -> Iterator[GridProgress]:
    """Show progress on a console; draws nothing for None, or if the console is neither terminal nor notebook."""
    progress = _bar(console, disable=console is None, counted=_of_heads())
    with progress:
        yield GridProgress(progress, progress.add_task("starting", total=total_work, heads=0))


@contextlib.contextmanager
def item_progress(
    console: rich.console.Console | None, description: str, total: int
) -> Iterator[Callable[[int], None]]:
    """Show a bar over items; yields a function to call with the number of items done. Draws nothing for None."""
    counted = (
        rich.progress.MofNCompleteColumn(table_column=rich.table.Column(no_wrap=True)),
        _ItemsPerSecond(),
    )
    progress = _bar(console, disable=console is None, counted=counted)
    with progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.update(task, advance=count)


class _ItemsPerSecond(rich.progress.ProgressColumn):
    def get_table_column(self) -> rich.table.Column:
        return rich.table.Column(no_wrap=True)

    def render(self, task: rich.progress.Task) -> str:
        speed = task.finished_speed or task.speed
        return f"{speed:.0f} items/s" if speed else "- items/s"


def _of_heads() -> tuple[rich.progress.ProgressColumn, ...]:
    return rich.progress.TaskProgressColumn(table_column=rich.table.Column(no_wrap=True)), _HeadsPerSecond()


def _bar(
    console: rich.console.Console | None, *, disable: bool, counted: tuple[rich.progress.ProgressColumn, ...]
) -> rich.progress.Progress:
    in_notebook = console is not None and console.is_jupyter and not disable
    kind = _NotebookProgress if in_notebook else rich.progress.Progress
    return kind(
        _Description(),
        rich.progress.BarColumn(bar_width=16, table_column=rich.table.Column(no_wrap=True)),
        *counted,
        rich.progress.TimeRemainingColumn(compact=True, table_column=rich.table.Column(no_wrap=True)),
        rich.progress.TextColumn("left", table_column=rich.table.Column(no_wrap=True)),
        console=console,
        disable=disable or in_notebook,
    )


class SweepProgress:
    """A live table of a sweep: a line per feature set and recipe, and a bar; plain lines without a terminal."""

    def __init__(
        self, console: rich.console.Console | None, cells: Mapping[str, tuple[int, int]], total_work: float
    ):
        self._console = console
        self._total = dict(cells)
        self._done = {name: done for name, (done, _) in cells.items()}
        self._failed = dict.fromkeys(cells, 0)
        self._last: dict[str, str] = {}
        self._count, self._todo = 0, sum(total - done for done, total in cells.values())
        self._progress = _bar(console, disable=True, counted=_of_heads())
        self._cell: _NotebookCell | None = None
        self._task = self._progress.add_task("", total=total_work, heads=0)
        self._heads = 0

    def note(self, line: str) -> None:
        """Print a line that stays."""
        if self._console is not None:
            self._console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def cell(self, group: str, name: str, said: str, *, failed: bool, heads: int, work: float) -> None:
        """Count a cell as done, with a line about it."""
        self._count += 1
        self._heads += heads
        (self._failed if failed else self._done)[group] += 1
        self._last[group] = f"{name}: {said}"
        self._progress.update(
            self._task, advance=work, heads=self._heads, description=f"{self._count} of {self._todo} cells"
        )
        if self._cell is not None:
            self._cell.draw()
        if self._console is not None and (failed or not (self._console.is_terminal or self._cell)):
            line = f"[{self._count}/{self._todo}] {group}/{name}: {said}"
            self._console.print(
                line, style="red" if failed else None, highlight=False, markup=False, soft_wrap=True
            )

    @contextlib.contextmanager
    def in_notebook(self) -> Iterator[None]:
        """Draw the table in a notebook's cell while this is open."""
        self._cell = _NotebookCell(self)
        try:
            self._cell.draw()
            yield
        finally:
            self._cell.clear()

    def __rich__(self) -> rich.console.RenderableType:
        """Return the current table and bar."""
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("feature set / recipe", "done", "failed", "last"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        busy = [
            name for name, (_, total) in self._total.items() if self._done[name] + self._failed[name] < total
        ]
        through = len(self._total) - len(busy)
        for name in busy[:_LINES]:
            counts = (f"{self._done[name]} of {self._total[name][1]}", str(self._failed[name] or ""))
            table.add_row(*map(rich.text.Text, (name, *counts, self._last.get(name, ""))))
        more = f", {len(busy) - _LINES} more to come" if len(busy) > _LINES else ""
        return rich.console.Group(table, f"{through} of {len(self._total)} complete{more}", self._progress)


@contextlib.contextmanager
def sweep_progress(
    console: rich.console.Console | None, cells: Mapping[str, tuple[int, int]], total_work: float
) -> Iterator[SweepProgress]:
    """Show the progress of a sweep on a console; draws nothing for None.

    Args:
        console: a terminal or a notebook gets a live table, anything else a line per cell.
        cells: for each feature set and recipe, the number of finished cells and of all cells.
        total_work: work of the cells to compute, in arbitrary units.
    """
    progress = SweepProgress(console, cells, total_work)
    if console is not None and console.is_jupyter and total_work:
        with progress.in_notebook():
            yield progress
        return
    if console is None or not console.is_terminal or not total_work:
        yield progress
        return
    with rich.live.Live(progress, console=console, refresh_per_second=4, transient=True):
        yield progress
