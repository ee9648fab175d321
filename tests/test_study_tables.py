"""A study's tables against hand computation, the papers' numbers against a second transcription."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, ndtri

from dam.evaluation.bootstrap import Draws
from dam.evaluation.predictions import Units
from dam.report.compare_seeds import judge_seeds
from dam.studies import covid_trust, dam_benchmarks, two_stage_chexpert
from dam.studies.binary import judge_arms
from dam.studies.measures import RATIOS, REPLICATES, SEED, Arm, judge_result
from dam.studies.paired import Paired, adjusted, compare, over_folds
from dam.studies.report import write_report
from dam.studies.results import Result, Results
from dam.studies.study import Cell, Study
from dam.studies.tables import beside_paper, spread
from dam.studies.words import Size, details, paragraph

# The shared vector of the evaluation tests: targets, scores, patient of each image (patient 4 has both classes).
Y = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=float)
A = np.array([0.9, 0.8, 0.8, 0.55, 0.3, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1, 0.05])
B = np.array([0.7, 0.9, 0.4, 0.6, 0.2, 0.65, 0.5, 0.3, 0.35, 0.25, 0.1, 0.15])
G = np.array([1, 1, 2, 3, 4, 4, 4, 5, 6, 6, 7, 7]) - 1


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


def units(arm: str, scores: np.ndarray, targets: np.ndarray = Y, patients: np.ndarray = G) -> Units:
    return Units("image", "mean", ("COVID-19",), patients, targets[:, None], {arm: scores[:, None]}, len(targets))


def result(arm: str, fold: int, scores: np.ndarray, threshold: float) -> Result:
    val = units(arm, logit(A))
    return Result(arm, f"fold {fold}", val, units(arm, scores), {"COVID-19": threshold}, "same")


def results_of(*found: Result, study: Study = covid_trust.STUDY) -> Results:
    cells = study.cells({"supervised": "a", "self_supervised": "b", "folds": "2"})
    return Results(study, tuple(cells), tuple(cell.name for cell in cells[: len(found)]), tuple(found))


# ---------------------------------------------------------------- the papers' numbers, transcribed a second time

COVID = """
supervised, CE | .8960 +- 1.6 % | .9956 +- .4 % | .9960 +- .3 % | .8840 +- 2.1 % | .929 +- .9 %
self-supervised, CE | .9295 +- 1.6 % | .9978 +- .4 % | .9980 +- .4 % | .9240 +- 1.9 % | .879 +- 1.4 %
supervised, AUC | .9134 +- 1.4 % | 1.000 | 1.000 | .9050 +- 1.7 % | .938 +- 1.0 %
self-supervised, AUC | .9251 +- .6 % | 1.000 | 1.000 | .9190 +- .7 % | .937 +- 1.0 %
"""
TABLE_1 = """
Cat&Dog D | .718 +- .018 | .713 +- .009 | .803 +- .018 | .809 +- .016
CIFAR-10 D | .698 +- .017 | .700 +- .007 | .745 +- .010 | .760 +- .006
STL-10 D | .641 +- .032 | .660 +- .027 | .669 +- .070 | .703 +- .030
CIFAR-100 D | .588 +- .011 | .591 +- .017 | .607 +- .010 | .614 +- .016
Cat&Dog R | .730 +- .028 | .724 +- .020 | .748 +- .007 | .756 +- .017
CIFAR-10 R | .690 +- .011 | .681 +- .011 | .702 +- .015 | .715 +- .008
STL-10 R | .641 +- .021 | .634 +- .024 | .645 +- .029 | .659 +- .020
CIFAR-100 R | .563 +- .015 | .565 +- .022 | .587 +- .017 | .596 +- .016
"""


def numbers(text: str) -> dict[str, list[tuple[float, float | None]]]:
    rows = {}
    for line in text.strip().splitlines():
        name, *cells = [part.strip() for part in line.split("|")]
        rows[name] = []
        for cell in cells:
            mean, _, sd = cell.partition("+-")
            scale = 0.01 if "%" in sd else 1
            rows[name].append((float(mean), round(float(sd.strip(" %")) * scale, 6) if sd else None))
    return rows


def test_the_papers_numbers() -> None:
    measures = ("precision_negative", "precision_positive", "sensitivity_negative", "sensitivity_positive",
                "trust_positive")  # fmt: skip
    found = covid_trust.STUDY.references
    for arm, cells in numbers(COVID).items():
        assert [(found[m][arm].mean, found[m][arm].sd) for m in measures] == cells
    assert set(found) == set(measures) and all(len(rows) == 4 for rows in found.values())
    table = dam_benchmarks.STUDY.references["auc"]
    for row, cells in numbers(TABLE_1).items():
        losses = ("CE", "Focal", "AUC-S", "AUC-M")
        assert [(table[f"{row}, {loss}"].mean, table[f"{row}, {loss}"].sd) for loss in losses] == cells
    assert len(table) == 32
    backbones = {name: (ref.mean, ref.sd) for name, ref in two_stage_chexpert.STUDY.references["auc"].items()}
    assert backbones == {
        "ConvNeXt, CE": (0.877, None), "ConvNeXt, deep AUC": (0.8943, None),
        "DenseNet169, CE": (0.876, None), "DenseNet169, deep AUC": (0.9035, None),
        "Swin, CE": (0.878, None), "Swin, deep AUC": (0.9003, None), "DaViT, deep AUC": (0.8995, None),
    }  # fmt: skip


@pytest.mark.parametrize("study", [covid_trust.STUDY, dam_benchmarks.STUDY, two_stage_chexpert.STUDY])
def test_every_reference_is_of_a_row_and_every_cell_composes(study: Study) -> None:
    from dam.compose import compose

    values = {key.name: key.default or "timm" for key in study.keys}
    cells = study.cells(values)
    arms = {arm for cell in cells for arm in cell.arms}
    assert len({cell.name for cell in cells}) == len(cells)
    known = {arm for rows in study.references.values() for arm in rows}
    assert arms <= known | {"DaViT, CE"}
    for cell in {frozenset(cell.arms): cell for cell in cells}.values():
        cfg = compose([*cell.words, "data.root=/x"])
        column = {"auc_margin": "auc", "auc_square": "auc"}.get(cfg.auc.loss.name, cfg.auc.loss.name) if cfg.auc else ""
        assert column in cell.arms.values()
    if study.name == "dam_benchmarks":
        losses = [compose([*cell.words, "data.root=/x"]).auc for cell in cells[::5]]
        assert [part.loss.name for part in losses if part] == ["ce", "focal", "auc_square", "auc_margin"]
        assert {(p.epochs, p.optimizer.lr, p.optimizer.weight_decay, p.schedule.name) for p in losses if p} == {
            (100, 0.1, 1e-4, "step")
        }


# ---------------------------------------------------------------- one arm


def test_measures_by_hand() -> None:
    judged = judge_result(result("x", 0, logit(A), float(logit(np.array([0.5]))[0])), 7)
    found = judged.values
    # at .5: TP 4 (.9 .8 .8 .55), FN 1 (.3), FP 3 (.8 .5 .5), TN 4
    assert (found["tp"], found["fp"], found["fn"], found["tn"]) == (4, 3, 1, 4)
    assert found["sensitivity_positive"] == pytest.approx(4 / 5)
    assert found["sensitivity_negative"] == pytest.approx(4 / 7)
    assert found["precision_positive"] == pytest.approx(4 / 7)
    assert found["precision_negative"] == pytest.approx(4 / 5)
    assert found["trust_positive"] == pytest.approx(0.67) and found["trust_negative"] == pytest.approx(0.65)
    assert found["brier"] == pytest.approx(0.172083333333)
    assert found["auc"] == pytest.approx(0.842857142857143)
    # Platt on the same twelve as "validation": the smoothed fit of the evaluation tests
    slope, intercept = 0.66270794, -0.3087655
    p = expit(slope * logit(A) + intercept)
    assert found["trust_positive_calibrated"] == pytest.approx(p[:5].mean(), abs=1e-7)
    assert found["brier_calibrated"] == pytest.approx(np.mean((p - Y) ** 2), abs=1e-7)
    assert found["sensitivity_positive_calibrated"] == found["sensitivity_positive"]


def test_without_a_stored_threshold_validation_gives_the_one_of_largest_f1() -> None:
    bare = replace(result("x", 0, logit(A), 0.0), thresholds={}, val=units("x", logit(1 - B), 1 - Y))
    # at .35 all seven positives and three negatives are called: F1 14/17 is the largest; Youden's index is so at .65
    assert judge_result(bare, 7).threshold == pytest.approx(logit(np.array([0.35]))[0])


def two_folds() -> Arm:
    half = float(logit(np.array([0.5]))[0])
    rows = [result("supervised, CE", 0, logit(A), half), result("supervised, CE", 1, logit(B), half)]
    return judge_arms(results_of(*rows))["supervised, CE"]


def test_mean_and_standard_deviation_over_folds() -> None:
    arm = two_folds()
    a, b = 0.842857142857143, 0.771428571428571
    assert arm.mean("auc") == pytest.approx((a + b) / 2)
    assert arm.sd("auc") == pytest.approx((a - b) / math.sqrt(2))
    # fold 1 at .5: positives .7 .9 .6 called of five, negatives .65 .5 called of seven
    assert arm.mean("sensitivity_positive") == pytest.approx((4 / 5 + 3 / 5) / 2)
    assert arm.mean("precision_positive") == pytest.approx((4 / 7 + 3 / 5) / 2)
    # no negative is called at a threshold below all scores: that fold has no precision of negatives, and is not counted
    rows = [result("supervised, CE", k, logit(A), threshold) for k, threshold in enumerate((-9.0, 0.0))]
    found = judge_arms(results_of(*rows))
    table, _ = beside_paper("T", ("supervised, CE",), found, ("precision_negative",), {})
    assert table.rows[0][1:3] == ("2", ".800 (1 fold)")
    assert spread(0.8960, 0.016) == ".896 ± .016" and spread(1.0, None) == "1.000"


def test_the_patient_bootstrap_is_that_of_repeated_rows() -> None:
    arm = two_folds()
    weights = np.concatenate(list(Draws(7, REPLICATES, SEED).weights()), axis=1)
    for r in (0, 1, 17, REPLICATES - 1):
        rows = np.repeat(np.arange(12), weights[G, r].astype(int))
        values = []
        for scores in (A, B):
            y, called = Y[rows], scores[rows] >= 0.5
            with np.errstate(invalid="ignore"):
                values.append({
                    "sensitivity_positive": called[y == 1].mean() if (y == 1).any() else math.nan,
                    "precision_negative": (y[~called] == 0).mean() if (~called).any() else math.nan,
                    "brier": np.mean((scores[rows] - y) ** 2),
                })  # fmt: skip
        for name in values[0]:
            expected = (values[0][name] + values[1][name]) / 2
            assert arm.resampled[name][r] == pytest.approx(expected, nan_ok=True), name
    low, high, method = vars(arm.interval("trust_positive")).values()
    assert (low, high) == pytest.approx(tuple(np.nanquantile(arm.resampled["trust_positive"], [0.025, 0.975])))
    assert "patient bootstrap, 2000 replicates" in method
    assert set(RATIOS) <= set(arm.resampled)


# ---------------------------------------------------------------- two arms


def arms_of(a: np.ndarray, b: np.ndarray) -> tuple[Arm, Arm]:
    rows = [result("supervised, AUC", 0, a, 0.0), result("supervised, CE", 0, b, 0.0)]
    found = judge_arms(results_of(*rows))
    return found["supervised, AUC"], found["supervised, CE"]


def test_the_aucs_difference_is_the_clustered_delong_test() -> None:
    row = compare(*arms_of(logit(A), logit(B)), "auc", 0.25)
    assert row.difference == pytest.approx(0.0714285714286)
    se = row.detectable / (ndtri(0.975) + ndtri(0.8))
    assert se == pytest.approx(0.0830489386, abs=1e-9)
    assert row.p_value == pytest.approx(2 * stats.t.sf(0.0714285714286 / se, 3))  # 4 patients of each class
    assert math.isnan(row.fold_low) and row.folds == 1 and row.word == "tie"


def test_the_mean_over_folds_is_compared_as_dam_compare_does() -> None:
    rng = np.random.default_rng(3)
    scores = {("a", 0): A, ("a", 1): A + rng.normal(0, 0.2, 12), ("b", 0): B, ("b", 1): B + rng.normal(0, 0.2, 12)}
    names = {"a": "supervised, AUC", "b": "supervised, CE"}
    found = judge_arms(results_of(*(result(names[s], k, v, 0.0) for (s, k), v in scores.items())))
    row = compare(found[names["a"]], found[names["b"]], "auc", 1.0)
    table = replace(units("x", A), scores={f"{s}{k}": v[:, None] for (s, k), v in scores.items()})
    theirs = judge_seeds(table, {"a": ["a0", "a1"], "b": ["b0", "b1"]}, [("a", "b")]).comparisons[0]
    ours = (row.difference, row.low, row.high, row.p_value)
    assert ours == pytest.approx((theirs.difference, theirs.ci_low, theirs.ci_high, theirs.p_value))


def test_the_paired_bootstrap_draws_the_same_patients_for_both() -> None:
    a, b = arms_of(logit(A), logit(B))
    row = compare(a, b, "trust_positive", 0.25, dict(covid_trust.STUDY.references["trust_positive"]))
    assert row.difference == pytest.approx(A[:5].mean() - B[:5].mean())
    drawn = a.resampled["trust_positive"] - b.resampled["trust_positive"]
    assert (row.low, row.high) == pytest.approx(tuple(np.nanquantile(drawn, [0.025, 0.975])))
    assert row.paper == pytest.approx(0.938 - 0.929)
    same = compare(a, a, "sensitivity_positive", 0.25)
    assert (same.difference, same.p_value, same.word) == (0, 1, "tie")
    assert math.isnan(same.low) and math.isnan(same.high)  # agreement on these cases is no interval around 0


def test_a_rate_of_one_has_an_exact_interval_over_patients() -> None:
    low = float(logit(np.array([0.2]))[0])  # every positive is called
    rows = [result("supervised, CE", fold, logit(A), low) for fold in (0, 1)]
    arm = judge_arms(results_of(*rows))["supervised, CE"]
    assert arm.mean("sensitivity_positive") == 1
    found = arm.interval("sensitivity_positive")
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 4)), 1)  # 5 positives of 4 patients
    assert found.method == "exact (Clopper-Pearson), 4 patients"
    negatives = arm.interval("precision_negative")  # called negative: .1 and .05, both of patient 7
    assert (negatives.low, negatives.high) == (pytest.approx(0.025), 1)


def test_the_corrected_t_over_folds() -> None:
    d = [0.02, 0.05, 0.03, 0.06, 0.04]  # mean .04, variance .00025
    found = over_folds(d, 1 / 4)
    se = math.sqrt(0.00025 * (1 / 5 + 1 / 4))
    assert (found.difference, found.se) == (pytest.approx(0.04), pytest.approx(se))
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.04 / se, 4))
    half = stats.t.ppf(0.975, 4) * se
    assert (found.low, found.high) == pytest.approx((0.04 - half, 0.04 + half))
    assert over_folds(d, 0.0).p_value == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert math.isnan(over_folds([0.1], 0.25).low)
    alike = over_folds([0.0, 0.0], 1.0)
    assert math.isnan(alike.low) and alike.p_value == 1 and math.isnan(over_folds([0.1, 0.1], 1.0).p_value)


def row_of(low: float, fold_low: float, p: float = 0.001, paper: float = 0.1, **more: str) -> Paired:
    values = {"measure": "trust_positive", "a": "supervised, AUC", "b": "supervised, CE", **more}
    return Paired(
        values["measure"], values["a"], values["b"], low + 0.1, low, low + 0.2, p, p, "test", 5,
        fold_low, fold_low + 0.2, 0.01, paper, 0.05,
    )  # fmt: skip


def test_a_difference_holds_only_over_patients_and_over_folds_and_after_holm() -> None:
    assert row_of(0.01, 0.01).word == "higher" and row_of(0.01, 0.01).as_paper
    assert row_of(-0.3, -0.3).word == "lower" and not row_of(-0.3, -0.3).as_paper
    assert row_of(-0.3, -0.3, paper=-0.1).as_paper and not row_of(0.01, 0.01, paper=-0.1).as_paper
    for undecided in (row_of(-0.01, 0.01), row_of(0.01, -0.01), row_of(0.01, 0.01, p=0.06), row_of(0.01, math.nan)):
        assert undecided.word == "tie"
    family = adjusted([row_of(0.01, 0.01, p=0.03), row_of(0.01, 0.01, p=0.02), row_of(0.01, 0.01, p=math.nan)])
    assert [row.p_holm for row in family] == pytest.approx([0.04, 0.04, math.nan], nan_ok=True)


# ---------------------------------------------------------------- words and files


def test_the_paragraph_counts_and_claims_nothing_that_is_undecided() -> None:
    size = Size(70, 49, 55, 38, 15, 11)
    undecided, certain = row_of(-0.01, -0.01, measure="auc"), row_of(0.01, 0.01)
    against = row_of(-0.3, -0.3, measure="precision_negative")
    small = replace(row_of(-0.05, -0.05, measure="sensitivity_negative"), paper=0.004)
    even = replace(row_of(-0.05, -0.05, measure="precision_positive"), paper=0.0)
    text = paragraph(size, [undecided], [certain, against, small, even], [certain, undecided])
    assert "70 images of 49 patients, 15 of them negative (11 patients)" in text
    assert "Of 1 difference of AUC, none holds; all are undecided" in text and "shown .050 (80 % power)" in text
    assert "Of the 3 differences" in text
    assert "1 (trust of positives, supervised AUC against supervised CE) holds on the paper's side" in text
    assert "1 (precision of negatives, supervised AUC against supervised CE) holds on the other" in text
    assert "and 1 cannot be decided" in text
    assert "calibration on validation leaves none: the rest, as far as this test set can tell, is the scale" in text
    kept = paragraph(size, [replace(certain, measure="auc")], [], [certain, certain])
    assert "supervised AUC against supervised CE holds (+.110 [+.010, +.210])." in kept and "leaves 1." in kept
    open_ = replace(undecided, difference=math.nan, folds=0)
    assert "holds, none can be compared after calibration." in paragraph(size, [], [], [certain, open_])
    fewer = paragraph(size, [], [], [certain, open_, certain, replace(undecided, folds=2)])
    assert fewer.endswith("(down to 2 folds where both rows could be calibrated); 1 cannot be compared so.")
    quiet = paragraph(size, [undecided], [undecided, small], [undecided, undecided])
    assert "none holds on the paper's side" in quiet and "calibration" not in quiet


def test_the_paragraph_is_short_and_the_list_below_it_has_the_numbers() -> None:
    undecided, certain = row_of(-0.01, -0.01, measure="auc"), row_of(0.01, 0.01)
    small = replace(row_of(-0.05, -0.05, measure="sensitivity_negative"), paper=0.004)
    numbers = (Size(70, 49, 55, 38, 15, 11), [undecided] * 4, [certain, small] * 9, [certain, undecided] * 4)
    assert len(paragraph(*numbers[:2], [small] * 18, numbers[3]).split()) < 120
    listed = details(*numbers)
    assert len(listed) == 4 + 4 + 2
    assert "supervised AUC against supervised CE: +.090 [-.010, +.190] over patients" in listed[0]
    assert listed[0].endswith("undecided; these patients could have shown .050 (80 % power).")
    assert listed[4].endswith("after calibration on validation: undecided once calibrated.")
    assert "55 positives of 38 patients and 15 negatives of 11 patients" in listed[8]
    assert "by .067 and of the positives by .018; 9 of the paper's differences of sensitivity" in listed[9]


def test_rows_without_a_cell_are_dashes_beside_the_papers_number() -> None:
    arm = two_folds()
    names = ("supervised, CE", "self-supervised, CE")
    table, rows = beside_paper(
        "Table 4: trust of positives", names, {arm.name: arm}, ("trust_positive",), covid_trust.STUDY.references
    )
    assert table.file == "table_4.csv" and table.rows[1] == ("self-supervised, CE", "0", "–", "–", ".879 ± .014")
    trust = (A[:5].mean() + B[:5].mean()) / 2
    assert table.rows[0][2].startswith(f"{trust:.3f}"[1:]) and table.rows[0][4] == ".929 ± .009"
    assert rows[0]["mean"] == pytest.approx(trust) and rows[0]["paper_sd"] == 0.009 and rows[1]["replicates"] == 0


def full_matrix() -> Results:
    rng = np.random.default_rng(0)
    rows = [
        result(arm, fold, logit(A) + rng.normal(0, 0.5, 12), 0.0)
        for arm in dict.fromkeys(covid_trust.ROWS.values())
        for fold in (0, 1)
    ]
    return results_of(*rows)


def test_the_report_holds_tables_figures_and_the_papers_numbers(tmp_path: Path) -> None:
    lines = write_report(full_matrix(), tmp_path, ["dam", "study", "covid_trust"])
    text = (tmp_path / "report" / "study.md").read_text(encoding="utf-8")
    for caption in ("Table 2: precision", "Table 3: sensitivity", "Table 4: trust of positives"):
        assert caption in text
    assert ".879 ± .014" in text and "What holds at this sample size" in text
    assert "not the whole matrix" not in text.lower()
    figures = {path.stem for path in (tmp_path / "report" / "figures").glob("*.png")}
    assert figures == {"auc_bars", "trust_density", "trust_spectrum", "differences"}
    files = {path.name for path in (tmp_path / "report").glob("*.csv")}
    assert files == {f"{name}.csv" for name in
                     ("cells", "table_2", "table_3", "table_4", "auc", "calibration", "differences")}  # fmt: skip
    page = (tmp_path / "report" / "study.html").read_text(encoding="utf-8")
    assert "data:image/svg+xml" in page and "<script" not in page
    assert lines[-1].endswith("study.html")


def test_several_trainings_are_told_with_their_spread(tmp_path: Path) -> None:
    study = dam_benchmarks.STUDY
    cells = tuple(study.cells({"data": "cifar10", "network": "resnet20", "sets": "2"}))
    found = [
        replace(result(arm, 0, scores, 0.0), replicate=f"training set {k}")
        for arm, pair in (("CIFAR-10 R, CE", (B, B)), ("CIFAR-10 R, AUC-M", (A, B)))
        for k, scores in enumerate(pair)
    ]
    results = Results(study, cells, tuple(cell.name for cell in cells[:2]), tuple(found))
    write_report(results, tmp_path, ["dam", "study", "dam_benchmarks"])
    text = (tmp_path / "report" / "study.md").read_text(encoding="utf-8")
    assert "| CIFAR-10 R, AUC-M | .807 ± .051 | – | 2 | .715 ± .008 |" in text  # (.842857 + .771429)/2, sd .0505
    assert "| CIFAR-10 R, Focal | – | – | 0 | .681 ± .011 |" in text
    assert "| CIFAR-10 R, AUC-M − CIFAR-10 R, CE | +.036 [" in text and "+.025 |" in text
    assert "2 of 8 cells of the matrix are finished" in text


def test_a_study_is_a_list_of_cells_a_reducer_and_numbers(tmp_path: Path) -> None:
    """Everything that another paper needs, here in a few lines."""
    from dam.studies.study import Outcome, Reference

    other = Study(
        "covid_trust", "A paper, Table 9", "Nothing.", (), {},
        lambda values: [Cell("only", ("data=phantom",), "one", {"ours": "auc"})],
        lambda results: Outcome((), {"auc": [{"auc": results.found[0].test.scores["ours"].mean()}]}),
        {"auc": {"ours": Reference(0.9)}},
    )  # fmt: skip
    results = Results(other, tuple(other.cells({})), ("only",), (result("ours", 0, A, 0.0),))
    write_report(results, tmp_path, ["dam", "study"])
    assert (tmp_path / "report" / "auc.csv").read_text() == f"auc\n{A.mean()}\n"
