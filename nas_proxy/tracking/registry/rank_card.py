"""The rank card: what a recipe's ranking is worth, where, by which evidence, and at what cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from nas_proxy.errors import StudyError
from nas_proxy.plugin_sources import sources_of
from nas_proxy.reproducibility import canonical_json
from nas_proxy.statistics.ranks import Estimate
from nas_proxy.statistics.words import decimal

if TYPE_CHECKING:
    from nas_proxy.interfaces import SearchSpace
    from nas_proxy.types import DatasetSpec

_ABSENT = "(absent)"


@dataclass(frozen=True, kw_only=True)
class RankCard:
    """What calibration found out about one recipe; its mappings hold plain JSON values.

    Attributes:
        recipe: The recipe, as the configuration spells it.
        recipe_name: The recipe in a few words.
        space: Name of the search space that it was calibrated on.
        space_options: That space's options.
        space_fingerprint: Hash of both; see `SearchSpace.fingerprint`.
        dataset: Name of the data set that it was calibrated on.
        class_names: Its classes, in label order.
        image_shape: Its images, `(c, h, w)`.
        source_hash: Hash of its search-training split; see `DatasetSpec.source_hash`.
        proxy_dataset_id: Of the distilled set that the recipe trains on; None if there is none.
        reference_name: What the ranking was compared with, in words.
        judged_by: `validation`: on architectures that had no part in the recipe. `calibration`: on
            those that chose it, so that the figure looks better than it is.
        spearman: Correlation with that reference.
        n: How many architectures those were.
        threshold: What the lower end of the interval had to reach.
        trusted: Whether it did, in a validation.
        core_seconds_per_architecture: What ranking one more architecture costs, on one core.
        one_off_seconds: What is paid once: distilling, teaching, calibrating.
        hardware: What the seconds were measured on, in words.
        created: When, as ISO 8601 text.
        versions: Of the libraries that shape the result.
        code: Hashes of plug-ins of the user's own that the recipe names, by name.
    """

    recipe: Mapping[str, Any]
    recipe_name: str
    space: str
    space_options: Mapping[str, Any]
    space_fingerprint: str
    dataset: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    source_hash: str
    proxy_dataset_id: str | None
    reference_name: str
    judged_by: Literal["validation", "calibration"]
    spearman: Estimate
    n: int
    threshold: float
    trusted: bool
    core_seconds_per_architecture: float
    one_off_seconds: float
    hardware: str
    created: str
    versions: Mapping[str, str]
    code: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a card that claims more trust than its own figures bear out."""
        if self.trusted and self.judged_by != "validation":
            raise StudyError(
                f"the rank card of {self.recipe_name!r} says trusted, but its figure is of the "
                "calibration that chose the recipe; validate it on other architectures"
            )
        low = self.spearman.low
        if self.trusted and (low is None or low < self.threshold):
            raise StudyError(
                f"the rank card of {self.recipe_name!r} says trusted, but the lower end of "
                f"{self.spearman} is below its threshold {decimal(self.threshold)}; calibrate again"
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON mapping; `from_json` reads it back to an equal card."""
        return {
            **vars(self),
            "recipe": dict(self.recipe),
            "space_options": dict(self.space_options),
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "spearman": asdict(self.spearman),
            "versions": dict(self.versions),
            "code": dict(self.code),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RankCard:
        """The inverse of `to_json`.

        Raises:
            StudyError: If entries are missing or unknown, or the card claims too much trust.
        """
        expected, found = {each.name for each in fields(cls)}, {"code", *value}
        if expected != found:
            faults = [f"{name} is missing" for name in sorted(expected - found)]
            faults += [f"{name} is unknown" for name in sorted(found - expected)]
            raise StudyError(
                f"the rank card was damaged, or written by another version of nas_proxy "
                f"({'; '.join(faults)}); calibrate again"
            )
        read = {
            "class_names": tuple(value["class_names"]),
            "image_shape": tuple(value["image_shape"]),
            "spearman": Estimate(**value["spearman"]),
        }
        return cls(**{**value, **read})

    def check_fits(self, space: SearchSpace, spec: DatasetSpec) -> None:
        """Make sure that a study's space and data are those that the recipe was calibrated on.

        Raises:
            StudyError: If they are not; one sentence says what differs and what to do.
        """
        found = [*self._space_differences(space), *self._data_differences(spec)]
        here = sources_of(self.code)
        found += [f"other code of {n}" for n, source in self.code.items() if here.get(n) != source]
        if found:
            raise StudyError(
                f"the recipe {self.recipe_name!r} cannot be trusted here, because it was "
                f"calibrated for {'; and for '.join(found)}: run `nas-proxy calibrate` with this "
                "study's config, or choose another alias or version"
            )

    def _space_differences(self, space: SearchSpace) -> list[str]:
        if self.space != space.name:
            return [f"the space {self.space!r}, not {space.name!r}"]
        if self.space_fingerprint == space.fingerprint():
            return []
        asked = json.loads(canonical_json(asdict(space)))  # as what was stored is read back
        changed = [
            f"{name} {self.space_options.get(name, _ABSENT)} (here {asked.get(name, _ABSENT)})"
            for name in dict.fromkeys([*self.space_options, *asked])
            if self.space_options.get(name, _ABSENT) != asked.get(name, _ABSENT)
        ]
        return [f"the space {self.space!r} with {', '.join(changed) or 'other code'}"]

    def _data_differences(self, spec: DatasetSpec) -> list[str]:
        if self.dataset != spec.name:
            return [f"the data set {self.dataset!r}, not {spec.name!r}"]
        if self.class_names != spec.class_names:
            return [f"other classes of {self.dataset!r} ({self._class_differences(spec)})"]
        if self.image_shape != spec.image_shape:
            return [f"images of shape {self.image_shape}, not {spec.image_shape}"]
        if self.source_hash != spec.source_hash:
            return [
                f"other search-training images of {self.dataset!r} (hash {self.source_hash}, not "
                f"{spec.source_hash}: data.images_per_class or the split differs)"
            ]
        return []

    def _class_differences(self, spec: DatasetSpec) -> str:
        lacking = [name for name in self.class_names if name not in spec.class_names]
        added = [name for name in spec.class_names if name not in self.class_names]
        parts = [f"{_listed(lacking)} lacking here"] if lacking else []
        parts += [f"{_listed(added)} only here"] if added else []
        return ", ".join(parts) or "in another order"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
