"""Every registered plug-in keeps its contract; registering one adds it here."""

import pytest

from nas_proxy.distill.common.random_networks import DrawingDistiller
from nas_proxy.distill.rank_aware._images import Composition
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.registry import DISTILLERS, SCORES, SEARCH_SPACES
from nas_proxy.testing import DISTILLER_CHECKS, SCORE_CHECKS, SPACE_CHECKS, _scores
from nas_proxy.testing._distillation import DISTILLATIONS, check_distillation
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherSettings
from tests.contracts.silent import Silent

# Options that make the built-in methods cheap; others run with their defaults.
SMALL_NETWORK = {"num_steps": 7, "network_width": 4, "network_depth": 1}
SMALL_CONVNET = NetworkSettings(name="convnet", width=4, depth=1)
SMALL_TEACHER = TeacherSettings(network=SMALL_CONVNET, train=TrainSettings(num_steps=7))
SMALL_BATCHNORM_TEACHER = TeacherSettings(
    network=NetworkSettings(name="convnet", norm="batch", width=4, depth=1),
    train=TrainSettings(num_steps=7),
)
SMALL_OPTIONS = {
    "distribution_matching": SMALL_NETWORK,
    "layerwise_matching": SMALL_NETWORK,
    "gradient_matching": {**SMALL_NETWORK, "outer_loop": 2, "inner_loop": 1},
    "trajectory_matching": {
        **SMALL_NETWORK,
        "num_inner_steps": 3,
        "num_experts": 1,
        "expert_num_epochs": 3,
        "initial_max_start_epoch": 1,
        "max_start_epoch": 2,
        "window_growth_steps": 4,
    },
    "statistical_matching": {
        "networks": (SMALL_BATCHNORM_TEACHER,),
        "num_steps": 4,
        "batch_size": 2,
    },
    "patch_selection": {"network": SMALL_TEACHER},
    "rank_aware": {
        "train": TrainSettings(num_steps=2, learning_rate=0.01, precision="float32"),
        "candidates_per_class": 4,
        "judge_images_per_class": 2,
        "compositions": (Composition(name="telling", agreement=30.0),),
        "num_rounds": 1,
    },
    "meta_learning": {**SMALL_NETWORK, "unroll": 4, "window": 2},
    "kernel_ridge": {**SMALL_NETWORK, "num_networks": 2, "max_online_updates": 3},
    "herding": {"network": SMALL_TEACHER},
    "k_center": {"network": SMALL_TEACHER},
    "k_means": {"network": SMALL_TEACHER},
    "forgetting": {"network": SMALL_CONVNET, "train": TrainSettings(num_steps=7)},
}
# Those that can draw networks of the searched space instead, with what makes that cheap.
FROM_SPACE = {
    name: {
        **{
            option: value
            for option, value in SMALL_OPTIONS[name].items()
            if "network_" not in option
        },
        "networks": "search_space",
    }
    for name in DISTILLERS.names()
    if name in SMALL_OPTIONS and issubclass(DISTILLERS.get(name), DrawingDistiller)
}
MADE_ELSEWHERE = {"file"}  # hands over what another distiller made


def check_name(check):
    return check.__name__.removeprefix("check_")


SLOW_CHECKS = ("training_odd", "training_as_studies")  # which train further networks


def space_checks():
    """All; those that train further networks, on larger spaces than `convnet` exhaustively."""
    for name in SEARCH_SPACES.names():
        for check in SPACE_CHECKS:
            slow = check_name(check) in SLOW_CHECKS and name != "convnet"
            for num_samples in (3, 6):
                marks = [pytest.mark.exhaustive] if slow or num_samples == 6 else []
                made = f"{name}-{check_name(check)}-{num_samples}"
                yield pytest.param(name, check, num_samples, id=made, marks=marks)


@pytest.mark.parametrize(("name", "check", "num_samples"), list(space_checks()))
def test_search_space(name, check, num_samples):
    check(SEARCH_SPACES.get(name)(), num_samples)


def students():
    """One kind, and all together; the rest is exhaustive."""
    for name in SEARCH_SPACES.names():
        for kind in DISTILLATIONS:
            typical = kind == "all together" or (name, kind) == ("convnet", "response")
            marks = [] if typical else [pytest.mark.exhaustive]
            yield pytest.param(name, kind, id=f"{name}-{kind}", marks=marks)


@pytest.mark.parametrize(("name", "kind"), list(students()))
def test_students_of_a_search_space(name, kind):
    check_distillation(SEARCH_SPACES.get(name)(), kind, 2)


@pytest.mark.parametrize("check", DISTILLER_CHECKS, ids=check_name)
@pytest.mark.parametrize("name", [n for n in DISTILLERS.names() if n not in MADE_ELSEWHERE])
def test_distiller(name, check):
    check(DISTILLERS.get(name)(**SMALL_OPTIONS.get(name, {})))


def checks_from_space():
    """The check of resuming waits for a state, so all of it is exhaustive but for one method."""
    for name in FROM_SPACE:
        for check in DISTILLER_CHECKS:
            typical = name == "kernel_ridge" and check_name(check) in ("same_seed", "record")
            marks = [] if typical else [pytest.mark.exhaustive]
            yield pytest.param(name, check, id=f"{name}-{check_name(check)}", marks=marks)


@pytest.mark.parametrize(("name", "check"), list(checks_from_space()))
def test_a_distiller_with_networks_of_the_space(name, check):
    check(DISTILLERS.get(name)(**FROM_SPACE[name]))


@pytest.mark.parametrize("check", DISTILLER_CHECKS, ids=check_name)
def test_a_distiller_that_states_no_costs(check):
    check(Silent())


def score_checks():
    """All; the one that measures twice on a network of each space, on the others exhaustively."""
    for check in SCORE_CHECKS:
        twice = check.__name__ == "check_deterministic"
        if twice:
            yield pytest.param(check, 1, id=f"{check_name(check)}-one of each space")
        marks = [pytest.mark.exhaustive] if twice else []
        yield pytest.param(check, None, id=check_name(check), marks=marks)


@pytest.mark.parametrize(("check", "num_networks"), list(score_checks()))
@pytest.mark.parametrize("name", SCORES.names())
def test_score(name, check, num_networks, monkeypatch):
    """`num_networks` of each space; all that the check knows if it is None."""
    networks = {space: texts[:num_networks] for space, texts in _scores._ARCHITECTURES.items()}
    monkeypatch.setattr(_scores, "_ARCHITECTURES", networks)
    check(SCORES.get(name)())


def test_the_built_in_plugins_are_among_them():
    assert {"convnet", "nasbench201"} <= set(SEARCH_SPACES.names())
    assert {"num_params", "flops", "log_synflow", "naswot"} <= set(SCORES.names())
    assert {"random_subset", *SMALL_OPTIONS} <= set(DISTILLERS.names())
    assert {"distribution_matching", "gradient_matching", "layerwise_matching"} <= set(FROM_SPACE)
