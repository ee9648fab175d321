"""What a weights file may be: hostile, damaged, old, a run; nothing in it is ever executed."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import tarfile
import types
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_configs import model_config
from safetensors.torch import save_file
from torch import nn

from dam.errors import UserError
from dam.models.backbones import build_model
from dam.models.weights import read_content
from dam.models.weights_fit import open_weights
from dam.models.weights_layouts import CONTAINERS, open_layout

TENSORS = {"conv1.weight": torch.arange(4.0), "bn1.bias": torch.ones(2)}


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return open_layout(read_content(path)).state


def written(tmp_path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    return tmp_path / "w.pt"


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read_content(path)
    text = str(refused.value)
    assert str(path) in text and "\n" not in text and "weights_only" not in text
    return text


# ---------------------------------------------------------------- pickles


class Calls:
    """An object that calls ``function(*arguments)`` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch ran",), "system"),
        (os.mkdir, ("ran",), "mkdir"),
        (eval, ("open('ran', 'w')",), "eval"),
        (exec, ("open('ran', 'w')",), "exec"),
        (open, ("ran", "w"), "open"),
        (getattr, (Namespace(), "x"), "getattr"),
        (Path.touch, (Path("ran"),), "getattr"),
        (partial, (os.mkdir, "ran"), "asks for"),
        (np.save, ("ran", 1), ""),  # of a package whose classes get stand-ins: kept, never called
        (torch.load, ("w.pt",), "torch.serialization.load"),
        (torch.hub.download_url_to_file, ("file:///etc/passwd", "ran"), "torch.hub.download_url_to_file"),
        (np.fromfile, ("w.pt",), ""),
    ],
)
def test_nothing_in_a_file_is_executed(
    function: Any, arguments: tuple[Any, ...], named: str, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, {"state_dict": TENSORS, "more": Calls(function, *arguments)}, legacy)
    if named:
        text = refusal(path)
        assert "cannot be loaded safely" in text and named in text and "docs/weights.md" in text
    else:
        assert state_of(path).keys() == TENSORS.keys()
    assert {file.name for file in tmp_path.iterdir()} == {"w.pt"}


def test_the_hostile_objects_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.load(written(tmp_path, {"more": Calls(os.mkdir, "ran")}), weights_only=False)
    torch.load(written(tmp_path, {"more": Calls(np.save, "ran", 1)}), weights_only=False)
    assert (tmp_path / "ran").is_dir() and (tmp_path / "ran.npy").is_file()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        Namespace(arch="resnet50", lr=0.1),
        Namespace(),
        np.float64(77.5),
        np.arange(3.0),
        np.datetime64("2020-01-01"),
        Path("/data"),
        [Namespace(inner=Namespace(a=np.int64(3)))],
        nn.Linear(2, 2),
    ],
    ids=["Namespace", "empty", "numpy scalar", "numpy array", "datetime", "path", "nested", "module"],
)
def test_settings_and_numbers_beside_the_tensors_become_stand_ins(extra: Any, legacy: bool, tmp_path: Path) -> None:
    path = written(tmp_path, {"state_dict": TENSORS, "extra": extra, "epoch": 3}, legacy)
    content = read_content(path)
    assert content.stood_in
    layout = open_layout(content)
    assert all(torch.equal(layout.state[name], tensor) for name, tensor in TENSORS.items())
    assert layout.facts["epoch"] == 3


def test_the_architecture_is_read_from_the_settings(tmp_path: Path) -> None:
    path = written(tmp_path, {"state_dict": TENSORS, "args": Namespace(arch="efficientnet_b0", lr=0.1)})
    assert open_weights(str(path)).name == "efficientnet_b0"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_gives_its_state(legacy: bool, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 2)))
    net.register_buffer("passing", torch.zeros(1), persistent=False)
    expected = net.state_dict()
    state = state_of(written(tmp_path, net, legacy))
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert state_of(written(tmp_path, {"model": net, "epoch": 1}, legacy)).keys() == expected.keys()


