"""What a file in a results folder is, and what it says of itself; none of it is changed."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any

from nas_proxy.core.files import whole_lines
from nas_proxy.errors import UserError

_MOST_TEXT = 200  # characters of a text that are shown
_MOST_ENTRIES = 8  # entries of a list or mapping that are written out


class FileKind(Enum):
    """What there is, in words."""

    STUDY = "the folder of a study"
    PROXY_DATASET = "a proxy data set"
    MODEL = "a trained network (nas_proxy.load_model loads it)"
    TENSORS = "tensors, such as weights or a checkpoint"
    EVALUATIONS = "a log of evaluations"
    LINES = "a log, one JSON line each"
    OPTUNA = "Optuna's journal of a search (nas-proxy ui --optuna shows it)"
    RESULT = "a result"
    CONFIG = "a configuration"
    TRACKING = "MLflow's store (nas-proxy ui shows it)"
    ONNX = "a network as an ONNX program"
    TORCH_PROGRAM = "a network as a torch.export program (torch.export.load loads it)"
    PICTURE = "a picture"
    PAGE = "a page for a browser"
    TEXT = "a text"


_BY_ENDING = {
    ".json": FileKind.RESULT,
    ".yaml": FileKind.CONFIG,
    ".yml": FileKind.CONFIG,
    ".db": FileKind.TRACKING,
    ".onnx": FileKind.ONNX,
    ".pt2": FileKind.TORCH_PROGRAM,
    ".png": FileKind.PICTURE,
    ".html": FileKind.PAGE,
    ".md": FileKind.TEXT,
    ".txt": FileKind.TEXT,
}


def kind_of(path: Path) -> FileKind:
    """What a path holds.

    Raises:
        UserError: If nothing is there, or nothing that nas_proxy writes.
    """
    if path.is_dir():
        if (path / "config.yaml").is_file():
            return FileKind.STUDY
        raise UserError(f"{path} is a folder, but not of a study: it holds no config.yaml")
    if path.suffix == ".safetensors":
        return _tensor_kind(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix == ".jsonl":
        return FileKind.EVALUATIONS if _holds_evaluations(path) else FileKind.LINES
    if path.name == "optuna_journal.log":
        return FileKind.OPTUNA
    if path.suffix in _BY_ENDING:
        return _BY_ENDING[path.suffix]
    raise UserError(
        f"{path} is no file that nas_proxy writes for people; it knows folders of studies, "
        f".safetensors, .jsonl, optuna_journal.log and {', '.join(_BY_ENDING)}"
    )


def look_at(path: Path, kind: FileKind) -> dict[str, Any]:
    """What a file says of itself, as JSON values by what they are called.

    Args:
        path: Of the file or folder.
        kind: As `kind_of` found it; of a proxy data set `ProxyCard` says more.

    Raises:
        UserError: If it is damaged.
    """
    try:
        return _LOOKS[kind](path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, sqlite3.Error) as error:
        raise UserError(f"{path} is damaged, or of another program ({error})") from error


def _study(path: Path) -> dict[str, Any]:
    """Which stages there are, and the verdict."""
    names = ("distill", "calibrate", "search", "validate", "retrain")
    report = path / "report.json"
    said = json.loads(report.read_text()) if report.is_file() else {}
    files = [file for file in path.rglob("*") if file.is_file()]
    return {
        "stages begun": ", ".join(name for name in names if (path / name).is_dir()) or "none",
        "verdict": said.get("verdict", "no report yet"),
        "files": len(files),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
    }


def _header(path: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Metadata of a .safetensors file, and the shape of each tensor; no tensor is read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("it is truncated")
        tensors = json.loads(file.read(length))
    metadata = tensors.pop("__metadata__", {})
    return metadata, {name: tensor["shape"] for name, tensor in tensors.items()}


def _tensor_kind(path: Path) -> FileKind:
    """By the format in the header; what cannot be read is left to who reads proxy data sets."""
    try:
        said = json.loads(_header(path)[0].get("nas_proxy", "{}")).get("format", "")
    except (OSError, ValueError, AttributeError):
        return FileKind.PROXY_DATASET
    if said.startswith("nas_proxy.proxy_dataset/"):
        return FileKind.PROXY_DATASET
    return FileKind.MODEL if said.startswith("nas_proxy.model/") else FileKind.TENSORS


def _tensors(path: Path) -> dict[str, Any]:
    metadata, shapes = _header(path)
    said = {name: _brief(_decoded(text)) for name, text in metadata.items()}
    own = said.pop("nas_proxy", {})
    size = sum(math.prod(shape) for shape in shapes.values())
    shown = {name: "x".join(map(str, shape)) or "scalar" for name, shape in shapes.items()}
    return {
        **(own if isinstance(own, Mapping) else {"nas_proxy": own}),
        **said,
        "tensors": f"{len(shapes)}, {size:,} numbers",
        "shapes": _brief(shown, 1),
    }


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _holds_evaluations(path: Path) -> bool:
    try:
        first = next(_lines(path), None)
    except ValueError:  # damaged: said by whoever reads it whole
        return False
    return isinstance(first, dict) and "fidelity" in first


def _evaluations(path: Path) -> dict[str, Any]:
    failed: Counter[str] = Counter()
    signals: dict[str, None] = {}
    num, seconds, core_seconds = 0, 0.0, 0.0
    for row in _lines(path):
        num += 1
        if row["status"] != "complete":
            failed[row["reason"]] += 1
        signals.update(dict.fromkeys(row["signals"]))
        seconds += row["seconds"]
        core_seconds += row["core_seconds"]
    return {
        "evaluations": num,
        "failed": failed.total(),
        **({"reasons": dict(failed.most_common(3))} if failed else {}),
        "signals": ", ".join(signals),
        "seconds of one process": round(seconds, 1),
        "core-seconds": round(core_seconds, 1),
    }


def _log(path: Path) -> dict[str, Any]:
    num, last = 0, None
    for num, last in enumerate(_lines(path), start=1):  # noqa: B007 - the last ones count
        pass
    return {"lines": num, "last": _brief(last) if num else ""}


def _optuna(path: Path) -> dict[str, Any]:
    """Operations of Optuna's journal: 0 makes a study, 4 makes a trial."""
    studies, num_trials = [], 0
    for row in _lines(path):
        if row["op_code"] == 0:
            studies.append(row["study_name"])
        num_trials += row["op_code"] == 4
    return {"studies": ", ".join(studies), "trials": num_trials}


