"""Run a study: every model on every data set from every seed, each in a process of its own, and write the tables."""

import json
import math
import shutil
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vcycle import _check
from vcycle._files import locked, whole, write_json
from vcycle.evaluation.benchmark import Row
from vcycle.evaluation.leaderboard import Board, Leaderboard, Standing
from vcycle.evaluation.leaderboard_page import write_page
from vcycle.recipes.building import RecipeData, load_data
from vcycle.recipes.cell import RECORD, Cell, read_kept
from vcycle.recipes.process import Process
from vcycle.recipes.recipe import Recipe, Say
from vcycle.recipes.study import Entry, Study, read_study, slug
from vcycle.training.resume import check_folder, differences

if TYPE_CHECKING:
    from tqdm import tqdm

DESCRIPTION, FAILED, TIMES = "cell.json", "failed.json", "times.json"
POLL = 0.1
"""Seconds between looks at the processes."""
TABLES_AGE = 60.0
"""Seconds after which the tables are written again while cells run."""


@dataclass(frozen=True, eq=False)
class _Place:
    """One cell: what it is of, and what its process is told."""

    dataset: str
    entry: Entry
    cell: Cell
    description: dict[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.cell.folder)

    @property
    def words(self) -> str:
        return f"{self.entry.label} on {self.dataset}, seed {self.cell.seed}"

    @property
    def record(self) -> dict[str, Any] | None:
        return read_kept(self.folder / RECORD)

    @property
    def failure(self) -> str | None:
        content = read_kept(self.folder / FAILED)
        return None if content is None else content["reason"]

    @property
    def ready(self) -> bool:
        """Whether the cell can start: the first seed chooses the learning rate of all."""
        first = Path(self.cell.first)
        return not self.cell.rates or first == self.folder or (first / RECORD).exists() or (first / FAILED).exists()


def run_study(
    path: str | Path,
    out: str | Path,
    *,
    only: Sequence[str] = (),
    datasets: Sequence[str] = (),
    budget: float | None = None,
    jobs: int = 1,
    redo: bool = False,
    data_dir: str | Path | None = None,
    progress: bool = True,
    say: Say | None = None,
) -> Leaderboard:
    """Do what a study file says, as far as it is not done, and write ``leaderboard.json``, ``.md`` and ``.html``.

    Parameters
    ----------
    path
        The YAML file, see :class:`vcycle.recipes.study.Study`.
    out
        Folder for the tables, the generated data and one folder per cell. What has finished is not run again.
    only, datasets
        Labels of models, and names of data sets, to run; if empty, all models, and all data sets but those on demand.
        The tables show everything that is there.
    budget
        CPU seconds of each training, instead of the study's.
    jobs
        Cells to run at the same time, each on one thread.
    redo
        Run cells again that failed, or whose description changed.
    data_dir
        Where data files lie, see :func:`vcycle.recipes.run_recipe`.
    progress
        Show a bar over the cells, and one while data are generated.
    say
        Called with one line per cell.

    Returns
    -------
    Leaderboard
        What the files show.

    Raises
    ------
    DataError
        If a data file is missing or unreadable, or another process runs a study in ``out``.
    CheckpointError
        If a cell's record is corrupt.
    ValueError
        If the study is wrong, or ``out`` holds cells of another one.
    """
    study = read_study(path)
    check_folder(out)
    _check.integer("jobs", jobs, 1)
    if budget is not None:
        study = replace(study, cpu_seconds=dict.fromkeys(study.datasets, _check.positive("budget", budget)))
    for label in only:
        _check.choice("only", label, [entry.label for entry in study.models])
    for name in datasets:
        _check.choice("dataset", name, study.datasets)
    say = say or (lambda line: None)
    datasets = datasets or [name for name in study.datasets if name not in study.on_demand]
    runner = _Runner(study, Path(out), data_dir, progress=progress, say=say)

    def chosen(places: Sequence[_Place]) -> list[_Place]:
        return [p for p in places if (not only or p.entry.label in only) and p.dataset in datasets]

    first = chosen(runner.places(study.seeds))
    if not first:
        raise ValueError(f"`only` and `dataset` must choose a cell. Got {', '.join(only)} on {', '.join(datasets)}.")
    with locked(out):
        runner.run(first, jobs=jobs, redo=redo)
        runner.run(chosen(runner.further_places()), jobs=jobs, redo=redo)
        runner.time_together(runner.places(study.seeds))
        board = runner.write()
    if any(place.failure is not None for place in [*runner.places(study.seeds), *runner.further_places()]):
        say("What failed is not run again, unless --redo is given.")
    return board