class NotTorchs(nn.Module):
    """A module of a class that is not torch's; unpickled by torch, it would make a folder."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def __setstate__(self, state: Any) -> None:
        Path("ran").mkdir()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_of_another_class_is_refused_and_not_run(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, NotTorchs(), legacy)
    assert f"it asks for {__name__}.NotTorchs" in refusal(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [pytest.param(False, marks=pytest.mark.slow), True])  # the files are of 2020
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_torchxrayvisions_pickled_densenet(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are whole modules of a class of its own, one channel in, 18 labels out, with thresholds."""
    import torchvision
    from torchvision.models import DenseNet

    module = types.ModuleType("torchxrayvision.models")
    module.DenseNet = type("DenseNet", (DenseNet,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    with monkeypatch.context() as present:
        present.setitem(sys.modules, "torchxrayvision", types.ModuleType("torchxrayvision"))
        present.setitem(sys.modules, module.__name__, module)
        net = module.DenseNet(32, (6, 12, 24, 16), 64, num_classes=18)  # type: ignore[attr-defined]
        net.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        net.register_buffer("op_threshs", torch.full((18,), 0.5))
        net.pathologies = ["Atelectasis", ""]
        path = written(tmp_path, net.eval(), legacy)
    opened = open_weights(str(path))
    assert opened.name == "densenet121" and opened.expected is not None and opened.expected.mean == (0.5,)
    assert "torchxrayvision.models.DenseNet" in opened.layout.content.stood_in
    ours = build_model(model_config("densenet121", weights=str(path)), 1, 1, 64, 0).eval()
    assert all(
        torch.equal(t, net.state_dict()[name]) for name, t in ours.state_dict().items() if "classifier" not in name
    )
    plain = torchvision.models.DenseNet.forward
    net.classifier, ours.classifier = nn.Identity(), nn.Identity()
    image = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        assert float((plain(net, image) - ours(image)).abs().max()) == 0.0


def test_classes_of_unknown_packages_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("somelab")
    module.Config = type("Config", (), {"__module__": "somelab"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somelab", module)
    path = written(tmp_path, {"state_dict": TENSORS, "config": module.Config()})  # type: ignore[attr-defined]
    text = refusal(path)
    assert "it asks for somelab.Config" in text and "safetensors.torch.save_file" in text


def test_a_default_dictionary_does_not_call_its_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    held = defaultdict(partial(os.mkdir, "ran"))
    refusal(written(tmp_path, {"state_dict": TENSORS, "more": held}))
    assert not (tmp_path / "ran").exists()


def nested(make: Callable[[Any], Any], inner: Any, depth: int = 60) -> Any:
    """``inner`` in ``depth`` layers that each hold the one below more than once."""
    for _ in range(depth):
        inner = make(inner)
    return inner


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": TENSORS, "more": nested(lambda x: [x, x], [torch.ones(1)])},
        {**nested(lambda x: dict.fromkeys(CONTAINERS, x), {"epoch": 1}, 9), "trunk": TENSORS},
        nested(lambda x: nn.Sequential(x, x), nn.Sequential(nn.ReLU(), nn.Linear(2, 2))),
    ],
    ids=["lists", "containers", "modules"],
)
def test_what_holds_itself_many_times_is_walked_once(content: Any, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    assert path.stat().st_size < 50_000
    before = signal.signal(signal.SIGVTALRM, lambda *_: pytest.fail("it is walked many times"))
    signal.setitimer(signal.ITIMER_VIRTUAL, 20)  # seconds of this process; walked otherwise, it takes years
    try:
        assert len(state_of(path)) == 2
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_a_mapping_whose_methods_the_file_replaced(tmp_path: Path) -> None:
    """A pickle may set attributes of an OrderedDict, ``get`` and ``values`` among them."""
    mapping = OrderedDict({"state_dict": OrderedDict(TENSORS)})
    for method in ("get", "values"):
        mapping.__dict__[method] = mapping["state_dict"].__dict__[method] = torch.Size
    assert state_of(written(tmp_path, mapping)).keys() == TENSORS.keys()


def test_names_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"state_dict": {"a\x1b[31m\n": torch.ones(1), "b" * 9999: torch.ones(1)}, "arch": "\x1b[2J"}
    )
    layout = open_layout(read_content(path))
    assert list(layout.state) == [r"a\x1b[31m\n", "b" * 200] and layout.facts == {"arch": r"\x1b[2J"}
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "x.pt", "w") as changed:
        for record in whole.infolist():
            asks = b"\x80\x02cnumpy.\x1b[31m\ny\n)\x81."
            changed.writestr(record.filename, asks if record.filename.endswith("data.pkl") else whole.read(record))
    assert r"it asks for numpy.\x1b[31m.y" in refusal(tmp_path / "x.pt")


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"state_dict": {"a": 1}}))
    assert "cannot be loaded safely" in refusal(tmp_path / "w.pt")


