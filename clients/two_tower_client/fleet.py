"""What each replica of both services serves, and whether all is well."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self, Unpack

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.ann import AnnClient
from two_tower_client.client import ConnectionOptions
from two_tower_client.errors import TwoTowerError
from two_tower_client.query_tower import QueryTowerClient

Service = Literal["query_tower", "ann"]
_Status = query_pb2.GetServingStatusResponse | ann_pb2.GetServingStatusResponse

_TRIES = 16
"""Connections to open for each worker, at most, until all have been met: the kernel deals them out at random."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A bundle that a replica refused: by which gate, why, and when in milliseconds since 1970-01-01 UTC."""

    bundle_version: str
    gate: str
    message: str
    refused_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica serves.

    Attributes:
        service: Which of the two it is.
        address: Where it was asked.
        error: Why it did not answer; empty if it did. All that follows is empty then.
        store_bundle: The bundle that its store names as live.
        live_bundle: The bundle that answers; differs while another loads or after one was refused.
        live_model: The model of that bundle.
        open_bundles: All open bundles, the live one first.
        open_models: The model of each of those.
        loading_bundle: The bundle that is being opened.
        problems: What it refused.
        opened_at_ms: When the live bundle was opened, in milliseconds since 1970-01-01 UTC; 0 if none is.
    """

    service: Service
    address: str
    error: str = ""
    store_bundle: str = ""
    live_bundle: str = ""
    live_model: str = ""
    open_bundles: tuple[str, ...] = ()
    open_models: tuple[str, ...] = ()
    loading_bundle: str = ""
    problems: tuple[Problem, ...] = ()
    opened_at_ms: int = 0


def to_replica(service: Service, address: str, status: _Status) -> Replica:
    """Returns what a status response says of the replica at `address`."""
    opened = status.models if isinstance(status, query_pb2.GetServingStatusResponse) else status.bundles
    return Replica(
        service=service,
        address=address,
        store_bundle=status.live_bundle_version,
        live_bundle=opened[0].bundle_version if opened else "",
        live_model=status.newest_model_version,
        open_bundles=tuple(bundle.bundle_version for bundle in opened),
        open_models=tuple(bundle.model_version for bundle in opened),
        loading_bundle=status.loading_bundle_version,
        problems=tuple(
            Problem(each.bundle_version, each.gate, each.message, each.refused_at_ms) for each in status.problems
        ),
        opened_at_ms=opened[0].opened_at_ms if opened else 0,
    )


def merge_workers(workers: Sequence[Replica]) -> Replica:
    """Returns what the workers behind one address serve as one replica: what all have open, and what any one lacks.

    Args:
        workers: What each serves, at least one.
    """
    behind = next((worker for worker in workers if worker.live_bundle != worker.store_bundle), workers[0])
    everywhere = [
        (bundle, model)
        for bundle, model in zip(behind.open_bundles, behind.open_models, strict=True)
        if all(bundle in worker.open_bundles for worker in workers)
    ]
    loading = [worker.loading_bundle for worker in workers if worker.loading_bundle]
    if len({(worker.store_bundle, worker.live_model) for worker in workers}) > 1:
        # One has not noticed yet what another has.
        loading += [worker.store_bundle for worker in workers if worker.store_bundle != behind.live_bundle]
    return replace(
        behind,
        open_bundles=tuple(bundle for bundle, _ in everywhere),
        open_models=tuple(model for _, model in everywhere),
        loading_bundle=next(iter(loading), ""),
        problems=tuple(dict.fromkeys(problem for worker in workers for problem in worker.problems)),
        opened_at_ms=max(worker.opened_at_ms for worker in workers),
    )


def find_faults(replicas: Sequence[Replica]) -> list[str]:
    """Returns why the replicas are not one healthy system, one line a fault; none if they are.

    All have to answer, to have a bundle and no problem, to load nothing, and to agree on the live model and on the
    bundle that the store names. Those of the ANN service have to answer from that bundle; those of the query tower may
    have read the same model from another one.
    """
    faults = list[str]()
    for replica in replicas:
        if replica.error:
            faults.append(replica.error)
        elif not replica.live_bundle:
            faults.append(f"{replica.address} has no bundle open")
        faults += [
            f"{replica.address} refused {problem.bundle_version or 'the store'} at gate {problem.gate!r}: "
            f"{' '.join(problem.message.split())}"
            for problem in replica.problems
        ]
        if replica.loading_bundle:
            faults.append(f"{replica.address} is still loading {replica.loading_bundle}")
        elif _lags(replica):
            faults.append(
                f"{replica.address} answers from {replica.live_bundle}, and its store names {replica.store_bundle}"
            )
    live = [replica for replica in replicas if replica.live_bundle]
    models = sorted({replica.live_model for replica in live})
    if len(models) > 1:
        faults.append(f"the replicas differ in the live model: {', '.join(models)}")
    bundles = sorted({replica.live_bundle for replica in live if replica.service == "ann"})
    if len(bundles) > 1:
        faults.append(f"the ANN replicas differ in the live bundle: {', '.join(bundles)}")
    stores = sorted({replica.store_bundle for replica in live})
    if len(stores) > 1:
        faults.append(f"the stores of the replicas differ in the live bundle: {', '.join(map(_or_none, stores))}")
    return faults


def _lags(replica: Replica) -> bool:
    """Returns whether an ANN replica could load what its store names and has not; one that refused it has said so."""
    refused = any(problem.bundle_version == replica.store_bundle for problem in replica.problems)
    differs = replica.live_bundle and replica.store_bundle and replica.live_bundle != replica.store_bundle
    return replica.service == "ann" and bool(differs) and not refused


def _or_none(version: str) -> str:
    return version or "none"


def find_ready(replicas: Sequence[Replica], bundle_version: str) -> list[Replica]:
    """Returns the replicas that can answer for `bundle_version`.

    An ANN replica has to have the bundle open. A query tower replica may as well have it from another bundle of the
    same model: the tower is the same.
    """
    models = {
        model
        for replica in replicas
        for bundle, model in zip(replica.open_bundles, replica.open_models, strict=True)
        if bundle == bundle_version
    }
    return [
        replica
        for replica in replicas
        if bundle_version in replica.open_bundles
        or (replica.service == "query_tower" and models.intersection(replica.open_models))
    ]


class _Address:
    """The workers behind one address, each asked over a connection of its own."""

    def __init__(self, service: Service, address: str, options: ConnectionOptions) -> None:
        self._service: Service = service
        self._address = address
        # One that has no bundle says NOT_SERVING, and is the very one to ask why.
        self._options: ConnectionOptions = {**options, "check_health": False, "own_connection": True}
        self._clients = [self._connect()]

    def ask(self) -> Replica:
        """Returns what the workers serve."""
        met = dict[int, _Status]()
        kept = list[QueryTowerClient | AnnClient]()
        tries, wanted = 0, 1
        try:
            while len(met) < wanted and tries < _TRIES * wanted:
                if not self._clients:
                    self._clients.append(self._connect())
                    tries += 1
                client = self._clients.pop()
                # Until it is of use; `close` then finds it.
                kept.append(client)
                status = client.status()
                wanted = max(1, status.worker_count)
                if status.worker in met:
                    kept.pop().close()
                met[status.worker] = status
        except TwoTowerError as error:
            return Replica(self._service, self._address, error=error.message)
        finally:
            self._clients = [*kept, *self._clients]
        if len(met) < wanted:
            said = f"{len(met)} of the {wanted} workers at {self._address} answered; its log says why not the others"
            return Replica(self._service, self._address, error=said)
        return merge_workers([to_replica(self._service, self._address, met[number]) for number in sorted(met)])

    def close(self) -> None:
        """Closes the channels."""
        for client in self._clients:
            client.close()

    def _connect(self) -> QueryTowerClient | AnnClient:
        make = QueryTowerClient if self._service == "query_tower" else AnnClient
        return make(self._address, **self._options)


class Fleet:
    """Asks every replica by itself, all at once, and every worker of it; close it once done.

    Args:
        query_tower: The address of each replica of the query tower service.
        ann: The address of each replica of the ANN service.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file or the token cannot be used.
    """

    def __init__(
        self, query_tower: Sequence[str] = (), ann: Sequence[str] = (), **options: Unpack[ConnectionOptions]
    ) -> None:
        """Makes one channel for each replica; they connect at the first call."""
        self._addresses = [
            *[_Address("query_tower", address, options) for address in query_tower],
            *[_Address("ann", address, options) for address in ann],
        ]
        self._threads = ThreadPoolExecutor(max_workers=max(1, len(self._addresses)))

    def ask(self) -> list[Replica]:
        """Returns what each replica serves, those of the query tower first, in the order given.

        Several workers behind one address are one replica: see `merge_workers`.
        """
        return list(self._threads.map(_Address.ask, self._addresses))

    def close(self) -> None:
        """Closes the channels."""
        self._threads.shutdown()
        for address in self._addresses:
            address.close()

    def __enter__(self) -> Self:
        """Returns the fleet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channels."""
        self.close()
