"""What a study has found so far; what is not there says which step makes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from nas_proxy.api.calls import one_sentence
from nas_proxy.core.notebook import table
from nas_proxy.core.results import StoredResult
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.data.sources import load_splits
from nas_proxy.errors import StudyError
from nas_proxy.export.model_file import DeployedModel, load_model
from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import isolated_rng
from nas_proxy.retrain.result import RetrainResult, RetrainRow
from nas_proxy.search.result import SearchResult, TrialRow
from nas_proxy.statistics.accuracy import percent
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.study.all_stages import STAGES
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.stage import StageName, refuse_other_configuration
from nas_proxy.types import Architecture
from nas_proxy.validate.values import RankReport

if TYPE_CHECKING:
    import pandas

T = TypeVar("T", bound=StoredResult)


@dataclass(frozen=True)
class Verdict:
    """How far a ranking can be trusted; as text it is two lines.

    Attributes:
        report: Every figure of it, with intervals.
    """

    report: RankReport

    @property
    def lines(self) -> tuple[str, str]:
        """What the ranking is worth, and what it is better than; the second may be empty."""
        sentences = re.split(r"(?<=\.) (?=[A-Z])", self.report.verdict)
        beaten = next((each for each in sentences[1:] if each.startswith("It ")), "")
        return sentences[0], beaten

    def __str__(self) -> str:
        return "\n".join(filter(None, self.lines))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True, eq=False)
class Best:
    """The architecture that a study recommends.

    Attributes:
        architecture: Which one.
        description: The same in words.
        score: Of the search, higher is better; None if it was not searched but chosen otherwise.
        retrained: What full training made of it; None if it was not retrained.
        config: The study's.
    """

    architecture: Architecture
    description: str
    score: float | None
    retrained: RetrainRow | None
    config: StudyConfig

    @property
    def space(self) -> SearchSpace:
        """Builds its network: `best.space.build(best.architecture, spec)`."""
        return self.config.space

    @property
    def test_accuracy(self) -> float | None:
        """Mean over the seeds of its full trainings, in [0, 1]; None if it was not retrained."""
        found = self.retrained.test_accuracy if self.retrained else None
        return found.mean if found else None

    @one_sentence
    def build(self, *, seed: int = 0) -> nn.Module:
        """Its network with fresh weights, for images `(n, c, h, w)` as the study has them.

        Args:
            seed: Of the weights.
        """
        spec = load_splits(self.config.data).spec
        with isolated_rng(seed):
            return self.space.build(self.architecture, spec)

    @one_sentence
    def model(self) -> DeployedModel:
        """The trained network: float32 images in [0, 1] to logits.

        Raises:
            StudyError: If it was not retrained.
        """
        if self.retrained is None:
            raise _missing("it was not retrained", "retrain", self.config, "retrain")
        return load_model(self.config.layout.model(0) / "model.safetensors")

    def __str__(self) -> str:
        accuracy, score = self.test_accuracy, self.score
        reached = "" if accuracy is None else f", {100 * accuracy:.1f} % test accuracy"
        return f"{self.description}{reached}{'' if score is None else f', score {score:.4g}'}"

    def __repr__(self) -> str:
        return f"<Best {self}>"

    def _repr_html_(self) -> str:
        interval = self.retrained.test_accuracy if self.retrained else None
        rows = {
            "architecture": self.description,
            "test accuracy": None
            if interval is None
            else percent(Estimate(interval.mean, interval.low, interval.high)),
            "parameters": None if self.retrained is None else f"{self.retrained.num_params:,.0f}",
            "score": None if self.score is None else f"{self.score:.4g}",
            "genotype": self.architecture.genotype_json,
        }
        return table(f"Best of {self.config.study_name}", rows)


@dataclass(frozen=True)
class ReportPage:
    """A study's report.

    Attributes:
        path: The page, which needs nothing beside itself.
        summary: What it says first.
    """

    path: Path
    summary: str

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        return table("Report", {"page": str(self.path)}, sentence=self.summary)


@dataclass(frozen=True)
class StudyFiles:
    """What lies in a study's folder.

    Attributes:
        config: Whose.
    """

    config: StudyConfig

    @property
    def layout(self) -> StudyLayout:
        """Where the files lie."""
        return self.config.layout

    def done(self) -> tuple[str, ...]:
        """The steps that have a result, in their order."""
        files = {
            "distilled": self.layout.proxy_dataset,
            "calibrated": self.layout.calibration,
            "searched": self.layout.search_result,
            "validated": self.layout.rank_report,
            "retrained": self.layout.retrain_result,
            "reported": self.layout.page,
        }
        return tuple(step for step, file in files.items() if file.is_file()) or ("nothing yet",)

    @one_sentence
    def proxy_dataset(self) -> ProxyDataset:
        """See `Study.proxy_dataset`."""
        self._look("the images were not distilled yet", "distill", self.layout.proxy_dataset)
        return ProxyDataset.load(self.layout.proxy_dataset)

    @one_sentence
    def trials(self) -> pandas.DataFrame:
        """See `Study.trials`."""
        import pandas

        return pandas.DataFrame([_columns(trial) for trial in self._searched().trials])

    @one_sentence
    def best(self) -> Best:
        """See `Study.best`."""
        searched = self._searched()
        if self.config.retrain is not None and self.layout.retrain_result.is_file():
            row = RetrainResult.read(self.layout.retrain_result).champion
            return Best(row.architecture, row.description, row.score, row, self.config)
        if not searched.best:
            reason = next((trial.reason for trial in searched.trials if trial.reason), "")
            raise StudyError(f"every trial of the search failed, such as for: {reason}")
        first = searched.best[0]
        return Best(first.architecture, first.description, first.score, None, self.config)

    @one_sentence
    def verdict(self) -> Verdict:
        """See `Study.verdict`."""
        what = "the ranking was not judged"
        if self.config.validation is None:
            raise _missing(what, "validate", self.config, "validate")
        return Verdict(self._read(RankReport, what, "validate", self.layout.rank_report))

    @one_sentence
    def report(self) -> ReportPage:
        """See `Study.report`."""
        self._look("the report was not written", "report", self.layout.page)
        summary = str(self.best())
        if self.layout.rank_report.is_file():
            summary = f"{summary}. {self.verdict().lines[0]}"
        return ReportPage(self.layout.page.resolve(), summary)

    def _searched(self) -> SearchResult:
        what = "the space was not searched yet"
        return self._read(SearchResult, what, "search", self.layout.search_result)

    def _read(self, kind: type[T], what: str, step: StageName, file: Path) -> T:
        self._look(what, step, file)
        return kind.read(file)

    def _look(self, what: str, step: StageName, file: Path) -> None:
        """Make sure that a file is there, and that it is this configuration's."""
        refuse_other_configuration(STAGES, self.config, self.layout)
        if not file.is_file():
            raise _missing(what, step, self.config, None)


def _missing(what: str, step: StageName, config: StudyConfig, section: str | None) -> StudyError:
    call = "run()" if step == "report" else f'run(last="{step}")'
    if section is not None and getattr(config, _ATTRIBUTES.get(section, section)) is None:
        return StudyError(
            f"{what}, for the study has no section {section}; give Study(..., {section}=...) one"
        )
    return StudyError(f"{what}; Study.{call} of {config.study_name} does that")


_ATTRIBUTES = {"validate": "validation"}


def _columns(trial: TrialRow) -> dict[str, Any]:
    """A row of the table: the trial's own columns, then its objectives and signals."""
    own = {
        "trial": trial.trial,
        "score": trial.score,
        "architecture": trial.description,
        "architecture_id": trial.architecture_id,
        "seconds": trial.seconds,
        "reason": trial.reason,
        "same_as": trial.same_as,
    }
    measured = {**trial.objectives, **trial.signals}
    return {**own, **{name: value for name, value in measured.items() if name not in own}}
