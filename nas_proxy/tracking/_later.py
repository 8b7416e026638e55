"""A study that was tracked offline, or not at all, goes to a store later."""

from __future__ import annotations

from pathlib import Path

from nas_proxy.core.locks import sole_user
from nas_proxy.errors import UserError
from nas_proxy.reproducibility import content_hash
from nas_proxy.tracking._mlflow_border import prepare_environment, results_beside
from nas_proxy.tracking._runs import TrackingSettings
from nas_proxy.tracking._uploader import Uploader


def track_study(folder: Path, settings: TrackingSettings) -> int:
    """Upload everything that a study has logged, whatever store it was logged to before.

    What this store has from an earlier call is not sent again. Where the study itself is tracked
    stays as it is.

    Args:
        folder: The study's.
        settings: Where to; the `uri` must be given.

    Returns:
        How many lines of the study's outbox were new there.

    Raises:
        UserError: If nothing was logged, another process is running the study, or the store does
            not take all of it.
    """
    kept, uri = folder.resolve() / "tracking", str(settings.uri)
    if not (kept / "outbox.jsonl").is_file():
        raise UserError(
            f"{folder} holds nothing to track: {kept / 'outbox.jsonl'} is missing (studies that "
            "ran with tracking.enabled=false before nas_proxy kept it have none)"
        )
    prepare_environment()
    state = f"state_{content_hash(uri, settings.experiment, length=12)}.json"
    with sole_user(folder):
        results = results_beside(uri, folder.resolve().parent)
        return Uploader(kept, uri, settings.experiment, results, state).upload_all()
