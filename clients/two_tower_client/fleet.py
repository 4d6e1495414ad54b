"""The serving status of each replica of both services, and its faults."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self, Unpack

from two_tower.ann.v1 import ann_service_pb2 as ann_pb2
from two_tower.query.v1 import query_tower_service_pb2 as query_pb2
from two_tower_client.ann import AnnClient
from two_tower_client.errors import TwoTowerError
from two_tower_client.query_tower import QueryTowerClient
from two_tower_client.rpc.options import ConnectionOptions

Service = Literal["query_tower", "ann"]
_Status = query_pb2.GetServingStatusResponse | ann_pb2.GetServingStatusResponse

_CONNECTIONS_PER_WORKER = 16
"""Most connections to open, for each worker, until every worker has answered: the kernel assigns them at random."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A bundle that a replica refused.

    Attributes:
        bundle_version: Version of the bundle. Empty if the store itself could not be read.
        gate: Name of the check that failed.
        message: Reason, and what to do.
        refused_at_ms: Time of the refusal, in milliseconds since 1970-01-01 UTC.
    """

    bundle_version: str
    gate: str
    message: str
    refused_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Replica:
    """The serving status of one replica.

    Attributes:
        service: Service of the replica.
        address: Address of the replica.
        error: Reason why the replica did not answer, and then the fields below are empty. Empty if it answered.
        store_bundle: Bundle that the store of the replica names as live.
        live_bundle: Bundle that answers requests. Differs from `store_bundle` while a bundle loads and after a refusal.
        live_model: Model of the live bundle.
        open_bundles: All open bundles, the live one first.
        open_models: Model of each open bundle.
        loading_bundle: Bundle that is being verified or opened. Empty: none.
        problems: Refused bundles.
        opened_at_ms: Time when the live bundle was opened, in milliseconds since 1970-01-01 UTC; 0 if there is none.
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
    """Returns the status response of the replica at `address` as a `Replica`."""
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
    """Returns the workers behind one address as one replica.

    Its open bundles are open at all workers. Its live bundle is that of a worker that lags behind the store, if one
    does. Its loading bundle is loading at any worker, and its problems are the problems of all workers.

    Args:
        workers: Status of each worker, at least one.
    """
    lagging = next((worker for worker in workers if worker.live_bundle != worker.store_bundle), workers[0])
    everywhere = [
        (bundle, model)
        for bundle, model in zip(lagging.open_bundles, lagging.open_models, strict=True)
        if all(bundle in worker.open_bundles for worker in workers)
    ]
    loading = [worker.loading_bundle for worker in workers if worker.loading_bundle]
    if len({(worker.store_bundle, worker.live_model) for worker in workers}) > 1:
        # One worker has already seen a change of the store that another has not.
        loading += [worker.store_bundle for worker in workers if worker.store_bundle != lagging.live_bundle]
    return replace(
        lagging,
        open_bundles=tuple(bundle for bundle, _ in everywhere),
        open_models=tuple(model for _, model in everywhere),
        loading_bundle=next(iter(loading), ""),
        problems=tuple(dict.fromkeys(problem for worker in workers for problem in worker.problems)),
        opened_at_ms=max(worker.opened_at_ms for worker in workers),
    )


def find_faults(replicas: Sequence[Replica]) -> list[str]:
    """Returns the faults of the system, one line for each; empty if the system is healthy.

    In a healthy system all replicas answer, have a bundle open, have refused none and are loading none, and agree on
    the live model and on the live bundle in the store. ANN replicas answer from that bundle. Query tower replicas may
    have read the same model from another bundle.
    """
    faults = list[str]()
    for replica in replicas:
        if replica.error:
            faults.append(replica.error)
        elif not replica.live_bundle:
            faults.append(f"{replica.address} has no bundle open")
        for problem in replica.problems:
            named, gate = problem.bundle_version, problem.gate
            what = f"refused {named} at gate {gate!r}" if named else "has a problem with its store"
            faults.append(f"{replica.address} {what}: {' '.join(problem.message.split())}")
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
    """Returns whether an ANN replica has neither loaded nor refused the live bundle of its store."""
    refused = any(problem.bundle_version == replica.store_bundle for problem in replica.problems)
    differs = replica.live_bundle and replica.store_bundle and replica.live_bundle != replica.store_bundle
    return replica.service == "ann" and bool(differs) and not refused


