"""Coresets: each choice against brute force, enumeration or a case that is known."""

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.splits import draw_per_class
from nas_proxy.data.transforms import normalise
from nas_proxy.distill import forgetting
from nas_proxy.distill.common import coreset
from nas_proxy.distill.forgetting import Forgetting, ForgettingHistory, most_forgotten
from nas_proxy.distill.herding import Herding, herd
from nas_proxy.distill.k_center import KCenter, farthest_first
from nas_proxy.distill.k_means import KMeans, lloyd, nearest_images, spread_start
from nas_proxy.distill.random_subset import RandomSubset
from nas_proxy.errors import ConfigError, DataError, DivergedError
from nas_proxy.interfaces import DistillContext
from nas_proxy.networks.catalogue import NetworkSettings
from nas_proxy.reproducibility import make_generator
from nas_proxy.teachers.training import obtain_teacher
from nas_proxy.testing import tiny_dataset
from nas_proxy.train.settings import TrainSettings
from nas_proxy.train.teacher_settings import TeacherSettings
from tests.distill.helpers import distill

NETWORK = NetworkSettings(name="convnet", width=4, depth=2)
TEACHER = TeacherSettings(network=NETWORK, train=TrainSettings(num_steps=4, learning_rate=0.05))
EMBEDDING_CORESETS = [Herding(network=TEACHER), KCenter(network=TEACHER), KMeans(network=TEACHER)]
FORGETTING = Forgetting(network=NETWORK, train=TrainSettings(num_epochs=3, batch_size=10))
CORESETS = [RandomSubset(), *EMBEDDING_CORESETS, FORGETTING]


def name_of(distiller):
    return distiller.name


def points(num_points, num_dimensions, seed=0):
    shape = (num_points, num_dimensions)
    return torch.randn(shape, generator=make_generator(seed), dtype=torch.float64)


def radius(embeddings, chosen):
    """The largest distance of any point from the nearest chosen one."""
    chosen = torch.as_tensor(chosen)
    return float((embeddings[:, None] - embeddings[chosen]).norm(dim=2).amin(dim=1).max())


# Herding


@pytest.mark.parametrize("seed", range(3))
def test_herding_is_the_greedy_choice_of_a_loop(seed):
    embeddings = points(40, 6, seed)
    real, chosen = embeddings.numpy(), []
    for _ in range(15):
        gaps = {
            candidate: np.linalg.norm(real.mean(axis=0) - real[[*chosen, candidate]].mean(axis=0))
            for candidate in range(40)
            if candidate not in chosen
        }
        chosen.append(min(gaps, key=gaps.get))
    assert herd(embeddings, 15).tolist() == chosen


def test_the_mean_of_herded_images_approaches_faster_than_that_of_random_ones():
    """Welling: the error falls as 1 / k; that of random images as 1 / sqrt(k)."""
    embeddings = points(1000, 5)
    counts = torch.arange(1, 201)

    def errors(order):
        means = embeddings[order[:200]].cumsum(dim=0) / counts.unsqueeze(1)
        return (means - embeddings.mean(dim=0)).norm(dim=1)

    herded = errors(herd(embeddings, 200))
    random = torch.stack(
        [errors(torch.randperm(1000, generator=make_generator(seed))) for seed in range(20)]
    )
    assert (herded[4:] < random[:, 4:].amin(dim=0)).all()
    total, random_total = herded * counts, random.mean(dim=0) * counts
    assert float(total.max()) < float(embeddings.norm(dim=1).max())
    assert float(random_total[100:].mean()) > 10 * float(total[100:].mean())


# k-center


@pytest.mark.parametrize("seed", range(3))
def test_k_center_is_the_greedy_choice_of_a_loop(seed):
    embeddings = points(40, 6, seed)
    real = embeddings.numpy()
    chosen = [int(np.linalg.norm(real - real.mean(axis=0), axis=1).argmin())]
    while len(chosen) < 12:
        gaps = [min(np.linalg.norm(real[i] - real[j]) for j in chosen) for i in range(40)]
        chosen.append(int(np.argmax(gaps)))
    assert farthest_first(embeddings, 12).tolist() == chosen


