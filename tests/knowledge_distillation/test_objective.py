"""The objective: a weighted sum, from whom gradients flow to whom, hooks, warm-up, resume."""

from dataclasses import replace

import pytest
import torch

from nas_proxy.core.checkpoint import Checkpointer
from nas_proxy.data.augment import Augmentation
from nas_proxy.errors import ConfigError, DataError
from nas_proxy.knowledge_distillation import objective as module
from nas_proxy.knowledge_distillation._term import UNLABELLED
from nas_proxy.knowledge_distillation.unlabelled import with_unlabelled
from nas_proxy.reproducibility import make_generator
from nas_proxy.train.loop import train
from nas_proxy.train.objective import Batch
from tests.knowledge_distillation.helpers import (
    DATA,
    SETTINGS,
    TRAINING_SET,
    Bare,
    Functional,
    OnePixel,
    has_hooks,
    net,
    objective,
    trained_teacher,
)

ONE = ["resnet18"]
ALL = {
    "teachers": ONE,
    "terms": [
        {"kind": "response", "weight": 0.5},
        {"kind": "attention"},
        {"kind": "relational"},
        {"kind": "self", "variant": "exits"},
    ],
}


def batch_of(student, training_set=TRAINING_SET):
    indices = torch.arange(8)
    images, labels = training_set.batch(indices)
    return Batch(indices, images, labels, student.train()(images))


def loss_of(section, student, *teachers, **options):
    with objective(section, student, *teachers, **options) as made:
        return made(batch_of(student, options.get("training_set", TRAINING_SET)))


def test_terms_compose_as_a_weighted_sum():
    student, teacher = net(norm="none"), trained_teacher()
    hard = batch_of(student).cross_entropy
    parts = [
        loss_of({"teachers": ONE, "hard_weight": 0, "terms": [term]}, student, teacher)
        for term in ({"kind": "response", "weight": 1}, {"kind": "relational"})
    ]
    terms = [{"kind": "response", "weight": 0.25}, {"kind": "relational", "weight": 3}]
    both = {"teachers": ONE, "hard_weight": 0.5, "terms": terms}
    found = loss_of(both, student, teacher)
    torch.testing.assert_close(found, 0.5 * hard + 0.25 * parts[0] + 3 * parts[1])


def test_the_student_learns_and_the_teacher_does_not():
    student, teacher = net(), trained_teacher()
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    loss_of(ALL, student, teacher).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    assert all(p.grad is None for p in teacher.network.parameters())
    for name, value in teacher.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_teacher_answers_once_for_each_batch(monkeypatch):
    student, teacher, asked = net(), trained_teacher(), []

    def ask(who, *details):
        asked.append(who)
        return real(who, *details)

    real = module.ask
    monkeypatch.setattr(module, "ask", ask)
    loss_of(ALL, student, teacher)
    assert asked == [teacher]


def test_the_teacher_is_given_the_students_own_images():
    """Augmented, at the teacher's size: what it is given is what `as_trained` makes of them."""
    student, teacher = net(), trained_teacher()
    with objective({"kind": "response", "teachers": ONE}, student, teacher) as made:
        batch = batch_of(student)
        given = []
        teacher.network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        made(batch)
    torch.testing.assert_close(given[0], batch.images)


def test_hooks_are_gone_afterwards_also_after_an_error():
    student, teacher = net(), trained_teacher()
    with objective(ALL, student, teacher) as made:
        assert has_hooks(student)
        made(batch_of(student))
    assert not has_hooks(student)
    assert not has_hooks(teacher.network)
    with pytest.raises(KeyboardInterrupt), objective(ALL, student, teacher):
        raise KeyboardInterrupt
    assert not has_hooks(student)


def test_a_warm_up_rises_to_the_whole_weight():
    student, teacher = net(), trained_teacher()
    section = {"kind": "response", "weight": 1, "hard_weight": 0, "warm_up": 0.5, "teachers": ONE}
    with objective(section, student, teacher) as made:  # half of six steps
        found = [float(made(batch_of(student)).detach()) for _ in range(5)]
    whole = found[-1]
    assert found == pytest.approx([0, whole / 3, 2 * whole / 3, whole, whole], rel=1e-3)


