"""A whole run of all folds: resumed, joined, opened again, and what folds that differ leave."""

from __future__ import annotations

import csv
import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import contents, tiny

from dam import cli, report
from dam.config import Config
from dam.errors import UserError
from dam.evaluation.predictions import Predictions, make_predictions, read_predictions
from dam.inference.run import load_run
from dam.training import crossval, outoffold, run as run_module, single
from dam.training.single import RunResult
from dam.training.stage import Stage

FOLDS = ("data.folds=2", "data.fold=all", "data.labels=[Edema]", "control=ce", "metadata=mlp", "warm_start.steps=4",
         "metadata.columns=[age,sex]", "metadata.epochs=0.5", "tta=2", "auc.steps=3",
         "data.test_fraction=0.3")  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAM_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setattr(report, "build_report", partial(report.build_report, figures=False))  # they take seconds a run
        assert run_module.start(tiny(path, *FOLDS), ["dam", "train"]).exit_code == 0
        yield path


def all_contents(run: Path) -> dict[str, bytes]:
    inner = {f"{f.name}/{name}": data for f in sorted(run.glob("fold_*")) for name, data in contents(f).items()}
    stages = {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("stage.json")}
    return contents(run) | inner | stages


def test_outer_predictions_are_out_of_fold_and_the_mean_of_the_folds(whole: Path) -> None:
    parts = [{split: read_predictions(whole / f"fold_{k}" / "predictions" / f"{split}.csv")
              for split in ("val", "test")} for k in range(2)]  # fmt: skip
    val, test = (read_predictions(whole / "predictions" / f"{split}.csv") for split in ("val", "test"))
    assert len(val.images) == sum(len(part["val"].images) for part in parts) == len(set(val.images))
    columns = {"warm_start", "auc", "ce", "warm_start_tta", "auc_tta", "ce_tta", "metadata", "metadata_ce",
               "auc_meta", "ce_meta", "auc_tta_meta", "ce_tta_meta"}  # fmt: skip
    assert columns <= set(val.models) and columns <= set(test.models)
    for part in parts:
        place = [list(val.images).index(image) for image in part["val"].images]
        for model in columns:
            assert np.array_equal(val.scores[model][place], part["val"].scores[model])
    for model in columns:
        assert np.allclose(test.scores[model], np.mean([part["test"].scores[model] for part in parts], axis=0))
    images = pd.read_csv(whole / "predictions" / "images.csv")
    assert set(images["fold"].dropna().astype(int)) == {0, 1}
    patients = images[images["split"] == "train"].groupby("patient")["fold"].nunique()
    assert patients.max() == 1


