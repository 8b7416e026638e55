"""Each loss against an independent computation, image by image, in numpy."""

import itertools

import numpy as np
import pytest
import torch

from nas_proxy.errors import StudyError
from nas_proxy.knowledge_distillation._attention import Attention, attention_loss
from nas_proxy.knowledge_distillation._multi_teacher import (
    MultiTeacher,
    accuracy_weights,
    confidence_weights,
    loss_weights,
)
from nas_proxy.knowledge_distillation._relational import Relational
from nas_proxy.knowledge_distillation._response import DecoupledResponse, Response, decoupled_losses
from nas_proxy.knowledge_distillation._self_distillation import Exits
from nas_proxy.knowledge_distillation._term import (
    UNLABELLED,
    NetworkOutput,
    TermInputs,
    labels_loss,
)
from nas_proxy.knowledge_distillation.feature_maps import FeatureLayout, FeatureMap, Place, Record
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.objective import Batch

N, CLASSES, T = 5, 4, 3.0


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=make_generator(seed))


LABELS = torch.tensor([0, 3, 1, 1, 2])
OURS, THEIRS, OTHERS = (drawn(N, CLASSES, seed=seed) for seed in range(3))


def answer(logits, embedding=None, **maps):
    return NetworkOutput(logits, Record(maps, embedding))


def inputs(logits=OURS, *teachers, labels=LABELS, record=None):
    images = torch.zeros(N, 1, 2, 2)
    batch = Batch(torch.arange(N), images, labels, logits)
    student = NetworkOutput(logits, record or Record({}, None))
    return TermInputs(batch, student, teachers)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def divergence(target, said):
    return float(sum(p * np.log(p / q) for p, q in zip(target, said, strict=True) if p > 0))


def by_hand(target_of):
    """T squared times the mean divergence of the student from `target_of(image)`."""
    said = [softmax(row / T) for row in OURS.double().numpy()]
    return T**2 * np.mean([divergence(target_of(i), said[i]) for i in range(N)])


def test_response_is_hintons_loss():
    found = Response(T)(inputs(OURS, answer(THEIRS)))
    rows = THEIRS.double().numpy()
    assert float(found) == pytest.approx(by_hand(lambda i: softmax(rows[i] / T)), rel=1e-5)


def test_the_squared_temperature_keeps_the_gradient():
    """For a high temperature Hinton's loss is the squared distance of centred logits, halved."""
    ours = OURS.clone().requires_grad_()
    Response(1000.0)(inputs(ours, answer(THEIRS))).backward()
    centred = [each - each.mean(dim=1, keepdim=True) for each in (OURS, THEIRS)]
    expected = (centred[0] - centred[1]) / CLASSES / N
    torch.testing.assert_close(ours.grad, expected, atol=2e-4, rtol=0.01)


def test_decoupled_parts_are_those_of_the_paper():
    target, others = decoupled_losses(OURS, THEIRS, LABELS, T)
    first, second = [], []
    for ours, theirs, label in zip(OURS.numpy(), THEIRS.numpy(), LABELS, strict=True):
        p, q = softmax(theirs.astype(float) / T), softmax(ours.astype(float) / T)
        first.append(divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]]))
        rest = [k for k in range(CLASSES) if k != label]
        second.append(divergence(p[rest] / p[rest].sum(), q[rest] / q[rest].sum()))
    assert float(target) == pytest.approx(T**2 * np.mean(first), rel=1e-4)
    assert float(others) == pytest.approx(T**2 * np.mean(second), rel=1e-4)


def test_decoupled_weighted_by_the_teachers_doubt_is_hintons():
    """The paper's identity: KD is TCKD plus (1 - the teacher's target probability) times NCKD."""
    row = slice(0, 1)
    target, others = decoupled_losses(OURS[row], THEIRS[row], LABELS[row], T)
    doubt = 1 - (THEIRS[row] / T).softmax(dim=1)[0, LABELS[0]]
    hinton = Response(T)(inputs(OURS[row], answer(THEIRS[row]), labels=LABELS[row]))
    torch.testing.assert_close(target + doubt * others, hinton, rtol=1e-4, atol=1e-6)


def test_decoupled_weighs_its_parts_and_two_classes_have_one():
    target, others = decoupled_losses(OURS, THEIRS, LABELS, T)
    found = DecoupledResponse(T, 2.0, 7.0)(inputs(OURS, answer(THEIRS)))
    torch.testing.assert_close(found, 2 * target + 7 * others)
    _, none = decoupled_losses(OURS[:, :2], THEIRS[:, :2], LABELS % 2, T)
    assert float(none) == 0


