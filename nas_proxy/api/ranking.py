"""Which architectures of a space are the best for given images, by a recipe or a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from nas_proxy.api.calls import one_sentence
from nas_proxy.api.images import ArrayImages
from nas_proxy.api.sections import (
    DataLike,
    GivenProxyDataset,
    SpaceLike,
    as_mapping,
    executor_section,
)
from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.data.folder import cache_folder
from nas_proxy.data.proxy_dataset import ProxyDataset
from nas_proxy.errors import ConfigError, UserError
from nas_proxy.interfaces import SearchSpace, ZeroCostScore
from nas_proxy.registry import SCORES
from nas_proxy.scores.signals import is_trained, trained_among
from nas_proxy.study.config import StudyConfig, check_config
from nas_proxy.study.consistency import RecipeOrigin, recipe_words
from nas_proxy.study.console import console_display
from nas_proxy.study.defaults import reads_distilled_set
from nas_proxy.study.display import Display
from nas_proxy.study.ranking import Ranked, rank_architectures, ranking_id
from nas_proxy.train.settings import TrainSettings
from nas_proxy.types import Architecture

if TYPE_CHECKING:
    import pandas

ScoreLike = str | type[ZeroCostScore] | ZeroCostScore
"""A score's name or `FILE.py:CLASS`, a class, or an object; or the name of a trained signal."""


@one_sentence
def rank(
    space: SpaceLike,
    data: DataLike,
    *,
    by: ScoreLike | Sequence[ScoreLike] | Recipe | Mapping[str, Any] = "zero_cost",
    architectures: int | Sequence[Architecture | str] = 20,
    proxy_dataset: ProxyDataset | Path | str | None = None,
    train: TrainSettings | Mapping[str, Any] | None = None,
    num_workers: int = 1,
    results: Path | str = "results",
    seed: int = 0,
    device: str = "cpu",
    display: Display | None = None,
) -> pandas.DataFrame:
    """Rank architectures of a space on images, without a search and without a judgement.

    How far such a ranking can be trusted is another question, which a study's `validate` answers.
    What was evaluated is kept in `results`: a killed call continues, and a call for more
    architectures evaluates those that are new.

    Args:
        space: Where they come from, in the forms that `Study` takes.
        data: The images, likewise.
        by: What ranks them. A score without training, such as `naswot`. A signal of a short
            training, such as `val_loss`. Several of these: the mean of an architecture's ranks
            among those of the table. A recipe that needs no full training, by its name, such as
            `zero_cost`, which is the mean rank of three scores and trains nothing, or
            `self_labelled`, which is what a study does that says nothing else and first trains a
            sample; or one that is written out.
        architectures: Which: architectures, or texts in the space's own notation; or how many are
            drawn at random, of which more begin with the fewer.
        proxy_dataset: A distilled set, or its file, that is trained on; None: all images are.
        train: How, as the section of that name; None: 360 steps of 128 images.
        num_workers: Processes that evaluate.
        results: Folder that holds `rank_` with an id of what is asked.
        seed: Of the draw, of weights and of trainings.
        device: `cpu`, `cuda` or `cuda:1`.
        display: Shows progress; None: bars in a terminal, lines elsewhere.

    Returns:
        A row for each, the best first, its place from 1 as the index `rank`. Columns: `score`
        (higher is better), `architecture` in words, `architecture_id`, `genotype` (so that
        `Architecture(space.name, genotype)` is it), `seconds`, `reason`, then what was measured.
        Those whose evaluation failed stand last, with a reason and without a score.

    Raises:
        ConfigError: With every fault that was found, one per line.
        UserError: If something else is wrong that the user can mend.

    >>> import nas_proxy as nas
    >>> space = nas.search_space("convnet", options={"widths": [8, 16], "depths": [1, 2]})
    >>> table = nas.rank(space, "digits", by="num_params", architectures=3)
    >>> table["score"].is_monotonic_decreasing
    True
    >>> best = nas.Architecture(space.name, table["genotype"][1])
    >>> space.describe(best) == table["architecture"][1]
    True
    """
    trained_on = None if proxy_dataset is None else GivenProxyDataset.of(proxy_dataset)
    sets = cache_folder("proxy_datasets")
    mapping = as_mapping(
        {
            "space": space,
            "data": data,
            "recipe": _recipe(by, on="full_data" if trained_on is None else "proxy"),
            "distill": trained_on and trained_on.section(sets),
            "train": train,
            "search": executor_section(num_workers),
            "tracking": {"enabled": False},
            "results": results,
            "seed": seed,
            "device": device,
        },
        cache_folder("arrays"),
    )
    config = check_config({**mapping, "study_name": "rank"})
    _check_proxy_dataset(config, is_given=trained_on is not None)
    chosen = _chosen(config.space, architectures)
    proxy_id = None if trained_on is None else trained_on.content.id
    own_id = ranking_id(config, proxy_id)
    config = check_config({**mapping, "study_name": f"rank_{own_id}"})
    if isinstance(data, ArrayImages):
        data.save(cache_folder("arrays"))
    if trained_on is not None:
        trained_on.save(sets)
    shown = display or console_display()
    return _table(config.space, rank_architectures(config, chosen, shown))


