"""Writes what the gateway needs of `protos/`: ``python deploy/envoy/generate.py [--out FOLDER]``.

- `descriptors.pb`, which Envoy reads: both services with the HTTP paths of `http_rules.yaml`.
- `openapi.yaml`, for callers of JSON over HTTP.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import yaml
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc
from openapi import make_document, to_yaml

FOLDER = Path(__file__).parent
PROTOS = FOLDER.parents[1] / "protos"
VERSION = FOLDER.parents[1] / "clients" / "VERSION"

_FURTHER = (
    annotations_pb2.DESCRIPTOR,
    # Envoy writes the details of an error as JSON only if it knows their types.
    status_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,
)


def read_rules() -> dict[str, http_pb2.HttpRule]:
    """Returns the HTTP rule of each method, by the full name of the method."""
    rules = yaml.safe_load((FOLDER / "http_rules.yaml").read_text(encoding="utf-8"))["http"]["rules"]
    parsed = [ParseDict(rule, http_pb2.HttpRule()) for rule in rules]
    return {rule.selector: rule for rule in parsed}


def compile_protos() -> FileDescriptorSet:
    """Returns the descriptors of `protos/`, with comments.

    Raises:
        SystemExit: a proto does not compile; protoc has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "set"
        protos = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
        if protoc.main(["protoc", f"-I{PROTOS}", "--include_source_info", f"--descriptor_set_out={to}", *protos]):
            raise SystemExit(1)
        return FileDescriptorSet.FromString(to.read_bytes())


def make_descriptors(own: FileDescriptorSet, rules: dict[str, http_pb2.HttpRule]) -> FileDescriptorSet:
    """Returns the descriptor set for Envoy: without comments, with the HTTP rules, and with all imports.

    Args:
        own: descriptors of `protos/`.
        rules: HTTP rule of each method, by its full name.

    Raises:
        KeyError: a method that takes one message has no rule.
    """
    descriptors = FileDescriptorSet()
    for file in _FURTHER:
        _add_with_imports(file, descriptors)
    for source in own.file:
        file = descriptors.file.add()
        file.CopyFrom(source)
        file.ClearField("source_code_info")
        file.dependency.append(annotations_pb2.DESCRIPTOR.name)
        for service in file.service:
            for method in service.method:
                if method.client_streaming:  # for callers of gRPC alone
                    continue
                rule = rules[f"{file.package}.{service.name}.{method.name}"]
                method.options.Extensions[annotations_pb2.http].CopyFrom(rule)
    return descriptors


def _add_with_imports(file: FileDescriptor, descriptors: FileDescriptorSet) -> None:
    if any(each.name == file.name for each in descriptors.file):
        return
    for imported in file.dependencies:  # an import comes before the file that names it
        _add_with_imports(imported, descriptors)
    file.CopyToProto(descriptors.file.add())


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description="Writes descriptors.pb and openapi.yaml of the gateway.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of both files (default: deploy/envoy)")
    folder = parser.parse_args().out
    own, rules = compile_protos(), read_rules()
    (folder / "descriptors.pb").write_bytes(make_descriptors(own, rules).SerializeToString(deterministic=True))
    document = make_document(own, rules, VERSION.read_text(encoding="utf-8").strip())
    (folder / "openapi.yaml").write_text(to_yaml(document), encoding="utf-8")


if __name__ == "__main__":
    main()
