"""An OpenAPI 3.1 document of gRPC services, made from their descriptors and HTTP rules.

JSON is that of protobuf, with the field names of the protos: enums are names, 64-bit integers are strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

Schema = dict[str, Any]
Path = tuple[int, ...]

# Numbers of the fields that make the paths of comments: see SourceCodeInfo.Location in descriptor.proto.
_MESSAGE, _ENUM, _SERVICE, _FIELD, _VALUE, _METHOD = 4, 5, 6, 2, 2, 2

_INFO = """\
Retrieval in two calls: features to an embedding, and the embedding to ranked items.

`embeddings[0]` of the first answer is the `embedding` of a search, as it is. Send `model_version` with it. Both calls
have to name the same `two-tower-user`, or none.

A field that is not in this document is ignored, so a misspelt name has no effect.

JSON is that of protobuf: fields that have their default are left out of answers, 64-bit integers are strings, and the
real numbers that JSON does not have are the strings "NaN", "Infinity" and "-Infinity".
"""

_USER = """\
Key of the user, 1 to 128 printable ASCII characters without blanks. It decides which pair of services answers while two
pairs are compared. Default: the stable pair."""

_PARAMETERS: dict[str, Schema] = {
    "user": {"name": "two-tower-user", "description": _USER},
    "request_id": {"name": "x-request-id", "description": "Request id, for the logs. Default: a random one."},
    "caller": {
        "name": "two-tower-caller",
        "description": "Name of the calling program. The services share their time fairly among callers.",
    },
    "timeout": {
        "name": "grpc-timeout",
        "description": "Longest duration of the call: `500m` (milliseconds) or `2S` (seconds). Default: `10S`.",
    },
}

_ERROR: Schema = {
    "type": "object",
    "description": "An error, as google.rpc.Status. Branch on code and reason, never on the text.",
    "properties": {
        "code": {"type": "integer", "description": "Code of google.rpc.Code, for instance 9: FAILED_PRECONDITION."},
        "message": {"type": "string", "description": "What was wrong, and what to do."},
        "details": {
            "type": "array",
            "description": "Details, such as google.rpc.ErrorInfo with the reason and its metadata.",
            "items": {
                "type": "object",
                "properties": {"@type": {"type": "string", "description": "Type of the other fields."}},
                "required": ["@type"],
            },
        },
    },
    "required": ["code", "message"],
}

_SCALARS: dict[int, Schema] = {
    FieldDescriptorProto.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptorProto.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptorProto.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptorProto.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptorProto.TYPE_STRING: {"type": "string"},
    FieldDescriptorProto.TYPE_UINT32: {"type": "integer", "minimum": 0},
}


def make_document(files: FileDescriptorSet, rules: Mapping[str, HttpRule], version: str) -> Schema:
    """Returns the OpenAPI document.

    Args:
        files: descriptors of the services, with comments.
        rules: HTTP rule of each method, by its full name; GET without a body, or POST with the whole request as body.
        version: version of the document.
    """
    paths: Schema = {}
    schemas: Schema = {"google.rpc.Status": _ERROR}
    for file in files.file:
        comments = _comments(file)
        for path, operation in _operations(file, comments, rules):
            paths.setdefault(path, {}).update(operation)
        schemas.update(_schemas(file, comments))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Two-tower retrieval", "version": version, "description": _INFO},
        "servers": [{"url": "http://127.0.0.1:8080", "description": "The gateway."}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Token, where the services require one."}
            },
            "parameters": {
                key: {**parameter, "in": "header", "schema": {"type": "string"}}
                for key, parameter in _PARAMETERS.items()
            },
            "schemas": schemas,
        },
    }


def to_yaml(document: Schema) -> str:
    """Returns the document as YAML, with texts of several lines as blocks."""
    dumper = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda self, data: True})
    dumper.add_representer(
        str,
        lambda self, text: self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
    )
    head = "# Made by `make gateway` from protos/ and http_rules.yaml. Do not edit.\n"
    return head + yaml.dump(document, Dumper=dumper, sort_keys=False, width=120, allow_unicode=True)


def _comments(file: FileDescriptorProto) -> dict[Path, str]:
    """Returns the comment in front of each element, by the path of the element."""
    lines = {
        tuple(location.path): location.leading_comments.splitlines() for location in file.source_code_info.location
    }
    return {path: "\n".join(line.removeprefix(" ") for line in each).strip() for path, each in lines.items() if each}


def _operations(
    file: FileDescriptorProto, comments: Mapping[Path, str], rules: Mapping[str, HttpRule]
) -> Iterator[tuple[str, Schema]]:
    """Yields path and operation of each method that takes one message."""
    for number, service in enumerate(file.service):
        for position, method in enumerate(service.method):
            if method.client_streaming:
                continue
            rule = rules[f"{file.package}.{service.name}.{method.name}"]
            comment = comments[_SERVICE, number, _METHOD, position]
            verb = str(rule.WhichOneof("pattern"))
            operation: Schema = {
                "operationId": f"{service.name}_{method.name}",
                "tags": [service.name],
                "summary": comment.split("\n\n")[0].replace("\n", " "),
                "description": comment,
                "parameters": [{"$ref": f"#/components/parameters/{key}"} for key in _PARAMETERS],
            }
            if rule.body:
                operation["requestBody"] = {"required": True, "content": _json(method.input_type)}
            operation["responses"] = {
                "200": {"description": "The answer.", "content": _json(method.output_type)},
                "default": {"description": "An error.", "content": _json(".google.rpc.Status")},
            }
            yield getattr(rule, verb), {verb: operation}


def _schemas(file: FileDescriptorProto, comments: Mapping[Path, str]) -> Iterator[tuple[str, Schema]]:
    """Yields name and schema of each message and enum. Messages within messages are the entries of maps alone."""
    for number, message in enumerate(file.message_type):
        yield f"{file.package}.{message.name}", _message(message, comments, (_MESSAGE, number))
    for number, enum in enumerate(file.enum_type):
        yield f"{file.package}.{enum.name}", _enum(enum, comments, (_ENUM, number))


def _message(message: DescriptorProto, comments: Mapping[Path, str], path: Path) -> Schema:
    maps = {entry.name: entry for entry in message.nested_type if entry.options.map_entry}
    schema: Schema = {"type": "object", "description": comments[path]}
    choices = [
        [field.name for field in message.field if field.HasField("oneof_index") and field.oneof_index == number]
        for number, oneof in enumerate(message.oneof_decl)
        if not oneof.name.startswith("_")  # an optional field
    ]
    for names in choices:
        schema["description"] += f"\n\nAt most one of these may be set: {', '.join(f'`{name}`' for name in names)}."
    if message.field:
        schema["properties"] = {
            field.name: {**_field(field, maps), "description": comments[*path, _FIELD, position]}
            for position, field in enumerate(message.field)
        }
    return {**schema, "additionalProperties": False}


def _field(field: FieldDescriptorProto, maps: Mapping[str, DescriptorProto]) -> Schema:
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        return {"type": "object", "additionalProperties": _value(entry.field[1])}
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return {"type": "array", "items": _value(field)}
    return _value(field)


def _value(field: FieldDescriptorProto) -> Schema:
    return _reference(field.type_name) if field.type_name else _SCALARS[field.type]


def _enum(enum: EnumDescriptorProto, comments: Mapping[Path, str], path: Path) -> Schema:
    values = [
        f"- `{value.name}`: {' '.join(comments[*path, _VALUE, position].split())}"
        for position, value in enumerate(enum.value)
    ]
    description = "\n".join([comments[path], "", *values])
    return {"type": "string", "description": description, "enum": [value.name for value in enum.value]}


def _json(type_name: str) -> Schema:
    return {"application/json": {"schema": _reference(type_name)}}


def _reference(type_name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{type_name.removeprefix('.')}"}
