"""Client error of each gRPC status."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.clients.world import Failure, ScriptedAnn, bad_request, bare, error_info, serving
from two_tower_client import AnnClient, Search, errors
from two_tower_client.rpc.grpc_errors import ERRORS, from_rpc_error


def raised_for(failure: Failure) -> errors.TwoTowerError:
    service = ScriptedAnn(("b1", "m1"))
    service.failures.extend([failure] * 4)
    with serving(service) as (address,), AnnClient(address) as client:
        with pytest.raises(errors.TwoTowerError) as caught:
            client.search([Search(similar_to="east")])
        assert isinstance(caught.value.__cause__, grpc.RpcError)
        assert "\n" not in str(caught.value)
        return caught.value


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_code_has_an_error(code: grpc.StatusCode) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="why\nnot")
    assert isinstance(from_rpc_error(error, "host:1"), errors.TwoTowerError)
    assert code in ERRORS


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequest),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.NOT_FOUND, errors.ServerError),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.ServerError),
        (grpc.StatusCode.INTERNAL, errors.ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.ServerError),
    ],
)
def test_a_code_without_reason(code: grpc.StatusCode, kind: type) -> None:
    assert type(raised_for(bare(code))) is kind


def test_an_invalid_request_tells_each_violation() -> None:
    error = raised_for(bad_request(("searches[0].k", "has to be at most 100"), ("model_version", "is required")))
    assert isinstance(error, errors.InvalidRequest)
    assert error.violations == (("searches[0].k", "has to be at most 100"), ("model_version", "is required"))
    assert error.message == "searches[0].k: has to be at most 100; model_version: is required"


def test_reasons() -> None:
    model = raised_for(error_info(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_SERVED", model_versions="m2,m1"))
    bundle = raised_for(error_info(grpc.StatusCode.FAILED_PRECONDITION, "BUNDLE_NOT_SERVED", bundle_versions="b2,b1"))
    lexical = raised_for(error_info(grpc.StatusCode.FAILED_PRECONDITION, "LEXICAL_NOT_SERVED", bundle_versions="b2"))
    item = raised_for(error_info(grpc.StatusCode.NOT_FOUND, "UNKNOWN_ITEM", item_ids="7,9"))
    assert isinstance(model, errors.ModelNotServed)
    assert model.model_versions == ("m2", "m1")
    assert isinstance(bundle, errors.BundleNotServed)
    assert bundle.bundle_versions == ("b2", "b1")
    assert isinstance(lexical, errors.LexicalNotServed)
    assert lexical.bundle_versions == ("b2",)
    assert isinstance(item, errors.UnknownItem)
    assert item.item_ids == ("7", "9")
    assert type(raised_for(error_info(grpc.StatusCode.UNAVAILABLE, "NO_BUNDLE"))) is errors.NoBundle
    no_store = raised_for(error_info(grpc.StatusCode.FAILED_PRECONDITION, "NO_FEATURE_STORE"))
    assert type(no_store) is errors.NoFeatureStore
    assert "--features" in no_store.message
    fault = raised_for(error_info(grpc.StatusCode.UNAVAILABLE, "FEATURE_STORE"))
    assert type(fault) is errors.Unavailable
    assert "cannot write (as scripted)" in fault.message
    assert type(raised_for(error_info(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"))) is errors.Overloaded

    missing = raised_for(error_info(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", scope="admin"))
    assert type(missing) is errors.PermissionDenied
    stopping = raised_for(error_info(grpc.StatusCode.UNAVAILABLE, "STOPPING"))
    assert type(stopping) is errors.Unavailable
    assert "is stopping" in stopping.message
    late = raised_for(error_info(grpc.StatusCode.DEADLINE_EXCEEDED, "NOT_RECEIVED"))
    assert type(late) is errors.DeadlineExceeded
    assert "did not get the request in time" in late.message


def test_ignores_a_reason_of_another_domain() -> None:
    failure = error_info(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_SERVED", domain="proxy", model_versions="m1")
    assert type(raised_for(failure)) is errors.ServerError


def test_uses_the_code_if_the_details_are_truncated() -> None:
    status = status_pb2.Status(code=9)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="MODEL_NOT_SERVED", domain="two-tower"))
    truncated = status.SerializeToString()[:-3]
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", truncated))
    error = grpc.aio.AioRpcError(grpc.StatusCode.FAILED_PRECONDITION, grpc.aio.Metadata(), trailing)
    assert type(from_rpc_error(error, "host:1")) is errors.ServerError