class _Runner:
    def __init__(self, study: Study, out: Path, data_dir: str | Path | None, *, progress: bool, say: Say) -> None:
        self.study, self.out, self.data_dir, self.progress, self.say = study, out, data_dir, progress, say
        self.data: dict[str, RecipeData] = {}
        self.lost: dict[str, dict[int, str]] = {}

    def places(self, seeds: Sequence[int]) -> list[_Place]:
        """Return the cells of some seeds, the first seed of all first."""
        study = self.study
        return [
            self._place(name, recipe, entry, seed)
            for seed in seeds
            for name, recipe in study.datasets.items()
            for entry in study.models
            if not entry.datasets or name in entry.datasets
        ]

    def further_places(self) -> list[_Place]:
        """Return the cells of further seeds for the models that lead, once all others have come to an end."""
        more, study = self.study.more_seeds, self.study
        if more is None:
            return []
        seeds = range(max(study.seeds) + 1, max(study.seeds) + 1 + more.count)
        found = []
        for name in study.datasets if more.dataset is None else (more.dataset,):
            cells = [place for place in self.places(study.seeds) if place.dataset == name]
            if any(place.record is None and place.failure is None for place in cells):
                continue
            errors: dict[str, list[float]] = {}
            for place in cells:
                if (record := place.record) is not None:
                    error = record["validation"]["relative_l2"]
                    errors.setdefault(place.entry.label, []).append(math.inf if math.isnan(error) else error)
            leading = sorted(errors, key=lambda label: statistics.fmean(errors[label]))[: more.leading]
            found += [place for place in self.places(seeds) if place.dataset == name and place.entry.label in leading]
        return found

    def _place(self, name: str, recipe: Recipe, entry: Entry, seed: int) -> _Place:
        study = self.study
        folder = self.out / "cells" / slug(name) / slug(entry.label)
        cell = Cell(
            str(folder / f"seed-{seed}"),
            recipe=_plain(recipe),
            model=entry.model,
            fit=study.fit | entry.fit,
            cpu_seconds=study.cpu_seconds[name],
            seed=seed,
            rates=[] if "learning_rate" in entry.fit else list(study.rates),
            share=study.share,
            first=str(folder / f"seed-{study.seeds[0]}"),
            data_dir=None if self.data_dir is None else str(self.data_dir),
            cache=str(self.out / "data"),
        )
        told = asdict(cell)
        places = ("folder", "first", "data_dir", "cache", "recipe")
        description = {key: value for key, value in told.items() if key not in places}
        description |= {"data": recipe.data, "evaluate": recipe.evaluate}
        return _Place(name, entry, cell, json.loads(json.dumps(description)))

    def run(self, places: Sequence[_Place], *, jobs: int, redo: bool) -> None:
        """Run what is not done, so many at a time."""
        waiting = self._prepared(places, redo=redo)
        if not waiting:
            return
        self._open_files({place.dataset for place in waiting})
        running: dict[Process, _Place] = {}
        written = time.monotonic()
        with self._bar(len(places), len(places) - len(waiting)) as bar:
            try:
                while waiting or running:
                    while len(running) < jobs and (place := _next(waiting)) is not None:
                        waiting.remove(place)
                        running[self._begun(place)] = place
                        bar.set_postfix_str(", ".join(f"{p.entry.label} on {p.dataset}" for p in running.values()))
                    if not running:
                        self._give_up(waiting)
                        return
                    ended = [process for process in running if process.ended]
                    for process in ended:
                        line = self._result(running.pop(process), process)
                        with bar.external_write_mode():
                            self.say(line)
                        bar.update()
                    if ended and time.monotonic() - written > TABLES_AGE:
                        self.write()
                        written = time.monotonic()
                    elif not ended:
                        time.sleep(POLL)
            finally:
                for process in running:
                    process.stop()
                self.write()  # also of what an interruption or a full disk has cut short

    def _open_files(self, names: Collection[str]) -> None:
        """Open the data sets that are not generated: a file that is missing is missed now, not when its turn comes."""
        for name, recipe in self.study.datasets.items():
            if name in names and "problem" not in recipe.data:
                self._load(name)

    def _begun(self, place: _Place) -> Process:
        self._load(place.dataset)
        return Process("cell", asdict(place.cell), place.folder, imports=self.study.folder)

    def _bar(self, total: int, done: int) -> "tqdm[NoReturn]":
        from tqdm import tqdm

        return tqdm(desc="study", total=total, initial=done, unit="cell", disable=not self.progress)

    def _give_up(self, places: Sequence[_Place]) -> None:
        """Say of cells that nothing can start them: their first seed was killed before it chose a learning rate."""
        for place in places:
            reason = f"not run: the learning rate is chosen by seed {self.study.seeds[0]}, which did not finish"
            self.lost.setdefault(str(place.folder), {})[place.cell.seed] = reason

    def _prepared(self, places: Sequence[_Place], *, redo: bool) -> list[_Place]:
        """Return the cells that are not done, their descriptions written; nothing is written if one was changed."""
        changed = {}
        for place in places:
            kept = read_kept(place.folder / DESCRIPTION)
            different = [] if kept is None else differences(kept, place.description)
            if different:
                changed[place] = different[0]
        if changed and not redo:
            place, difference = next(iter(changed.items()))
            raise ValueError(
                f"`out` holds cells of another study: {place.words}: {difference}. Give --redo, or another folder."
            )
        waiting = []
        for place in places:
            if place in changed or (redo and place.failure is not None):
                shutil.rmtree(place.folder)
            if place.record is None and place.failure is None:
                write_json(place.folder / DESCRIPTION, place.description)
                waiting.append(place)
        return waiting

    def _load(self, name: str) -> RecipeData:
        """Generate or open a data set, once, before a process needs it."""
        if name not in self.data:
            recipe = self.study.datasets[name]
            self.data[name] = load_data(recipe, data_dir=self.data_dir, cache=self.out / "data", progress=self.progress)
        return self.data[name]

    def _result(self, place: _Place, process: Process) -> str:
        """Write down why a process failed, and return a line about what it did."""
        record = place.record
        if process.status == 0 and record is not None:
            error = next(iter(record["tests"].values()))["relative_l2"]
            return f"{place.words}: {error:.2%} after {record['cpu_seconds']:.3g} CPU-seconds"
        reason = " ".join(process.reason.split())
        if process.may_pass:
            self.lost.setdefault(str(place.folder), {})[place.cell.seed] = reason
            return f"{place.words}: not finished: {reason.rstrip('.')}. The next run tries again."
        write_json(place.folder / FAILED, {"reason": reason})
        return f"{place.words}: failed: {reason}"

    def time_together(self, places: Sequence[_Place]) -> None:
        """Time the inference of all models of a data set in turn, if a model is new there."""
        for name in self.study.datasets:
            finished: dict[str, _Place] = {}
            for place in places:
                if place.dataset == name and place.record is not None:
                    finished.setdefault(place.entry.label, place)
            of = {label: (place.record or {})["cpu_seconds"] for label, place in finished.items()}
            if not of or (self.timing(name) or {}).get("of") == of:
                continue
            folder = self.out / "timing" / slug(name)
            cells = {label: asdict(place.cell) for label, place in finished.items()}
            job = {"cells": cells, "of": of, "out": str(folder / TIMES)}
            self.say(f"{name}: timing {len(cells)} models and the classical ways in turn")
            process = Process("timing", job, folder, imports=self.study.folder)
            try:
                if process.status != 0:
                    self.say(f"{name}: not timed in turn: {process.reason}")
            finally:
                process.stop()

    def timing(self, name: str) -> dict[str, Any] | None:
        """Return what was measured of all models of a data set together."""
        return read_kept(self.out / "timing" / slug(name) / TIMES)

    def write(self) -> Leaderboard:
        """Write the tables of all cells that have come to an end."""
        board = self.leaderboard([*self.places(self.study.seeds), *self.further_places()])
        write_json(self.out / "leaderboard.json", board.to_dict())
        with whole(self.out / "leaderboard.md") as partial:
            partial.write_text(board.to_markdown(), encoding="utf-8")
        write_page(self.out / "leaderboard.html", board)
        return board

    def leaderboard(self, places: Sequence[_Place]) -> Leaderboard:
        """Return the tables of all cells that have come to an end."""
        study, boards = self.study, []
        for name, recipe in study.datasets.items():
            timing = self.timing(name) or {"ms": {}, "solvers": []}
            standings = [s for entry in study.models if (s := self._standing(name, entry, places, timing)) is not None]
            if standings:
                boards.append(Board(name, recipe.about, standings, [Row(**row) for row in timing["solvers"]]))
        settings = {"budget": f"{_budgets(study)} CPU-seconds a training, one thread"}
        if study.rates:
            rates = ", ".join(f"{rate:g}" for rate in study.rates)
            settings["learning rate"] = f"chosen from {rates} on validation data, {study.share:.0%} of the budget each"
        settings["seeds"] = ", ".join(map(str, study.seeds))
        records = [record for place in places if (record := place.record) is not None]
        settings |= {key: ", ".join(sorted({record[key] for record in records})) for key in ("version", "machine")}
        return Leaderboard(study.name, study.about, boards, settings)

    def _standing(
        self, name: str, entry: Entry, places: Sequence[_Place], timing: Mapping[str, Any]
    ) -> Standing | None:
        own = [place for place in places if place.dataset == name and place.entry == entry]
        runs = [record for place in own if (record := place.record) is not None]
        failures = {place.cell.seed: reason for place in own if (reason := place.failure) is not None}
        for place in own:
            failures |= self.lost.get(str(place.folder), {})
        return Standing(entry.label, runs, failures, timing["ms"].get(entry.label)) if runs or failures else None


def _budgets(study: Study) -> str:
    """Return the budget in words: one number where it is the same for all data sets."""
    different = {f"{seconds:g}" for seconds in study.cpu_seconds.values()}
    if len(different) == 1:
        return different.pop()
    return ", ".join(f"{name} {seconds:g}" for name, seconds in study.cpu_seconds.items())


def _next(waiting: Sequence[_Place]) -> _Place | None:
    return next((place for place in waiting if place.ready), None)


def _plain(recipe: Recipe) -> dict[str, Any]:
    entries = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    return entries | {"folder": str(recipe.folder.resolve()), "seeds": [], "expect": []}
