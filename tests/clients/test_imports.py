"""Packages that an import of the client loads."""

import ast
import sys
from pathlib import Path

import two_tower_client

ALLOWED = {*sys.stdlib_module_names, "google", "grpc", "two_tower", "two_tower_client"}


def test_imports_only_grpc_protobuf_and_the_stubs() -> None:
    imported = set[str]()
    for path in Path(two_tower_client.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported >= {"google", "grpc", "two_tower"}
    assert imported <= ALLOWED