def _or_none(version: str) -> str:
    return version or "none"


def find_ready(replicas: Sequence[Replica], bundle_version: str) -> list[Replica]:
    """Returns the replicas that can serve `bundle_version`.

    An ANN replica has to have the bundle open. A query tower replica may have another bundle of the same model open,
    since the query tower is the same.
    """
    models = _models_of(replicas, bundle_version)
    return [
        replica
        for replica in replicas
        if bundle_version in replica.open_bundles
        or (replica.service == "query_tower" and models.intersection(replica.open_models))
    ]


def find_live(replicas: Sequence[Replica]) -> tuple[str, list[Replica]]:
    """Returns the bundle that the stores of all replicas name as live, and the replicas that answer from it.

    The bundle is empty if the stores differ, or one has none. A query tower replica may answer from another bundle of
    the same model.
    """
    stores = {replica.store_bundle for replica in replicas if not replica.error}
    if len(stores) != 1:
        return "", []
    (live,) = stores
    models = _models_of(replicas, live)
    same = [r for r in replicas if r.live_bundle == live or (r.service == "query_tower" and r.live_model in models)]
    return live, same if live else []


def _models_of(replicas: Sequence[Replica], bundle_version: str) -> set[str]:
    return {
        model
        for replica in replicas
        for bundle, model in zip(replica.open_bundles, replica.open_models, strict=True)
        if bundle == bundle_version
    }


class _Address:
    """The workers behind one address, each reached over its own connection."""

    def __init__(self, service: Service, address: str, options: ConnectionOptions) -> None:
        self._service: Service = service
        self._address = address
        # Without the health check, since a replica without a bundle reports NOT_SERVING, and its status tells why.
        self._options: ConnectionOptions = {**options, "check_health": False, "own_connection": True}
        self._clients = [self._connect()]

    def ask(self) -> Replica:
        """Returns the merged status of all workers."""
        statuses = dict[int, _Status]()  # by worker number
        kept = list[QueryTowerClient | AnnClient]()  # one for each worker
        opened, worker_count = 0, 1
        try:
            while len(statuses) < worker_count and opened < _CONNECTIONS_PER_WORKER * worker_count:
                if not self._clients:
                    self._clients.append(self._connect())
                    opened += 1
                client = self._clients.pop()
                kept.append(client)  # before the call, so that `close` closes it if the call fails
                status = client.status()
                worker_count = max(1, status.worker_count)
                if status.worker in statuses:
                    kept.pop().close()
                statuses[status.worker] = status
        except TwoTowerError as error:
            return Replica(self._service, self._address, error=error.message)
        finally:
            self._clients = [*kept, *self._clients]
        if len(statuses) < worker_count:
            error = (
                f"{len(statuses)} of the {worker_count} workers at {self._address} answered; its log says why the "
                "others did not"
            )
            return Replica(self._service, self._address, error=error)
        return merge_workers(
            [to_replica(self._service, self._address, statuses[number]) for number in sorted(statuses)]
        )

    def close(self) -> None:
        """Closes the channels."""
        for client in self._clients:
            client.close()

    def _connect(self) -> QueryTowerClient | AnnClient:
        make = QueryTowerClient if self._service == "query_tower" else AnnClient
        return make(self._address, **self._options)


class Fleet:
    """Requests the status of every worker of every replica, all replicas in parallel. Close it after the last use.

    Args:
        query_tower: Address of each replica of the query tower service. Each channel connects at the first call.
        ann: Address of each replica of the ANN service.
        **options: See `ConnectionOptions`.

    Raises:
        InvalidRequest: If an address, a file or the token is invalid.
    """

    def __init__(
        self, query_tower: Sequence[str] = (), ann: Sequence[str] = (), **options: Unpack[ConnectionOptions]
    ) -> None:
        self._addresses = [
            *[_Address("query_tower", address, options) for address in query_tower],
            *[_Address("ann", address, options) for address in ann],
        ]
        self._threads = ThreadPoolExecutor(max_workers=max(1, len(self._addresses)))

    def ask(self) -> list[Replica]:
        """Returns the status of each replica, in the order of the addresses, the query tower replicas first.

        Several workers behind one address are one replica; see `merge_workers`.
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
