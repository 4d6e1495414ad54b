"""The commands `record-events` and `forget-user`."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from two_tower_client.errors import InvalidRequest
from two_tower_client.events import EVENTS_MAX, Event, RecordedEvents
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.rpc.options import ConnectionOptions

RECORD = """Adds events to the stored histories of users.

  two-tower record-events --user-id 42 --item 50 --item 181 --type view
  two-tower record-events --file events.jsonl

A line of the file is an event, such as
  {"user_id": "42", "item_id": "50", "time_s": 893286638, "type": "view", "weight": 1, "values": {"rating": 4},
   "event_id": "order-7-1"}
of which only user and item are required. Without an event id, an event that is recorded twice is there twice.
"""

FORGET = """Deletes everything that the feature store holds of a user: profile and history.

  two-tower forget-user 42
"""

STORE_NOTES = {
    "unknown_user": "! nothing is stored of the user of --user-id",
    "unavailable": "! the feature store did not answer in time: only the values of --feature were used",
    "not_configured": "! the query tower runs without a feature store: only the values of --feature were used",
}
"""Note on a retrieval, by what the feature store did."""


def add_commands(
    add: Callable[[str, str, str], argparse.ArgumentParser], add_connection: Callable[[argparse.ArgumentParser], None]
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Adds both commands, and returns their parsers.

    Args:
        add: Adds a command by its name, its line in the list of commands, and its description.
        add_connection: Adds the options of the connection.
    """
    record = add("record-events", "add events to the stored histories of users", RECORD)
    record.add_argument("--file", metavar="FILE", help="file of events, one JSON object per line; - for standard input")
    record.add_argument("--user-id", default="", metavar="ID", help="id of the user")
    record.add_argument("--item", action="append", default=[], metavar="ID", help="id of an item; repeatable")
    record.add_argument("--type", default="", help="type of the events, such as view (default: none)")
    record.add_argument("--weight", type=float, default=1.0, help="weight of the events (default: 1)")
    record.add_argument("--json", action="store_true", help="print JSON")
    add_connection(record)

    forget = add("forget-user", "delete all that is stored of a user", FORGET)
    forget.add_argument("user_id", metavar="USER_ID", help="id of the user")
    forget.add_argument("--json", action="store_true", help="print JSON")
    add_connection(forget)
    return record, forget


def record_events(arguments: argparse.Namespace, connection: ConnectionOptions) -> int:
    """Records the events of the options or of a file, and prints what became of them."""
    if bool(arguments.file) == bool(arguments.user_id and arguments.item):
        raise InvalidRequest("give either --file, or --user-id and --item")
    done = RecordedEvents()
    with QueryTowerClient(arguments.query_tower, **connection) as client:
        if arguments.file:
            for events in _batches(_read(arguments.file)):
                done += client.record_events(events)
        else:
            user_id, kind, weight = arguments.user_id, arguments.type, arguments.weight
            done = client.record_events([Event(user_id, item_id, kind, weight=weight) for item_id in arguments.item])
    if arguments.json:
        counts = {"recorded": done.recorded, "already_there": done.already_there, "too_old": done.too_old}
        print(json.dumps(counts))
    else:
        print(f"{_count(done.recorded, 'event')} recorded, {done.already_there} were there, {done.too_old} too old")
    return 0


def forget_user(arguments: argparse.Namespace, connection: ConnectionOptions) -> int:
    """Deletes what is stored of a user, and prints how much it was."""
    with QueryTowerClient(arguments.query_tower, **connection) as client:
        done = client.forget_user(arguments.user_id)
    if arguments.json:
        print(json.dumps({"events": done.events, "profile_values": done.profile_values}))
    else:
        events, features = _count(done.events, "event"), _count(done.profile_values, "feature")
        print(f"{events} and {features} of the profile deleted; nothing is left")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _read(path: str) -> Iterator[Event]:
    try:
        with sys.stdin if path == "-" else open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _to_event(line, f"{path}, line {number}")
    except (OSError, UnicodeError) as error:
        raise InvalidRequest.in_field("--file", f"{path} cannot be read: {error}") from error


def _to_event(line: str, place: str) -> Event:
    try:
        fields: Any = json.loads(line)
        return Event(**fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest.in_field(
            "--file", f'{place} is no event ({error}); expected {{"user_id": …, "item_id": …}}'
        ) from error


def _batches(events: Iterator[Event]) -> Iterator[Sequence[Event]]:
    batch: list[Event] = []
    for event in events:
        batch.append(event)
        if len(batch) == EVENTS_MAX:
            yield batch
            batch = []
    if batch:
        yield batch