@pytest.mark.parametrize("num_centres", [2, 3, 4])
def test_the_radius_of_k_center_is_at_most_twice_the_best(num_centres):
    for seed in range(25):
        embeddings = points(10, 2, seed)
        best = min(radius(embeddings, c) for c in combinations(range(10), num_centres))
        assert radius(embeddings, farthest_first(embeddings, num_centres)) <= 2 * best


# k-means


def test_k_means_finds_every_cluster_of_a_mixture():
    centres = torch.eye(6, 8, dtype=torch.float64) * 200
    sizes = torch.tensor([5, 10, 20, 40, 80, 160])  # random images would miss the small ones
    clusters = torch.arange(6).repeat_interleave(sizes)
    embeddings = centres[clusters] + points(len(clusters), 8)
    for seed in range(5):
        chosen = KMeans().select_in_class(embeddings, 6, make_generator(seed))
        assert clusters[chosen].sort().values.tolist() == list(range(6))
        for position in chosen.tolist():
            own = embeddings[clusters == clusters[position]]
            nearest = own[(own - own.mean(dim=0)).norm(dim=1).argmin()]
            assert torch.equal(embeddings[position], nearest)


@pytest.mark.parametrize("seed", range(3))
def test_rounds_of_lloyd_end_where_those_of_scipy_do(seed):
    embeddings = points(200, 4, seed)
    start = embeddings[:7]
    expected, _ = kmeans2(embeddings.numpy(), start.numpy(), iter=100, minit="matrix")
    torch.testing.assert_close(lloyd(embeddings, start), torch.from_numpy(expected))


