"""Says plainly when a simple method ranks better than the towers, and what to try."""

from __future__ import annotations

from trainer.evaluation.evaluate import MODEL, POPULARITY, Evaluation

METRIC = "ndcg@10"

ADVICE = (
    "`python -m trainer tune` searches for a better recipe on validation; docs/quality.md has the changes that "
    "mattered on other data. The towers still answer new users, features and filters, which this method cannot."
)


def advise(evaluation: Evaluation) -> list[str]:
    """Returns sentences about the baselines that rank better than the towers; empty if none does.

    Args:
        evaluation: Evaluation with the baselines.
    """
    own = evaluation.metrics[MODEL][METRIC]
    better = {
        name: metrics[METRIC]
        for name, metrics in evaluation.metrics.items()
        if name not in (MODEL, POPULARITY) and metrics[METRIC] > own
    }
    if not better:
        return []
    best = max(better, key=lambda name: better[name])
    _, low, high = evaluation.differences[best][METRIC]
    certain = "" if high < 0 else ", which may be chance"
    return [
        f"{best} ranks better than the towers here: {METRIC} {better[best]:.4f} and {own:.4f} (towers minus {best}: "
        f"95 % interval {low:+.4f} to {high:+.4f}{certain}).",
        ADVICE,
    ]
