"""Threads that send requests to both services and check the answers."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from two_tower_client import Search
from two_tower_client.ann import AnnClient
from two_tower_client.errors import ModelNotServed
from two_tower_client.model_agreement import Embed, Embedded, NotServed, Outcome, Pin, Searched, exchange
from two_tower_client.query_tower import QueryTowerClient


class Caller(threading.Thread):
    """Retrieves in a loop with the client's protocol, and checks each answer against the bundle that it names."""

    def __init__(
        self, tower_port: int, catalogue_port: int, expected: dict[str, np.ndarray], connections: int = 1
    ) -> None:
        super().__init__(daemon=True)
        self._tower, self._catalogue = f"127.0.0.1:{tower_port}", f"127.0.0.1:{catalogue_port}"
        self._connections = connections
        self._expected, self._pin = expected, Pin()
        self.ended, self.answered = threading.Event(), 0
        self.wrong: list[Any] = []

    def run(self) -> None:
        with (
            QueryTowerClient(self._tower, timeout_s=10, connections=self._connections) as tower,
            AnnClient(self._catalogue, timeout_s=10, connections=self._connections) as catalogue,
        ):
            while not self.ended.is_set():
                try:
                    self._retrieve(tower, catalogue)
                except Exception as error:
                    self.wrong.append(error)
                    return

    def _retrieve(self, tower: QueryTowerClient, catalogue: AnnClient) -> None:
        steps = exchange(self._pin)
        step = next(steps)
        while True:
            try:
                if isinstance(step, Embed):
                    embedded = tower.embed([{}], step.model_version)
                    outcome: Outcome = Embedded(embedded.model_version)
                else:
                    search = Search(embedding=embedded.vectors[0], k=5)
                    searched = catalogue.search([search], model_version=step.model_version)
                    outcome = Searched(searched.model_version, searched.newest_model_version)
            except ModelNotServed as refusal:
                outcome = NotServed(refusal.model_versions)
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                self._pin = done.value
                break
        scores = self._expected[searched.bundle_version] @ np.array(embedded.vectors[0], np.float32)
        hits = [int(item[1:]) for item in searched.retrievals[0].item_ids]
        if hits != np.argsort(-scores)[:5].tolist() or searched.model_version != embedded.model_version:
            self.wrong.append(searched)
        self.answered += 1
