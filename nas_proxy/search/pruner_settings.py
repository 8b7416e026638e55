"""The key `pruner` of the configuration section `search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nas_proxy.options import Bound, NonNegativeInt, Options, PositiveInt, Shorthand

PrunerName = Literal["median", "percentile", "successive_halving", "hyperband", "wilcoxon"]

_OPTIONS: dict[PrunerName, tuple[str, ...]] = {
    "median": ("n_startup_trials", "n_warmup_steps", "interval_steps", "n_min_trials"),
    "percentile": (
        *("percentile", "n_startup_trials", "n_warmup_steps", "interval_steps", "n_min_trials"),
    ),
    "successive_halving": (
        *("min_resource", "reduction_factor", "min_early_stopping_rate", "bootstrap_count"),
    ),
    "hyperband": ("min_resource", "reduction_factor", "bootstrap_count"),
    "wilcoxon": ("p_threshold", "n_startup_steps"),
}


@dataclass(frozen=True, kw_only=True)
class PrunerSettings(Options):
    """Which of Optuna's pruners ends candidates before their training does.

    Its steps are percentages of a training's steps, those of `train.checkpoints`; of `wilcoxon`
    they are the trainings of `train.num_seeds`. An option that is None is what Optuna takes.

    Attributes:
        name: `median`: ends what is worse than the median of the complete candidates at the same
            checkpoint. `percentile`: likewise with another part. `successive_halving`: of all
            that reached a rung, the best part goes on; rungs are at `min_resource` times powers of
            `reduction_factor`. `hyperband`: several of these, which begin to end candidates
            at different rungs. `wilcoxon`: ends what a signed-rank test over trainings with the
            same seeds finds worse than the best candidate.
        percentile: Of `percentile`, which needs it: the upper part that is kept, such as 25.0.
        n_startup_trials: Of `median` and `percentile`: complete candidates before any is ended.
        n_warmup_steps: Of these: no candidate is ended before so many per cent.
        interval_steps: Of these: per cent between two checks.
        n_min_trials: Of these: complete candidates with a value at a checkpoint that are needed.
        min_resource: Of `successive_halving` and `hyperband`: per cent of the first rung; None: the
            first checkpoint.
        reduction_factor: Of these: one of so many goes on.
        min_early_stopping_rate: Of `successive_halving`: so many rungs are left out.
        bootstrap_count: Of both: candidates that must have reached a rung before any goes on.
        p_threshold: Of `wilcoxon`: the p-value below which a candidate is ended.
        n_startup_steps: Of `wilcoxon`: trainings before any candidate is ended.
    """

    name: PrunerName
    percentile: Annotated[float, Bound(ge=0, le=100)] | None = None
    n_startup_trials: NonNegativeInt | None = None
    n_warmup_steps: NonNegativeInt | None = None
    interval_steps: PositiveInt | None = None
    n_min_trials: PositiveInt | None = None
    min_resource: Annotated[int, Bound(ge=1, le=99)] | None = None
    reduction_factor: Annotated[int, Bound(ge=2)] | None = None
    min_early_stopping_rate: NonNegativeInt | None = None
    bootstrap_count: NonNegativeInt | None = None
    p_threshold: Annotated[float, Bound(gt=0, le=1)] | None = None
    n_startup_steps: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        """Refuse options of another pruner."""
        own = _OPTIONS[self.name]
        for option in self.given:
            if option not in own:
                raise ValueError(
                    f"{option} is no option of the pruner {self.name}, which has "
                    f"{', '.join(own)}; take it out, or choose another pruner"
                )
        if self.name == "percentile" and self.percentile is None:
            raise ValueError(
                "the pruner percentile needs the upper part that is kept, such as percentile: 25.0"
            )

    @property
    def given(self) -> dict[str, Any]:
        """The options that are not left to Optuna."""
        options = {name: value for name, value in vars(self).items() if name != "name"}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def compares_seeds(self) -> bool:
        """Whether its steps are trainings with different seeds, and not checkpoints of one."""
        return self.name == "wilcoxon"

    def words(self, rung: int) -> str:
        """How far a candidate got that ended at a rung."""
        if self.compares_seeds:
            return f"{rung} training{'s' if rung > 1 else ''}"
        return f"{rung} % of the steps"


PrunerOption = Annotated[PrunerSettings, Shorthand(lambda word: {"name": word})]
