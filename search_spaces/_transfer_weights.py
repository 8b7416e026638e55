"""Whether the weights of a backbone can be used on a study's images."""

from __future__ import annotations

import logging

from nas_proxy.backbones.weights import check_weights, is_file, seen_images
from nas_proxy.errors import StudyError
from nas_proxy.teachers.leakage import count_leaked_among, num_of_imagenet
from nas_proxy.types import Splits

logger = logging.getLogger("nas_proxy")


def check_weights_on(name: str, weights: str, image_size: int, splits: Splits) -> None:
    """Refuse weights that do not fit, or were trained on images that judge.

    What torchvision's weights have seen is not on record; where the images may be ImageNet's, a
    warning says so.

    Args:
        name: Of the backbone.
        weights: As for `nas_proxy.backbones.weights.identify_weights`.
        image_size: In pixels, that the backbone is given.
        splits: The study's images.

    Raises:
        DataError: If the weights cannot be had, or are not of the backbone.
        StudyError: If they were trained on images of search_val or test.
    """
    check_weights(name, weights, image_size)
    seen = seen_images(weights)
    num_seen = count_leaked_among(seen, splits) if len(seen) else 0
    if num_seen:
        raise StudyError(
            f"the weights {weights} of {name} were trained on {num_seen} of the "
            f"{len(splits.search_val) + len(splits.test)} images that judge candidates and "
            "winners, so their figures would mean nothing; make others with this config's own "
            "split: nas-proxy pretrain"
        )
    if not is_file(weights) and num_of_imagenet(splits):
        logger.warning(
            "torchvision's weights of %s may have been trained on images of %s that judge "
            "candidates or winners: take their accuracies for too high",
            name,
            splits.spec.name,
        )
