"""What accuracies say of a proxy data set, recomputed by hand."""

import math

import numpy as np
import pytest

from nas_proxy.evaluate_proxy.accuracy import (
    AS_IS,
    FULL,
    HARD,
    RANDOM,
    label_robust_score,
    network_accuracies,
    stability,
)
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.statistics.accuracy import SeedMean
from nas_proxy.types import Architecture, Evaluation, Fidelity, Status

NETWORK = NetworkSettings(name="mlp")
FIDELITY = Fidelity("set", 10, 5, 8)


def evaluations(*accuracies, confusion=((3, 1), (2, 2))):
    return [
        Evaluation(
            Architecture("networks", "mlp"),
            FIDELITY,
            seed,
            Status.FAILED if accuracy is None else Status.COMPLETE,
            signals={} if accuracy is None else {"test_accuracy": accuracy},
            confusion=confusion,
            reason="" if accuracy is not None else "does not fit in memory",
        )
        for seed, accuracy in enumerate(accuracies)
    ]


def network_of(network=NETWORK, **accuracies):
    names = {"as_is": AS_IS, "hard": HARD, "random": RANDOM, "full": FULL}
    found = {names[name]: evaluations(*values) for name, values in accuracies.items()}
    return network_accuracies(network, found, hard_label_weight=0.5)


def test_a_figure_is_the_mean_with_its_standard_error():
    figure = SeedMean.of([0.2, 0.3, 0.7])
    assert figure.mean == pytest.approx(0.4)
    spread = math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2)
    assert figure.standard_error == pytest.approx(spread / math.sqrt(3))
    assert SeedMean.of([0.2]).standard_error is None


def test_errors_of_a_difference_add_as_squares():
    difference = SeedMean(0.5, 0.03).minus(SeedMean(0.1, 0.04))
    assert difference.mean == pytest.approx(0.4)
    assert difference.standard_error == pytest.approx(0.05)
    assert SeedMean(0.5, 0.03).minus(SeedMean(0.1, None)).standard_error is None


def test_recovery_is_judged_with_hard_labels_and_improvement_with_the_sets_own():
    network = network_of(as_is=(0.5, 0.6), hard=(0.4, 0.4), random=(0.3, 0.5), full=(0.9, 0.8))
    assert network.hard_label_recovery.mean == pytest.approx(0.85 - 0.4)
    assert network.improvement_over_random.mean == pytest.approx(0.55 - 0.4)
    assert network.label_robust_score == pytest.approx(label_robust_score(0.45, 0.15, 0.5))


def test_hard_labels_are_not_trained_twice():
    network = network_of(as_is=(0.5, 0.6), random=(0.3, 0.5), full=(0.9, 0.8))
    assert network.hard_label_recovery.mean == pytest.approx(0.85 - 0.55)


def test_the_score_spans_zero_to_one_and_follows_the_published_formula():
    assert label_robust_score(1, -1, 0.5) == pytest.approx(0)
    assert label_robust_score(-1, 1, 0.5) == pytest.approx(1)
    # Nothing gained, nothing lost: (1 - 1/e) / (e - 1/e).
    assert label_robust_score(0, 0, 0.5) == pytest.approx(0.26894, abs=1e-5)
    assert label_robust_score(0.3, 0.2, 1.0) < label_robust_score(0.1, 0.2, 1.0)
    assert label_robust_score(0.3, 0.2, 0.0) == label_robust_score(0.1, 0.2, 0.0)


def test_a_network_that_always_fails_has_no_figures_but_a_reason():
    network = network_of(as_is=(None, None), random=(0.3, 0.5), full=(0.9, 0.8))
    assert AS_IS not in network.accuracies
    assert network.hard_label_recovery is None
    assert network.improvement_over_random is None
    assert network.label_robust_score is None
    assert network.failures == {AS_IS: ("does not fit in memory",) * 2}


def test_one_failure_leaves_the_mean_of_the_others():
    network = network_of(as_is=(0.5, None, 0.7), random=(0.3, 0.5), full=(0.9, 0.8))
    assert network.accuracies[AS_IS].values == (0.5, 0.7)


def test_class_accuracies_come_from_the_confusion_of_all_seeds():
    network = network_of(as_is=(0.5, 0.7), random=(0.3, 0.5), full=(0.9, 0.8))
    assert network.confusion == ((6, 2), (4, 4))
    assert network.class_accuracies == (0.75, 0.5)


def test_stability_is_recomputed_with_numpy():
    rows = [((0.5, 0.7), (0.9, 0.9)), ((0.2, 0.3), (0.6, 0.6)), ((0.4, 0.4), (0.7, 0.7)),
            ((0.1, 0.1), (0.8, 0.8))]  # fmt: skip
    worths = [network_of(as_is=a, random=(0.1, 0.2), full=f) for a, f in rows]
    found = stability(worths)
    means = np.array([np.mean(a) for a, _ in rows])
    assert found.over_seeds == pytest.approx(np.std((0.5, 0.7), ddof=1))
    assert found.across_networks == pytest.approx(np.std(means, ddof=1))
    assert found.worst_decay == pytest.approx(1 - 0.1 / 0.6)
    # Ranks 1, 3, 2, 4 against 1, 4, 3, 2: rho = 1 - 6 * (0 + 1 + 1 + 4) / (4 * 15).
    assert found.rank_agreement == pytest.approx(1 - 6 * 6 / 60)


def test_fewer_than_four_networks_are_not_ranked_and_one_is_not_compared():
    network = network_of(as_is=(0.5, 0.7), random=(0.1, 0.2), full=(0.9, 0.9))
    assert stability([network]) is None
    assert stability([network, network]).rank_agreement is None
