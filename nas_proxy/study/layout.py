"""Where the files of a study lie: the one place that spells their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyLayout:
    """The files and folders of one study; nothing is made or read here.

    Each stage writes in the folder of its name. What lies beside these is the study's own.

    Attributes:
        results: Folder that all studies share, with their MLflow store.
        study_name: Name of the study's folder in it.
    """

    results: Path
    study_name: str

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.results / self.study_name

    @property
    def cache(self) -> Path:
        """Trained networks that studies share, by content."""
        return self.results / "cache"

    @property
    def config(self) -> Path:
        """The resolved configuration, which reproduces the study alone."""
        return self.folder / "config.yaml"

    def given(self, name: str) -> Path:
        """A file of what the study was given in memory: images, a proxy data set."""
        return self.folder / "given" / name

    def ranking(self, what: str, images: str) -> Path:
        """Log of architectures that are ranked without a search, or of what they are ranked by.

        Args:
            what: It is of, such as `ranked`.
            images: Their source hash.
        """
        return self.folder / "ranking" / f"{what}_{images[:12]}.jsonl"

    @property
    def budget(self) -> Path:
        """What a study with a budget does of everything, as timed at its beginning."""
        return self.folder / "budget.json"

    @property
    def arithmetic(self) -> Path:
        """How fast trainings are here in each precision and memory layout."""
        return self.folder / "arithmetic.json"

    @property
    def looks(self) -> Path:
        """Every look at references, a line each; it stays whatever is repeated."""
        return self.folder / "looks.jsonl"

    @property
    def discarded(self) -> Path:
        """What was paid for and is no part of any result, likewise."""
        return self.folder / "discarded.jsonl"

    @property
    def in_flight(self) -> Path:
        """What evaluations without a result have cost so far; removed when they have one."""
        return self.folder / "in_flight.json"

    @property
    def clock(self) -> Path:
        """How long stages took by the clock, a line for each time that one ran."""
        return self.folder / "clock.jsonl"

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.folder / name

    # The proxy data set

    @property
    def proxy_dataset(self) -> Path:
        """The distilled set; its teachers, if it has any, lie beside it."""
        return self.stage("distill") / "proxy.safetensors"

    @property
    def distill_checkpoint(self) -> Path:
        """From which a killed distillation continues."""
        return self.stage("distill") / "checkpoint.safetensors"

    @property
    def distill_costs(self) -> Path:
        """What a distillation has cost so far; removed when the set, which says it, is there."""
        return self.stage("distill") / "costs.json"

    @property
    def images_before(self) -> Path:
        """A picture of the images that distilling started from."""
        return self.stage("distill") / "before.png"

    @property
    def images_after(self) -> Path:
        """A picture of the distilled images."""
        return self.stage("distill") / "after.png"

    # Recipes

    @property
    def calibration(self) -> Path:
        """What the race of the recipes found."""
        return self.stage("calibrate") / "calibration.json"

    @property
    def frontier(self) -> Path:
        """A picture of every recipe's cost and correlation."""
        return self.stage("calibrate") / "frontier.png"

    @property
    def recipe(self) -> Path:
        """Folder of the calibrated recipe, with all that another study needs to use it."""
        return self.stage("calibrate") / "recipe"

    @property
    def trusted_recipe(self) -> Path:
        """Folder of the recipe that was fetched from the model registry."""
        return self.folder / "trusted"

    @property
    def rank_card(self) -> Path:
        """What the registry is told of the calibrated recipe."""
        return self.folder / "rank_card.json"

    @property
    def calibration_samples(self) -> Path:
        """Folder of the full trainings of calibration samples."""
        return self.folder / "calibration_sample"

    def sample_references(self, key: str) -> Path:
        """Log of the full trainings of one kind, which `key` identifies."""
        return self.calibration_samples / key / "reference.jsonl"

    def taken(self, study: str) -> Path:
        """Folder of what was taken from another study; no log in it is among `sample_logs`."""
        return self.calibration_samples / "from" / study

    def sample_logs(self) -> list[Path]:
        """The logs of full trainings that are there."""
        return sorted(self.calibration_samples.glob("*/*.jsonl"))

    @property
    def before_recalibration(self) -> Path:
        """The search that found a fault with the recipe, set aside.

        What its guard checked joins the calibration sample by this folder's being there: one
        renaming does it all, so no kill can leave half of it done.
        """
        return self.folder / "search_before_recalibration"

    # The search

    @property
    def search_result(self) -> Path:
        """Every trial of the search, the best ones, the Pareto front."""
        return self.stage("search") / "search.json"

    @property
    def trials(self) -> Path:
        """Log of the trials' evaluations."""
        return self.stage("search") / "evaluations.jsonl"

    @property
    def unfinished_trials(self) -> Path:
        """Folder of the trainings that wait for a pruner's verdict; gone when the search ends."""
        return self.stage("search") / "unfinished"

    @property
    def guard(self) -> Path:
        """The checks that were made while the search ran."""
        return self.stage("search") / "guard.json"

    def guard_log(self, search: str = "search") -> Path:
        """Log of the full trainings of these checks; `search` may be one that was set aside."""
        return self.stage(search) / "guard.jsonl"

    def latencies(self, stage: str = "search") -> Path:
        """Log of measured latencies; not `.jsonl`, for these are logs of evaluations."""
        return self.stage(stage) / "latencies.log"

    @property
    def score_reference(self) -> Path:
        """Log of the architectures among which a `rank_mean` ranks."""
        return self.stage("search") / "score_reference.jsonl"

    # The validation

    @property
    def judged_score_reference(self) -> Path:
        """The same of a ranking that is judged without a search."""
        return self.stage("validate") / "score_reference.jsonl"

    @property
    def rank_report(self) -> Path:
        """How far the ranking can be trusted."""
        return self.stage("validate") / "rank_report.json"

    @property
    def points(self) -> Path:
        """Every architecture of the validation with its scores and its reference."""
        return self.stage("validate") / "points.json"

    @property
    def random_subset(self) -> Path:
        """The control of random images."""
        return self.stage("validate") / "random_subset.safetensors"

    # Retrained networks

    @property
    def candidates_teachers(self) -> Path:
        """Teachers of candidates; retrained networks have their own."""
        return self.folder / "teachers"

    @property
    def retrain_result(self) -> Path:
        """What full training made of each network."""
        return self.stage("retrain") / "retrain.json"

    @property
    def retrain_teachers(self) -> Path:
        """Teachers of the retrained networks."""
        return self.stage("retrain") / "teachers"

    @property
    def trained_weights(self) -> Path:
        """The weights of every full training."""
        return self.stage("retrain") / "weights"

    def model(self, place: int) -> Path:
        """Folder of an exported network; `place` 0 is the recommended one's."""
        return self.stage("retrain") / ("champion" if place == 0 else f"runner_up_{place}")

    @property
    def compressed(self) -> Path:
        """Folder of the smaller versions of the recommended network."""
        return self.stage("retrain") / "compressed"

    @property
    def compression(self) -> Path:
        """What is known of the smaller versions."""
        return self.compressed / "compressed.json"

    def retrain_pictures(self) -> list[Path]:
        """Learning curves of the full trainings."""
        return sorted(self.stage("retrain").glob("retrain_*.png"))

    def model_files(self) -> list[Path]:
        """All files of exported networks and of their smaller versions that are there."""
        folder = self.stage("retrain")
        patterns = ("champion/*", "runner_up_*/*", "compressed/*")
        return sorted(path for pattern in patterns for path in folder.glob(pattern))

    # Beside the stages

    def evaluate_proxy(self, proxy_dataset_id: str) -> Path:
        """Folder of what a proxy data set was found to be worth, a folder for each task."""
        return self.folder / "evaluate_proxy" / proxy_dataset_id

    def proxy_result(self, proxy_dataset_id: str, task: str) -> Path:
        """What one task found out about a proxy data set."""
        return self.evaluate_proxy(proxy_dataset_id) / task / f"{task}.json"

    @property
    def report(self) -> Path:
        """Every figure of the report."""
        return self.folder / "report.json"

    @property
    def page(self) -> Path:
        """The report as one page."""
        return self.folder / "report.html"

    @property
    def figures(self) -> Path:
        """Folder of the report's figures."""
        return self.folder / "figures"

    def stage_log(self, stage: str, name: str) -> Path:
        """Log of evaluations of a stage; `name` may be a signal's, such as `val_loss@50`."""
        return self.stage(stage) / f"{name.replace('/', '_').replace(':', '_')}.jsonl"

    def stage_logs(self, stage: str) -> list[Path]:
        """The logs of evaluations that a stage has."""
        return sorted(self.stage(stage).glob("*.jsonl"))