def _lines(path: Path) -> Iterator[Any]:
    """What whole lines hold; the last one may be in the making."""
    with path.open("rb") as file:
        yield from map(json.loads, whole_lines(file))


def _result(path: Path) -> dict[str, Any]:
    found = _brief(json.loads(path.read_text(encoding="utf-8")))
    return found if isinstance(found, dict) else {"content": found}


def _config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(said, Mapping):
        raise TypeError("it holds no sections")
    return {str(name): _brief(value) for name, value in said.items()}


def _tracking(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        runs = database.execute("SELECT status, COUNT(*) FROM runs GROUP BY status").fetchall()
        names = database.execute("SELECT name FROM experiments").fetchall()
        models = database.execute("SELECT name FROM registered_models").fetchall()
    return {
        "experiments": ", ".join(name for (name,) in names),
        "runs": dict(runs),
        "registered models": ", ".join(name for (name,) in models) or "none",
    }


def _onnx(path: Path) -> dict[str, Any]:
    from nas_proxy.core.extras import is_installed, missing_words

    if not is_installed("export"):
        return {**_size(path), "more": missing_words("export")}
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return {
        **_size(path),
        "made by": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": ", ".join(each.name for each in model.graph.input),
        "outputs": ", ".join(each.name for each in model.graph.output),
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
    }


def _size(path: Path) -> dict[str, Any]:
    return {"kilobytes": round(path.stat().st_size / 1000, 1)}


def _picture(path: Path) -> dict[str, Any]:
    from PIL import Image

    with Image.open(path) as image:
        return {"pixels": f"{image.width} x {image.height}"}


def _page(path: Path) -> dict[str, Any]:
    title = re.search(r"<title>(.*?)</title>", path.read_text(encoding="utf-8"), re.DOTALL)
    return {"title": title[1].strip() if title else "none", **_size(path)}


def _text(path: Path) -> dict[str, Any]:
    return {"begins": _brief(path.read_text(encoding="utf-8"))}


def _brief(value: Any, depth: int = 2) -> Any:
    """A JSON value at a size that a person reads; of a mapping at the top every entry."""
    if isinstance(value, str):
        return value if len(value) <= _MOST_TEXT else f"{value[:_MOST_TEXT]}…"
    if isinstance(value, dict):
        if depth == 0 and len(value) > _MOST_ENTRIES:
            return f"{len(value)} entries"
        shown = {key: _brief(inner, max(0, depth - 1)) for key, inner in value.items()}
        if depth == 2 or len(value) <= _MOST_ENTRIES:  # noqa: PLR2004 - the top
            return shown
        return {**dict(list(shown.items())[:_MOST_ENTRIES]), "…": f"{len(value)} in all"}
    if isinstance(value, list):
        if len(value) > _MOST_ENTRIES or any(isinstance(inner, list | dict) for inner in value):
            return f"{len(value)} entries"
        return [_brief(inner, 0) for inner in value]
    return value


_LOOKS: dict[FileKind, Callable[[Path], dict[str, Any]]] = {
    FileKind.STUDY: _study,
    FileKind.PROXY_DATASET: _tensors,
    FileKind.MODEL: _tensors,
    FileKind.TENSORS: _tensors,
    FileKind.EVALUATIONS: _evaluations,
    FileKind.LINES: _log,
    FileKind.OPTUNA: _optuna,
    FileKind.RESULT: _result,
    FileKind.CONFIG: _config,
    FileKind.TRACKING: _tracking,
    FileKind.ONNX: _onnx,
    FileKind.TORCH_PROGRAM: _size,
    FileKind.PICTURE: _picture,
    FileKind.PAGE: _page,
    FileKind.TEXT: _text,
}
