"""Bad inputs as data: what lies in the working directory, what is typed, and what the one sentence must say.

``files`` are put below the working directory before the command; ``breaks`` are laid over a copy of a finished tiny
run, ``run/``. Content is text, bytes, ``None`` (an empty folder, or in ``breaks``: take it away) or a function of the
bytes that were there.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = "data=phantom data.patients=60 data.phantom_size=48"
MARKER = "owned"  # the file, in the working directory, that a pickle of ``evil`` makes when it is loaded
Content = str | bytes | None | Callable[[bytes], bytes]


@dataclass(frozen=True)
class Case:
    """A command that must end with one sentence that holds ``says``. ``run``: whether a copy of the run is needed."""

    name: str
    words: str | tuple[str, ...]
    says: tuple[str, ...]
    files: Mapping[str, Content] = field(default_factory=dict)
    breaks: Mapping[str, Content] | None = None
    leaves: str = ""  # the folder that may hold more afterwards: a run that went on, and keeps what it did

    @property
    def arguments(self) -> list[str]:
        return self.words.split() if isinstance(self.words, str) else list(self.words)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (MARKER, "w")


def evil() -> bytes:
    """A pickle that makes a file when it is loaded."""
    return pickle.dumps({"state_dict": _Evil(), b"data": _Evil()}, protocol=2)


def evil_torch() -> bytes:
    """A file of ``torch.save`` with such a pickle in it."""
    import torch

    buffer = io.BytesIO()
    torch.save({"state_dict": {"x": torch.zeros(1)}, "more": _Evil()}, buffer)
    return buffer.getvalue()


def evil_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Evil(), _Evil()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def png(side: int = 40, value: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("up/", "../"), data)
    return buffer.getvalue()


def linked_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def torn(data: bytes) -> bytes:
    """A text whose end is no YAML any more, wherever it was torn."""
    return data[: len(data) // 2] + b"\nname: {\n"


def flipped(data: bytes) -> bytes:
    """One bit of each hundredth byte turned."""
    return bytes(byte ^ 4 if i % 100 == 50 else byte for i, byte in enumerate(data))


def without(*keys: str) -> Callable[[bytes], bytes]:
    """A JSON object without some keys."""
    return lambda data: json.dumps({k: v for k, v in json.loads(data).items() if k not in keys}).encode()


def put(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old.encode() in data, f"{old} is not there to be changed"
        return data.replace(old.encode(), new.encode(), 1)

    return change


IMAGES: dict[str, Content] = {f"img/{i}.png": png(40, 9 * i) for i in range(12)}


def other_table(data: bytes) -> bytes:
    facts = json.loads(data)
    for table in facts["tables"]:
        table["sha256"] = "0" * 64
    return json.dumps(facts).encode()


def other_image(data: bytes) -> bytes:
    facts = json.loads(data)
    facts["pixels_sha256"], facts["content"][next(iter(facts["content"]))] = "0" * 64, "0"
    return json.dumps(facts).encode()


def rows(*changed: str, header: str = "image,sick", count: int = 12) -> str:
    """A table of ``IMAGES``; ``changed`` takes the place of the first rows."""
    kept = [f"{i}.png,{i % 2}" for i in range(len(changed), count)]
    return "\n".join([header, *changed, *kept, ""])


def config(name: str, words: str, *says: str) -> Case:
    typed = f"train {SMALL} device=cpu {words}"
    return Case(name, typed, says)


def table(name: str, content: Content, *says: str, words: str = "", **files: Content) -> Case:
    typed = f"train data=csv data.csv=t.csv data.root=img data.labels=[sick] model=resnet20_cifar device=cpu {words}"
    typed += " batch_size=4 image_size=32"
    return Case(name, typed, says, {**IMAGES, "t.csv": content, **{_path(key): data for key, data in files.items()}})


def _path(key: str) -> str:
    return key.replace("__", "/").replace("_dot_", ".")


def dataset(name: str, data: str, *says: str, files: Mapping[str, Content] | None = None, words: str = "") -> Case:
    typed = f"train data={data} data.root=d model=resnet20_cifar device=cpu {words}"
    return Case(name, typed, says, {"d": None} if files is None else files)


def broken(
    name: str, words: str, breaks: Mapping[str, Content], *says: str, leaves: str = "", **files: Content
) -> Case:
    return Case(name, words, says, {_path(key): data for key, data in files.items()}, breaks, leaves)


def weights(name: str, content: Content, *says: str, file: str = "w.pth") -> Case:
    typed = f"train data=csv data.csv=t.csv data.root=img data.labels=[sick] model=resnet20_cifar model.weights={file}"
    return Case(name, f"{typed} device=cpu image_size=32 batch_size=4", says,
                {**IMAGES, "t.csv": rows(), file: content})  # fmt: skip


VERBS = (
    Case("no such verb", "trian", ("trian", "dam train")),
    Case("a key instead of a verb", "seed=3", ("dam train seed=3",)),
    Case("an unknown verb", "zzz", ("there is no command 'zzz'", "dam --help")),
    Case("data without a verb", "data", ("dam data check",)),
    Case("data with another verb", "data clean", ("clean", "dam data prepare")),
    Case("data check --out without a folder", "data check --out", ("--out needs a folder",)),
    Case("data check with an unknown option", "data check --imgs", ("--imgs",)),
    Case("data check of a missing folder", "data check data=chexpert data.root=nowhere", ("nowhere", "data.root")),
    Case("data prepare without a root", "data prepare data=chexpert", ("data.root",)),
    Case("list of what is not", "list modles", ("modles", "models")),
    Case("list two words", "list datasets a", ("only models takes a pattern",)),
    Case("list no such network", "list models zzzqq", ("zzzqq",)),
    Case("completion of no shell", "completion", ("bash", "zsh", "fish")),
    Case("completion of another shell", "completion tcsh", ("not tcsh", "bash")),
    Case("runs of a missing folder", "runs nowhere", ("nowhere", "`dam runs` takes folders")),
    Case("runs without outputs", "runs", ("outputs",)),
    Case("runs with an empty filter", "runs --filter", ("--filter needs a value",)),
    Case("runs sorted by nothing", "runs . --sort nothing", ("nothing",), {"a": None}),
    Case("runs clean of no run", "runs clean d", ("no run directory",), {"d/x": "x"}),
    Case("evaluate nothing", "evaluate", ("dam evaluate",)),
    Case("evaluate a missing table", "evaluate t.csv --out o", ("t.csv",)),
    Case("evaluate without --out", "evaluate t.csv", ("--out DIR",), {"t.csv": rows()}),
    Case("evaluate an empty table", "evaluate t.csv --out o", ("t.csv", "empty"), {"t.csv": ""}),
    Case("evaluate no numbers", "evaluate t.csv --out o", ("score",), {"t.csv": "label,target,score\nx,0,a\nx,1,b\n"}),
    Case(
        "evaluate a target of 2", "evaluate t.csv --out o", ("target",), {"t.csv": "label,target,s\nx,0,.1\nx,2,.2\n"}
    ),
    Case(
        "evaluate NaN scores",
        "evaluate t.csv --out o",
        ("line 2, column s",),
        {"t.csv": "label,target,s\nx,0,nan\nx,1,.2\n"},
    ),
    Case(
        "evaluate a table without scores", "evaluate t.csv --out o", ("score",), {"t.csv": "label,target\nx,0\nx,1\n"}
    ),
    Case("evaluate a binary file", "evaluate t.csv --out o", ("t.csv",), {"t.csv": bytes(range(256)) * 9}),
    Case("evaluate with a bad number", "evaluate t.csv --out o --replicates x", ("replicates", "x"), {"t.csv": rows()}),
    Case("evaluate with an unknown flag", "evaluate t.csv --uot o", ("--uot", "--out"), {"t.csv": rows()}),
    Case("evaluate into a full folder", "evaluate t.csv --out o", ("o",), {"t.csv": rows(), "o/mine.txt": "x"}),
    Case("evaluate onto a file", "evaluate t.csv --out t.csv", ("t.csv",), {"t.csv": rows()}),
    Case("evaluate a folder that is no run", "evaluate d --out o", ("d",), {"d/x": "x"}),
    Case(
        "evaluate without the validation table",
        "evaluate t.csv --out o --val v.csv",
        ("v.csv",),
        {"t.csv": "label,target,s\nx,0,.1\nx,1,.2\n"},
    ),
    Case("compare one", "compare a", ("two or more",)),
    Case("compare missing runs", "compare a b", ("a",)),
    Case("compare foreign folders", "compare a b", ("a",), {"a/x": "x", "b/x": "x"}),
    Case(
        "compare different images",
        "compare a.csv b.csv",
        ("--common",),
        {
            "a.csv": "image,label,target,s\n" + "".join(f"{i},x,{i % 2},.{i}\n" for i in range(1, 9)),
            "b.csv": "image,label,target,s\n" + "".join(f"{i},x,{i % 2},.{i}\n" for i in range(2, 10)),
        },
    ),
    Case("report nothing", "report", ("takes a run directory",)),
    Case("report a missing run", "report nowhere", ("nowhere",)),
    Case("report a file", "report t.csv", ("dam evaluate t.csv",), {"t.csv": rows()}),
    Case("report an empty folder", "report d", ("d",), {"d": None}),
    Case("report with a setting", "report d evaluation.seed=3", ("changes no setting",), {"d": None}),
    Case("predict nothing", "predict", ("dam predict RUN PATH",)),
    Case("predict without --out", "predict r x.png", ("--out FILE.csv",)),
    Case("predict without images", "predict r --out o.csv", ("no images are named",)),
    Case("predict with a missing run", "predict r x.png --out o.csv", ("r",)),
    Case("predict onto its own list", "predict r --csv t.csv --out t.csv", ("table of --csv itself",), {"t.csv": ""}),
    Case("predict with a bad number", "predict r x --out o.csv --tta many", ("--tta", "many")),
    Case("ensemble nothing", "ensemble", ("two or more run directories",)),
    Case("ensemble without --out", "ensemble a b", ("--out DIR",)),
    Case("ensemble of missing runs", "ensemble a b --out o", ("a",)),
    Case("ensemble by another mean", "ensemble a b --out o --mean median", ("--mean", "median", "ranks")),
    Case("export nothing", "export", ("one run directory",)),
    Case("export without a format", "export r", ("--format onnx",)),
    Case("export to another format", "export r --format tflite", ("--format", "tflite")),
    Case("export a missing run", "export r --format onnx", ("no run directory r",)),
)

CONFIGS = (
    config("a misspelt key", "batchsize=8", "batchsize", "batch_size"),
    config("a misspelt group", "optimiser=sgd", "optimiser"),
    config("a missing choice", "model=resnet19", "resnet19", "model"),
    config("a missing experiment", "+experiment=quickstrat", "quickstrat", "quickstart"),
    config("a missing dataset", "data=mnist", "mnist"),
    config("a batch of one", "batch_size=1", "batch_size", "2"),
    config("a batch of words", "batch_size=many", "batch_size", "many"),
    config("a negative rate", "auc.optimizer.lr=-1", "auc.optimizer.lr"),
    config("a rate of nan", "auc.optimizer.lr=nan", "auc.optimizer.lr"),
    config("an infinite rate", "auc.optimizer.lr=inf", "auc.optimizer.lr"),
    config("a share above one", "data.val_fraction=1.5", "data.val_fraction"),
    config("shares of everything", "data.val_fraction=0.6 data.test_fraction=0.6", "val_fraction"),
    config("an imratio of zero", "data.imratio=0", "data.imratio"),
    config("a seed that is no number", "seed=abc", "seed"),
    config("a fraction of an image", "image_size=224.5", "image_size"),
    config("an image of no size", "image_size=0", "image_size"),
    config("a list for a number", "seed=[1,2]", "seed"),
    config("several values without -m", "seed=1,2", "-m"),
    config("nothing for a number", "seed=null", "seed"),
    config("no word", "seed", "seed"),
    config("an open bracket", "data.labels=[Edema", "data.labels"),
    config("a code key", "+auc._target_=os.system", "_target_"),
    config("code in augmentation", "augment.train=[{_target_:os.system}]", "augment"),
    config("an unknown augmentation", "augment.train=[{name:explode}]", "explode"),
    config("an interpolation", "name=${oc.env:HOME}", "name"),
    config("a resolver", "name=${eval:1+1}", "name holds a reference"),
    config("a name that climbs", "name=../../elsewhere", "name"),
    config("an unknown loss", "auc.loss=hinge", "hinge"),
    config("an unknown optimizer", "auc.optimizer=lion", "lion"),
    config("an unknown device", "device=tpu", "tpu", "device"),
    config("a device that is not there", "device=cuda:99", "cuda"),
    config("an unknown network", "model=timm model.name=nonet", "nonet"),
    config("no network", "model=timm model.name=", "model.name"),
    config("no part", "warm_start=none auc=none", "auc"),
    config("a key of a part that is off", "auc=none auc.epochs=2", "auc"),
    config("parts that do not divide", "batch_size=8 accumulate=3", "accumulate"),
    config("a missing warm start", "warm_start.run=nowhere", "nowhere"),
    config("an unknown label", "data.labels=[Flu]", "Flu"),
    config("a label of the AUC stage only", "data.labels=[Edema] auc.labels=[Flu]", "Flu"),
    config("an unknown policy", "data.uncertain.default=maybe", "maybe"),
    config("folds without number", "data.fold=1", "data.folds"),
    config("a fold too many", "data.folds=3 data.fold=3", "data.fold"),
    config("an old key of another tool", "--config-name=x", "--config-name"),
    config("an unknown option", "--gpu 0", "--gpu"),
    config("--cfg of another kind", "--cfg all", "--cfg job"),
    config("a sweep key without -m", "+sweep=margin", "-m"),
    config("a sweep's resume without -m", "sweep.resume=true", "sweep.resume", "add -m"),
    config("a sweep's resume of another word", "-m seed=1,2 sweep.resume=maybe", "sweep.resume must be true or false"),
    config("a sweep's resume without a sweep", "-m seed=1,2 sweep.resume=true", "no sweep under", "run_dir=PATH"),
    config("a sweep's resume where there is none", "-m seed=1,2 sweep.resume=true run_dir=d", "holds no sweep"),
    config("a sweep's resume as a dry run", "-m seed=1,2 sweep.resume=true dry_run=true", "leave out dry_run=true"),
    config("a sweep's resume with drawn jobs", "-m seed=1,2 sweep.resume=true hydra/sweeper=optuna", "sweep.resume"),
    config("a sweep's resume misspelt", "-m seed=1,2 sweep.resum=true", "did you mean sweep.resume?"),
    Case(
        "a sweep's resume with other words",
        "train -m seed=1,2 sweep.resume=true run_dir=d",
        ("other words", "dam train -m seed=1,2,3"),
        {"d/sweep.json": json.dumps({"command": ["dam", "train", "-m", "seed=1,2,3"], "jobs": []})},
    ),
    Case(
        "a sweep's resume with a foreign sweep.json",
        "train -m seed=1,2 sweep.resume=true run_dir=d",
        ("sweep.json", "damaged"),
        {"d/sweep.json": evil()},
    ),
    Case(
        "a sweep's resume with a sweep.json of lists",
        "train -m seed=1,2 sweep.resume=true run_dir=d",
        ("sweep.json", "damaged"),
        {"d/sweep.json": "[]"},
    ),
    config("names that are neither kept nor not", "report.anonymize=maybe", "report.anonymize", "true or false"),
    config("a key of the report misspelt", "report.anonymise=true", "report.anonymise", "report.anonymize"),
    config("another way out of NaN", "on_non_finite=ignore", "on_non_finite", "stop", "skip"),
    config("synchronized statistics of words", "sync_bn=always", "sync_bn", "true or false"),
    config("augmentation elsewhere", "augment_on=tpu", "augment_on"),
    config("a sweep of nothing", "-m seed=", "seed"),
    config("a sweep of bad values", "-m seed=1,x", "seed"),
    config("a sweep of an unknown key", "-m sed=1,2", "sed", "seed"),
    config("a sweep with a missing launcher", "-m seed=1,2 hydra/launcher=slurmy", "slurmy"),
    config("--cfg with -m", "-m --cfg job seed=1,2", "leave out -m"),
    config("metadata that are not there", "metadata=mlp metadata.columns=[height]", "height"),
    config("subgroups that are not there", "evaluation.subgroups=[height]", "height"),
    config("readers that are not there", "evaluation.readers=readers.csv", "readers.csv"),
    config("a store that is a file", "data.store=/dev/null", "/dev/null"),
    Case("a run directory in use", "train data=phantom run_dir=d", ("d", "run_dir"), {"d/mine.txt": "x"}),
    Case("a run directory that is a file", "train data=phantom run_dir=d", ("d",), {"d": "x"}),
    Case("two resumes", "train resume=a resume=b", ("one command resumes one run",)),
    Case("--resume", "train --resume a", ("resume=a",)),
    Case("resume a missing run", "train resume=nowhere", ("nowhere", "outputs/NAME")),
    Case("resume a file", "train resume=t.csv", ("is a file",), {"t.csv": ""}),
    Case("resume another folder", "train resume=d", ("config.yaml",), {"d/x": "x"}),
    Case("resume with -m", "train -m resume=d", ("resume=",), {"d": None}),
)

TABLES = (
    table("no table", None, "t.csv"),
    table("an empty table", "", "t.csv"),
    table("only a header", "image,sick\n", "t.csv"),
    table("no image column", rows(header="picture,sick"), "t.csv", "image"),
    table("no label column", rows(header="image,ill"), "t.csv", "sick"),
    table("a label of 7", rows("0.png,7"), "sick", "7", "0.png", "row"),
    table("a label of words", rows("0.png,perhaps"), "perhaps", "row"),
    table("one class", "image,sick\n" + "".join(f"{i}.png,0\n" for i in range(12)), "sick"),
    table("a blank image", rows(",1"), "row 2", "blank"),
    table("a missing image", rows("gone.png,1"), "gone.png"),
    table("no image where the root is", rows().replace(".png", ".jpg"), ".jpg"),
    table("a path that climbs", rows("../secret.png,1"), "../secret.png", secret_dot_png=png()),
    table("an absolute path", rows("/etc/passwd,1"), "/etc/passwd"),
    table("the same column twice", rows("0.png,1,1", header="image,sick,sick"), "sick"),
    table("rows of other lengths", rows("0.png,1,5,6"), "t.csv"),
    table("an open quote", 'image,sick\n"0.png,1\n1.png,0\n', "t.csv"),
    table("binary rubbish", bytes(range(256)) * 20, "t.csv"),
    table("null bytes", rows("0.png\0,1"), "t.csv"),
    table("a folder for a table", None, "t.csv", t_dot_csv__x="x"),
    table("an unknown split", "image,sick,split\n0.png,1,holdout\n1.png,0,train\n", "holdout"),
    table(
        "a patient in two splits",
        "image,sick,patient,split\n"
        + "".join(f"{i}.png,{i % 2},p,{('train', 'val', 'test')[i % 3]}\n" for i in range(12)),
        "patient",
    ),
    table("the same image twice", rows("0.png,0", "0.png,1"), "0.png"),
    table("a patient column that is not there", rows(), "pid", words="data.patient_column=pid"),
    table("a split column that is not there", rows(), "part", words="data.split_column=part"),
    table("a bad pattern", rows(), "patient_regex", words="data.patient_regex=(\\d+"),
    table("an image that is none", rows(), "0.png", img__0_dot_png="no image"),
    table("an image cut off", rows(), "0.png", img__0_dot_png=png()[:50]),
    table("an empty image", rows(), "0.png", img__0_dot_png=b""),
    table("a folder for an image", rows("sub.png,1"), "sub.png", img__sub_dot_png__x="x"),
    table("an array of objects", rows("a.npy::0,1"), "a.npy", img__a_dot_npy=evil_npy()),
    table("a pickle as a container", rows("batch::0,1"), "batch", img__batch=evil()),
    table("a zip that is none", rows("a.zip::x.png,1"), "a.zip", img__a_dot_zip=b"PK"),
    table("a zip without the member", rows("a.zip::x.png,1"), "x.png", img__a_dot_zip=zipped(y=b"")),
    table("a member that climbs", rows("a.zip::../x.png,1"), "x.png", img__a_dot_zip=zipped(up__x=png())),
    table("a link in a tar", rows("a.tar::link.png,1"), "link.png", img__a_dot_tar=linked_tar()),
    table("a record of rubbish", rows("a.tfrec::0,1"), "a.tfrec", img__a_dot_tfrec=b"x" * 99),
    table("an h5 of rubbish", rows("a.h5::x/0,1"), "a.h5", img__a_dot_h5=b"x" * 99),
    table("a missing root", rows(), "gone", words="data.root=gone"),
)

CIFAR = {f"d/cifar-10-batches-py/{name}": evil() for name in
         ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6)))}  # fmt: skip
DATASETS = (
    *(
        dataset(f"{name}: an empty root", name, "d")
        for name in ("chexpert", "covidx8b", "melanoma", "ddsm", "pcam", "cifar10", "cifar100", "stl10", "cats_dogs")
    ),
    *(
        Case(f"{name}: no root", f"train data={name} model=resnet20_cifar device=cpu", ("data.root",))
        for name in ("chexpert", "covidx8b", "melanoma", "ddsm", "pcam", "cifar10", "stl10", "cats_dogs", "csv")
    ),
    dataset("csv: an empty root", "csv", "d"),
    dataset("cifar10: malicious batches", "cifar10", "cifar-10-batches-py", files=CIFAR),
    dataset("cifar10: batches cut short", "cifar10", "batch", files={name: b"\x80\x02}q" for name in CIFAR}),
    dataset(
        "chexpert: another header",
        "chexpert",
        "train.csv",
        files={"d/train.csv": "a,b\n1,2\n", "d/valid.csv": "a,b\n1,2\n"},
    ),
    dataset(
        "chexpert: a label of 3",
        "chexpert",
        "Edema",
        "is 3",
        "row 1",
        files={
            "d/train.csv": "Path,Sex,Age,Frontal/Lateral,AP/PA,Edema\nCheXpert-v1.0-small/train/patient00001/study1/"
            "view1_frontal.jpg,Male,3,Frontal,AP,3\n",
            "d/valid.csv": "Path,Sex,Age,Frontal/Lateral,AP/PA,Edema\n"
            "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,3,Frontal,AP,1\n",
        },
        words="data.labels=[Edema]",
    ),
    dataset(
        "stl10: a file cut off",
        "stl10",
        "stl10_binary",
        files={
            "d/stl10_binary/train_X.bin": b"x" * 999,
            "d/stl10_binary/train_y.bin": b"\1" * 10,
            "d/stl10_binary/test_X.bin": b"",
            "d/stl10_binary/test_y.bin": b"",
            "d/stl10_binary/class_names.txt": "a\nb\n",
        },
    ),
    dataset(
        "pcam: rubbish",
        "pcam",
        ".h5",
        files={
            f"d/camelyonpatch_level_2_split_{part}_{kind}.h5": b"x" * 99
            for part in ("train", "valid", "test")
            for kind in ("x", "y")
        },
    ),
    dataset("ddsm: rubbish", "ddsm", "d", files={"d/training10_0/training10_0.tfrecords": b"x" * 99}),
    dataset("cats_dogs: no images", "cats_dogs", "d", files={"d/cat": None, "d/dog": None}),
    dataset("cats_dogs: a zip of rubbish", "cats_dogs", "d", files={"d/train.zip": b"PK\3\4" + b"x" * 99}),
    dataset(
        "covidx8b: lists of rubbish",
        "covidx8b",
        "train",
        files={"d/train.txt": "x\n", "d/test.txt": "y\n", "d/train/x": "x", "d/test/x": "x"},
    ),
    dataset(
        "melanoma: another header",
        "melanoma",
        "train.csv",
        files={"d/train.csv": "a,b\n1,2\n", "d/jpeg/train/x.jpg": "x"},
    ),
)

WEIGHTS = (
    weights("no weights", None, "w2.pth", file="w2.pth"),
    weights("malicious weights", evil_torch(), "w.pth", "cannot be loaded safely", "asks for io.open"),
    weights("a plain malicious pickle", evil(), "w.pth", "cannot be loaded safely"),
    weights("weights of rubbish", b"rubbish" * 30, "w.pth", "damaged"),
    weights("empty weights", b"", "w.pth"),
    weights("a pickle called safetensors", evil_torch(), "w.safetensors", "safetensors", file="w.safetensors"),
    weights("an empty safetensors", b"", "w.safetensors", file="w.safetensors"),
)

RUN = "predict run img/0.png --out o.csv --device cpu --workers 1"
NEW = {"img__0_dot_png": png()}
RUNS = (
    broken("resume without config", "train resume=run", {"config.yaml": None}, "config.yaml"),
    broken("resume with an empty config", "train resume=run", {"config.yaml": ""}, "config.yaml", "empty"),
    broken("resume with half a config", "train resume=run", {"config.yaml": cut}, "config.yaml"),
    broken("resume with a config of tags", "train resume=run",
           {"config.yaml": "!!python/object/apply:os.system [touch owned]\n"}, "config.yaml"),
    broken("resume with a _target_", "train resume=run", {"config.yaml": lambda data: data + b"_target_: os.system\n"},
           "_target_"),
    broken("resume with a binary config", "train resume=run", {"config.yaml": bytes(range(256))}, "config.yaml"),
    broken("resume with half a progress", "train resume=run", {"progress.json": cut}, "progress.json"),
    broken("resume with a foreign progress", "train resume=run", {"progress.json": evil()}, "progress.json"),
    broken("resume with a progress of lists", "train resume=run", {"progress.json": "[]"}, "progress.json"),
    broken("resume with a progress of other keys", "train resume=run", {"progress.json": "{}"}, "progress.json"),
    broken("resume without what it had to say", "train resume=run", {"report/auc.json": cut}, "auc.json"),
    broken("report with a foreign history", "report run", {"history.json": evil()}, "history.json"),
    broken("report with a foreign environment", "report run", {"environment.json": evil()}, "environment.json"),
    broken("evaluate with a binary config", "evaluate run --out o", {"config.yaml": bytes(range(256))}, "config.yaml"),
    broken("compare with a torn config", "compare run run --model ce --model auc", {"config.yaml": torn}, "config"),
    broken("resume with half the data's facts", "train resume=run", {"progress.json": None, "data.json": cut},
           "data.json"),
    broken("resume with another seed", "train resume=run seed=3", {}, "seed", "start a new run"),
    broken("resume with other data", "train resume=run data.root=x", {}, "data.root"),
    broken("resume on changed data", "train resume=run", {"progress.json": None, "data.json": put(
        '"images_sha256": "', '"images_sha256": "0')}, "other data", "the list of images or their splits"),
    broken("resume on another table", "train resume=run", {"progress.json": None, "data.json": other_table},
           "other data: the table ", "train.csv", "changed since"),
    broken("resume on another image", "train resume=run", {"progress.json": None, "data.json": other_image},
           "other data", "the content of CheXpert"),
    broken("resume on facts of lists", "train resume=run", {"progress.json": None, "data.json": "[]"}, "data.json"),
    broken("resume under another key", "train resume=run report.anonymize=true", {"progress.json": None},
           "report.anonymize", "the names in its files are written already"),
    broken("resume under pseudonyms without their key", "train resume=run", {"progress.json": None, "config.yaml":
           put("anonymize: false", "anonymize: true"), "data.json": put("{", '{"anonymized": "0123",')},
           "are pseudonyms", "DAM_ANONYMIZE_KEY"),
    broken("a warm start of pseudonyms without their key", f"train {SMALL} warm_start.run=run model=timm "
           "model.name=resnet8_cifar image_size=32 model.weights=null device=cpu "
           "data.labels=[Cardiomegaly,Edema]", {"data.json": put("{", '{"anonymized": "0123",')}, "are pseudonyms"),
    broken("an external set for pseudonyms without their key", "evaluate run --data phantom data.phantom_seed=9 "
           "data.patients=60 data.phantom_size=48 data.root=other --name b --device cpu",
           {"data.json": put("{", '{"anonymized": "0123",')}, "are pseudonyms", leaves="other"),
    broken("resume with an unknown key", "train resume=run sed=3", {}, "sed"),
    broken("a warm start of rubbish", "train resume=run", {"progress.json": None, "predictions": None, "report": None,
           "warm_start/stage.json": "[]"}, "stage.json", leaves="run"),
    broken("resume with a pickle for weights", "train resume=run", {"progress.json": None, "predictions": None,
           "auc": None, "warm_start/best.safetensors": evil_torch(), "warm_start/last.safetensors": evil_torch()},
           "safetensors", leaves="run"),
    broken("take a warm start of a half run", f"train {SMALL} warm_start.run=run", {"warm_start/stage.json": None},
           "dam train resume="),
    broken("take a warm start with half its facts", f"train {SMALL} warm_start.run=run model=timm "
           "model.name=resnet8_cifar image_size=32 model.weights=null device=cpu "
           "data.labels=[Cardiomegaly,Edema]", {"warm_start/stage.json": cut}, "stage.json"),
    broken("take a warm start of another network", f"train {SMALL} warm_start.run=run model=resnet20_cifar "
           "image_size=32 device=cpu", {}, "model.name"),
    broken("train into a run", "train data=phantom run_dir=run", {}, "run"),
    broken("report without predictions", "report run", {"predictions": None}, "predictions"),
    broken("report with half a table", "report run", {"predictions/test.csv": cut}, "test.csv"),
    broken("report with an empty table", "report run", {"predictions/test.csv": ""}, "test.csv"),
    broken("report with a table of rubbish", "report run", {"predictions/test.csv": bytes(range(256)) * 9}, "test.csv"),
    broken("report with infinite scores", "report run", {"predictions/val.csv": lambda data: data.replace(b"0.",
           b"inf")},
           "val.csv"),
    broken("report with half a metrics table", "report run", {"auc/edema/metrics.csv": ""}, "metrics.csv"),
    broken("report with a torn config", "report run", {"config.yaml": torn}, "config.yaml"),
    broken("report with rubbish facts", "report run", {"data.json": "{"}, "data.json"),
    broken("evaluate a run without predictions", "evaluate run --out o", {"predictions": None}, "predictions"),
    broken("evaluate a run by an unknown interval", "evaluate run --interval wald --out o", {}, "wald"),
    broken("report with rubbish settings", "report run", {"evaluation.json": "["},
           "evaluation.json"),
    broken("an external set that is not there", "evaluate run --data csv data.csv=x.csv data.root=img --name b "
           "--device cpu", {}, "x.csv", **NEW),
    broken("an external set with a path for a name", "evaluate run --data csv data.csv=x.csv --name ../b", {},
           "--name"),
    broken("compare with an unknown model", "compare run run --model ce --model zzz", {}, "zzz"),
    broken("compare an unknown split", "compare run run --split external_z", {}, "external_z"),
    broken("compare half a table", "compare run run --model ce --model auc", {"predictions/test.csv": cut}, "test.csv"),
    broken("predict with a pickle for weights", RUN, {"auc/edema/best.safetensors": evil_torch(),
           "auc/edema/last.safetensors": evil_torch()}, "safetensors", **NEW),
    broken("predict with damaged weights", RUN, {"warm_start/last.safetensors": cut,
           "warm_start/best.safetensors": cut},
           "safetensors", **NEW),
    broken("predict without weights", RUN, {"warm_start/last.safetensors": None, "warm_start/best.safetensors": None},
           "safetensors", **NEW),
    broken("predict with a foreign calibration", RUN, {"predictions/calibration.json": evil()}, "calibration.json",
           **NEW),
    broken("predict with a calibration of lists", RUN, {"predictions/calibration.json": "[1]"}, "calibration.json",
           **NEW),
    broken("predict with half a calibration", RUN, {"predictions/calibration.json": cut}, "calibration.json", **NEW),
    broken("predict with a foreign blend", RUN, {"predictions/blend.json": evil()}, "blend.json", **NEW),
    broken("predict with a blend of lists", RUN, {"predictions/blend.json": "[1]"}, "blend.json", **NEW),
    broken("predict with a blend of words", RUN, {"predictions/blend.json": '{"Edema": "import os"}'}, "blend.json",
           **NEW),
    broken("predict with a foreign ensemble", RUN, {"ensemble.json": evil()}, "ensemble.json", **NEW),
    broken("predict with an ensemble of lists", RUN, {"ensemble.json": "[1]"}, "ensemble.json", **NEW),
    broken("predict with a foreign stage", RUN, {"warm_start/stage.json": evil()}, "stage.json", **NEW),
    broken("predict with a stage of lists", RUN, {"warm_start/stage.json": "[]"}, "stage.json", **NEW),
    broken("predict with a run that trains", RUN, {"warm_start/stage.json": None}, "resume", **NEW),
    broken("predict with a foreign data.json", RUN, {"data.json": evil()}, "data.json", **NEW),
    broken("predict with a data.json of lists", RUN, {"data.json": "[]"}, "data.json", **NEW),
    broken("predict with a foreign encoding", RUN, {"metadata/encoding.json": "import os"}, "encoding.json", **NEW),
    broken("predict images that are not there", "predict run gone.png --out o.csv", {}, "gone.png"),
    broken("predict an empty folder", "predict run d --out o.csv", {}, "d", d=None),
    broken("predict an unknown column", f"{RUN} --columns zzz", {}, "zzz", **NEW),
    broken("predict an unknown model", f"{RUN} --model zzz", {}, "zzz", **NEW),
    broken("predict a list without images", "predict run --csv t.csv --out o.csv", {}, "t.csv", t_dot_csv="a,b\n1,2\n"),
    broken("export an unknown model", "export run --format safetensors --model zzz", {}, "zzz"),
    broken("export a run with pickles for weights", "export run --format safetensors", {
           "auc/edema/best.safetensors": evil_torch(), "auc/edema/last.safetensors": evil_torch()}, "safetensors"),
    broken("ensemble of one run twice", "ensemble run run --out o", {}, "run"),
    broken("ensemble of a half run", "ensemble run d --out o", {"predictions": None}, "predictions", d=None),
    broken("runs clean without a terminal", "runs clean run", {"auc/edema/next.ckpt": "x"}, "--yes"),
)  # fmt: skip

CASES = (*VERBS, *CONFIGS, *TABLES, *DATASETS, *WEIGHTS, *RUNS)


def lay(root: Path, files: Mapping[str, Content]) -> None:
    """Write ``files`` below ``root``, over what is there."""
    import shutil

    for name, content in files.items():
        path = root / name
        if content is None and path.is_dir():
            shutil.rmtree(path)
        elif content is None and path.exists():
            path.unlink()
        elif content is None:
            if not path.suffix:
                path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content(path.read_bytes()) if callable(content) else content
            path.write_bytes(data.encode() if isinstance(data, str) else data)
