"""From a YAML file and overrides to a checked configuration.

Sections are frozen dataclasses (`nas_proxy.options`), checked by pydantic; all faults are reported
at once, each with its path and the nearest right key. A plug-in's section names the plug-in in
`name`; the rest is checked against the plug-in's own fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nas_proxy.backbones.pretrain_settings import PretrainSettings
from nas_proxy.calibrate.recipes import Recipe, spelt_out
from nas_proxy.calibrate.settings import CalibrateSettings, with_default_recipes
from nas_proxy.data.folder import printable
from nas_proxy.data.sources import DataSettings
from nas_proxy.errors import ConfigError, PluginError, all_masked, did_you_mean
from nas_proxy.evaluate_proxy.settings import EvaluateProxySettings
from nas_proxy.interfaces import Distiller, SearchSpace
from nas_proxy.knowledge_distillation.settings import (
    KnowledgeDistillationOption,
    KnowledgeDistillationSettings,
)
from nas_proxy.options import NonNegativeInt, OrWord, PositiveInt, adapter
from nas_proxy.registry import DISTILLERS, SEARCH_SPACES, Registry
from nas_proxy.retrain.settings import RetrainSettings
from nas_proxy.scores.combine import ScoreSettings
from nas_proxy.search.settings import SearchSettings
from nas_proxy.statistics.words import duration_seconds
from nas_proxy.study.config_file import read_mapping
from nas_proxy.study.consistency import (
    RecipeOrigin,
    contradictions,
    images_made_per_class,
)
from nas_proxy.study.defaults import (
    Given,
    default_distiller,
    default_train,
    find_recipe,
    notices,
    with_length,
)
from nas_proxy.study.layout import StudyLayout
from nas_proxy.study.plain_values import check_value, dump_options
from nas_proxy.teachers.settings import LabelOption, LabelSettings
from nas_proxy.tracking import TrackingSettings
from nas_proxy.train.settings import TrainSettings
from nas_proxy.validate.settings import ValidateSettings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A checked configuration.

    Attributes:
        study_name: Names the study's folder, its Optuna study (with the id of a recipe that was
            found behind it) and its MLflow run.
        seed: Of everything random but the data split, which has its own.
        device: `cpu`, `cuda` or `cuda:1`.
        cuda_graph: On a GPU, do the steps of candidates' trainings as one CUDA graph each.
        num_threads: Torch threads of this process on a CPU; workers have one each.
        budget: How long the study may take by the clock, such as `10min`, `2h` or `1d`; what the
            configuration does not fix is scaled to fit, see `nas_proxy.study.budget`. None: the
            sizes are those of the sections and their defaults.
        results: Folder that holds the study's folder and the MLflow store.
        data: The real data set.
        distiller: Makes the proxy data set.
        images_per_class: How many images it makes for each class.
        labels: What labels they get.
        distill_workers: Processes that work on classes side by side where the method allows it.
        space: Where architectures come from.
        train: How candidates are trained.
        knowledge_distillation: What they learn beside the labels; None: nothing.
        score: How they are ranked; neither this nor `knowledge_distillation` is read unless the
            recipe is `configured`.
        search: How the space is searched.
        calibration: How a recipe is found that can be trusted; None if none is looked for.
        recipe: Which recipe candidates are ranked by. `configured`: the sections `train` and
            `score`, with `knowledge_distillation`, on the distilled set. `calibrated`: what the
            stage `calibrate` finds.
            `trusted`: what an earlier study registered for this space and these images. Else one
            that is written out, with its trainings spelt out; in a file also the name of one of
            `nas_proxy.calibrate.recipes.recipes_by_name`.
        validation: How the ranking is judged; None if it is not.
        retrain: How the best architectures are trained for use; None if they are not.
        evaluate_proxy: How it is found out what a proxy data set is worth.
        tracking: Where the study is logged.
        pretrain: How `nas-proxy pretrain` makes weights; None if nothing is said of it.
        resolved: The whole configuration as plain values, defaults included; reading it back
            gives the same study.
        given: What the user wrote, as plain values.
        notices: What follows from sections that were left out, and what of others is not used;
            sentences.
    """

    study_name: str
    seed: int
    device: str
    cuda_graph: bool
    num_threads: int
    budget: str | None
    results: Path
    data: DataSettings
    distiller: Distiller
    images_per_class: int
    labels: LabelSettings
    distill_workers: int
    space: SearchSpace
    train: TrainSettings
    knowledge_distillation: KnowledgeDistillationSettings | None
    score: ScoreSettings
    search: SearchSettings
    calibration: CalibrateSettings | None
    recipe: RecipeOrigin | Recipe
    validation: ValidateSettings | None
    retrain: RetrainSettings | None
    evaluate_proxy: EvaluateProxySettings
    tracking: TrackingSettings
    pretrain: PretrainSettings | None
    resolved: Mapping[str, Any]
    given: Mapping[str, Any] = field(compare=False, repr=False)
    notices: tuple[str, ...] = field(default=(), compare=False)

    @property
    def layout(self) -> StudyLayout:
        """Where the study's files lie."""
        return StudyLayout(self.results, self.study_name)

    def to_yaml(self) -> str:
        """The resolved configuration as YAML."""
        return yaml.safe_dump(dict(self.resolved), sort_keys=False)


