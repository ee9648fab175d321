"""The example grid: the most confident right and wrong answers with predicted labels and reference standard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit

from dam.evaluation.predictions import Predictions
from dam.report.content import Content
from dam.report.document import Block, Callout, Gallery, Picture, Section, Text, code, strong
from dam.report.examples import FOLDER, KINDS, overlays
from dam.report.run_files import ANONYMIZED
from dam.report.tables import number

TOP = 2  # predicted labels shown


def gallery(content: Content) -> list[Section]:
    """One grid a label; says so where the run kept no pictures."""
    run = content.run
    rows = [r for r in run.examples if r.get("split") in run.predictions and r.get("kind") in KINDS]
    if not rows:
        text = f"This run kept no example images ({code('predictions/examples.csv')} is not there), so "
        if ANONYMIZED in run.data:
            text = f"An anonymized run ({code('report.anonymize=true')}) keeps no example images, so "
        text += "no worst cases can be "
        return [Section("examples", "Examples", (Callout(f"{text}shown.", "missing"),))]
    split = rows[0]["split"]
    table = run.predictions[split]
    model = rows[0].get("model") or content.model
    model = model if model in table.scores else content.model
    place = {str(name): i for i, name in enumerate(table.images)}
    probabilities, how = _probabilities(content, table, model)
    text = f"Chosen by the scores of {strong(model)} on {split}: {'; '.join(f'{k}: {v}' for k, v in KINDS.items())}. "
    text += f"Below each: the {TOP} labels predicted highest ({how}) and the reference standard."
    drawn = overlays(run.path / "predictions" / FOLDER)
    said = [Text(text), *_about(drawn, rows)]
    sections = [Section("examples", "Examples: most confident right and wrong", tuple(said))]
    for label in dict.fromkeys(r["label"] for r in rows):
        pictures = []
        for row in rows:
            if row["label"] == label and row["image"] in place:
                picture = _picture(row, table, place[row["image"]], probabilities)
                pictures.append(_with_overlay(picture, drawn.get((row["image"], label))))
        blocks: tuple[Block, ...] = (Gallery(tuple(pictures)),)
        sections.append(Section(f"examples-{len(sections)}", label, blocks, 3))
    return sections


def _about(drawn: dict[tuple[str, str], dict[str, str]], rows: list[dict[str, str]]) -> list[Text]:
    """Which method and model drew the overlays, and how little they show; nothing where there are none."""
    found = [drawn[key] for row in rows if (key := (row["image"], row["label"])) in drawn]
    if not found:
        return []
    makers = dict.fromkeys((row["method"], row["model"], row["networks"]) for row in found)
    by = "; ".join(f"{how} of {strong(model)}{f' ({who})' if who else ''}" for how, model, who in makers)
    text = f"Beside each, the same picture under a saliency map for the label of its grid, drawn by {by}: no evidence "
    text += "that an answer is correct, nor that it was found for the right reason. Colours are relative to the "
    text += "strongest place of each picture"
    if any(how == "Grad-CAM" for how, _, _ in makers):
        text += ", and without any colour no place raises the score"
    text += "."
    if any(how != "Grad-CAM" for how, _, _ in makers):
        text += " Attention rollout shows where a network looks, not what speaks for a label."
    lacking = len(rows) - len(found)
    if lacking:
        text += f" {lacking} of {len(rows)} have no overlay: their originals were not at hand when it was drawn."
    return [Text(text)]


def _with_overlay(picture: Picture, row: dict[str, str] | None) -> Picture:
    if row is None:
        return picture
    return replace(picture, beside=row["file"], beside_alt=f"the same under its {row['method']} map for {row['label']}")


def _probabilities(content: Content, table: Predictions, model: str) -> tuple[np.ndarray, str]:
    """(N, K) probabilities: calibrated where the run's assessment has a fit for the model, else the score's sigmoid."""
    scores = np.array(table.scores[model], dtype=np.float64)
    fits = _fits(content, model)
    if set(table.labels) <= set(fits):
        slope = np.array([fits[label][0] for label in table.labels])
        intercept = np.array([fits[label][1] for label in table.labels])
        return np.asarray(expit(slope * scores + intercept)), "calibrated probability"
    return np.asarray(expit(scores)), "sigmoid of the score, not calibrated"


def _fits(content: Content, model: str) -> dict[str, tuple[float, float]]:
    found = content.assessment
    rows = found.calibration if found is not None else ()
    return {
        r.label: (r.slope, r.intercept)
        for r in rows
        if r.model == model and r.stage == "after" and np.isfinite([r.slope, r.intercept]).all()
    }


def _picture(row: dict[str, str], table: Predictions, i: int, p: np.ndarray) -> Picture:
    order = [int(k) for k in np.argsort(-np.nan_to_num(p[i], nan=-1.0), kind="stable")[:TOP]]
    said = [f"{table.labels[k]} {number(float(p[i, k]))[:-1]}" for k in order if np.isfinite(p[i, k])]
    positive = [label for label, target in zip(table.labels, table.targets[i], strict=True) if target == 1]
    truth = ", ".join(positive) or "none of the labels"
    lines = (strong(row["kind"]), f"predicted {', '.join(said)}", f"reference {truth}")
    return Picture(row["file"], f"{row['kind']}, {row['label']}: predicted {', '.join(said)}; reference {truth}", lines)
