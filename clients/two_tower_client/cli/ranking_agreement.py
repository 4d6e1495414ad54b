"""How far two rankings agree, and how figures spread: pure functions."""

import math
from collections.abc import Sequence


def overlap(old: Sequence[str], new: Sequence[str], cutoff: int) -> float:
    """Returns the share of the first `cutoff` items that both rankings have, 0 to 1; their order does not count.

    Where the longer of the two is shorter than `cutoff`, the share is of its length. Two empty rankings agree: 1.

    Args:
        old: Item ids, best first, each once.
        new: The same.
        cutoff: How many of each count, at least 1.
    """
    first, second = set(old[:cutoff]), set(new[:cutoff])
    longest = max(len(first), len(second))
    return len(first & second) / longest if longest else 1.0


def rank_correlation(old: Sequence[str], new: Sequence[str]) -> float | None:
    """Returns Spearman's rank correlation over the items that both rankings have, -1 to 1; None for less than two.

    The common items are ranked anew, 1 to m, within each ranking: rho = 1 - 6 sum(d^2) / (m (m^2 - 1)), where d is the
    difference of the two ranks of an item (Spearman 1904; without ties). It says nothing of the items that only one
    ranking has: read it beside the overlap.

    Args:
        old: Item ids, best first, each once.
        new: The same.
    """
    common = set(old) & set(new)
    count = len(common)
    if count < 2:
        return None
    ranks = {item: rank for rank, item in enumerate(item for item in old if item in common)}
    squares = sum((rank - ranks[item]) ** 2 for rank, item in enumerate(item for item in new if item in common))
    return 1.0 - 6.0 * squares / (count * (count**2 - 1))


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which `share` of the values lie, interpolated (Hyndman and Fan 1996, definition 7).

    Args:
        values: At least one, in any order.
        share: 0 to 1; 0.5 is the median.
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def count_bins(values: Sequence[float], bin_count: int) -> tuple[int, ...]:
    """Returns how many values fall into each of `bin_count` equal parts of 0 to 1; 1 itself falls into the last."""
    counts = [0] * bin_count
    for value in values:
        counts[min(int(value * bin_count), bin_count - 1)] += 1
    return tuple(counts)
