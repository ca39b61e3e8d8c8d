"""How a study compares, as its report tells it."""

from __future__ import annotations

from attentune.data.corpus import Corpus
from attentune.search.space import StudySpec


def protocol(spec: StudySpec, corpus: Corpus) -> tuple[str, ...]:
    """What makes the comparison of a study fair, and where it is not quite, one sentence each."""
    pairs = (
        f"{spec.folds} folds of the text" if spec.folds else f"{len(spec.seeds)} seeds, none of them used in the search"
    )
    judged = min(spec.search_validation_tokens, len(corpus.validation))
    share = "all" if judged == len(corpus.validation) else f"the first {judged:,} tokens"
    seen = (
        f"The search chose attention and settings by the loss on {share} of the text's validation part with one seed; "
        + (
            "the folds contain that part, and text that the search was trained on"
            if spec.folds
            else "the finals are measured on the whole of that part"
        )
        + ", so their seeds are fresh but their text is not: gains may be slightly too good."
    )
    fair = f"""
        Baseline and candidate were tuned with {spec.tuning.trials} trials each (optimizer, learning rate, schedule), \
        pruned by the same rule; then the baseline was also tried with the candidate's settings.
        All runs saw the same number of tokens in rows of {spec.context}, {spec.batch} a step; within the search and \
        within each pair of finals they saw the same batches in the same order.
        Every model has as many parameters as the untuned baseline within {spec.tolerance:.0%}: the feed-forward \
        network makes up for what an attention adds or saves.
        The finals were run anew with {pairs}, on all of the held-out text.
        {seen}
        The noise band is the half-width of the 95 % confidence interval of the mean paired difference, each by \
        itself: of twenty differences that are nothing but noise, one is expected outside its band.
        Tuning compares the untuned with the tuned baseline; attention compares the tuned baseline with the winner, \
        each in its own tuned settings; a slot's share compares the winner with and without it in the winner's settings.
    """
    return tuple(" ".join(line.split()) for line in fair.strip().splitlines())
