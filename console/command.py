"""The command line of the console."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from console.settings import MetricsPort, Pair, Settings, SettingsError
from retrieval.bundle.errors import BundleError
from two_tower_client.ann import DEFAULT_ADDRESS as ANN
from two_tower_client.errors import InvalidRequest, TwoTowerError
from two_tower_client.query_tower import DEFAULT_ADDRESS as QUERY_TOWER
from two_tower_client.rpc.channel import Tls

_DESCRIPTION = """Serves a page that shows the store, the replicas, recommendations and live figures.

  two-tower console --store store
  two-tower console --store store --query-tower 10.0.0.1:50051,10.0.0.2:50051 --ann 10.0.0.3:50052 --token-file token
  two-tower console --store store --metrics localhost:50051=localhost:9100 --metrics localhost:50052=localhost:9200

It promotes and rolls back bundles of the store, as `python -m trainer promote` does, after a confirmation.
"""

_EXTRA = "two-tower console: {} is missing: install it with  pip install 'two-tower-retrieval[console]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the console until it is stopped, and returns the exit code: 0, 1 if it failed, 2 for wrong usage.

    Args:
        argv: Command line arguments. Default: the arguments of the process.

    Raises:
        SystemExit: With code 2 if the arguments cannot be parsed, 0 after `--help`.
    """
    arguments = _make_parser().parse_args(argv)
    try:
        from console.server import serve
    except ModuleNotFoundError as error:
        print(_EXTRA.format(error.name), file=sys.stderr)
        return 1
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.captureWarnings(True)
    try:
        return serve(read_settings(arguments), arguments.port_file)
    except (SettingsError, TwoTowerError, BundleError) as error:
        print(f"two-tower console: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError | InvalidRequest) else 1
    except KeyboardInterrupt:
        return 130


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Returns the settings that the arguments give.

    Raises:
        SettingsError: A setting is invalid.
        InvalidRequest: The TLS options of the services do not go together.
    """
    other = (arguments.other_query_tower, arguments.other_ann)
    if (other[0] is None) != (other[1] is None):
        raise SettingsError("--other-query-tower and --other-ann go together: give both or none")
    pairs = [Pair("services", arguments.query_tower, arguments.ann)]
    if other[0] is not None and other[1] is not None:
        pairs.append(Pair("other services", other[0], other[1]))
    files = {"ca_file": arguments.ca_file, "cert_file": arguments.cert_file, "key_file": arguments.key_file}
    secure = arguments.tls or arguments.server_name or any(files.values())
    return Settings(
        store=arguments.store,
        pairs=tuple(pairs),
        metrics=tuple(map(MetricsPort.parse, arguments.metrics)),
        users=arguments.users,
        token_file=arguments.token_file,
        tls=Tls(**files, server_name=arguments.server_name) if secure else None,
        timeout_s=arguments.timeout_s,
        host=arguments.host,
        port=arguments.port,
        names=tuple(arguments.name),
        password_file=arguments.password_file,
        certificate=arguments.certificate,
        key=arguments.key,
        insecure=arguments.insecure,
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="two-tower console", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", default="store", help="store of bundles: a folder or a URL (default: store)")
    _add_services(parser)
    page = parser.add_argument_group("the page")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    page.add_argument("--port", type=int, default=8300, help="port to listen on; 0 chooses one (default: 8300)")
    page.add_argument("--port-file", type=Path, metavar="FILE", help="file to write the port to, once it listens")
    page.add_argument(
        "--name", action="append", default=[], metavar="HOST", help="further host name of the page; repeatable"
    )
    page.add_argument("--password-file", type=Path, metavar="FILE", help="file with the password to ask for")
    page.add_argument("--certificate", metavar="FILE", help="TLS certificate of the page, PEM")
    page.add_argument("--key", metavar="FILE", help="private key of the certificate, PEM")
    page.add_argument("--insecure", action="store_true", help="allow another address than loopback without TLS")
    return parser


def _add_services(parser: argparse.ArgumentParser) -> None:
    group, environment = parser.add_argument_group("services"), os.environ
    group.add_argument(
        "--query-tower",
        default=environment.get("TWO_TOWER_QUERY_TOWER") or QUERY_TOWER,
        metavar="ADDR[,ADDR...]",
        help="addresses of the query tower service (default: %(default)s)",
    )
    group.add_argument(
        "--ann",
        default=environment.get("TWO_TOWER_ANN") or ANN,
        metavar="ADDR[,ADDR...]",
        help="addresses of the ANN service (default: %(default)s)",
    )
    group.add_argument(
        "--other-query-tower", metavar="ADDR[,ADDR...]", help="a second pair of services, to compare with"
    )
    group.add_argument("--other-ann", metavar="ADDR[,ADDR...]", help="its ANN service")
    group.add_argument(
        "--metrics",
        action="append",
        default=[],
        metavar="[REPLICA=]HOST:PORT",
        help="metrics port of a process, and the address of its replica; repeatable",
    )
    group.add_argument("--users", type=Path, metavar="FILE", help="users to pick from, a JSON object a line")
    group.add_argument(
        "--token-file",
        default=environment.get("TWO_TOWER_TOKEN_FILE") or None,
        metavar="FILE",
        help="file with the bearer token for the services; whoever sees the page acts with it",
    )
    group.add_argument("--timeout-s", type=float, default=5.0, help="timeout of each call in seconds (default: 5)")
    group.add_argument("--tls", action="store_true", help="call the services with TLS; implied by the options below")
    group.add_argument("--ca-file", metavar="FILE", help="certificate authorities to trust, PEM")
    group.add_argument("--cert-file", metavar="FILE", help="client certificate, PEM")
    group.add_argument("--key-file", metavar="FILE", help="private key of the client certificate, PEM")
    group.add_argument("--server-name", metavar="NAME", help="host name in the certificates of the services")
