"""The settings that a study uses, of all that its resolved configuration holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nas_proxy.core.nested import set_values
from nas_proxy.study.config import StudyConfig
from nas_proxy.study.stage import Stage


def _has_table(config: StudyConfig) -> bool:
    return config.validation is not None and config.validation.reference.table is not None


_EVOLVING = ("nsga2", "regularized_evolution")
# Settings that say something in some studies only, by how their dotted names begin.
_ONLY_IF: tuple[tuple[str, Callable[[StudyConfig], bool]], ...] = (
    ("distill.labels.teachers", lambda config: config.labels.kind != "hard"),
    ("distill.labels.temperature", lambda config: config.labels.kind != "hard"),
    ("distill.labels.per", lambda config: config.labels.kind != "hard"),
    ("distill.labels.allow_leakage", lambda config: config.labels.kind != "hard"),
    ("search.num_workers", lambda config: config.search.executor != "serial"),
    ("search.population_size", lambda config: config.search.sampler in _EVOLVING),
    ("search.tournament_size", lambda config: config.search.sampler == "regularized_evolution"),
    ("search.guard", lambda config: config.search.guard.every is not None),
    ("validate.reference.architecture", _has_table),
    ("validate.reference.value", _has_table),
    ("score.num_reference", lambda config: config.score.combine != "single"),
    ("score.use_encoding", lambda config: config.score.combine == "calibrated"),
    ("score.regressor", lambda config: config.score.combine == "calibrated"),
)


def used_parameters(config: StudyConfig, stages: Iterable[Stage]) -> dict[str, Any]:
    """Dotted names and values of what `stages` read; what is not set is left out.

    Args:
        config: The study's.
        stages: All of them; one that the study does not ask for reads nothing.
    """
    wanted = [stage for stage in stages if stage.is_wanted(config)]
    names = {"device"} | {
        section.name for stage in wanted for section in stage.reads if section.when.holds(config)
    }
    read = {name: value for name, value in config.resolved.items() if name in names}
    unused = tuple(prefix for prefix, is_used in _ONLY_IF if not is_used(config))
    return {name: value for name, value in set_values(read).items() if not name.startswith(unused)}
