"""What stands beside exported tensors: all that their numbers need to be used, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from nas_proxy.data.augment import Augmentation
from nas_proxy.data.proxy_dataset import LabelKind, Labelling, LearningRateRule, ProxyDataset
from nas_proxy.errors import ProxyFileError

EXPORT_FORMAT = "nas_proxy.export/1"
RECORD_FILE = "metadata.json"


@dataclass(frozen=True)
class ExportRecord:
    """How a set was prepared and is meant to be trained on.

    Attributes:
        mean: Of each channel, that the images were normalised with.
        std: The same for the deviation.
        zca: Regularisation of the whitening that followed, as in `ProxyDataset`; None without.
        decode_factor: Tiles along each side of a stored image.
        labelling: What the labels are. Teachers do not travel: the labels are those of the
            images themselves.
        learning_rate_rule: How the method's authors train on the images.
        augmentation: What to apply when training on the images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca: float | None
    decode_factor: int
    labelling: Labelling
    learning_rate_rule: LearningRateRule
    augmentation: Augmentation

    @classmethod
    def of(cls, proxy_dataset: ProxyDataset) -> ExportRecord:
        """That of a set."""
        labelling = proxy_dataset.labelling
        return cls(
            mean=proxy_dataset.spec.mean,
            std=proxy_dataset.spec.std,
            zca=proxy_dataset.zca,
            decode_factor=proxy_dataset.decode_factor,
            labelling=Labelling(kind=labelling.kind, temperature=labelling.temperature),
            learning_rate_rule=proxy_dataset.learning_rate_rule,
            augmentation=proxy_dataset.augmentation,
        )

    def to_json(self, card: dict[str, Any]) -> str:
        """The file's content, with all else that is known of the set for a person to read."""
        return json.dumps({"format": EXPORT_FORMAT, **asdict(self), "card": card}, indent=1)

    @classmethod
    def read(cls, folder: Path) -> ExportRecord | None:
        """The record in a folder; None if there is none.

        Raises:
            ProxyFileError: If there is a file of its name that is no such record.
        """
        path = folder / RECORD_FILE
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["format"] != EXPORT_FORMAT:
                raise ValueError(f"its format is not {EXPORT_FORMAT}")
            labelling, kind = kept["labelling"], kept["labelling"]["kind"]
            if kind not in get_args(LabelKind):
                raise ValueError(f"there are no labels of the kind {kind!r}")
            return cls(
                mean=tuple(map(float, kept["mean"])),
                std=tuple(map(float, kept["std"])),
                zca=None if kept["zca"] is None else float(kept["zca"]),
                decode_factor=int(kept["decode_factor"]),
                labelling=Labelling(kind=kind, temperature=float(labelling["temperature"])),
                learning_rate_rule=LearningRateRule(**kept["learning_rate_rule"]),
                augmentation=Augmentation(**kept["augmentation"]),
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ProxyFileError(f"{path} was not written by export-proxy ({error})") from error
