"""What a user of a model reads first is true, whatever the model learned from."""

from typing import Any

from nas_proxy.export.model_file import ModelOrigin
from nas_proxy.retrain.card import ModelCard
from nas_proxy.statistics.accuracy import SeedMean, over_images, over_seeds
from nas_proxy.testing import tiny_dataset
from nas_proxy.types import Architecture


def page(knowledge_distillation: dict[str, Any] | None) -> str:
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
    ).to_markdown()


def taught(seen: int) -> dict[str, Any]:
    teachers = [{"description": "ResNet-18, 20 epochs"}]
    return {"terms": ["response (hinton)"], "teachers": teachers, "num_leaked_images": [seen]}


def test_the_card_says_who_taught_and_what_they_have_seen() -> None:
    alone, honest, leaking = page(None), page(taught(0)), page(taught(3))
    assert "Distillation" not in alone
    assert "**Distillation:** response (hinton), from ResNet-18, 20 epochs" in honest
    assert "Warning" not in honest
    assert "have seen 3 of the images that judge it" in leaking


def test_a_training_that_nobody_chose_among_seeds_is_not_said_to_be_chosen() -> None:
    assert "among the seeds" not in page(None)
