# SPDX-License-Identifier: Apache-2.0
"""One classification of AWS errors: every code the services declare has a meaning."""

import boto3
import pytest
from botocore import exceptions as botocore_errors

from dynabeam.transforms.aws.errors import AwsErrorKind, classify, error_code, raise_access_error
from dynabeam.transforms.errors import AwsAccessError, CredentialsError


def client_error(code, status=400, message="m"):
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return botocore_errors.ClientError(answer, "GetRecords")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottlingException", 400, AwsErrorKind.THROTTLED),
        ("LimitExceededException", 400, AwsErrorKind.THROTTLED),
        ("ProvisionedThroughputExceededException", 400, AwsErrorKind.THROTTLED),
        ("SlowDown", 503, AwsErrorKind.THROTTLED),
        ("ExpiredIteratorException", 400, AwsErrorKind.EXPIRED_ITERATOR),
        ("TrimmedDataAccessException", 400, AwsErrorKind.TRIMMED),
        ("ResourceNotFoundException", 400, AwsErrorKind.GONE),
        ("NoSuchKey", 404, AwsErrorKind.GONE),
        ("404", 404, AwsErrorKind.GONE),
        ("AccessDeniedException", 400, AwsErrorKind.FORBIDDEN),
        ("403", 403, AwsErrorKind.FORBIDDEN),
        ("ExpiredTokenException", 400, AwsErrorKind.CREDENTIALS),
        ("UnrecognizedClientException", 400, AwsErrorKind.CREDENTIALS),
        ("InvalidAccessKeyId", 403, AwsErrorKind.CREDENTIALS),
        ("InternalServerError", 500, AwsErrorKind.UNREACHABLE),
        ("502", 502, AwsErrorKind.UNREACHABLE),
        ("Whatever", 503, AwsErrorKind.UNREACHABLE),
        ("ValidationException", 400, AwsErrorKind.UNKNOWN),
        ("SomethingNew", 404, AwsErrorKind.UNKNOWN),
        ("SomethingNew", 400, AwsErrorKind.UNKNOWN),
    ],
)
def test_code_and_status(code, status, kind):
    assert classify(client_error(code, status)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (botocore_errors.NoCredentialsError(), AwsErrorKind.CREDENTIALS),
        (
            botocore_errors.PartialCredentialsError(provider="env", cred_var="x"),
            AwsErrorKind.CREDENTIALS,
        ),
        (
            botocore_errors.EndpointConnectionError(endpoint_url="http://x"),
            AwsErrorKind.UNREACHABLE,
        ),
        (botocore_errors.ReadTimeoutError(endpoint_url="http://x"), AwsErrorKind.UNREACHABLE),
        (
            botocore_errors.ConnectionClosedError(endpoint_url="http://x"),
            AwsErrorKind.UNREACHABLE,
        ),
        (ConnectionResetError(), AwsErrorKind.UNREACHABLE),
        (ValueError("x"), AwsErrorKind.UNKNOWN),
        (botocore_errors.ParamValidationError(report="x"), AwsErrorKind.UNKNOWN),
    ],
)
def test_errors_without_an_answer(error, kind):
    assert classify(error) is kind
    assert error_code(error) == ""


@pytest.mark.parametrize("service", ["dynamodbstreams", "dynamodb"])
def test_every_error_of_the_stream_operations_is_known(service):
    client = boto3.client(
        service, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    wanted = {"DescribeStream", "GetShardIterator", "GetRecords", "ListStreams", "DescribeTable"}
    operations = wanted & set(client.meta.service_model.operation_names)
    assert operations
    for operation in operations:
        for shape in client.meta.service_model.operation_model(operation).error_shapes:
            code = shape.metadata.get("error", {}).get("code", shape.name)
            status = 500 if shape.metadata.get("fault") else 400
            assert classify(client_error(code, status)) is not AwsErrorKind.UNKNOWN, code


def test_forbidden_names_action_resource_and_the_statement_to_add():
    error = client_error("AccessDeniedException")
    with pytest.raises(AwsAccessError) as caught:
        raise_access_error(error, "dynamodb:GetRecords", "arn:aws:dynamodb:r:1:table/t/stream/x")
    text = str(caught.value)
    assert "dynamodb:GetRecords" in text
    assert '"Resource": "arn:aws:dynamodb:r:1:table/t/stream/x"' in text
    assert '"Effect": "Allow"' in text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("given", "expected"),
    [("orders", "arn:aws:dynamodb:r:1:table/orders"), ("*", "*"), ("arn:x", "arn:x")],
)
def test_the_statement_never_names_a_table_without_its_arn(given, expected):
    error = client_error(
        "AccessDeniedException",
        message="User: u is not authorized to perform: dynamodb:DescribeTable on resource: "
        "arn:aws:dynamodb:r:1:table/orders because no identity-based policy allows it",
    )
    with pytest.raises(AwsAccessError) as caught:
        raise_access_error(error, "dynamodb:DescribeTable", given, where="orders in r")
    assert str(caught.value).startswith("orders in r: AWS refused")
    assert f'"Resource": "{expected}"' in str(caught.value)


def test_bad_credentials_are_their_own_error():
    with pytest.raises(CredentialsError, match="dynamodb:GetRecords"):
        raise_access_error(client_error("ExpiredTokenException"), "dynamodb:GetRecords", "arn")


def test_other_errors_are_left_to_the_caller():
    raise_access_error(client_error("ThrottlingException"), "dynamodb:GetRecords", "arn")
