"""Comparisons: paired on the same images, or refused; the numbers are judge's; several seeds; Holm; the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dam import cli
from dam.errors import UserError
from dam.evaluation.auc import roc_auc
from dam.evaluation.judge import judge
from dam.evaluation.predictions import MEAN, Predictions, make_predictions, merge_units, write_predictions
from dam.report.compare import Contestant, compare
from dam.report.compare_files import FILES
from dam.report.compare_seeds import judge_seeds

LABELS = ("A", "B")


def table(seed: int = 0, n: int = 200, lift: float = 1.0, model: str = "auc", noise: int | None = None) -> Predictions:
    """Targets are a function of ``seed``, scores of ``noise``."""
    targets = (np.random.default_rng(seed).random((n, 2)) < 0.3).astype(float)
    shared = np.random.default_rng(seed + 1000).normal(size=(n, 2))
    own = np.random.default_rng(seed + 5000 + (noise or 0)).normal(size=(n, 2))
    scores = {"warm_start": shared, model: shared + 0.5 * own + lift * targets}
    return make_predictions([f"i{i}" for i in range(n)], LABELS, targets, scores, [f"p{i // 2}" for i in range(n)])


def side(name: str, *tables: Predictions, model: str = "auc") -> Contestant:
    return Contestant(name, model, tables, tuple(f"{name}{i}" for i in range(len(tables))))


def subset(whole: Predictions, rows: np.ndarray) -> Predictions:
    return Predictions(
        whole.images[rows], whole.patients[rows], whole.studies[rows], whole.labels, whole.targets[rows],
        {m: s[rows] for m, s in whole.scores.items()},
    )  # fmt: skip


def test_two_runs_are_judged_as_two_models_of_one_table() -> None:
    a, b = table(lift=1.0), table(lift=1.6, noise=1)
    shuffled = subset(b, np.random.default_rng(3).permutation(len(b.images)))  # another order of rows
    found = compare([side("a", a), side("b", shuffled)], "test")
    both = a.with_scores("b", b.scores["auc"]).with_scores("a", a.scores["auc"])
    expected = judge(merge_units(both), [("b", "a")]).comparisons
    assert [(r.label, r.a, r.b) for r in found.rows] == [("A", "b", "a"), ("B", "b", "a"), (MEAN, "b", "a")]
    for ours, theirs in zip(found.rows, expected, strict=True):
        np.testing.assert_allclose(
            [ours.difference, ours.ci_low, ours.ci_high, ours.p_value],
            [theirs.difference, theirs.ci_low, theirs.ci_high, theirs.p_value],
            rtol=1e-9,
        )
    assert found.verdicts[0].word == "helps" and found.units == 200 and found.patients == 100


def test_a_model_against_itself_is_a_tie() -> None:
    found = compare([side("a", table()), side("b", table())], "test")
    assert found.verdicts[0].word == "tie" and found.rows[-1].p_value == 1.0 and found.rows[-1].difference == 0.0


def test_different_images_are_refused_with_counts_or_cut_to_the_common_ones() -> None:
    a = table()
    b = subset(table(noise=1), np.arange(150))
    with pytest.raises(UserError, match=r"150 in both, 50 only in a0, such as i150.*--common"):
        compare([side("a", a), side("b", b)], "test")
    found = compare([side("a", a), side("b", b)], "test", common=True)
    assert found.images == 150 and "compared on the 150 images that all have" in found.notes[0]
    direct = compare([side("a", subset(a, np.arange(150))), side("b", b)], "test")
    assert [r.difference for r in found.rows] == [r.difference for r in direct.rows]
    other = make_predictions(["x", "y"], LABELS, [[1, 0], [0, 1]], {"auc": [[1, 0], [0, 1]]})
    with pytest.raises(UserError, match="none in both") as error:
        compare([side("a", a), side("b", other)], "test")
    assert "--common" not in str(error.value)
    with pytest.raises(UserError, match="no image in common"):
        compare([side("a", a), side("b", other)], "test", common=True)


def test_targets_that_disagree_are_refused_and_unknown_ones_left_out_if_asked() -> None:
    a, b = table(), table(noise=1)
    b.targets[3, 1] = 1 - b.targets[3, 1]
    with pytest.raises(UserError, match="a0 and b0 disagree on 1 targets, such as B of i3"):
        compare([side("a", a), side("b", b)], "test", common=True)
    b = table(noise=1)
    b.targets[5, 0] = np.nan
    with pytest.raises(UserError, match="do not both know 1 targets, such as A of i5"):
        compare([side("a", a), side("b", b)], "test")
    found = compare([side("a", a), side("b", b)], "test", common=True)
    assert "1 targets that not all know were left out" in found.notes


def test_labels_in_common_are_compared_and_the_others_named() -> None:
    a, whole = table(), table(noise=1)
    b = Predictions(whole.images, whole.patients, whole.studies, ("B", "C"), whole.targets[:, [1, 0]],
                    {"auc": whole.scores["auc"][:, [1, 0]]})  # fmt: skip
    found = compare([side("a", a), side("b", b)], "test")
    assert [r.label for r in found.rows] == ["B", MEAN] and "left out: A, C" in found.notes[0]
    with pytest.raises(UserError, match="no label is in all of them"):
        c = Predictions(b.images, b.patients, b.studies, ("C", "D"), b.targets, b.scores)
        compare([side("a", a), side("c", c)], "test")


def test_one_seed_a_side_is_judges_own_test_and_several_average_their_aucs() -> None:
    a = [table(lift=1.0, noise=i) for i in range(3)]
    b = [table(lift=1.5, noise=10 + i) for i in range(3)]
    whole = a[0]
    columns: dict[str, list[str]] = {"a": [], "b": []}
    for name, several in (("a", a), ("b", b)):
        for i, one in enumerate(several):
            whole = whole.with_scores(f"{name}{i}", one.scores["auc"])
            columns[name].append(f"{name}{i}")
    units = merge_units(whole)
    single = judge_seeds(units, {"a": ["a0"], "b": ["b0"]}, [("b", "a")]).comparisons
    expected = judge(units, [("b0", "a0")]).comparisons
    for ours, theirs in zip(single, expected, strict=True):
        np.testing.assert_allclose(
            [ours.difference, ours.ci_low, ours.ci_high, ours.p_value, ours.se],
            [theirs.difference, theirs.ci_low, theirs.ci_high, theirs.p_value, theirs.se],
            rtol=1e-9,
        )
    found = compare([side("a", *a), side("b", *b)], "test")
    y = whole.targets
    means = {
        name: [np.mean([roc_auc(y[:, k], t.scores["auc"][:, k]) for k in range(2)]) for t in several]
        for name, several in (("a", a), ("b", b))
    }
    row = found.rows[-1]
    assert row.difference == pytest.approx(np.mean(means["b"]) - np.mean(means["a"]), abs=1e-12)
    spread = found.spread[1]
    assert (spread.seeds, spread.sd) == (3, pytest.approx(np.std(means["b"], ddof=1)))
    verdict = found.verdicts[0]
    assert verdict.seeds == 3 and verdict.seeds_sd == pytest.approx(np.std(np.subtract(means["b"], means["a"]), ddof=1))
    with pytest.raises(UserError, match=r"as many seeds as the others .*\(a 3, b 2\)"):
        compare([side("a", *a), side("b", *b[:2])], "test")


def test_several_against_the_first_are_adjusted_and_a_lucky_one_is_a_tie() -> None:
    rng = np.random.default_rng(7)
    a = table(n=400)
    others = []
    for i in range(8):
        whole = table(n=400)
        others.append(side(f"o{i}", whole.with_scores("auc", whole.scores["auc"] + 0.25 * rng.normal(size=(400, 2)))))
    found = compare([side("a", a), *others], "test")
    means = [r for r in found.rows if r.label == MEAN]
    assert len(means) == 8 and all(r.p_holm >= r.p_value for r in means)
    for verdict, row in zip(found.verdicts, means, strict=True):
        assert verdict.word == "tie" or row.p_holm < 0.05
        if row.p_value < 0.05 <= row.p_holm:
            assert "after Holm's adjustment over 8 comparisons" in verdict.text


# ---------------------------------------------------------------- the command


def a_run(folder: Path, predictions: Predictions, seed: int = 0) -> Path:
    (folder / "predictions").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"seed: {seed}\ndata: {{unit: patient, merge: mean}}\n")
    write_predictions(folder / "predictions" / "test.csv", predictions)
    return folder


def test_the_command_compares_runs_writes_files_and_says_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = a_run(tmp_path / "a", table()), a_run(tmp_path / "b", table(lift=1.6, noise=1))
    out = tmp_path / "out"
    assert cli.main(["compare", str(a), str(b), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "verdict: b against a: helps" in shown and "100 patients (mean score of 200 images)" in shown
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    rows = list(csv.DictReader((out / "compare.csv").open()))
    content = json.loads((out / "compare.json").read_text())
    assert [r["label"] for r in rows] == ["A", "B", "mean"] and content["verdicts"][0]["word"] == "helps"
    assert float(rows[0]["difference"]) == pytest.approx(float(rows[0]["auc_a"]) - float(rows[0]["auc_b"]))
    assert "differences.png" in (out / "compare.md").read_text()
    assert cli.main(["compare", str(a), str(b), "--out", str(out), "--unit", "image"]) == 0  # its own files
    assert "200 images" in capsys.readouterr().out
    assert cli.main(["compare", str(a), str(a), "--model", "warm_start", "--model", "auc"]) == 0
    assert "a auc against a warm_start" in capsys.readouterr().out
    group = f"{a},{b}"
    assert cli.main(["compare", group, group]) == 0
    shown = capsys.readouterr()
    assert "SD over seeds" in shown.out and "do not all have different seeds (0, 0)" in shown.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{a}"], "two models of one run: dam compare"),
        ([], "see `dam compare --help`"),
        (["{a}", "{t}/none"], "there is no run or file"),
        (["{a}", "{t}"], "is no run directory"),
        (["{a}", "{b}", "--model", "acu"], "has no model acu; it has warm_start, auc"),
        (["{a}", "{b}", "--model", "auc", "--model", "ce", "--model", "ce"], "--model is given 3 times for 2 sides"),
        (["{a}", "{b}", "--split", "val"], "has no predictions/val.csv; it has test"),
        (["{a}", "{b}", "--interval", "logistic"], "evaluation.interval must be one of auto"),
        (["{a}", "{b}", "--out", "{a}"], "which is no comparison's"),
        (["{a}", "{b}", "--comon"], "did you mean --common?"),
        (["{a},{b}", "{b},{a}", "--interval", "bootstrap"], "not offered for several seeds"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = a_run(tmp_path / "a", table()), a_run(tmp_path / "b", table(noise=1))
    assert cli.main(["compare", *(w.format(a=a, b=b, t=tmp_path) for w in words)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_files_of_other_tools_are_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = table()
    write_predictions(tmp_path / "ours.csv", whole)
    lines = ["file,A,B,A_p,B_p"]
    for i, image in enumerate(whole.images):
        p = 1 / (1 + np.exp(-whole.scores["auc"][i]))
        lines.append(f"{image},{whole.targets[i, 0]:.0f},{whole.targets[i, 1]:.0f},{p[0].item()!r},{p[1].item()!r}")
    (tmp_path / "theirs.csv").write_text("\n".join(lines) + "\n")
    assert cli.main(["compare", str(tmp_path / "ours.csv"), str(tmp_path / "theirs.csv")]) == 0
    shown = capsys.readouterr().out
    assert "theirs.csv: wide form, 2 labels" in shown and "theirs against ours: tie" in shown
