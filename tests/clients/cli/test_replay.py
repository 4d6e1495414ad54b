"""Replay of recorded queries: only features that the model reads are sent."""

from unittest.mock import Mock

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.cli.replay import Replay
from two_tower_client.results import Embeddings


def replay_of(*features: query_pb2.Feature) -> tuple[Replay, Mock]:
    """Returns a replay against a model with these features, and its query tower client."""
    query_tower, ann = Mock(), Mock()
    query_tower.embed.return_value = Embeddings(((1.0,),), "m")
    ann.search.return_value.retrievals = [()]
    model = query_pb2.OpenModel(model_version="m", features=features)
    bundle = ann_pb2.OpenBundle(bundle_version="b", model_version="m")
    return Replay(query_tower, ann, bundle, model, max_batch_size=8, k=1, title=""), query_tower


HISTORY = query_pb2.Feature(
    name="history", kind=query_pb2.FEATURE_KIND_HISTORY, value_type=query_pb2.VALUE_TYPE_STRING, max_values=5
)
STARS = query_pb2.Feature(
    name="history.stars",
    kind=query_pb2.FEATURE_KIND_NUMERIC,
    value_type=query_pb2.VALUE_TYPE_FLOAT,
    max_values=5,
    history="history",
)


def sent(query_tower: Mock) -> object:
    return query_tower.embed.call_args.args[0][0]


def test_sends_an_event_feature_with_its_history() -> None:
    replay, query_tower = replay_of(HISTORY, STARS)
    features = {"history": ["50", "181"], "history.stars": [4, None]}
    replay.look_up(features, 1)
    assert sent(query_tower) == features


def test_leaves_out_an_event_feature_without_its_history() -> None:
    # The model reads a history of ints, so it cannot read this history of strings.
    int_history = query_pb2.Feature(
        name="history", kind=query_pb2.FEATURE_KIND_HISTORY, value_type=query_pb2.VALUE_TYPE_INT, max_values=5
    )
    replay, query_tower = replay_of(int_history, STARS)
    replay.look_up({"history": ["50", "181"], "history.stars": [4, 5]}, 1)
    assert sent(query_tower) == {}