def _duration(value: Any) -> Any:
    """The text of a duration, checked."""
    if not isinstance(value, str):  # YAML reads 90 as a number, and 1:30 as another
        raise ValueError("it has no unit; write 90s, 10min, 2h or 1d")
    duration_seconds(value)
    return value


def _of_text(folder: Path) -> Path:
    """A folder whose whole path is text, as all that is written of it has to be."""
    whole = str(folder.expanduser().absolute())
    if whole != printable(whole):
        raise ValueError(
            f"the name {printable(whole)} is not UTF-8 text, which results are written in; choose "
            "another folder"
        )
    return folder


def _study_name(name: str) -> str:
    """The name of a folder, checked."""
    if len(name) > 100 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            "it names a folder: take at most 100 letters, digits, dots, dashes and underscores, of "
            "which the first is a letter or a digit"
        )
    return name


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError("it is neither cpu nor cuda nor such as cuda:1")
    return name


class _Sections(BaseModel):
    """The file's top level. Plug-in sections stay mappings: their plug-ins check them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study_name: Annotated[str, AfterValidator(_study_name)]
    seed: NonNegativeInt = 0
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    cuda_graph: bool = False
    num_threads: PositiveInt = 1
    budget: Annotated[str, BeforeValidator(_duration)] | None = None
    results: Annotated[Path, AfterValidator(_of_text)] = Field(
        Path("results"), validate_default=True
    )
    data: DataSettings = DataSettings()
    distill: dict[str, Any] | None = None
    space: dict[str, Any]
    train: TrainSettings = default_train()
    knowledge_distillation: KnowledgeDistillationOption | None = None
    score: ScoreSettings = ScoreSettings()
    search: SearchSettings = SearchSettings()
    calibration: Annotated[CalibrateSettings | None, Field(alias="calibrate")] = None
    recipe: Annotated[Recipe | str | None, OrWord(Recipe)] = None
    validation: Annotated[ValidateSettings | None, Field(alias="validate")] = None
    retrain: RetrainSettings | None = None
    evaluate_proxy: EvaluateProxySettings = EvaluateProxySettings()
    tracking: TrackingSettings = TrackingSettings()
    pretrain: PretrainSettings | None = None


def section_names() -> tuple[str, ...]:
    """What a configuration's file may hold at its top, in the order in which it is written."""
    return tuple(field.alias or name for name, field in _Sections.model_fields.items())


