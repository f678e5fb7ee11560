"""The driver of a grid: finds missing cells, divides models between processes, and writes to the folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import rich.console

from jaxmia._progress import GridProgress, grid_progress
from jaxmia.data.feature_set import FeatureSet
from jaxmia.plots import plot_power_law, plot_privacy
from jaxmia.scores import WeightsUnder
from jaxmia.studies.assess import white_box_methods
from jaxmia.studies.cell import Cell, PreparedCell, prepare_cell, training_plan
from jaxmia.studies.cell_heads import CellHeads
from jaxmia.studies.cell_rows import cell_rows
from jaxmia.studies.cell_scores import score_heads, scores_of_cell, weights_of_cell
from jaxmia.studies.distributed import Group, ModelRange, deal
from jaxmia.studies.folder.run import RunFolder
from jaxmia.studies.folder.states import DamagedError
from jaxmia.studies.folder.tables import of_unit
from jaxmia.studies.laws import laws_to_json, load_laws
from jaxmia.studies.private_cells import private_settings
from jaxmia.studies.search import tune_cell, tuned_cell
from jaxmia.studies.settings.experiment import ExperimentConfig
from jaxmia.studies.study import Study
from jaxmia.studies.tuning import Trial, Tuning, tuned_settings
from jaxmia.training.ensemble import join_ensembles


@dataclasses.dataclass
class GridRun:
    """A grid of cells of one study, with an open folder.

    Attributes:
        study: settings and identity.
        data: the feature set.
        folder: folder for heads and rows.
        memory: largest number of bytes to hold on each device, as in train_ensemble.
        processes: the processes that share the run.
        dealt: the models of the cells to compute, by process.
        heads_trained: number of heads trained so far.
        chosen: recipes of tuned cells.
    """

    study: Study
    data: FeatureSet
    folder: RunFolder
    memory: int | None
    processes: Group = dataclasses.field(default_factory=Group)
    dealt: dict[Cell, list[ModelRange]] = dataclasses.field(default_factory=dict)
    heads_trained: int = 0
    chosen: dict[Cell, Trial] = dataclasses.field(default_factory=dict)

    def complete(self, console: rich.console.Console | None) -> int:
        """Compute missing cells, then tables, laws and plots over all cells; return the number of cells computed."""
        states = {cell: self.folder.state(cell, self.study.cell_key(cell)) for cell in self.folder.cells}
        todo = [cell for cell, state in states.items() if state != "done"]
        damaged = [f"the rows of {cell} were damaged" for cell in todo if states[cell] == "damaged"]
        unfinished = bool(todo) or not self.folder.is_finished
        if unfinished:
            self.folder.start()
        for cell in todo:
            self.deal(cell)
        cells = [(cell.entry(), parts) for cell, parts in self.dealt.items()]
        self.processes.broadcast("todo", {"manifest": self.folder.manifest_hash(), "cells": cells})
        if unfinished:
            with grid_progress(console, sum((self.work(cell) for cell in todo), 0.0)) as bar:
                _print_notes(console, damaged)
                for cell in todo:
                    record = self.compute(cell, bar)
                    notes = (f"{cell}: {line}" for line in record["notes"])
                    _print_notes(console, [*record["repaired"], *notes])
            self._summarise()
        self.processes.broadcast("finished")
        return len(todo)

    def assist(self, cells: list[Any], console: rich.console.Console | None) -> int:
        """Train and score this process's models of the cells that process 0 lists, then wait for process 0."""
        self.dealt = {Cell.from_entry(entry): [ModelRange(*part) for part in parts] for entry, parts in cells}
        console = console if self.dealt else None
        with grid_progress(console, sum((self.work(cell) for cell in self.dealt), 0.0)) as bar:
            for cell in self.dealt:
                self.processes.check()
                bar.cell(str(cell))
                heads = self._heads(self.prepare(cell), bar)
                self._score_own(heads)
                self.heads_trained += heads.trained
                self.processes.broadcast(str(cell), heads.repaired)
        self.processes.receive("finished", 0)
        return len(cells)

    def deal(self, cell: Cell) -> None:
        """Divide the models of a cell between the processes."""
        trained = self.folder.trained_models(cell)
        self.dealt[cell] = deal(trained, self.study.config.shadows.models, self.processes.count)

    def work(self, cell: Cell) -> float:
        """Return the work of this process for a cell, in arbitrary units."""
        heads = sum(part.end - part.first for part in self._own(cell) if not part.trained)
        return heads * self._work_per_head(cell)

    def compute(self, cell: Cell, bar: GridProgress) -> dict[str, Any]:
        """Train a cell's missing heads, attack the cell, write its rows, and return its record."""
        bar.cell(str(cell))
        clock = time.perf_counter()
        settings = self.settings(cell)
        tuned = time.perf_counter()
        prepared = self.prepare(cell, settings)
        heads = self._heads(prepared, bar)
        try:
            scored, of_weights = self._scored(heads)
        finally:
            self.heads_trained += heads.trained
        ready = time.perf_counter()
        scores, diverged = scores_of_cell(prepared, scored, of_weights)
        found = cell_rows(self.study, prepared, scored, scores, diverged)
        record = {
            **found.facts,
            **({"tuned": self.chosen[cell]._asdict()} if cell in self.chosen else {}),
            "repaired": heads.repaired,
            "notes": found.notes,
            "heads_trained": heads.trained,
            "seconds_training": round(heads.seconds_training, 3),
            "seconds_attacking": round(time.perf_counter() - ready, 3),
            "seconds_tuning": round(tuned - clock, 3),
            "seconds_preparing": round(ready - tuned - heads.seconds_training, 3),
        }
        return self.folder.finish_cell(cell, self.study.cell_key(cell), found.tables, record)

    def prepare(self, cell: Cell, settings: ExperimentConfig | None = None) -> PreparedCell:
        """Return a cell with everything its heads are trained with; by default with the cell's own settings."""
        settings = self.settings(cell) if settings is None else settings
        return prepare_cell(settings, self.data, cell, self.study.statistics, memory=self.memory)

    def settings(self, cell: Cell) -> ExperimentConfig:
        """Return the settings that the heads of a cell are trained with: tuned, or by a private recipe, if it says so.

        Process 0 tunes, or reads the result from the folder, and broadcasts it.
        """
        config = self.study.config
        if config.tuning is None:
            return private_settings(config, self.data, cell)
        if cell not in self.chosen and self.processes.index > 0:
            self.chosen[cell] = Trial(**self.processes.receive(f"recipe of {cell}", 0))
        elif cell not in self.chosen:
            self.chosen[cell] = self.tuning(cell).chosen
            self.processes.broadcast(f"recipe of {cell}", self.chosen[cell]._asdict())
        return tuned_settings(config, self.chosen[cell], classes=cell.classes, shots=cell.shots)

    def tuning(self, cell: Cell) -> Tuning:
        """Return the search for a cell's recipe: from the folder, or a new one, which is then saved."""
        cell = tuned_cell(self.study.config, cell)
        try:
            return Tuning.from_json(self.folder.load_tuning(cell) or {})
        except DamagedError:  # damaged or missing: a new search gives the same result
            statistics = self.study.statistics
            tuning = tune_cell(self.study.config, self.data, cell, statistics, memory=self.memory)
        self.folder.save_tuning(cell, tuning.to_json())
        return tuning

    def _scored(self, heads: CellHeads) -> tuple[dict[str, np.ndarray], WeightsUnder | None]:
        """Return the scores of all models of a cell, and white-box statistics if an attack uses them.

        Scores of other processes' models are read from the folder.
        """
        prepared, cell = heads.prepared, heads.prepared.cell
        if self.processes.count == 1:
            everyone = join_ensembles([heads.load_or_train(part) for part in self.dealt[cell]])
            return score_heads(prepared, everyone), weights_of_cell(prepared, everyone)
        self._score_own(heads)
        for process in range(1, self.processes.count):
            heads.repaired += self.processes.receive(str(cell), process)
        parts = [self.folder.load_scores(cell, part.models) for part in self.dealt[cell]]
        scored = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not white_box_methods(self.study.config.attack):
            return scored, None
        # All heads are on disk by now.
        on_disk = [part._replace(trained=True) for part in self.dealt[cell]]
        everyone = join_ensembles([heads.load_or_train(part) for part in on_disk])
        return scored, weights_of_cell(prepared, everyone)

    def _score_own(self, heads: CellHeads) -> None:
        """Write the scores of this process's models of a cell, for process 0 to read."""
        cell = heads.prepared.cell
        for part in self._own(cell):
            scored = score_heads(heads.prepared, heads.load_or_train(part))
            self.folder.save_scores(cell, part.models, scored)

    def _heads(self, prepared: PreparedCell, bar: GridProgress) -> CellHeads:
        share = self._work_per_head(prepared.cell)
        return CellHeads(prepared, self.folder, lambda count: bar.heads(count, count * share))

    def _own(self, cell: Cell) -> list[ModelRange]:
        """Return this process's models of a cell."""
        return [part for part in self.dealt[cell] if part.process == self.processes.index]

    def _work_per_head(self, cell: Cell) -> float:
        """Return the work per head of a cell, in arbitrary units."""
        config = self.study.config.before_tuning()
        return training_plan(config, self.data, cell, self.memory).work * cell.classes

    def _summarise(self) -> None:
        """Write tables, laws and plots over all cells of the folder."""
        self.folder.assemble("per_example", self.folder.cells)
        self.folder.assemble("controls", self.folder.cells)
        if self.study.config.membership.by_person:
            self.folder.assemble("per_person", self.folder.cells)
        if self.study.config.has_actors:
            self.folder.assemble("actors", self.folder.cells)
        results = self.folder.assemble("results", self.folder.cells)
        laws = load_laws(self.folder.path)
        self.folder.write_json("power_law.json", laws_to_json(laws))
        plot_power_law(results, laws, self.folder.path / "plots")
        plot_privacy(of_unit(results, "record"), self.folder.path / "plots")
        self.folder.finish()


def _print_notes(console: rich.console.Console | None, lines: Iterable[str]) -> None:
    for line in lines:
        if console is not None:
            console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
