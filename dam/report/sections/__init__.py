"""The sections of a report, in their order."""

from __future__ import annotations

from dam.report.content import Content
from dam.report.document import Document, Section


def document(content: Content) -> Document:
    """The whole report; sections without anything to say are left out or say what is missing."""
    from dam.report.sections import checklists, detail, ensemble, examples, honesty, record, results

    run = content.run
    split = content.headline
    title = f"{run.setting('name', default=run.path.name)}: AUC report"
    subtitle = f"{run.setting('data', 'name', default='unknown dataset')}, {', '.join(split.models)}"
    started = run.environment.get("started")
    if started:
        subtitle += f", run started {str(started)[:10]}"
    makers = (
        results.summary,
        results.aucs,
        results.comparisons,
        ensemble.members,
        results.external,
        results.folds,
        detail.curves,
        detail.performance,
        detail.calibration,
        detail.operating,
        detail.decision,
        detail.trust,
        detail.readers,
        detail.subgroups,
        examples.gallery,
        record.training,
        record.data,
        honesty.choice,
        record.reproduce,
        checklists.model_card,
        checklists.tripod,
        checklists.claim,
    )
    sections: list[Section] = []
    for make in makers:
        sections += make(content)
    return Document(title, subtitle, tuple(sections))
