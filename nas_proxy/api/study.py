"""A study as an object: from a configuration, or from Python, to a verdict and a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nas_proxy.api.calls import one_sentence
from nas_proxy.api.images import ArrayImages
from nas_proxy.api.results import Best, ReportPage, StudyFiles, Verdict
from nas_proxy.api.sections import DataLike, DistillerLike, SpaceLike, as_mapping
from nas_proxy.backbones.pretrain_settings import PretrainSettings
from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.calibrate.settings import CalibrateSettings
from nas_proxy.core.notebook import table
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import UserError
from nas_proxy.evaluate_proxy.settings import EvaluateProxySettings
from nas_proxy.knowledge_distillation.settings import KnowledgeDistillationSettings
from nas_proxy.retrain.settings import RetrainSettings
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.search.settings import SearchSettings
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.config import StudyConfig, check_config, load_config
from nas_proxy.study.console import console_display
from nas_proxy.study.display import Display
from nas_proxy.study.estimate import StudyEstimate
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.pipeline import run_pipeline
from nas_proxy.study.planning import DEFAULT_SECONDS, plan_study
from nas_proxy.study.stage import Stage, StageName
from nas_proxy.tracking import TrackingSettings
from nas_proxy.train.settings import TrainSettings
from nas_proxy.validate.settings import ValidateSettings

if TYPE_CHECKING:
    import pandas

Plain = Mapping[str, Any]  # a section as a file spells it


class Study:
    """A search for an architecture, with proof of how far its ranking can be trusted.

    Each keyword is a section of a configuration file, as a mapping or as an object, and means what
    it means there: the same sections make the same study, which goes on wherever it was begun, here
    or on the command line. Nothing is computed before a method is called.

    Args:
        name: Of the study, of its folder, and of its runs.
        space: Where architectures come from: a function of `(trial, spec)` that returns a network,
            a registered name, `FILE.py:NAME`, a class, an object, or a mapping with `name`, which
            may be any of these, and options.
        budget: How long all of it may take by the clock, such as `10min` or `2h`; None: as long as
            the sections and their defaults take.
        data: From `image_folder`, `dataset` or `arrays`, or the name of a data set.
        distill: A distiller in the same forms as the space; a mapping may hold `images_per_class`,
            `labels` and `num_workers` too.
        train: How candidates are trained.
        score: How they are ranked.
        search: How many, by which sampler, in which processes.
        calibrate: How a recipe is found that can be trusted.
        recipe: Which recipe candidates are ranked by.
        validate: How the ranking is judged.
        retrain: How the best architectures are trained for use.
        knowledge_distillation: What candidates learn beside the labels.
        evaluate_proxy: How it is found out what a proxy data set is worth.
        pretrain: How `nas-proxy pretrain` makes weights.
        tracking: Where the study is logged.
        results: Folder that holds the study's folder.
        seed: Of everything random but the data split, which has its own.
        device: `cpu`, `cuda` or `cuda:1`.
        num_threads: Torch threads of this process on a CPU.
        cuda_graph: On a GPU, do the steps of candidates' trainings as one CUDA graph each.

    Raises:
        ConfigError: With every fault that was found, one per line.
        UserError: If something else is wrong that the user can mend.

    >>> import nas_proxy as nas
    >>> study = nas.Study(
    ...     "doctest",
    ...     data="digits",
    ...     space={"name": "convnet", "widths": [16, 32]},
    ...     distill={"name": "random_subset", "images_per_class": 5},
    ...     train={"num_steps": 50, "batch_size": 32, "learning_rate": 0.02},
    ... )
    >>> study.config.search.n_trials
    20
    >>> study.config.to_yaml().splitlines()[0]
    'study_name: doctest'
    """

    @one_sentence
    def __init__(
        self,
        name: str,
        *,
        space: SpaceLike,
        data: DataLike = None,
        budget: str | None = None,
        distill: DistillerLike | None = None,
        train: TrainSettings | Plain | None = None,
        score: ScoreSettings | Plain | None = None,
        search: SearchSettings | Plain | None = None,
        calibrate: CalibrateSettings | Plain | None = None,
        recipe: Recipe | Plain | str | None = None,
        validate: ValidateSettings | Plain | None = None,
        retrain: RetrainSettings | Plain | None = None,
        knowledge_distillation: KnowledgeDistillationSettings | Plain | str | None = None,
        evaluate_proxy: EvaluateProxySettings | Plain | None = None,
        pretrain: PretrainSettings | Plain | None = None,
        tracking: TrackingSettings | Plain | None = None,
        results: Path | str | None = None,
        seed: int | None = None,
        device: str | None = None,
        num_threads: int | None = None,
        cuda_graph: bool | None = None,
    ) -> None:
        sections: dict[str, Any] = {
            "study_name": name,
            "budget": budget,
            "seed": seed,
            "device": device,
            "cuda_graph": cuda_graph,
            "num_threads": num_threads,
            "results": results,
            "data": data,
            "distill": distill,
            "space": space,
            "train": train,
            "knowledge_distillation": knowledge_distillation,
            "score": score,
            "search": search,
            "calibrate": calibrate,
            "recipe": recipe,
            "validate": validate,
            "retrain": retrain,
            "evaluate_proxy": evaluate_proxy,
            "tracking": tracking,
            "pretrain": pretrain,
        }
        layout = StudyLayout(Path("results" if results is None else results), str(name))
        self._arrays = data if isinstance(data, ArrayImages) else None
        self._config = check_config(as_mapping(sections, layout.given("")))

    @classmethod
    @one_sentence
    def from_config(cls, config: Path | str | StudyConfig, overrides: Sequence[str] = ()) -> Self:
        """The study of a configuration file.

        Args:
            config: The YAML file, or a configuration that was checked.
            overrides: Such as `search.n_trials=50`; the value is read as YAML.

        Raises:
            ConfigError: With every fault that was found, one per line.
        """
        if isinstance(config, StudyConfig):
            if overrides:
                raise UserError(
                    "overrides are for a file; change what the configuration is made of"
                )
        else:
            config = load_config(Path(config), overrides)
        study = cls.__new__(cls)
        study._arrays, study._config = None, config
        return study

    @property
    def config(self) -> StudyConfig:
        """The checked configuration; `config.to_yaml()` is the file that makes the same study."""
        return self._config

    @one_sentence
    def run(
        self,
        *,
        last: StageName = "report",
        force: bool = False,
        display: Display | None = None,
    ) -> Self:
        """Distil, calibrate, search, validate, retrain and report; what was done is not repeated.

        After an interrupt, a kill or an error, the same call continues where it was.

        Args:
            last: The step to stop after: `distill`, `calibrate`, `search`, `validate`, `retrain` or
                `report`.
            force: Discard the earlier result of the last step and repeat it; with `report`, repeat
                everything.
            display: Shows progress; None: bars in a terminal, lines elsewhere.

        Returns:
            The study itself, which shows its state in a notebook.

        Raises:
            UserError: If something is wrong that the user can mend.
            KeyboardInterrupt: If it was interrupted.
        """
        run_stages(self, STAGES, last=last, force=force, display=display)
        return self

    @one_sentence
    def plan(
        self, *, timing_seconds: float = DEFAULT_SECONDS, display: Display | None = None
    ) -> StudyEstimate:
        """Say what every step will do, what it costs here and what that buys, before it begins.

        Args:
            timing_seconds: How long a few steps of a few candidates may be timed.
            display: Shows progress; None: as for `run`.

        Raises:
            UserError: If something is wrong that the user can mend.
        """
        self._write_arrays()
        return plan_study(self._config, display or console_display(), timing_seconds=timing_seconds)

    @property
    def proxy_dataset(self) -> ProxyDataset:
        """The distilled images.

        Raises:
            StudyError: If they were not made yet.
        """
        return self._files.proxy_dataset()

    @property
    def trials(self) -> pandas.DataFrame:
        """A row for each architecture of the search, in the order of its trials.

        Raises:
            StudyError: If the study has not searched yet.
        """
        return self._files.trials()

    @property
    def best(self) -> Best:
        """The recommended architecture: of the retrained ones, or else of the search.

        Raises:
            StudyError: If the study has not searched yet, or every trial failed.
        """
        return self._files.best()

    @property
    def verdict(self) -> Verdict:
        """How far the ranking can be trusted, in two lines.

        Raises:
            StudyError: If the ranking was not judged yet, or the study does not ask for it.
        """
        return self._files.verdict()

    def report(self) -> ReportPage:
        """The report's page, which links to itself in a notebook.

        Raises:
            StudyError: If it was not written yet.
        """
        return self._files.report()

    @property
    def _files(self) -> StudyFiles:
        return StudyFiles(self._config)

    def _write_arrays(self) -> None:
        if self._arrays is not None:
            self._arrays.save(self._config.layout.given(""))

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._config.study_name!r} in {self._config.layout.folder}>"
        )

    def _repr_html_(self) -> str:
        config = self._config
        rows = {
            "images": config.data.name,
            "space": config.space.name,
            "done": self._files.done(),
            "folder": str(config.layout.folder),
        }
        for name, look in (("verdict", self._files.verdict), ("best", self._files.best)):
            try:
                rows[name] = str(look())
            except UserError:  # not there yet: `done` says how far it is
                continue
        return table(f"Study {config.study_name}", rows)


def run_stages(
    study: Study,
    stages: Sequence[Stage],
    *,
    last: StageName,
    force: bool = False,
    display: Display | None,
) -> None:
    """Run stages of a study up to `last`; see `Study.run`."""
    shown = display or console_display()
    study._write_arrays()
    try:
        run_pipeline(study.config, shown, last=last, force=force, stages=stages)
    except KeyboardInterrupt:
        shown.say("stopped; the same call continues where it was")
        raise
