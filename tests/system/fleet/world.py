"""The bundles that a fleet serves, the queries of its clients, and its certificate and token."""

from __future__ import annotations

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.store.store import BundleStore
from tests.worlds import BundleSpec, write_bundle
from two_tower_client import Tls

QUERY_TOWER, ANN = "query-tower", "ann"
"""Name of each service in the hosts file of the clients, and in the certificate."""

SERVER_NAME = "fleet"
"""Name in the certificate of every replica, for calls to one address."""

_SEEDS = (1, 2, 3)
_ITEMS = 2_000


def write_bundles(store: BundleStore) -> list[str]:
    """Writes three bundles, each with its own query tower and items, promotes the first, and returns the versions."""
    specs = [BundleSpec(seed=seed, catalogue_seed=seed, item_count=_ITEMS) for seed in _SEEDS]
    versions = [write_bundle(store, spec, promote=False).bundle_version for spec in specs]
    store.promote(versions[0])
    return versions


def make_queries(count: int) -> list[dict[str, object]]:
    """Returns the features of random queries, the same at each call."""
    generator = np.random.default_rng(7)
    return [
        {
            "age": float(generator.integers(18, 90)),
            "gender": str(generator.choice(["f", "m", "x"])),
            "device": int(generator.integers(0, 16)),
            "watched": [f"i{row}" for row in generator.integers(0, 50, size=4)],
        }
        for _ in range(count)
    ]


@dataclass(frozen=True)
class Secrets:
    """Files with which the replicas prove who they are, and the clients may call.

    Attributes:
        certificate: Self-signed certificate, PEM. The clients trust it.
        key: Its private key, PEM.
        tokens: File with the token.
    """

    certificate: Path
    key: Path
    tokens: Path

    def tls(self, server_name: str | None = None) -> Tls:
        """Returns the TLS settings of a client."""
        return Tls(ca_file=str(self.certificate), server_name=server_name)

    @property
    def flags(self) -> dict[str, str]:
        """Flags of a service by name."""
        return {
            "tls-certificate": str(self.certificate),
            "tls-key": str(self.key),
            "token-file": str(self.tokens),
        }


def make_secrets(folder: Path) -> Secrets:
    """Writes a certificate of two days and a token into `folder`.

    Raises:
        FileNotFoundError: there is no `openssl`.
    """
    files = Secrets(folder / "certificate.pem", folder / "key.pem", folder / "tokens")
    names = ",".join(f"DNS:{name}" for name in (QUERY_TOWER, ANN, SERVER_NAME))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(files.key), "-out", str(files.certificate), "-days", "2"]
    command += ["-subj", f"/CN={SERVER_NAME}", "-addext", f"subjectAltName={names}"]
    subprocess.run(command, check=True, capture_output=True)
    files.tokens.touch(mode=0o600)
    files.tokens.write_text(f"{secrets.token_urlsafe(24)}\n")
    return files