@pytest.mark.parametrize(
    "section", [ALL, {"kind": "response", "variant": "decoupled", "teachers": ONE}]
)
def test_a_killed_training_continues_to_the_same_weights(tmp_path, section):
    """Exits have weights and norms of their own, and the warm-up counts its steps."""
    teacher = trained_teacher()

    def learn(student, checkpoint=None, stop_at=None):
        def stop(step, indices, logits):
            if step == stop_at:
                raise KeyboardInterrupt

        with objective(section, student, teacher) as made:
            result = train(
                student,
                TRAINING_SET,
                SETTINGS,
                make_generator(3),
                stop,
                objective=made,
                checkpoint=checkpoint,
            )
            return result.losses, {k: v.clone() for k, v in made.state_dict().items()}

    whole = net()
    losses, ours = learn(whole)
    checkpoint = Checkpointer(tmp_path / "state.safetensors", "key")
    type(checkpoint).is_due, kept = property(lambda self: True), type(checkpoint).is_due
    try:
        with pytest.raises(KeyboardInterrupt):
            learn(net(), checkpoint, stop_at=4)
    finally:
        type(checkpoint).is_due = kept
    student = net()
    again, theirs = learn(student, Checkpointer(tmp_path / "state.safetensors", "key"))
    assert again == losses
    for one, other in ((whole.state_dict(), student.state_dict()), (ours, theirs)):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "student", [Functional(), OnePixel(), net("mlp")], ids=lambda s: type(s).__name__
)
def test_students_that_nobody_has_seen(student):
    """Each kind either teaches them or is refused with the stages of both sides."""
    teacher = trained_teacher()
    for kind in ("response", "relational", "attention", "exits"):
        section = {"kind": kind, "teachers": ONE}
        if kind == "exits":
            section = {"kind": "self", "variant": "exits"}
        teachers = [teacher] if "teachers" in section else []
        has_maps = isinstance(student, Functional)
        if kind in ("response", "relational") or has_maps:
            loss = loss_of(section, student, *teachers)
            loss.backward()
            assert loss.isfinite()
        else:
            with pytest.raises(ConfigError, match="none"):
                loss_of(section, student, *teachers)
        assert not has_hooks(student)
        assert not has_hooks(teacher.network)


def test_a_network_without_a_last_layer_has_no_embedding():
    with pytest.raises(ConfigError, match="the student does not end in a linear layer"):
        loss_of({"kind": "relational", "teachers": ONE}, Bare(), trained_teacher())


def test_a_teacher_of_other_classes_is_named_with_both():
    other = replace(DATA.spec, class_names=("cat", "dog", "fish"))
    with pytest.raises(DataError) as caught:
        loss_of({"kind": "response", "teachers": ONE}, net(), trained_teacher(spec=other))
    assert "cat, dog, fish" in str(caught.value)
    assert "c0, c1, c2" in str(caught.value)


def test_decoupled_refuses_soft_labels_and_mixing():
    section = {"kind": "response", "variant": "decoupled", "teachers": ONE}
    soft = replace(TRAINING_SET, labels=torch.eye(3)[DATA.labels])
    with pytest.raises(ConfigError, match="soft labels; choose variant: hinton"):
        loss_of(section, net(), trained_teacher(), training_set=soft)
    mixing = replace(SETTINGS, augmentation=Augmentation(mixup=1.0))
    with pytest.raises(ConfigError, match="mixup and cutmix leave soft labels"):
        loss_of(section, net(), trained_teacher(), train=mixing)


def test_unlabelled_images_are_learned_from_teachers_alone():
    """The labels' loss is that of the labelled images, and the teacher's that of all."""
    section = {"kind": "response", "weight": 0.5, "teachers": ONE}
    student, teacher = net(norm="none"), trained_teacher()
    extra = with_unlabelled(TRAINING_SET, DATA.images[:8])
    some = replace(
        extra,
        images=torch.cat([DATA.images[:4], DATA.images[4:8]]),
        labels=torch.cat([DATA.labels[:4], torch.full((4,), UNLABELLED)]),
    )
    found = loss_of(section, student, teacher, training_set=some)
    labelled = replace(TRAINING_SET, images=DATA.images[:8], labels=DATA.labels[:8])
    soft = {**section, "hard_weight": 0}
    hard = torch.nn.functional.cross_entropy(
        batch_of(student, labelled).logits[:4], DATA.labels[:4]
    )
    expected = 0.5 * hard + loss_of(soft, student, teacher, training_set=labelled)
    torch.testing.assert_close(found, expected)
    result = train_on(extra, section, student, teacher)
    assert len(result.losses) == 6


def train_on(training_set, section, student, teacher, settings=SETTINGS):
    with objective(section, student, teacher, training_set=training_set, train=settings) as made:
        return train(student, training_set, settings, make_generator(0), objective=made)


def test_unlabelled_images_are_refused_where_they_would_be_mixed_or_are_distilled():
    extra = with_unlabelled(TRAINING_SET, DATA.images[:8])
    mixing = replace(SETTINGS, augmentation=Augmentation(cutmix=1.0))
    with pytest.raises(ConfigError, match="unlabelled images do not have"):
        train_on(extra, {"kind": "response", "teachers": ONE}, net(), trained_teacher(), mixing)
    floats = replace(TRAINING_SET, images=DATA.images.float())
    with pytest.raises(ConfigError, match="unlabelled images can be mixed among real ones"):
        with_unlabelled(floats, DATA.images[:8])


def test_bfloat16_learns_in_float32_losses():
    student, teacher = net(), trained_teacher()
    settings = replace(SETTINGS, precision="bfloat16")
    with objective(ALL, student, teacher, train=settings) as made:
        result = train(student, TRAINING_SET, settings, make_generator(0), objective=made)
    assert all(loss == loss for loss in result.losses)


def test_equal_generators_give_exits_equal_weights():
    section = {"kind": "self", "variant": "exits"}
    one, other = (objective(section, net()) for _ in range(2))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(list(one.parameters())) > 0
