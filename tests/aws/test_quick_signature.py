# SPDX-License-Identifier: Apache-2.0
"""Signatures are botocore's, to the byte, whatever the credentials, headers, times and contents."""

import botocore.auth
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from transforms.aws.quick_signature import RequestSigner, timestamp

TARGET = "DynamoDBStreams_20120810.GetRecords"
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=30)
tokens = st.one_of(st.none(), words)
days = st.datetimes()


def botocore_signs(monkeypatch, at, credentials, url, headers, content):
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: at)
    request = AWSRequest("POST", url, headers=headers, data=content)
    SigV4Auth(credentials, "dynamodb", "eu-west-1").add_auth(request)
    return request.headers


def head_of(request):
    head, _, content = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), content


class TestSignature:
    @given(st.lists(st.tuples(days, words, words, tokens), min_size=1), st.binary(max_size=300))
    def test_is_that_of_botocore(self, uses, content):
        """One signer through changes of credentials and days."""
        headers = {"X-Amz-Target": TARGET, "Content-Type": "a/b;  c", "User-Agent": "x/1 y"}
        place = ("/", "streams.dynamodb.eu-west-1.amazonaws.com")
        times = []
        signer = RequestSigner(
            *place, headers, region="eu-west-1", service="dynamodb", now=lambda: times[-1]
        )
        for at, access, secret, token in uses:
            credentials = ReadOnlyCredentials(access, secret, token)
            with pytest.MonkeyPatch.context() as patch:
                url = f"https://{place[1]}/"
                expected = botocore_signs(patch, at, credentials, url, headers, content)
            times.append(expected["X-Amz-Date"])
            first, sent, body = head_of(signer.request(credentials, content))
            assert (first, body) == ("POST / HTTP/1.1", content)
            assert sent.pop("Host") == place[1]
            assert sent.pop("Accept-Encoding") == "identity"
            assert sent.pop("Content-Length") == str(len(content))
            assert sent == dict(expected.items())

    def test_the_port_is_part_of_the_host(self, monkeypatch):
        headers = {"X-Amz-Target": TARGET}
        signer = RequestSigner(
            "/a/b", "127.0.0.1:8000", headers, region="eu-west-1", service="dynamodb"
        )
        credentials = ReadOnlyCredentials("AKID", "secret", None)
        request = AWSRequest("POST", "http://127.0.0.1:8000/a/b", headers=headers, data=b"{}")
        SigV4Auth(credentials, "dynamodb", "eu-west-1").add_auth(request)
        at = request.headers["X-Amz-Date"]
        found = signer.authorization(credentials, b"{}", at)
        assert found == request.headers["Authorization"]
        assert len(timestamp()) == len(at)
