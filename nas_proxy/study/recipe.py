"""The recipe that a study ranks by, and the folder in which a found one travels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nas_proxy.calibrate.recipes import Recipe
from nas_proxy.core.files import write_atomically
from nas_proxy.errors import StudyError
from nas_proxy.evaluate.log import EvaluationLog
from nas_proxy.interfaces import SearchSpace
from nas_proxy.reproducibility import canonical_json, content_hash
from nas_proxy.scores.cascade import CascadeScore, own_labels
from nas_proxy.scores.combine import Score, make_score
from nas_proxy.scores.signals import trained_among
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.plain_values import dump_options, read_options
from nas_proxy.teachers.labelling import copy_teachers
from nas_proxy.types import Architecture, Evaluation

_RECIPE = "recipe.json"
_EVALUATIONS = "evaluations.jsonl"
_REFERENCES = "references.json"
_LEARNED_FROM = "learned_from.json"
PROXY = "proxy.safetensors"


@dataclass(frozen=True, eq=False)
class ActiveRecipe:
    """A recipe with what was learned for it.

    Attributes:
        recipe: With its training spelt out.
        calibrated_on: Evaluations of the calibration architectures by this recipe; none where the
            configuration's own sections are the recipe.
        references: What full training reached on them; of a cascade that labels itself, what its
            last stage says of them.
        learned_from: Architectures that had a part in finding it; they never judge it.
    """

    recipe: Recipe
    calibrated_on: Sequence[Evaluation] = ()
    references: Mapping[Architecture, float] = field(default_factory=dict)
    learned_from: Sequence[Architecture] = ()

    @property
    def id(self) -> str:
        """Hash of everything that its scores depend on beside the images."""
        evaluations = [
            {"architecture": e.architecture.id, "signals": dict(e.signals), "status": e.status}
            for e in self.calibrated_on
        ]
        references = {a.id: value for a, value in self.references.items()}
        return content_hash(dump_options(self.recipe), evaluations, references)

    @property
    def num_stages(self) -> int:
        """Of a cascade; 0 of a recipe that has no stages."""
        return len(self.recipe.stages)

    @property
    def labels_itself(self) -> bool:
        """Whether the study's own longer trainings are its labels."""
        return bool(self.recipe.stages) and not self.learned_from

    def labelled(self, reference: Sequence[Evaluation]) -> ActiveRecipe:
        """The recipe with its own labels of a sample that went through all of its stages.

        Of a calibrated one, and of one without stages, nothing changes.

        Raises:
            StudyError: If the sample is too small for the last stage's score.
        """
        if not self.recipe.stages or self.calibrated_on:
            return self
        labels = own_labels(self.recipe.cascade.scores, reference)
        return replace(self, calibrated_on=reference, references=labels)

    def score(self, space: SearchSpace, reference: Sequence[Evaluation] = ()) -> Score:
        """What ranks candidates.

        Args:
            space: Describes architectures to a model.
            reference: Among which a `rank_mean` without calibration ranks, and which a cascade
                without it learns from.

        Raises:
            StudyError: If the sample is too small for the combination, or tells nothing apart.
        """
        if self.recipe.stages:
            own = self.labelled(reference)
            return CascadeScore(
                self.recipe.cascade, own.calibrated_on, own.references, space.features
            )
        sample = self.calibrated_on or reference
        return make_score(self.recipe.score, sample, self.references, space.features)

    def save(self, folder: Path, proxy_file: Path) -> None:
        """Write everything that another study needs to rank as this one does.

        Args:
            folder: Where to; made if it does not exist.
            proxy_file: The proxy data set that the recipe was found with, its teachers beside it.

        Raises:
            OSError: If the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lines = (f"{canonical_json(each.to_json())}\n" for each in self.calibrated_on)
        write_atomically(folder / _EVALUATIONS, "".join(lines))
        found = [[a.to_json(), value] for a, value in self.references.items()]
        write_atomically(folder / _REFERENCES, json.dumps(found, indent=1))
        learned = [architecture.to_json() for architecture in self.learned_from]
        write_atomically(folder / _LEARNED_FROM, json.dumps(learned, indent=1))
        write_atomically(folder / _RECIPE, json.dumps(dump_options(self.recipe), indent=1))
        write_atomically(folder / PROXY, proxy_file.read_bytes())
        copy_teachers(proxy_file, folder / PROXY)


def load_recipe(folder: Path) -> ActiveRecipe:
    """The inverse of `ActiveRecipe.save`.

    Raises:
        StudyError: If a file is missing or damaged.
    """
    try:
        recipe = read_options(Recipe, json.loads((folder / _RECIPE).read_text()))
        found = json.loads((folder / _REFERENCES).read_text())
        learned = json.loads((folder / _LEARNED_FROM).read_text())
        learned_from = [Architecture.from_json(each) for each in learned]
        references = {Architecture.from_json(a): float(value) for a, value in found}
        (folder / _EVALUATIONS).stat()  # a log that is not there is an empty one
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"the recipe in {folder} is missing or damaged ({error}); run nas-proxy calibrate with "
            "--force"
        ) from error
    evaluations = list(EvaluationLog(folder / _EVALUATIONS))
    return ActiveRecipe(recipe, evaluations, references, learned_from)


def active_recipe(config: StudyConfig) -> ActiveRecipe:
    """What a study ranks by, as its configuration says.

    Raises:
        StudyError: If the recipe is to be calibrated and was not, or is damaged.
    """
    if config.recipe == "calibrated":
        return load_recipe(config.layout.recipe)
    if config.recipe == "trusted":
        return load_recipe(config.layout.trusted_recipe)
    if isinstance(config.recipe, Recipe):
        return ActiveRecipe(config.recipe)
    recipe = Recipe(
        name="configured",
        train_on="proxy" if trained_among(config.score.signals) else "nothing",
        train=config.train,
        knowledge_distillation=config.knowledge_distillation,
        score=config.score,
    )
    return ActiveRecipe(recipe)


def optuna_name(config: StudyConfig, active: ActiveRecipe) -> str:
    """The study's name; with a recipe that was found, that recipe's id behind it.

    A database outlives the folder: scores by another recipe stay there, under another name.
    """
    name = config.study_name
    return name if config.recipe == "configured" else f"{name}-{active.id}"