def test_k_means_starts_from_points_drawn_by_their_squared_distance():
    embeddings = torch.tensor([[0.0], [1.0], [3.0]])
    counts = torch.zeros(3, 3)
    for seed in range(3000):
        first, second = spread_start(embeddings, 2, make_generator(seed)).tolist()
        counts[first, second] += 1
    expected = torch.tensor([[0, 1 / 10, 9 / 10], [1 / 5, 0, 4 / 5], [9 / 13, 4 / 13, 0]])
    torch.testing.assert_close(counts.sum(dim=1) / 3000, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    torch.testing.assert_close(
        counts / counts.sum(dim=1, keepdim=True), expected, atol=0.04, rtol=0
    )


@pytest.mark.parametrize("seed", range(5))
def test_centres_get_different_images_with_the_smallest_sum_of_distances(seed):
    embeddings = points(6, 2, seed)
    centres = 0.3 * points(3, 2, seed + 100)  # close together: they compete
    distances = torch.cdist(centres, embeddings)
    best = min(
        permutations(range(6), 3),
        key=lambda p: float(sum(distances[i, j] for i, j in enumerate(p))),
    )
    assert tuple(nearest_images(embeddings, centres).tolist()) == best


# What happens where embeddings are equal, and where a class is used up


@pytest.mark.parametrize(
    "select",
    [
        lambda x, k: Herding().select_in_class(x, k, make_generator(0)),
        lambda x, k: KCenter().select_in_class(x, k, make_generator(0)),
        lambda x, k: KMeans().select_in_class(x, k, make_generator(0)),
    ],
    ids=["herding", "k_center", "k_means"],
)
@pytest.mark.parametrize(
    "embeddings",
    [points(8, 3), torch.zeros(8, 3), points(2, 3).repeat(4, 1)],
    ids=["different", "all_equal", "two_values"],
)
@pytest.mark.parametrize("num_images", [1, 5, 8])
def test_no_image_is_chosen_twice(select, embeddings, num_images):
    chosen = select(embeddings, num_images).tolist()
    assert len(set(chosen)) == len(chosen) == num_images


# Forgetting


def test_forgetting_events_of_a_history_written_by_hand():
    history = ForgettingHistory(5, torch.device("cpu"))
    looks = {  # right (1) or wrong (0) at each look, and what that amounts to
        0: ([0, 0, 0, 0, 0], float("inf")),  # never learnt
        1: ([1, 1, 1, 1, 1], 0.0),
        2: ([0, 0, 1, 1, 0], 1.0),
        3: ([1, 0, 1, 0, 0], 2.0),
        4: ([0, 1, 0, 1, 0], 2.0),
    }
    for look in range(5):
        for batch in ([3, 0], [1, 4, 2]):
            right = torch.tensor([bool(looks[image][0][look]) for image in batch])
            history.record(torch.tensor(batch), right)
    assert history.num_forgotten().tolist() == [events for _, events in looks.values()]


def test_an_image_that_comes_twice_in_a_batch_is_looked_at_once():
    history = ForgettingHistory(2, torch.device("cpu"))
    history.record(torch.tensor([0, 1]), torch.tensor([True, True]))
    history.record(torch.tensor([0, 1, 0]), torch.tensor([False, True, True]))
    history.record(torch.tensor([1, 0, 1]), torch.tensor([True, True, True]))
    assert history.num_forgotten().tolist() == [1.0, 0.0]


def test_the_most_forgotten_come_first_and_ties_are_drawn():
    counts = torch.tensor([2.0, 0.0, torch.inf, 2.0, 5.0, 2.0])
    drawn = [most_forgotten(counts, 4, make_generator(seed)).tolist() for seed in range(60)]
    assert {tuple(chosen[:2]) for chosen in drawn} == {(2, 4)}
    assert {frozenset(chosen[2:]) for chosen in drawn} == {
        frozenset(pair) for pair in combinations([0, 3, 5], 2)
    }


def test_forgetting_counts_what_happens_in_its_training(monkeypatch):
    looks, counted = [], []

    class Remembered(ForgettingHistory):
        def record(self, indices, right):
            looks.extend(zip(indices.tolist(), right.tolist(), strict=True))
            super().record(indices, right)

        def num_forgotten(self):
            counted.append(super().num_forgotten().tolist())
            return super().num_forgotten()

    monkeypatch.setattr(forgetting, "ForgettingHistory", Remembered)
    dataset = tiny_dataset(images_per_class=20)
    # Batches that divide the set: no image comes twice in one.
    settings = TrainSettings(num_epochs=30, batch_size=12, learning_rate=0.2, precision="float32")
    result = distill(Forgetting(network=NETWORK, train=settings), 3, dataset=dataset)
    histories = [[right for image, right in looks if image == i] for i in range(60)]
    assert {len(history) for history in histories} == {30}
    expected = [
        sum(before and not after for before, after in zip(h, h[1:], strict=False))
        if any(h)
        else float("inf")
        for h in histories
    ]
    assert counted == [expected]
    assert max(expected) > 0
    for label in range(3):
        members = torch.nonzero(dataset.labels == label).flatten().tolist()
        most = sorted((expected[i] for i in members), reverse=True)[:3]
        chosen = result.pixels()[label * 3 : label * 3 + 3]
        found = [
            expected[int((dataset.images == x).flatten(1).all(dim=1).nonzero())] for x in chosen
        ]
        assert found == most


def test_forgetting_averages_its_trainings(monkeypatch):
    made = iter([torch.tensor([0.0, 4.0, 1.0, torch.inf]), torch.tensor([3.0, 0.0, 2.0, 0.0])])
    monkeypatch.setattr(ForgettingHistory, "num_forgotten", lambda _: next(made))
    dataset = tiny_dataset(num_classes=1, images_per_class=4)
    settings = replace(FORGETTING.train, num_seeds=2)
    result = distill(replace(FORGETTING, train=settings), 2, dataset=dataset)
    assert torch.equal(result.pixels(), dataset.images[[3, 1]])


def test_images_with_wrong_labels_are_forgotten_most():
    dataset = tiny_dataset(num_classes=2, images_per_class=30)
    wrong = torch.cat([torch.nonzero(dataset.labels == label).flatten()[:2] for label in range(2)])
    labels = dataset.labels.clone()
    labels[wrong] = 1 - labels[wrong]
    settings = TrainSettings(num_epochs=8, batch_size=20, learning_rate=0.05)
    mislabelled = replace(dataset, labels=labels)
    result = distill(Forgetting(network=NETWORK, train=settings), 2, dataset=mislabelled)
    expected = torch.cat([wrong[2:], wrong[:2]])  # by the wrong label
    found = {tuple(image.flatten().tolist()) for image in result.pixels()}
    assert found == {tuple(image.flatten().tolist()) for image in dataset.images[expected]}


def test_forgetting_can_watch_a_smaller_training():
    settings = replace(FORGETTING.train, image_size=4)
    result = distill(replace(FORGETTING, train=settings))
    assert result.images.shape == (6, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space_fidelity": {"num_cells": 1}}, "leave space_fidelity and num_val_images out"),
        ({"num_val_images": 10}, "leave space_fidelity and num_val_images out"),
        ({"augmentation": Augmentation(cutmix=1.0)}, "set mixup and cutmix"),
    ],
)
def test_forgetting_refuses_training_settings_without_meaning(change, message):
    with pytest.raises(ConfigError, match=message):
        Forgetting(train=replace(FORGETTING.train, **change))