def test_multi_teacher_learns_the_weighted_mean():
    found = MultiTeacher(T, [0.3, 0.7])(inputs(OURS, answer(THEIRS), answer(OTHERS)))
    rows = [each.double().numpy() for each in (THEIRS, OTHERS)]
    expected = by_hand(lambda i: 0.3 * softmax(rows[0][i] / T) + 0.7 * softmax(rows[1][i] / T))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_confidence_is_that_of_ca_mkd_image_by_image():
    third = drawn(N, CLASSES, seed=7)
    logits = torch.stack([THEIRS, OTHERS, third])
    found = confidence_weights(logits, LABELS)
    for image, label in enumerate(LABELS):
        losses = [-np.log(softmax(rows[image].double().numpy())[label]) for rows in logits]
        powers = np.exp(losses)
        expected = [(1 - power / powers.sum()) / 2 for power in powers]
        np.testing.assert_allclose(found[:, image], expected, rtol=1e-5)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(N))
    soft = torch.nn.functional.one_hot(LABELS, CLASSES).float()
    torch.testing.assert_close(confidence_weights(logits, soft), found)


def test_confidence_term_uses_its_own_weights_per_image():
    weights = confidence_weights(torch.stack([THEIRS, OTHERS]), LABELS).double().numpy()
    rows = [each.double().numpy() for each in (THEIRS, OTHERS)]
    found = MultiTeacher(T, None)(inputs(OURS, answer(THEIRS), answer(OTHERS)))
    expected = by_hand(lambda i: sum(weights[k, i] * softmax(rows[k][i] / T) for k in range(2)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_validation_weights():
    assert accuracy_weights([0.6, 0.2]) == pytest.approx([0.75, 0.25])
    assert loss_weights([1.0, 2.0]) == pytest.approx([np.e / (1 + np.e), 1 / (1 + np.e)])


def test_accuracies_that_are_all_zero_weigh_nothing():
    assert accuracy_weights([0.0, 0.5]) == [0.0, 1.0]
    with pytest.raises(StudyError, match="that of all of them is 0; train them longer"):
        accuracy_weights([0.0, 0.0])


def attention_by_hand(maps):
    return [
        (square := (image.astype(float) ** 2).mean(axis=0).ravel()) / np.linalg.norm(square)
        for image in maps.numpy()
    ]


def test_attention_maps_of_equal_size():
    ours, theirs = drawn(N, 3, 4, 6), drawn(N, 7, 4, 6, seed=1)
    pairs = zip(attention_by_hand(ours), attention_by_hand(theirs), strict=True)
    expected = np.mean([(a - b) ** 2 for a, b in pairs])
    assert float(attention_loss(ours, theirs)) == pytest.approx(expected, rel=1e-5)


def test_attention_pools_the_larger_map_and_forgets_the_scale():
    ours, theirs = drawn(N, 3, 2, 2), drawn(N, 7, 4, 4, seed=1)
    pooled = theirs.reshape(N, 7, 2, 2, 2, 2).mean(dim=(3, 5))
    torch.testing.assert_close(attention_loss(ours, theirs), attention_loss(ours, pooled))
    torch.testing.assert_close(attention_loss(theirs, ours), attention_loss(pooled, ours))
    torch.testing.assert_close(attention_loss(5 * ours, theirs), attention_loss(ours, theirs))
    assert float(attention_loss(ours, ours)) == 0


def feature_map(name, channels, side, octave):
    return FeatureMap(Place(name, 0), (channels, side, side), octave)


def test_attention_adds_up_its_stages():
    ours, theirs = (
        [feature_map("a", 2, 4, 0), feature_map("b", 3, 2, 1)],
        [feature_map("c", 2, 4, 0)] * 2,
    )
    maps = {ours[0]: drawn(N, 2, 4, 4), ours[1]: drawn(N, 3, 2, 2, seed=1)}
    goal = {theirs[0]: drawn(N, 2, 4, 4, seed=2)}
    found = Attention(list(zip(ours, theirs, strict=True)))(
        inputs(OURS, NetworkOutput(THEIRS, Record(goal, None)), record=Record(maps, None))
    )
    parts = [attention_loss(maps[each], goal[theirs[0]]) for each in ours]
    torch.testing.assert_close(found, parts[0] + parts[1])


def huber(difference):
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


def relations_by_hand(rows):
    rows = rows.double().numpy()
    between = [[b - a for b in rows] for a in rows]
    distances = np.linalg.norm(np.array(between), axis=2)
    distances /= distances.sum() / (N * (N - 1))
    cosines = {}
    for i, j, k in itertools.product(range(N), repeat=3):
        a, b = between[i][j], between[i][k]
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        cosines[i, j, k] = a @ b / norms if norms else 0.0
    return distances, cosines


def test_relations_are_those_of_the_paper():
    ours, theirs = 3 * drawn(N, 6), drawn(N, 9, seed=1)
    one, other = relations_by_hand(ours), relations_by_hand(theirs)
    distance = np.mean(
        [huber(a - b) for a, b in zip(one[0].ravel(), other[0].ravel(), strict=True)]
    )
    angle = np.mean([huber(one[1][key] - other[1][key]) for key in one[1]])
    student, teacher = Record({}, ours), NetworkOutput(THEIRS, Record({}, theirs))
    for weights in ((1.0, 0.0), (0.0, 1.0), (25.0, 50.0)):
        found = Relational(*weights)(inputs(OURS, teacher, record=student))
        assert float(found) == pytest.approx(weights[0] * distance + weights[1] * angle, rel=1e-4)


@pytest.mark.parametrize("rows", [torch.zeros(N, 6), drawn(1, 6)], ids=["all equal", "one image"])
def test_relations_of_embeddings_that_have_none_are_finite(rows):
    ours = rows.clone().requires_grad_()
    teacher = NetworkOutput(THEIRS, Record({}, drawn(len(rows), 3, seed=2)))
    loss = Relational(25, 50)(inputs(OURS, teacher, record=Record({}, ours)))
    loss.backward()
    assert loss.isfinite()
    assert ours.grad.isfinite().all()


def test_two_images_in_one_place_are_pulled_no_harder_than_others():
    rows = drawn(N, 6)
    rows[1] = rows[0]
    ours = rows.clone().requires_grad_()
    teacher = NetworkOutput(THEIRS, Record({}, drawn(N, 3, seed=2)))
    Relational(25, 50)(inputs(OURS, teacher, record=Record({}, ours))).backward()
    assert ours.grad.abs().max() < 100


def exits_of(share=0.3, feature_weight=0.03):
    layout = FeatureLayout("student", (feature_map("a", 2, 4, 0), feature_map("b", 3, 2, 1)), None)
    torch.manual_seed(0)
    return Exits(
        layout, CLASSES, temperature=T, soft_share=share, feature_weight=feature_weight
    ), layout.feature_maps


def test_exits_are_the_authors_sum_of_three_losses():
    term, (shallow, deep) = exits_of()
    maps = {shallow: drawn(N, 2, 4, 4), deep: drawn(N, 3, 2, 2, seed=1)}
    found = term(inputs(record=Record(maps, None)))
    (exit_,) = term.exits
    pooled = maps[shallow].reshape(N, 2, 2, 2, 2, 2).mean(dim=(3, 5))
    features = exit_.bottleneck(pooled).mean(dim=(2, 3))
    logits = exit_.classifier(features).detach().double().numpy()
    goals = maps[deep].mean(dim=(2, 3)).numpy()
    soft, hard = [], []
    for image, label in enumerate(LABELS):
        said = softmax(OURS[image].double().numpy() / T)
        soft.append(divergence(said, softmax(logits[image] / T)))
        hard.append(-np.log(softmax(logits[image])[label]))
    distance = np.linalg.norm(features.detach().numpy() - goals)
    expected = 0.3 * np.mean(soft) + 0.7 * np.mean(hard) + 0.03 * distance
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_deeper_part_teaches_and_does_not_learn_from_its_exits():
    term, (shallow, deep) = exits_of()
    maps = {
        shallow: drawn(N, 2, 4, 4).requires_grad_(),
        deep: drawn(N, 3, 2, 2, seed=1).requires_grad_(),
    }
    logits = OURS.clone().requires_grad_()
    term(inputs(logits, record=Record(maps, None))).backward()
    assert maps[shallow].grad.abs().sum() > 0
    assert maps[deep].grad is None
    assert logits.grad is None
    assert all(parameter.grad is not None for parameter in term.parameters())


def test_labels_loss_leaves_out_what_has_no_label():
    labels = torch.tensor([0, UNLABELLED, 1, UNLABELLED, 2])
    batch = Batch(torch.arange(N), torch.zeros(N, 1, 2, 2), labels, OURS, smoothing=0.1)
    kept = [0, 2, 4]
    same = Batch(torch.arange(3), torch.zeros(3, 1, 2, 2), labels[kept], OURS[kept], smoothing=0.1)
    torch.testing.assert_close(labels_loss(batch, partly_labelled=True), same.cross_entropy)
    nothing = Batch(batch.indices, batch.images, torch.full((N,), UNLABELLED), OURS)
    assert float(labels_loss(nothing, partly_labelled=True)) == 0
