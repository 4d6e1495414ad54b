"""The losses, each against a loop in NumPy and a worked example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.model.loss_cases import GBCE, ITEMS, NEGATIVES, QUERIES, ROWS, Case, candidates, floats, sampled
from trainer.model.losses import Candidates, binary_cross_entropy, full_softmax, gbce, in_batch_softmax, sampled_softmax


def in_batch(
    queries: Any,
    items: Any,
    rows: Any,
    log_q: Any = None,
    weights: Any = None,
    temperature: float = 0.5,
    extra: Candidates | None = None,
) -> float:
    log_q = np.zeros(len(queries)) if log_q is None else log_q
    weights = np.ones(len(queries)) if weights is None else weights
    arguments = (floats(queries), floats(items), tf.constant(rows, tf.int32), floats(log_q), floats(weights))
    return float(in_batch_softmax(*arguments, temperature, extra=extra and candidates(extra)))


def test_in_batch_worked_example() -> None:
    # Temperature 0.5 gives the logits [2.0, 1.2] and [0.0, 1.6].
    # Row 0: log(e^2.0 + e^1.2) - 2.0 = log(1 + e^-0.8) = log(1.449329) = 0.371101
    # Row 1: log(e^0.0 + e^1.6) - 1.6 = log(1 + e^-1.6) = log(1.201897) = 0.183901
    assert in_batch(QUERIES, ITEMS, ROWS) == pytest.approx((0.371101 + 0.183901) / 2, abs=1e-6)


def test_in_batch_weights_weigh_the_rows() -> None:
    found = in_batch(QUERIES, ITEMS, ROWS, weights=[3.0, 1.0])
    assert found == pytest.approx((3 * 0.371101 + 0.183901) / 4, abs=1e-6)


def test_in_batch_log_q_lowers_the_logits_of_what_is_frequent() -> None:
    # Item 0 fills half of the batches (log 0.5 = -0.693147), item 1 a quarter (-1.386294): the logits become
    # [2.693147, 2.586294] and [0.693147, 2.986294].
    # Row 0: log(1 + e^-0.106853) = log(1.898658) = 0.641147;  row 1: log(1 + e^-2.293147) = log(1.100948) = 0.096172
    found = in_batch(QUERIES, ITEMS, ROWS, log_q=np.log([0.5, 0.25]))
    assert found == pytest.approx((0.641147 + 0.096172) / 2, abs=1e-6)


def test_in_batch_extra_negatives_join_each_row_under_their_own_correction() -> None:
    # Row 0: [2.0, 1.2] and, extra, 1.2 and 0.0 - log 2: log(1 + 2 e^-0.8 + e^-2 / 2) = log(1.966325) = 0.676166
    # Row 1: [0.0, 1.6] and, extra, 2.0 - log 2: log(1 + e^-1.6 + e^0.4 / 2) = log(1.947809) = 0.666705
    assert in_batch(QUERIES, ITEMS, ROWS, extra=NEGATIVES) == pytest.approx((0.676166 + 0.666705) / 2, abs=1e-6)


@pytest.mark.parametrize("with_extra", [False, True])
def test_in_batch_equals_a_loop_over_the_definition(with_extra: bool) -> None:
    case, losses = Case(), []
    for i, query in enumerate(case.queries):
        logits = {
            j: query @ item / case.temperature - case.log_q[j]
            for j, item in enumerate(case.positives)
            if j == i or case.rows[j] != case.rows[i]
        }
        extra = [score - log_count for score, log_count in case.seen(i)] if with_extra else []
        losses.append(np.log(sum(np.exp([*logits.values(), *extra]))) - logits[i])
    found = in_batch(
        case.queries,
        case.positives,
        case.rows,
        case.log_q,
        case.weights,
        case.temperature,
        case.negatives if with_extra else None,
    )
    assert found == pytest.approx(case.mean(losses), rel=1e-5)


def test_in_batch_takes_corrections_of_any_one_scale() -> None:
    case = Case()
    found = [
        in_batch(
            case.queries,
            case.positives,
            case.rows,
            case.log_q + shift,
            case.weights,
            case.temperature,
            case.negatives._replace(log_count=case.negatives.log_count + shift),
        )
        for shift in (0.0, 3.0)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_in_batch_an_accidental_hit_is_no_negative() -> None:
    # Rows 0 and 2 hold one item: to each of them the other's column is as good as absent.
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=np.float32)
    items = np.array([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]], dtype=np.float32)
    without_column_2 = in_batch(queries[:2], items[:2], [7, 8], weights=[1.0, 0.0])  # the loss of row 0 alone
    assert in_batch(queries, items, [7, 8, 7], weights=[1.0, 0.0, 0.0]) == pytest.approx(without_column_2, abs=1e-6)
    assert in_batch(queries, items, [7, 8, 9], weights=[1.0, 0.0, 0.0]) > without_column_2 + 0.3


def test_in_batch_of_one_item_has_nothing_to_learn() -> None:
    assert in_batch(QUERIES, ITEMS, [5, 5]) == pytest.approx(0.0, abs=1e-6)


def test_sampled_softmax_worked_example() -> None:
    # Row 0: 2.0 against 1.2 and 0.0 - log 2: log(1 + e^-0.8 + e^-2 / 2) = log(1.516997) = 0.416732
    # Row 1: 1.6 against 2.0 - log 2: log(1 + e^0.4 / 2) = log(1.745912) = 0.557278
    assert sampled(sampled_softmax) == pytest.approx((0.416732 + 0.557278) / 2, abs=1e-6)


def test_sampled_softmax_equals_a_loop_over_the_definition() -> None:
    case, losses = Case(), []
    for i in range(12):
        positive = np.exp(case.score(i, case.positives[i]))
        negative = sum(np.exp(score - log_count) for score, log_count in case.seen(i))
        losses.append(-np.log(positive / (positive + negative)))
    arguments = (case.queries, case.positives, case.rows, case.negatives, case.weights, case.temperature)
    assert sampled(sampled_softmax, *arguments) == pytest.approx(case.mean(losses), rel=1e-5)


def test_a_hard_negative_above_the_ceiling_is_masked() -> None:
    # Row 0 scores 2.0; hard negatives above 0.5 * 2.0 are masked: the 1.2 of row 4. log(1 + e^-2 / 2) = 0.065476
    # Row 9 is not hard, so row 1 is unchanged: 0.557278. With a ceiling of 0.7 the 1.2 counts again for row 0.
    hard = NEGATIVES._replace(is_hard=[True, False, False])
    found = sampled(sampled_softmax, negatives=hard._replace(ceiling=0.5))
    assert found == pytest.approx((0.065476 + 0.557278) / 2, abs=1e-6)
    assert sampled(sampled_softmax, negatives=hard._replace(ceiling=0.7)) == sampled(sampled_softmax)


def test_masking_of_hard_negatives_equals_a_loop_over_its_definition() -> None:
    case, losses = Case(), []
    hard = case.negatives._replace(is_hard=np.arange(16) % 3 > 0, ceiling=0.6)
    masked = 0
    for i in range(12):
        positive, total = case.score(i, case.positives[i]), 0.0
        for vector, row, log_count, is_hard in zip(*hard[:4], strict=True):
            score = case.score(i, vector)
            near = is_hard and score > (0.6 * positive if positive > 0 else 1.4 * positive)
            masked += near
            if row not in (-1, case.rows[i]) and not near:
                total += np.exp(score - log_count)
        losses.append(np.log1p(total / np.exp(positive)))
    arguments = (case.queries, case.positives, case.rows, hard, case.weights, case.temperature)
    assert 10 < masked < 110
    assert sampled(sampled_softmax, *arguments) == pytest.approx(case.mean(losses), rel=1e-5)


def test_sampled_softmax_of_many_draws_is_nearly_the_full_one() -> None:
    # Of 40 items, the first twenty four times as likely as the others: what the correction has to undo.
    generator = np.random.default_rng(3)
    items = generator.normal(size=(40, 4)).astype(np.float32)
    queries, rows = generator.normal(size=(6, 4)).astype(np.float32), np.array([0, 5, 19, 20, 30, 39])
    chances = np.repeat([0.04, 0.01], 20)
    drawn = generator.choice(40, 50_000, p=chances)
    negatives = Candidates(items[drawn], drawn, np.log(50_000 * chances[drawn]))
    full = full_softmax(floats(queries), floats(items), tf.constant(rows, tf.int32), floats(np.ones(6)), 1.0)
    assert sampled(sampled_softmax, queries, items[rows], rows, negatives, np.ones(6), 1.0) == pytest.approx(
        float(full), rel=0.01
    )


def test_full_softmax_worked_example() -> None:
    # Row 0: [2.0, 1.2, 0.0]: log(1 + e^-0.8 + e^-2.0) = log(1.584664) = 0.460372
    # Row 1: [0.0, 1.6, 2.0]: log(e^-1.6 + 1 + e^0.4) = log(2.693721) = 0.990924
    catalogue = floats([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = full_softmax(floats(QUERIES), catalogue, tf.constant([0, 1]), floats([3.0, 1.0]), 0.5)
    assert float(found) == pytest.approx((3 * 0.460372 + 0.990924) / 4, abs=1e-6)


def test_full_softmax_equals_a_loop_over_the_definition() -> None:
    case, losses = Case(), []
    catalogue = case.negatives.vectors
    for i in range(12):
        scores = np.array([case.score(i, vector) for vector in catalogue])
        losses.append(-np.log(np.exp(scores[case.rows[i]]) / np.exp(scores).sum()))
    found = full_softmax(
        floats(case.queries),
        floats(catalogue),
        tf.constant(case.rows, tf.int32),
        floats(case.weights),
        case.temperature,
    )
    assert float(found) == pytest.approx(case.mean(losses), rel=1e-5)


def test_gbce_worked_example() -> None:
    # beta = 0.5 (0.75 (1 - 1/0.5) + 1/0.5) = 0.5 (-0.75 + 2) = 0.625
    # Row 0: (0.625 log(1 + e^-2) + log(1 + e^1.2) + log(1 + e^0)) / 3
    #      = (0.625 * 0.126928 + 1.463282 + 0.693147) / 3 = 0.745253
    # Row 1: (0.625 log(1 + e^-1.6) + log(1 + e^2)) / 2 = (0.625 * 0.183901 + 2.126928) / 2 = 1.120933
    assert sampled(GBCE) == pytest.approx((0.745253 + 1.120933) / 2, abs=1e-6)


def test_gbce_equals_a_loop_over_the_definition() -> None:
    case, losses, beta = Case(), [], 0.1 * (0.6 * (1 - 1 / 0.1) + 1 / 0.1)
    for i in range(12):
        terms = [beta * np.log(1 / (1 + np.exp(-case.score(i, case.positives[i]))))]
        terms += [np.log(1 - 1 / (1 + np.exp(-score))) for score, _ in case.seen(i)]
        losses.append(-np.mean(terms))
    arguments = (case.queries, case.positives, case.rows, case.negatives, case.weights, case.temperature)
    found = sampled(gbce, *arguments, sampling_rate=0.1, calibration=0.6)
    assert found == pytest.approx(case.mean(losses), rel=1e-5)


def test_gbce_is_exact_where_float32_rounds_the_probability_away() -> None:
    # At temperature 0.01 the pair scores -100 and the negative 100. A probability of e^-100 is 0 in float32.
    # (0.625 * 100 + 100) / 2 = 81.25, and in the other direction (0.625 e^-100 + e^-100) / 2, which is 0.
    query, opposite, rows = [[1.0, 0.0]], [[-1.0, 0.0]], [1]
    wrong = sampled(GBCE, query, opposite, rows, Candidates(query, [2], [0.0]), [1.0], 0.01)
    right = sampled(GBCE, query, query, rows, Candidates(opposite, [2], [0.0]), [1.0], 0.01)
    assert (wrong, right) == (pytest.approx(81.25), pytest.approx(0.0, abs=1e-12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_rate": 0.0, "calibration": 0.5}, "sampling rate is 0.0"),
        ({"sampling_rate": 1.5, "calibration": 0.5}, "sampling rate is 1.5"),
        ({"sampling_rate": 0.5, "calibration": -0.1}, "calibration is -0.1"),
        ({"sampling_rate": 0.5, "calibration": 1.1}, "calibration is 1.1"),
    ],
)
def test_gbce_refuses_shares_outside_their_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampled(gbce, **options)


def test_binary_cross_entropy_worked_example() -> None:
    # Row 0: (0.126928 + 1.463282 + 0.693147) / 3 = 0.761119;  row 1: (0.183901 + 2.126928) / 2 = 1.155415
    assert sampled(binary_cross_entropy) == pytest.approx((0.761119 + 1.155415) / 2, abs=1e-6)


def test_binary_cross_entropy_takes_graded_labels() -> None:
    # The pair of row 0, with label 0.25: 0.25 log(1 + e^-2) + 0.75 log(1 + e^2) = 0.031732 + 1.595196 = 1.626928
    # Row 0: (1.626928 + 1.463282 + 0.693147) / 3 = 1.261119
    # Row 1, with label 0: (log(1 + e^1.6) + log(1 + e^2)) / 2 = (1.783901 + 2.126928) / 2 = 1.955415
    found = sampled(binary_cross_entropy, labels=floats([0.25, 0.0]))
    assert found == pytest.approx((1.261119 + 1.955415) / 2, abs=1e-6)


def test_binary_cross_entropy_equals_a_loop_over_the_definition() -> None:
    case, losses = Case(), []
    for i, label in enumerate(case.labels):
        chance = 1 / (1 + np.exp(-case.score(i, case.positives[i])))
        terms = [label * np.log(chance) + (1 - label) * np.log(1 - chance)]
        terms += [np.log(1 - 1 / (1 + np.exp(-score))) for score, _ in case.seen(i)]
        losses.append(-np.mean(terms))
    arguments = (case.queries, case.positives, case.rows, case.negatives, case.weights, case.temperature)
    found = sampled(binary_cross_entropy, *arguments, labels=floats(case.labels))
    assert found == pytest.approx(case.mean(losses), rel=1e-5)