def test_a_training_that_diverges_names_the_learning_rate():
    settings = replace(FORGETTING.train, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"lower distill\.train\.learning_rate \(now 1e\+30\)"):
        distill(replace(FORGETTING, train=settings))


# What all share


@pytest.mark.parametrize("distiller", CORESETS, ids=name_of)
@pytest.mark.parametrize("images_per_class", [1, 8])
def test_a_coreset_is_made_of_different_real_images_of_each_class(distiller, images_per_class):
    dataset = tiny_dataset()
    chosen = replace(distiller, augmentation=Augmentation(flip=True))
    result = distill(chosen, images_per_class)
    assert result.augmentation == Augmentation(flip=True)
    assert result.labels.tolist() == [x for x in range(3) for _ in range(images_per_class)]
    real = normalise(dataset.images, dataset.spec)
    found = []
    for image, label in zip(result.images, result.labels, strict=True):
        (position,) = (real == image).flatten(1).all(dim=1).nonzero().flatten().tolist()
        assert dataset.labels[position] == label
        found.append(position)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("distiller", EMBEDDING_CORESETS, ids=name_of)
def test_the_choice_is_made_in_the_embedding_of_the_network(distiller):
    dataset = tiny_dataset()
    result = distill(distiller, 3)
    teacher = obtain_teacher(TEACHER, dataset, DistillContext())
    embeddings = teacher.network.embed(normalise(dataset.images, dataset.spec))
    generator, expected = make_generator(0), []
    for label in range(3):
        members = torch.nonzero(dataset.labels == label).flatten()
        expected.append(members[distiller.select_in_class(embeddings[members], 3, generator)])
    assert torch.equal(result.pixels(), dataset.images[torch.cat(expected)])


@pytest.mark.parametrize("distiller", EMBEDDING_CORESETS, ids=name_of)
def test_the_network_is_declared_trained_once_and_on_the_ledger(distiller, tmp_path):
    assert distiller.teachers == (TEACHER,)
    log = []
    context = {"cache": tmp_path, "progress": lambda done, total, note="": log.append(note)}
    result = distill(distiller, **context)
    teacher = obtain_teacher(TEACHER, tiny_dataset(), DistillContext(cache=tmp_path))
    assert result.networks == (teacher.record(),)
    assert result.costs == {
        "distilling": pytest.approx(result.costs["distilling"]),
        teacher.cost_name: teacher.train_seconds,
    }
    assert log.count("classes") == 3
    log.clear()
    distill(distiller, **context)
    assert log == ["classes"] * 3


@pytest.mark.parametrize("distiller", [RandomSubset(), FORGETTING], ids=name_of)
def test_without_a_network_everything_is_distilling(distiller):
    result = distill(distiller)
    assert distiller.teachers == ()
    assert result.networks == ()
    assert set(result.costs) == {"distilling"}


@pytest.mark.parametrize("distiller", CORESETS, ids=name_of)
def test_too_many_images_are_refused_before_anything_is_trained(distiller, monkeypatch):
    def refuse(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(coreset, "obtain_teachers", refuse)
    monkeypatch.setattr(forgetting, "train", refuse)
    with pytest.raises(DataError, match="has 8 images .* images_per_class asks for 9"):
        distill(distiller, 9)


def test_the_random_subset_draws_what_other_methods_start_from():
    dataset = tiny_dataset()
    expected = dataset.images[draw_per_class(dataset, 3, make_generator(5))]
    assert torch.equal(distill(RandomSubset(), 3, seed=5).pixels(), expected)