def test_a_file_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no tensors at its top level or under .* it is a mapping of epoch, arch"
    ):
        state_of(written(tmp_path, {"epoch": 1, "arch": "x"}))
    with pytest.raises(UserError, match="it is a list"):
        state_of(written(tmp_path, [torch.ones(1)]))
    with pytest.raises(UserError, match=r"it is an object of torch\.nn\.modules\.activation\.ReLU"):
        state_of(written(tmp_path, nn.ReLU()))


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty (0 bytes)"),
        (b"hello, these are no weights\n" * 20, "cannot be loaded safely"),
        (b"<!DOCTYPE html><html>sign in</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "it is a Git LFS pointer"),
        (b"PK\x03\x04" + b"\0" * 100, "damaged or cut off"),
        (b"\x80\x02}q\x00.", "cannot be loaded safely"),
        (struct.pack("<Q", 10**9) + b'{"a":', "cannot be read as safetensors"),
    ],
)
def test_what_is_no_weights_file(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError) as refused:
        open_layout(read_content(tmp_path / "w.pth"))
    assert says in str(refused.value) and "w.pth" in str(refused.value)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off(share: float, legacy: bool, tmp_path: Path) -> None:
    path = written(tmp_path, {"state_dict": {"a": torch.randn(50, 50)}}, legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "cannot be loaded safely" in refusal(path)


def test_a_flipped_bit_in_the_tensors_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": torch.ones(1000)})
    data = bytearray(path.read_bytes())
    data[data.index(b"\x00\x00\x80\x3f" * 50) + 102] ^= 1
    path.write_bytes(bytes(data))
    assert "the checksum of" in refusal(path)


@pytest.mark.parametrize("at", [0, 4, 12, -3])
def test_a_damaged_safetensors(at: int, tmp_path: Path) -> None:
    save_file({"a": torch.ones(100)}, tmp_path / "w.safetensors")
    data = bytearray((tmp_path / "w.safetensors").read_bytes())
    if at < 0:
        data = data[:at]
    else:
        data[at] ^= 0x55
    (tmp_path / "w.safetensors").write_bytes(bytes(data))
    assert "cannot be read as safetensors" in refusal(tmp_path / "w.safetensors")


def test_an_archive_that_unpacks_to_far_more_is_refused_before_it_is_read(tmp_path: Path) -> None:
    source = written(tmp_path, {"a": torch.zeros(1_000_000)})
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in whole.infolist():
            packed.writestr(record.filename, whole.read(record))
    assert bomb.stat().st_size < 100_000
    assert "unpack to 4,0" in refusal(bomb)


def test_tensors_that_claim_more_than_the_file_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path, {"a": torch.zeros(4)})
    count = struct.pack("<i", 50_000_000)
    lying = tmp_path / "lying.pt"
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(lying, "w") as changed:
        for record in whole.infolist():
            data = (
                whole.read(record).replace(b"K\x04t", b"J" + count + b"t").replace(b"K\x04\x85", b"J" + count + b"\x85")
            )
            changed.writestr(record.filename, data)
    assert "cannot be loaded safely" in refusal(lying)


def test_archives_of_another_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    assert "it is an archive of another kind" in refusal(tmp_path / "w.npz")
    with tarfile.open(tmp_path / "w.pth.tar", "w") as archive:
        archive.add(written(tmp_path, TENSORS), "pickle")
    assert "PyTorch" not in refusal(tmp_path / "w.pth.tar")


def test_a_safetensors_header_that_begins_as_a_web_page_would(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(ord("<"))
    (tmp_path / "w.bin").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 1))
    assert state_of(tmp_path / "w.bin")["a"] == 1


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:  # its layout: the code beside the pickle
        archive.writestr("w/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("w/code/__torch__.py", "class Net: pass")
    assert "TorchScript program" in refusal(tmp_path / "w.pt")


# ---------------------------------------------------------------- places


def test_a_folder_a_link_and_what_is_not_there(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "nowhere.pt")
    (tmp_path / "folder").mkdir()
    assert "give a weights file or a finished run" in refusal(tmp_path / "folder")
    (tmp_path / "dangling.pt").symlink_to(tmp_path / "nowhere.pt")
    assert "is a link that leads to no file" in refusal(tmp_path / "dangling.pt")
    with pytest.raises(UserError, match="cannot be opened"):
        open_weights("x" * 5000)
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    assert "a link" in refusal(tmp_path / "loop.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "is no regular file" in refusal(tmp_path / "pipe.pt")
    (tmp_path / "good.pt").symlink_to(written(tmp_path, TENSORS))  # as Hugging Face's cache holds its files
    assert state_of(tmp_path / "good.pt").keys() == TENSORS.keys()


@pytest.mark.parametrize("source", ["warm_start", "pretrain", "auc/joint", "."])
def test_a_run_gives_its_best_weights(source: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / source
    folder.mkdir(parents=True)
    save_file(TENSORS, folder / "best.safetensors")
    (tmp_path / "run" / "control").mkdir()
    save_file({"other": torch.ones(1)}, tmp_path / "run" / "control" / "best.safetensors")
    content = read_content(tmp_path / "run")
    assert content.tree.keys() == TENSORS.keys() and content.run == tmp_path / "run"
    assert read_content(folder / "best.safetensors").run is None
    (tmp_path / "run" / "config.yaml").write_text("model: {}")
    named = read_content(folder / "best.safetensors")  # its stage's file by name is of the run, too
    assert named.run == (None if source == "." else tmp_path / "run")


def test_a_run_without_a_clear_choice_names_its_files(tmp_path: Path) -> None:
    for label in ("edema", "effusion"):
        (tmp_path / "auc" / label).mkdir(parents=True)
        save_file(TENSORS, tmp_path / "auc" / label / "best.safetensors")
    assert f"name one of its files, such as {tmp_path}/auc/edema/best.safetensors" in refusal(tmp_path)


def test_an_ensemble_and_a_folder_of_everything(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    save_file(TENSORS, deep / "w.safetensors")  # `dam weights inspect /` does not look through the disk
    assert "give a weights file or a finished run" in refusal(tmp_path)
    (tmp_path / "ensemble.json").write_text("{}")
    assert "is an ensemble: give one of its members" in refusal(tmp_path)


def test_a_run_that_links_out_of_itself_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "elsewhere.safetensors")
    (tmp_path / "run" / "warm_start").mkdir(parents=True)
    (tmp_path / "run" / "warm_start" / "best.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UserError, match="leads out of the run"):
        read_content(tmp_path / "run")