def _recipe(by: Any, *, on: str) -> Any:
    """The section `recipe`: one that is named or written out as it is, scores as a recipe."""
    if isinstance(by, Recipe | Mapping):
        return by
    if isinstance(by, str) and not _is_signal(by):
        if by in get_args(RecipeOrigin):
            raise ConfigError(
                f"by: {by!r} is what a study finds or says: use Study(..., recipe={by!r}), or name "
                "a score or another recipe"
            )
        return by
    several = isinstance(by, Sequence) and not isinstance(by, str)
    signals = [_signal(each) for each in (by if several else [by])]
    return {
        "name": " + ".join(signals),
        "train_on": on if trained_among(signals) else "nothing",
        "score": {"signals": signals, "combine": "rank_mean" if len(signals) > 1 else "single"},
    }


def _signal(score: Any) -> str:
    if isinstance(score, str):
        return score
    kind = type(score) if isinstance(score, ZeroCostScore) else score
    if isinstance(kind, type) and issubclass(kind, ZeroCostScore):
        if kind is not score and score != kind():
            raise ConfigError(
                f"by: a {kind.__name__} with options of its own; a score is measured with its "
                "defaults, so derive a class that has other ones"
            )
        return SCORES.reference(kind)
    raise ConfigError(
        "by: expected the name of a score, of a signal or of a recipe, a class of scores, several "
        f"of these, or a Recipe, got {type(score).__name__}"
    )


def _is_signal(name: str) -> bool:
    return name in SCORES.names() or ":" in name or is_trained(name)


def _check_proxy_dataset(config: StudyConfig, *, is_given: bool) -> None:
    """A set is there if the recipe reads one, and only then."""
    name = recipe_words(config.recipe)
    reads = reads_distilled_set(config.recipe, None, config.score)
    if reads and not is_given:
        raise ConfigError(f"the recipe {name} looks at a distilled set; give proxy_dataset=...")
    if is_given and not reads:
        raise ConfigError(
            f"{name} does not look at proxy_dataset; leave it out, or rank by a signal of a "
            "training, such as train_loss_mean"
        )


def _architecture(space: SearchSpace, given: Any) -> Architecture:
    if isinstance(given, str):
        try:
            return space.from_string(given)
        except ValueError as error:
            raise UserError(f"architectures: {given!r}: {error}") from error
    if not isinstance(given, Architecture):
        raise UserError(
            "architectures: expected a number, or architectures and texts, got "
            f"{type(given).__name__} among them"
        )
    if given.space != space.name:
        raise UserError(f"architectures: one is of the space {given.space!r}, not {space.name!r}")
    return given


def _chosen(
    space: SearchSpace, given: int | Sequence[Architecture | str]
) -> int | list[Architecture]:
    if isinstance(given, int):
        return given
    chosen = [_architecture(space, each) for each in given]
    if not chosen:
        raise UserError("architectures: there are none; give some, or how many are drawn")
    twice = [a for a, times in Counter(chosen).items() if times > 1]
    if twice:
        raise UserError(f"architectures: {twice[0].genotype_json} is there twice")
    return chosen


def _table(space: SearchSpace, ranked: Sequence[Ranked]) -> pandas.DataFrame:
    import pandas

    places = pandas.RangeIndex(1, len(ranked) + 1, name="rank")
    return pandas.DataFrame([_columns(space, each) for each in ranked], index=places)


def _columns(space: SearchSpace, ranked: Ranked) -> dict[str, Any]:
    evaluation = ranked.evaluation
    architecture = evaluation.architecture
    own = {
        "score": ranked.score,
        "architecture": space.describe(architecture),
        "architecture_id": architecture.id,
        "genotype": architecture.genotype,
        "seconds": evaluation.seconds,
        "reason": evaluation.reason,
    }
    return {**own, **{name: v for name, v in evaluation.signals.items() if name not in own}}
