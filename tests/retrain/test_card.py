"""What a user of a model reads first is true, whatever the model learned from."""

from nas_proxy.data.proxy_dataset import TeacherRecord
from nas_proxy.export.model_file import ModelOrigin
from nas_proxy.knowledge_distillation.record import DistillationRecord
from nas_proxy.retrain.card import ModelCard
from nas_proxy.statistics.accuracy import SeedMean, over_images, over_seeds
from nas_proxy.statistics.base_rate import BaseRate
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import Architecture


def page(
    knowledge_distillation: DistillationRecord | None, base_rate: BaseRate | None = None
) -> str:
    accuracy = SeedMean.of([0.9])
    return ModelCard(
        study_name="tiny",
        description="a network",
        origin=ModelOrigin(Architecture("convnet", 0), {}, tiny_dataset().spec),
        test_accuracy=over_images(9, 10),
        num_test_images=10,
        over_seeds=accuracy,
        over_seeds_interval=over_seeds(accuracy),
        val_accuracy=0.9,
        num_params=1,
        flops=1,
        latencies=(),
        licences={},
        recipe={},
        train_seconds=1.0,
        hardware="here",
        files=(),
        created="2026-01-01",
        versions={},
        knowledge_distillation=knowledge_distillation,
        base_rate=base_rate,
    ).to_markdown()


def taught(seen: int) -> DistillationRecord:
    teacher = TeacherRecord("a1", "ResNet-18, 20 epochs")
    return DistillationRecord(("response (hinton)",), (teacher,), (seen,), 0, 1.0)


def test_the_card_says_who_taught_and_what_they_have_seen() -> None:
    alone, honest, leaking = page(None), page(taught(0)), page(taught(3))
    assert "Distillation" not in alone
    assert "**Distillation:** response (hinton), from ResNet-18, 20 epochs" in honest
    assert "Warning" not in honest
    assert "have seen 3 of the images that judge it" in leaking


def test_a_training_that_nobody_chose_among_seeds_is_not_said_to_be_chosen() -> None:
    assert "among the seeds" not in page(None)


def test_the_card_says_what_an_accuracy_must_be_read_against() -> None:
    rate = BaseRate("a", 0.9, 0.5, is_beaten=False)
    assert f"**Read against:** {rate.words}" in page(None, rate)
    assert "Read against" not in page(None)
