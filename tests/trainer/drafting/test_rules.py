"""The rules by which `init` chooses towers and training."""

from __future__ import annotations

import pytest

from trainer.drafting.rules import SHORT, SMALL_CATALOGUE, SPARSE, DataShape, choose


def shape(events: int, users: int = 100, items: int = 1000, *, has_attributes: bool = True) -> DataShape:
    return DataShape(events, users, items, has_attributes)


def test_items_with_few_events_have_small_towers() -> None:
    sparse = choose(shape(int(SPARSE * 1000) - 1))
    assert (sparse.hidden_units, sparse.training["initial_norm"]) == ((), 0.1)
    dense = choose(shape(int(SPARSE * 1000)))
    assert (dense.hidden_units, dense.training["initial_norm"]) == ((128,), 0.3)
    assert dense.history["encoder_dropout"] < sparse.history["encoder_dropout"]


def test_short_histories_read_the_attributes_of_their_items() -> None:
    short = choose(shape(int(SHORT * 100) - 1))
    assert short.history["items"] == "tower"
    assert "items" not in choose(shape(int(SHORT * 100))).history
    assert "items" not in choose(shape(10, has_attributes=False)).history


def test_the_whole_catalogue_is_ranked_in_each_step_while_it_is_small() -> None:
    assert choose(shape(100_000, items=SMALL_CATALOGUE)).training["loss"] == "full_softmax"
    large = choose(shape(100_000, items=SMALL_CATALOGUE + 1))
    assert (large.training["loss"], large.training["negatives"]) == ("sampled_softmax", 4096)
    assert large.reasons["loss"] == "The catalogue has 5,001 items, more than 5,000."


def test_more_events_mean_fewer_epochs_and_larger_batches() -> None:
    trainings = [choose(shape(10**power)).training for power in range(3, 9)]
    epochs, sizes = ([training[key] for training in trainings] for key in ("epochs", "batch_size"))
    assert epochs == sorted(epochs, reverse=True)
    assert sizes == sorted(sizes)
    assert epochs[0] > epochs[-1]


@pytest.mark.parametrize(("items", "dimension"), [(999, 32), (1000, 64)])
def test_small_catalogues_have_short_vectors(items: int, dimension: int) -> None:
    assert choose(shape(50_000, items=items)).training["dimension"] == dimension


@pytest.mark.parametrize(("events", "ensemble"), [(50_000, 4), (50_001, 2), (400_000, 2), (400_001, None)])
def test_the_fewer_events_the_more_pairs_of_towers(events: int, ensemble: int | None) -> None:
    training = choose(shape(events, items=100_000)).training
    assert training.get("ensemble_size") == ensemble
    assert training["dimension"] == (128 if ensemble else 64)
