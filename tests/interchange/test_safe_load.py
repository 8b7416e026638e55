"""Files of strangers: their numbers are read, their code is not run."""

import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nas_proxy.errors import ProxyFileError
from nas_proxy.interchange.safe_load import load_safely

CONTENT = {
    "images": torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)),
    "accuracies": [np.float64(0.25), np.float32(0.5), np.int64(3), np.bool_(True), 0.125],
}


def rewritten(path, old, new):
    """The file as if written by another version: `old` in its pickle becomes `new`."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(content, "w") as target:
        for entry in source.namelist():
            data = source.read(entry)
            if entry.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, new)
            target.writestr(entry, data)
    path.write_bytes(content.getvalue())
    return path


def test_numbers_of_numpy_one_and_two_are_read(tmp_path):
    path = tmp_path / "res.pt"
    torch.save(CONTENT, path)
    names = (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    written = [name for name in names if name in zipfile.ZipFile(path).read("res/data.pkl")]
    other = next(name for name in names if name != written[0])
    for file in (path, rewritten(path, written[0], other)):
        found = load_safely(file)
        assert found["accuracies"] == [0.25, 0.5, 3, True, 0.125]
        assert [type(number) for number in found["accuracies"][:3]] == [float, float, int]
        assert torch.equal(found["images"], CONTENT["images"])


class Call:
    """Unpickles to the result of a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile_calls(mark):
    code = f"open({str(mark)!r}, 'w').close()"
    return {
        "posix.system": Call(os.system, f"touch {mark}"),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(mark)]),
        "getattr": Call(getattr, Path(mark), "touch"),
        "numpy": Call(np.zeros(0).__reduce__()[0], np.ndarray, (0,), b"b"),
    }


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", list(hostile_calls("x")))
@pytest.mark.parametrize("writer", ["torch", "torch_legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, name, writer):
    mark, path = tmp_path / "was_run", tmp_path / "res.pt"
    call = hostile_calls(mark)[name]
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"data": 1, "accuracies": call}, protocol=2))
    else:
        is_zip = writer == "torch"
        torch.save({**CONTENT, "more": call}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ProxyFileError, match=r"res\.pt would run \w+"):
        load_safely(path)
    assert not mark.exists()


def test_the_feared_call_does_what_it_is_feared_for(tmp_path):
    mark = tmp_path / "was_run"
    function, arguments = hostile_calls(mark)["posix.system"].__reduce__()
    function(*arguments)  # as any unpickler would that is not restricted
    assert mark.exists()


@pytest.mark.parametrize("kind", ["O", "V8", "S4", "M8", "f8;import os", "f3"])
def test_numbers_of_numpy_are_no_way_in(tmp_path, kind):
    """The stand-ins take numbers alone, whatever a pickle hands to them."""
    dtype = f"\x80\x02cnumpy\ndtype\nX{chr(len(kind))}\0\0\0{kind}\x85R.".encode("latin1")
    torch.save({"a": np.float64(1)}, tmp_path / "res.pt")
    with zipfile.ZipFile(tmp_path / "res.pt") as source:
        found = {entry: source.read(entry) for entry in source.namelist()}
    with zipfile.ZipFile(tmp_path / "res.pt", "w") as target:
        for entry, data in found.items():
            target.writestr(entry, dtype if entry.endswith("data.pkl") else data)
    with pytest.raises(ProxyFileError, match="damaged"):
        load_safely(tmp_path / "res.pt")


def test_an_array_of_objects_is_refused(tmp_path):
    mark, path = tmp_path / "was_run", tmp_path / "labels.npy"
    objects = np.array([Call(os.system, f"touch {mark}")], dtype=object)
    np.save(path, objects, allow_pickle=True)
    with pytest.raises(ProxyFileError, match="damaged"):
        load_safely(path)
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("ending", [".pt", ".npy", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path, share, ending):
    path = tmp_path / f"file{ending}"
    if ending == ".pt":
        torch.save(CONTENT, path)
    elif ending == ".npy":
        np.save(path, CONTENT["images"].numpy())
    else:
        save_file({"images": CONTENT["images"]}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ProxyFileError, match="truncated or damaged") as caught:
        load_safely(path)
    assert "\n" not in str(caught.value)


def test_a_proxy_data_set_needs_no_import(tmp_path):
    save_file({"images": torch.zeros(1), "labels": torch.zeros(1)}, tmp_path / "p.safetensors")
    with pytest.raises(ProxyFileError, match="needs no import"):
        load_safely(tmp_path / "p.safetensors")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    path = tmp_path / "res.pt"
    torch.save(CONTENT, path)
    path.chmod(0)
    with pytest.raises(PermissionError):
        load_safely(path)
