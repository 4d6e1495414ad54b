"""What a replay sends of a recorded query: what the model of the bundle can read."""

from unittest.mock import Mock

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.cli.replay import Replay
from two_tower_client.results import Embeddings


def replay_of(*features: query_pb2.Feature) -> tuple[Replay, Mock]:
    """Returns a replay of a model with such features, and the query tower that it asks."""
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


def test_values_of_the_events_go_with_their_history() -> None:
    replay, query_tower = replay_of(HISTORY, STARS)
    features = {"history": ["50", "181"], "history.stars": [4, None]}
    replay.look_up(features, 1)
    assert sent(query_tower) == features


def test_values_of_the_events_are_left_out_where_their_history_is() -> None:
    # The model reads a history of ints, and so not this one.
    of_ints = query_pb2.Feature(
        name="history", kind=query_pb2.FEATURE_KIND_HISTORY, value_type=query_pb2.VALUE_TYPE_INT, max_values=5
    )
    replay, query_tower = replay_of(of_ints, STARS)
    replay.look_up({"history": ["50", "181"], "history.stars": [4, 5]}, 1)
    assert sent(query_tower) == {}
