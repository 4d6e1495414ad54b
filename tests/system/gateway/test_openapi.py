"""The files that are made of the protos for the gateway: they are current, and the OpenAPI document is valid."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from testbed.services import ROOT
from two_tower.ann.v1 import ann_service_pb2
from two_tower.query.v1 import query_tower_service_pb2

FOLDER = ROOT / "deploy" / "envoy"
DOCUMENT = yaml.safe_load((FOLDER / "openapi.yaml").read_text(encoding="utf-8"))
SERVICES = [
    service
    for file in (query_tower_service_pb2.DESCRIPTOR, ann_service_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
]


def everything(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every mapping in the document."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from everything(each)


def operations() -> list[dict[str, Any]]:
    return [operation for path in DOCUMENT["paths"].values() for operation in path.values()]


def test_both_files_are_those_of_the_protos(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "generate.py", "--out", tmp_path], check=True, timeout=60)
    assert (tmp_path / "openapi.yaml").read_text() == (FOLDER / "openapi.yaml").read_text(), "run `make gateway`"
    made, kept = (
        FileDescriptorSet.FromString((folder / "descriptors.pb").read_bytes()) for folder in (tmp_path, FOLDER)
    )
    assert made == kept, "run `make gateway`"


def test_every_method_has_one_operation_with_its_request_and_response() -> None:
    by_id = {operation["operationId"]: operation for operation in operations()}
    methods = {
        f"{service.name}_{method.name}": method
        for service in SERVICES
        for method in service.methods
        if not method.client_streaming  # a request of JSON is one message
    }
    assert len(operations()) == len(by_id)
    assert by_id.keys() == methods.keys()
    for name, method in methods.items():
        schema = {"$ref": f"#/components/schemas/{method.output_type.full_name}"}
        assert by_id[name]["responses"]["200"]["content"]["application/json"]["schema"] == schema
        body = by_id[name].get("requestBody")
        assert (body is not None) == bool(method.input_type.fields)
        if body is not None:
            schema = {"$ref": f"#/components/schemas/{method.input_type.full_name}"}
            assert body["content"]["application/json"]["schema"] == schema


def test_every_reference_leads_somewhere() -> None:
    references = [part["$ref"] for part in everything(DOCUMENT) if "$ref" in part]
    assert len(references) > 40
    for reference in references:
        found: Any = DOCUMENT
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_every_schema_is_valid_and_every_field_is_described(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["description"]
    for field in schema.get("properties", {}).values():
        assert field["description"]


def test_the_rest_has_what_openapi_requires() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["title"]
    assert DOCUMENT["info"]["version"] == (ROOT / "clients" / "VERSION").read_text().strip()
    for path, verbs in DOCUMENT["paths"].items():
        assert path.startswith("/v1/")
        assert verbs.keys() <= {"get", "post"}
    for operation in operations():
        assert operation["summary"].endswith(".")
        assert all(response["description"] for response in operation["responses"].values())
    for parameter in DOCUMENT["components"]["parameters"].values():
        assert (parameter["in"], parameter["schema"]) == ("header", {"type": "string"})


def test_a_oneof_says_that_its_fields_exclude_each_other() -> None:
    search = DOCUMENT["components"]["schemas"]["two_tower.ann.v1.Search"]
    assert search["description"].endswith("At most one of these may be set: `embedding`, `similar_to`, `popular`.")
    assert search["properties"]["min_score"]["type"] == "number"
    assert search["properties"]["exclude_item_ids"]["items"] == {"type": "string"}