def section_kinds(name: str) -> tuple[type, ...]:
    """The dataclasses that a section may be an object of; none where it is no section."""
    fields = {field.alias or key: field for key, field in _Sections.model_fields.items()}
    kind: Any = fields[name].annotation
    found = (kind, *get_args(kind), *(inner for each in get_args(kind) for inner in get_args(each)))
    return tuple(each for each in found if isinstance(each, type) and is_dataclass(each))


def load_config(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read and check a configuration.

    Args:
        path: YAML file.
        overrides: Such as `train.num_steps=200`; the value is read as YAML.

    Raises:
        ConfigError: With every fault that was found, one per line.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "study.yaml"
    >>> sections = {"space": {"name": "convnet"}, "distill": {"name": "herding"}}
    >>> train = {"num_steps": 5, "batch_size": 8, "learning_rate": 0.02}
    >>> _ = file.write_text(yaml.safe_dump({"study_name": "s", **sections, "train": train}))
    >>> load_config(file, ["search.n_trials=3"]).search.n_trials
    3
    """
    return check_config(read_mapping(path, overrides))


def check_config(mapping: Mapping[str, Any]) -> StudyConfig:
    """Check a configuration that is already a mapping; it is not altered.

    Raises:
        ConfigError: With every fault that was found, one per line.
    """
    faults: list[str] = []
    mapping = _spelt_out(mapping)
    given, mapping = Given(mapping), with_length(mapping)
    sections: _Sections | None = check_value(_Sections, mapping, (), faults)
    space = _plugin(SEARCH_SPACES, _mapping_at(mapping, "space"), "space", mapping, faults)
    _check_reduced_fidelity(space, faults)
    if sections is not None:
        recipe = find_recipe(sections.recipe, given, space, sections.train, faults)
        sections = sections.model_copy(update={"recipe": recipe})
        if sections.distill is None:
            own = default_distiller(recipe, sections.calibration, sections.score)
            mapping = {**mapping, "distill": own}
    distiller, common = _distillation(mapping, faults)
    if sections is not None:
        faults.extend(contradictions(sections, space, distiller))
    if faults or sections is None or distiller is None or space is None:
        listed = "\n".join(f"  {fault}" for fault in dict.fromkeys(faults))
        raise ConfigError(f"the configuration cannot be used:\n{listed}")
    if "space_fidelity" not in given.train:
        sections = _with_reduced_candidates(sections, space)
    sections = _with_recipes(sections, space)
    plain = adapter(_Sections).dump_python(sections, mode="json", by_alias=True)
    plain["distill"] = {
        "name": mapping["distill"]["name"],
        "images_per_class": common["images_per_class"],
        "labels": dump_options(common["labels"]),
        "num_workers": common["num_workers"],
        **dump_options(distiller),
    }
    plain["space"] = {"name": mapping["space"]["name"], **dump_options(space)}
    if sections.recipe != "configured":
        del plain["score"]  # nobody reads it
    read = sections.calibration, sections.score, sections.train
    return StudyConfig(
        **{name: getattr(sections, name) for name in _COPIED},
        distiller=distiller,
        images_per_class=common["images_per_class"],
        labels=common["labels"],
        distill_workers=common["num_workers"],
        space=space,
        resolved=all_masked(plain),  # it is written where others read it
        given=given.mapping,
        notices=notices(given, sections.recipe, *read),
    )


@dataclass(frozen=True)
class Distillation:
    """The section `distill` by itself; see `StudyConfig`."""

    distiller: Distiller
    images_per_class: int
    labels: LabelSettings
    num_workers: int


def check_distill(section: Mapping[str, Any]) -> Distillation:
    """Check the section `distill` without a study.

    Raises:
        ConfigError: With every fault that was found, one per line.
    """
    faults: list[str] = []
    distiller, common = _distillation({"distill": section}, faults)
    if faults or distiller is None:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    del common["preset"]  # there is no budget that it would keep from scaling
    return Distillation(distiller, **common)


def _distillation(
    mapping: Mapping[str, Any], faults: list[str]
) -> tuple[Distiller | None, dict[str, Any]]:
    """The distiller, and the values of the keys that are the same for each."""
    distill = dict(_mapping_at(mapping, "distill"))
    common = {
        key: check_value(kind, distill.pop(key, default), ("distill", key), faults)
        for key, (kind, default) in _DISTILL_KEYS.items()
    }
    distiller = _plugin(DISTILLERS, distill, "distill", mapping, faults)
    given = "images_per_class" in _mapping_at(mapping, "distill")
    common["images_per_class"] = images_made_per_class(
        distiller, common["images_per_class"], faults, given=given
    )
    return distiller, common


# Keys of the section distill that are the same for every distiller, with their defaults.
_DISTILL_KEYS: dict[str, tuple[Any, Any]] = {
    "images_per_class": (PositiveInt, 10),
    "labels": (LabelOption, "hard"),
    "num_workers": (PositiveInt, 1),
    "preset": (
        Annotated[
            Literal["published"] | None,
            Field(
                description="`published`: the method as its authors had it, which the defaults of "
                "its options are; no `budget` scales it. None: a `budget` scales what is not given."
            ),
        ],
        None,
    ),
}
_COPIED = tuple(name for name in _Sections.model_fields if name not in ("distill", "space"))


def _with_reduced_candidates(sections: _Sections, space: SearchSpace) -> _Sections:
    """The same with candidates at the fidelity that the space recommends."""
    train = replace(sections.train, space_fidelity=space.reductions)
    return sections.model_copy(update={"train": train})


def _with_recipes(sections: _Sections, space: SearchSpace) -> _Sections:
    """The same with the list of recipes that ships where none is given, and trainings spelt out."""
    update: dict[str, Any] = {}
    if isinstance(sections.recipe, Recipe):
        update["recipe"] = spelt_out(sections.recipe, sections.train)
    if sections.calibration is not None:
        default = with_default_recipes(sections.calibration, space, sections.train)
        update["calibration"] = default
    return sections.model_copy(update=update)


def _check_reduced_fidelity(space: SearchSpace | None, faults: list[str]) -> None:
    """Add what a space recommends for short trainings and cannot build networks with.

    Every such training would fail, and a recipe that needs none would be all that is left.
    """
    if space is None:
        return
    reduced, path = dict(space.reduced_fidelity), ("space", "reduced_fidelity")
    unknown = [option for option in reduced if option not in space.fidelity_options]
    faults += [
        f"{'.'.join(path)}: {space.name!r} names {option!r} there, which is none of its "
        f"fidelity_options; {did_you_mean(option, space.fidelity_options)}"
        for option in unknown
    ]
    if reduced and not unknown:
        check_value(type(space), {**vars(space), **reduced}, path, faults)


def _plugin(
    registry: Registry[T],
    section: Mapping[str, Any],
    path: str,
    mapping: Mapping[str, Any],
    faults: list[str],
) -> T | None:
    """The plug-in that a section names, with the section's other keys as its options."""
    if not isinstance(mapping.get(path), Mapping):
        return None  # missing or no mapping: already among the faults
    options = dict(section)
    name = options.pop("name", None)
    if not isinstance(name, str):
        faults.append(f"{path}.name: name a {registry.kind}: {', '.join(registry.names())}")
        return None
    try:
        plugin = registry.get(name)
    except PluginError as error:
        faults.append(f"{path}.name: {error}")
        return None
    beside = ("name", *(_DISTILL_KEYS if path == "distill" else ()))
    checked: T | None = check_value(plugin, options, (path,), faults, beside)
    return checked


def _spelt_out(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same with a section that is a name alone, such as `space: convnet`, as a mapping."""
    names = {key: mapping.get(key) for key in ("data", "distill", "space")}
    return {**mapping, **{key: {"name": n} for key, n in names.items() if isinstance(n, str)}}


def _mapping_at(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = mapping.get(key)
    return section if isinstance(section, Mapping) else {}
