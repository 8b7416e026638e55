"""What a person reads about registered recipes and proxy data sets in MLflow's pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from nas_proxy.statistics.words import decimal
from nas_proxy.tracking.registry.rank_card import RankCard

if TYPE_CHECKING:
    from nas_proxy.data.proxy_dataset import ProxyDataset
    from nas_proxy.types import DatasetSpec

TRUSTED = "trusted"
_FILES = "the artifacts of the source run; `sha256sum -c SHA256SUMS` checks them"


def recipe_model_page(card: RankCard) -> str:
    """The text on top of all versions of a space's and a data set's recipes."""
    return (
        f"Recipes that rank the architectures of the search space **{card.space}** on "
        f"**{card.dataset}** without training them fully. Each version is one calibrated recipe "
        "with its rank card.\n\n"
        f"The alias `{TRUSTED}` marks the newest whose ranking can be trusted: in a validation, on "
        "architectures that had no part in the recipe, the lower end of its 95 % interval cleared "
        "the threshold that was asked for. Versions without it did not, were not validated, or "
        "were followed by a newer one.\n\n"
        f"A study uses it with `recipe: {TRUSTED}` in its configuration, and is refused where the "
        "space or the images are not those of the calibration."
    )


def recipe_version_page(card: RankCard, proxy_link: str) -> str:
    """The rank card of one version.

    Args:
        card: What was found out.
        proxy_link: Where its proxy data set is registered, as Markdown; empty if it uses none.
    """
    verdict = "clears" if card.trusted else "does not clear"
    low = "no interval" if card.spearman.low is None else decimal(card.spearman.low)
    # MLflow's list of versions shows the first words, and shows them without formatting.
    head = (
        f"{'Trusted' if card.trusted else 'Not trusted'}: Spearman {card.spearman}, n = {card.n}. "
        f"The lower end of the 95 % interval ({low}) {verdict} the threshold that was asked for, "
        f"{decimal(card.threshold)}."
    )
    rows = {
        "Recipe": card.recipe_name,
        "Compared with": card.reference_name,
        "Judged by": card.judged_by,
        "Cost of one architecture": f"{card.core_seconds_per_architecture:,.3g} core-seconds",
        "Paid once": _duration(card.one_off_seconds),
        "Measured on": card.hardware,
        "Search space": f"{card.space} {_options(card.space_options)}".strip(),
        "Data": f"{card.dataset}, {len(card.class_names)} classes, images of {_size(card)}",
        "Proxy data set": proxy_link or "none: it trains on real images, or not at all",
        "Calibrated": card.created,
        "Files": _FILES,
    }
    recipe = yaml.safe_dump(dict(card.recipe), sort_keys=False).strip()
    return f"{head}\n\n{_list(rows)}\n\nThe recipe as a study's configuration spells it:\n\n" + (
        f"```yaml\n{recipe}\n```"
    )


def proxy_model_page(proxy_dataset: ProxyDataset) -> str:
    """The text on top of all versions of what one method made of one data set."""
    return (
        f"Small sets of images that the method **{proxy_dataset.method}** made of "
        f"**{proxy_dataset.spec.name}**, for training candidate architectures on. What a set is "
        "worth for ranking stands on the rank card of the recipes that use it (tag `recipes` of "
        "each version); `nas-proxy inspect proxy.safetensors` shows the images."
    )


def proxy_version_page(proxy_dataset: ProxyDataset) -> str:
    """What one proxy data set is."""
    labels = proxy_dataset.labelling.kind
    rows = {
        "Made of": f"{proxy_dataset.spec.name}, split `{proxy_dataset.spec.source_hash}`",
        "Method": proxy_dataset.method,
        "Cost": f"{_duration(proxy_dataset.cost_seconds)} on {proxy_dataset.hardware}",
        "Licence of the images": proxy_dataset.spec.licence,
        "Id": f"`{proxy_dataset.id}`",
        "Files": _FILES,
    }
    size = _size(proxy_dataset.spec)
    return f"{len(proxy_dataset)} images of {size}, {labels} labels\n\n{_list(rows)}"


def _list(rows: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}:** {text}" for name, text in rows.items())


def _size(holder: RankCard | DatasetSpec) -> str:
    channels, height, width = holder.image_shape
    return f"{height} x {width} pixels, {channels} channels"


def _options(options: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name}: {value}" for name, value in options.items())
    return f"({listed})" if listed else ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.3g} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
