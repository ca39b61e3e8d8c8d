"""How a study compares, as its report tells it."""

from __future__ import annotations

from attentune.search.space import StudySpec
from attentune.search.subject import Subject


def protocol(spec: StudySpec, subject: Subject, judged: int) -> tuple[str, ...]:
    """What makes the comparison of a study fair, and where it is not quite, one sentence each.

    `judged` is how many tokens, or records, the search went by.
    """
    pairs = (
        f"{spec.folds} folds of the {'records' if spec.is_task else 'text'}"
        if spec.folds
        else f"{len(spec.seeds)} seeds, none of them used in the search"
    )
    seen = subject.protocol(judged, folds=spec.folds)
    fair = f"""
        Baseline and candidate were tuned with {spec.tuning.trials} trials each (optimizer, learning rate, schedule), \
        pruned by the same rule; then the baseline was also tried with the candidate's settings.
        All runs saw the same number of tokens in rows of {spec.context}, {spec.batch} a step; within the search and \
        within each pair of finals they saw the same batches in the same order.
        Every model has as many parameters as the untuned baseline within {spec.tolerance:.0%}: the feed-forward \
        network makes up for what an attention adds or saves.
        The finals were run anew with {pairs}, on all that was held out.
        {seen}
        The noise band is the half-width of the 95 % confidence interval of the mean paired difference, each by \
        itself: of twenty differences that are nothing but noise, one is expected outside its band.
        Tuning compares the untuned with the tuned baseline; attention compares the tuned baseline with the winner, \
        each in its own tuned settings; a slot's share compares the winner with and without it in the winner's settings.
    """
    return tuple(" ".join(line.split()) for line in fair.strip().splitlines())
