"""Progress of a grid of cells: one bar over the arithmetic to be done, with rate and remaining time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import rich.console
import rich.progress


class GridProgress:
    """Counts heads for the rate and work for the bar: cells of many shots take longer than cells of few."""

    def __init__(self, progress: rich.progress.Progress, task: rich.progress.TaskID):
        self._progress = progress
        self._task = task
        self._heads = 0

    def cell(self, name: str) -> None:
        """Say which cell is in flight."""
        self._progress.update(self._task, description=name)

    def heads(self, count: int, work: float) -> None:
        """Count trained heads and the work they took."""
        self._heads += count
        self._progress.update(self._task, advance=work, heads=self._heads)


class _HeadsPerSecond(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> str:
        elapsed = task.finished_time or task.elapsed
        return (
            f"{task.fields['heads'] / elapsed:.0f} heads/s"
            if elapsed and task.fields["heads"]
            else "- heads/s"
        )


@contextlib.contextmanager
def grid_progress(console: rich.console.Console | None, total_work: float) -> Iterator[GridProgress]:
    """Show progress on a console; on None, or where it is no terminal, nothing is drawn."""
    progress = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TaskProgressColumn(),
        _HeadsPerSecond(),
        rich.progress.TimeRemainingColumn(compact=True),
        rich.progress.TextColumn("left"),
        console=console,
        disable=console is None,
    )
    with progress:
        yield GridProgress(progress, progress.add_task("starting", total=total_work, heads=0))