def test_the_outer_run_tells_the_spread_over_the_folds(whole: Path) -> None:
    with open(whole / "predictions" / "folds.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["split", "fold", "label", "model", "auc"]
    mine = [float(r["auc"]) for r in rows if (r["split"], r["label"], r["model"]) == ("test", "Edema", "auc")]
    assert len(mine) == 2
    means = [float(r["auc"]) for r in rows if (r["split"], r["label"], r["model"]) == ("test", "mean", "auc")]
    assert means == mine, "of one label"
    table = (whole / "report" / "table.txt").read_text()
    assert "AUC of the 2 folds on test, mean (standard deviation)" in table
    assert f"{np.mean(mine):.3f} ({np.std(mine, ddof=1):.3f})" in table
    for fold in range(2):
        assert json.loads((whole / f"fold_{fold}" / "progress.json").read_text())["state"] == "done"
        assert f"fold: {fold}" in (whole / f"fold_{fold}" / "config.yaml").read_text()
    assert run_module.resume(whole, [], ["dam"]).table.startswith(table.splitlines()[0])


def test_killed_in_every_fold_and_resumed_is_bit_identical(whole: Path, tmp_path: Path, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    after_step, train, run = Stage._after_step, single.train, tmp_path / "run"

    def kill_at(fold: int, stage: str, step: int) -> None:
        def killed(self: Stage, images: int) -> None:
            after_step(self, images)
            if (self.cfg.data.fold, self.spec.name, self.step) == (fold, stage, step):
                raise Killed

        monkeypatch.setattr(Stage, "_after_step", killed)

    def killed_after(cfg: Config, *rest: object) -> RunResult:
        result = train(cfg, *rest)
        (run / "fold_1").mkdir()  # and while the next one's directory was made
        (run / "fold_1" / ".lock").touch()
        return result if cfg.data.fold else (_ for _ in ()).throw(Killed)  # type: ignore[attr-defined]

    kill_at(0, "warm_start", 3)
    with pytest.raises(Killed):
        run_module.start(tiny(run, *FOLDS), ["dam", "train"])
    monkeypatch.setattr(single, "train", killed_after)
    with pytest.raises(Killed):
        run_module.resume(run, [], ["dam"])
    monkeypatch.setattr(single, "train", train)
    for stage, step in (("control/edema", 1), ("metadata/auc/edema", 2)):
        kill_at(1, stage, step)
        with pytest.raises(Killed):
            run_module.resume(run, [], ["dam"])
    with pytest.raises(UserError, match=r"auc.steps cannot change on resume: fold_0/auc/edema has already ended"):
        run_module.resume(run, ["auc.steps=9"], ["dam"])
    assert run_module.resume(run, ["workers=2"], ["dam"]).exit_code == 0
    assert all_contents(run) == all_contents(whole)
    stores = [path for path in Path(os.environ["DAM_STORE"]).glob("images-*") if path.is_dir()]
    assert len(stores) == 1, "the image store is built once"


def test_asked_to_stop_it_names_the_outer_run(whole: Path, tmp_path: Path, monkeypatch) -> None:
    after_step = Stage._after_step

    def stopping(self: Stage, images: int) -> None:
        self.tools.stop.requested = self.step == 1
        after_step(self, images)

    monkeypatch.setattr(Stage, "_after_step", stopping)
    result = run_module.start(tiny(tmp_path / "run", *FOLDS), ["dam"])
    assert result.exit_code == 130 and result.table.endswith(f"dam train resume={tmp_path / 'run'}")
    for folder in (tmp_path / "run", tmp_path / "run" / "fold_0"):
        assert json.loads((folder / "progress.json").read_text())["state"] == "interrupted"
    assert not (tmp_path / "run" / "fold_1").exists()


def test_one_fold_alone_is_the_fold_of_the_outer_run(whole: Path, tmp_path: Path) -> None:
    words = [word for word in FOLDS if word != "data.fold=all"]
    run_module.start(tiny(tmp_path / "run", *words, "data.fold=1"), ["dam"])
    assert contents(tmp_path / "run") == contents(whole / "fold_1")


def test_a_warm_start_from_an_outer_run_is_its_folds(whole: Path, tmp_path: Path) -> None:
    words = (f"warm_start.run={whole}", "metadata=none", "tta=0", "control=none", "auc.labels=[Edema]", "auc.steps=2")
    run_module.start(tiny(tmp_path / "run", *FOLDS[:3], *words), ["dam"])
    for fold in range(2):
        facts = json.loads((tmp_path / "run" / f"fold_{fold}" / "warm_start" / "stage.json").read_text())
        assert facts["taken_from"] == str(whole / f"fold_{fold}")


def test_dry_run_and_debug_of_all_folds(whole: Path, tmp_path: Path) -> None:
    told = run_module.start(tiny(tmp_path / "run", *FOLDS, "dry_run=true"), ["dam"]).table
    for words in (
        "2 folds in one run directory",
        "for all folds",
        "tta: 2 augmented copies",
        "averaged, at most",
        "metadata/control/edema",
    ):
        assert words in told
    assert not (tmp_path / "run").exists()
    words = ("metadata=none", "tta=0", "control=none", "auc=none", "debug=overfit", "limit_batches=3")
    assert run_module.start(tiny(tmp_path / "over", *FOLDS[:3], *words), ["dam"]).exit_code == 0
    assert json.loads((tmp_path / "over" / "fold_1" / "warm_start" / "stage.json").read_text())["steps"] == 3
    assert len(read_predictions(tmp_path / "over" / "fold_1" / "predictions" / "val.csv").images) == 16, "one batch"


# ---------------------------------------------------------------- where folds differ


def predictions_of(blend: list[float], auc: float, images: str = "ab") -> Predictions:
    """Two labels, of which a blend may have only some."""
    scores = {"auc": np.full((2, 2), auc), "blend": np.tile(blend, (2, 1))}
    return make_predictions(list(images), ("A", "B"), np.eye(2), scores)


def test_a_blend_that_a_fold_lacks_is_left_out_and_takes_no_label_from_the_others() -> None:
    tables = [predictions_of([np.nan, 1.0], 1.0), predictions_of([3.0, 1.0], 3.0)]
    merged = outoffold._mean(tables)
    assert merged.models == ("auc",) and (merged.scores["auc"] == 2).all()
    assert outoffold._out_of_fold([tables[0], predictions_of([3.0, 1.0], 3.0, "cd")]).models == ("auc",)
    both = outoffold._mean([tables[0], tables[0]])
    assert both.models == ("auc", "blend") and np.isnan(both.scores["blend"][:, 0]).all()


def test_the_mean_of_a_fold_is_over_the_labels_of_every_model() -> None:
    known = {("warm_start", "A"): [0.6, 0.7], ("warm_start", "B"): [0.8, 0.9], ("auc", "A"): [0.5, 0.6],
             ("blend", "A"): [0.9, None]}  # fmt: skip
    rows = [{"split": "val", "fold": fold, "label": label, "model": model, "auc": "" if auc is None else str(auc)}
            for (model, label), aucs in known.items() for fold, auc in enumerate(aucs)]  # fmt: skip
    means = {(row["model"], row["fold"]): float(row["auc"]) for row in outoffold._mean_rows(rows)}
    assert means == {("warm_start", 0): 0.6, ("warm_start", 1): 0.7, ("auc", 0): 0.5, ("auc", 1): 0.6}
    undefined = [row | {"auc": ""} if (row["label"], row["fold"]) == ("A", 1) else row for row in rows]
    assert outoffold._mean_rows(undefined[:4]) == [
        {"split": "val", "fold": k, "label": "mean", "model": "warm_start", "auc": auc}
        for k, auc in enumerate(["0.8", "0.9"])
    ], "a label that one fold cannot judge counts for no model"


def test_the_command_report_keeps_the_table_of_the_folds(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    before = (copy / "report" / "table.txt").read_text()
    assert cli.main(["report", str(copy), "--no-figures"]) == 0
    assert (copy / "report" / "table.txt").read_text() == before.replace(str(whole), str(copy))


def test_the_folds_opened_again_give_the_outer_predictions(whole: Path) -> None:
    run = load_run(whole, device="cpu")
    cfg = tiny(whole, *FOLDS)
    device, table = crossval.checked(cfg)
    inputs = single.inputs_of(cfg, table, device)
    rows = inputs.splits["test"]
    test, scores = read_predictions(whole / "predictions" / "test.csv"), run.logits(inputs, rows)
    assert list(inputs.table.frame["image"].to_numpy()[rows]) == list(test.images)
    assert len(run.folds) == 2 and run.metadata_columns == ("age", "sex")
    assert set(test.models) <= set(scores)
    for model in test.models:
        assert np.allclose(scores[model], test.scores[model], atol=1e-6), model
