"""Training over several processes: the distribution strategy, and what the workers tell each other between steps.

Each worker reads the same tables and computes its part of each batch. Worker 0, the chief, alone evaluates, writes and
publishes; what it measures decides for all, so that they stop after the same epoch.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import RunError, TrainingError
from trainer.model import devices
from trainer.recipe import loading
from trainer.training.checkpoints import State
from trainer.training.cluster import Cluster

_INIT_S = 120
"""Time in seconds for TensorFlow to connect workers that have met, before the process ends."""


class Workers:
    """The processes of a training, as one of them sees them. A training of one process has one worker, the chief.

    All workers have to call `gather`, `of_chief`, `agree`, `share_state` and `finish` in the same order.

    Attributes:
        strategy: Distribution strategy over the devices of all workers.
        count: Number of workers.
        index: Index of this worker; 0 is the chief.
        own_devices: Indices of the devices of this worker among those of all workers.
    """

    def __init__(self, strategy: tf.distribute.Strategy, cluster: Cluster | None = None) -> None:
        """Describes the processes that train.

        Args:
            strategy: Distribution strategy over the devices of all workers.
            cluster: The workers. Default: this process trains alone.
        """
        self.strategy, self._cluster = strategy, cluster
        self.count, self.index = (1, 0) if cluster is None else (len(cluster.addresses), cluster.index)
        local = strategy.num_replicas_in_sync // self.count
        self.own_devices = range(self.index * local, (self.index + 1) * local)
        self._gather = tf.function(self._gather_numbers, input_signature=[tf.TensorSpec((None,), tf.int32)])
        self._sum = tf.function(self._sum_numbers, input_signature=[tf.TensorSpec((None,), tf.int32)])

    @property
    def is_chief(self) -> bool:
        """Whether this worker evaluates, writes and publishes."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """Returns what each worker has given to this call, by the index of the worker.

        Args:
            value: Plain value of this worker, which JSON can hold.
        """
        if self._cluster is None:
            return [value]
        numbers, lengths = self._gather(np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int32))
        texts = np.split(numbers.numpy().astype(np.uint8), np.cumsum(lengths.numpy())[:-1])  # one for each device
        return [json.loads(texts[index * len(self.own_devices)].tobytes()) for index in range(self.count)]

    def of_chief(self, value: Any) -> Any:
        """Returns the value that the chief has given to this call; what the others give is ignored."""
        return self.gather(value if self.is_chief else None)[0]

    def _share(self, array: np.ndarray) -> np.ndarray:
        """Returns the array of the chief, of numbers; all workers have to give arrays of one shape and type."""
        content = np.ascontiguousarray(array).tobytes() if self.is_chief else bytes(array.nbytes)
        numbers = np.frombuffer(content + bytes(-len(content) % 4), np.int32)  # zeros, unless this is the chief
        summed = self._sum(numbers).numpy().tobytes()
        return np.frombuffer(summed[: array.nbytes], array.dtype).reshape(array.shape)

    def finish(self) -> None:
        """Waits until all workers have finished; afterwards the process may end at any moment."""
        self.gather(None)
        # Whoever comes here knows that all have finished. Another worker may still be reading the line above.
        with contextlib.suppress(tf.errors.OpError):
            self.gather(None)

    def share_state(self, state: State, variables: Sequence[Any], tower_variables: Sequence[Any]) -> State:
        """Returns the state of the chief; if it has finished epochs, the variables are set to its values too.

        Args:
            state: State that the chief has read from a checkpoint.
            variables: Variables of model and optimizer.
            tower_variables: Variables of the towers, whose best values the state may hold.
        """
        epochs, best_epoch, best_value, has_best = self.of_chief(
            [state.epochs, state.best_epoch, state.best_value, bool(state.best)]
        )
        if self._cluster is None or not epochs:
            return state
        for variable in variables:
            variable.assign(self._share(np.asarray(variable)))
        best = (state.best or [*map(np.asarray, tower_variables)]) if has_best else []
        return State(epochs, best_epoch, best_value, [self._share(value) for value in best])

    def _gather_numbers(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the numbers [n] of all devices, one after another, and how many each device has."""
        gathered = self.strategy.run(lambda: devices.gather_all(numbers, tf.shape(numbers)))
        both = [self.strategy.experimental_local_results(part)[0] for part in gathered]
        return both[0], both[1]

    def _sum_numbers(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns the sum of the numbers [n] of all workers, each counted once."""

        def run() -> tf.Tensor:
            is_first = devices.replica() == self.own_devices.start
            return devices.sum_all(numbers if is_first else tf.zeros_like(numbers))

        return self.strategy.experimental_local_results(self.strategy.run(run))[0]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Checks that all workers have the same facts.

        Args:
            facts: Plain values by name, such as the digest of a table.

        Raises:
            RunError: A worker has a fact that differs from the chief's; every worker raises it.
        """
        if self._cluster is None:
            return
        everyone = self.gather(dict(facts))
        for index, theirs in enumerate(everyone):
            if differing := loading.differences(everyone[0], theirs, phrase="{name} is {now!r}, not {before!r}"):
                raise RunError(
                    f"{self._cluster.name(index)} differs from {self._cluster.name(0)}: {'; '.join(differing)}. Every "
                    "worker has to run the same command on the same tables, with the same versions"
                )

    @contextlib.contextmanager
    def naming_lost_workers(self) -> Iterator[None]:
        """Names the worker if TensorFlow reports inside the context that one of them is lost.

        Raises:
            TrainingError: A worker has ended, or does not answer.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if self._cluster is None or not _is_loss(error):
                raise
            lost = "another worker"
            found = re.search(r"/job:(chief|worker)/(?:replica:\d+/)?task:(\d+)", error.message)
            if found:
                lost = self._cluster.name(self._cluster.index_of(found[1], int(found[2])))
            raise TrainingError(
                f"{lost} has ended or does not answer, so the training stops here; its own output says why. Start the "
                "same command on all workers again, with --run FOLDER --resume if worker 0 has written a checkpoint "
                "to FOLDER"
            ) from error


def join(cluster: Cluster, wait_s: float) -> Workers:
    """Waits for the other workers, and connects TensorFlow to them; it must not have computed anything before.

    Args:
        cluster: The workers.
        wait_s: Longest time in seconds to wait for the others.

    Raises:
        RunError: Another worker does not come, or the port of this one cannot be used.
    """
    cluster.meet(wait_s)
    # TensorFlow waits in native code that Python cannot end. If a worker dies just now, the alarm ends this process.
    signal.alarm(_INIT_S)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    signal.alarm(0)
    return Workers(strategy, cluster)


def _is_loss(error: tf.errors.OpError) -> bool:
    kinds = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
    )
    return isinstance(error, kinds)
