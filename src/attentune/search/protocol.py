"""How a study compares, as its report tells it."""

from __future__ import annotations

from attentune.search.space import StudySpec
from attentune.search.subject import Subject


def protocol(spec: StudySpec, subject: Subject, judged: int, *, candidate: str) -> tuple[str, ...]:
    """What makes the comparison of a study fair, and where it is not quite, one sentence each.

    `judged` is how many tokens, or records, the search went by; `candidate` is `tuned`, where one was, else why there
    was none, such as `was tried`.
    """
    pairs = (
        f"{spec.folds} folds of the {'records' if spec.is_task else 'text'}"
        if spec.folds
        else f"{len(spec.seeds)} seeds, none of them used in the search"
    )
    seen = subject.protocol(judged, folds=spec.folds)
    measure, trials = subject.measure, f"{spec.tuning.trials} trial{'s' * (spec.tuning.trials > 1)}"
    if candidate == "tuned":
        tuned = f"Baseline and candidate were tuned with {trials} each (optimizer, learning rate, schedule), pruned by \
            the same rule; then the baseline was also tried with the candidate's settings."
        compared = "Tuning compares the untuned with the tuned baseline; attention compares the tuned baseline with \
            the best candidate, each in its own tuned settings; a slot's share compares that candidate with and \
            without it in the candidate's settings."
    else:
        tuned = f"The baseline was tuned with {trials} (optimizer, learning rate, schedule); no candidate {candidate}."
        compared = "Tuning compares the untuned with the tuned baseline."
    shared, floor = "", ""
    if spec.folds:
        shared = f"As any two folds share most of what they are trained on, that interval is wider by a factor of \
            sqrt(1 + {spec.folds} / {spec.folds - 1}) than if they did not (Nadeau and Bengio 2003)."
    if measure.answers is not None:
        few = "a score of few answers moves in steps" if spec.folds else "all seeds are judged by the same records"
        both = (
            "Changes in both directions are not counted in this, but in what each fold gained."
            if spec.folds
            else "Nor is it less than what the change of the gain with each of 20 parts of the records left out says "
            "(the jackknife), which counts changes in both directions."
        )
        floor = f"As {few}, the band of a gain of k of the n = {measure.answers:,} \
            answers that count is at least 1.96 sqrt(k + 1 - k² / (n + 2)) / (n + 2), what k \
            changes in one direction alone would leave open: of many, fewer than five more right answers are never a \
            gain. {both}"
    fair = f"""
        {tuned}
        All runs saw the same number of tokens in rows of {spec.context}, {spec.batch} a step; within the search and \
        within each pair of finals they saw the same batches in the same order.
        Every model has as many parameters as the untuned baseline within {spec.tolerance:.0%}: the feed-forward \
        network makes up for what an attention adds or saves.
        The finals were run anew with {pairs}, on all that was held out.
        {seen}
        The noise band is the half-width of the 95 % confidence interval of the mean paired difference, each by \
        itself: of twenty differences that are nothing but noise, one is expected outside its band.
        {shared}
        {floor}
        {compared}
    """
    return tuple(" ".join(line.split()) for line in fair.splitlines() if line.strip())
