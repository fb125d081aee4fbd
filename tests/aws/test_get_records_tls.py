# SPDX-License-Identifier: Apache-2.0
"""Whom the short way trusts and how it gets there: as boto3, or boto3 does it."""

import ssl
import time

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ProxyConnectionError, SSLError

from dynabeam.transforms.aws import get_records
from dynabeam.transforms.aws.get_records import GetRecords
from tests.aws.services import (
    BOTO3,
    PAGE,
    SHORT,
    Authority,
    Service,
    Tunnel,
    ask,
    short,
    streams_of,
)


def lowered(headers):
    return {name.lower(): value for name, value in headers.items()}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


class TestNames:
    @pytest.mark.parametrize("url_name", ["localhost", "127.0.0.1"])
    def test_the_right_name_is_accepted(self, authority, url_name):
        with Service(contexts=[authority.context(url_name)], name=url_name) as service:
            streams = service.streams(verify=str(authority.bundle))
            assert [ask(streams) for _ in range(3)] == [PAGE] * 3
            assert service.askers == [BOTO3, SHORT, SHORT]
            assert service.connections == 1

    @pytest.mark.parametrize(
        "names",
        [
            ["attacker.example"],
            ["localhost.attacker.example"],
            ["*.localhost"],
            ["127.0.0.1"],
            ["attacker.example", "xlocalhost"],
        ],
        ids=",".join,
    )
    def test_a_trusted_certificate_of_another_name_gets_no_request(self, authority, names):
        """The first connection is right: it is the ones after it that nobody looked at."""
        contexts = [authority.context("localhost"), authority.context(*names)]
        with Service(contexts=contexts, name="localhost") as service:
            streams = service.streams(verify=str(authority.bundle), attempts=1, connect_timeout=0.5)
            ask(streams)
            ask(streams)
            assert service.askers == [BOTO3, SHORT]
            service.cut()
            deadline = time.monotonic() + 20
            while len(service.accepted) == 1 and time.monotonic() < deadline:
                assert short(streams) is None
            # boto3 looks too, and says why.
            with pytest.raises(SSLError, match="doesn't match"):
                streams.get_records("arn", "it-1")
            assert len(service.accepted) > 1
            assert service.askers == [BOTO3, SHORT]

    @pytest.mark.parametrize("case", ["other name", "other authority", "expired", "not yet valid"])
    def test_what_boto3_refuses_is_refused_from_the_first_request_on(
        self, authority, tmp_path, case
    ):
        context = {
            "other name": lambda: authority.context("attacker.example"),
            "other authority": lambda: Authority(tmp_path, "other").context("localhost"),
            "expired": lambda: authority.context("localhost", days=(-3, -1)),
            "not yet valid": lambda: authority.context("localhost", days=(1, 3)),
        }[case]()
        with Service(contexts=[context], name="localhost") as service:
            streams = service.streams(verify=str(authority.bundle), attempts=1, connect_timeout=0.5)
            for _ in range(2):
                with pytest.raises(SSLError):
                    ask(streams)
            assert service.requests == []

    def test_a_refused_service_is_tried_again_by_and_by(self, authority, monkeypatch):
        monkeypatch.setattr(get_records, "_AVOID_SECONDS", 0.0)
        wrong, right = authority.context("attacker.example"), authority.context("localhost")
        with Service(contexts=[wrong, wrong, right], name="localhost") as service:
            streams = service.streams(verify=str(authority.bundle), attempts=1, connect_timeout=0.5)
            with pytest.raises(SSLError):
                ask(streams)
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers[-1] == SHORT

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
    def test_old_tls_is_refused(self, authority):
        context = authority.context("localhost")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with Service(contexts=[context], name="localhost") as service:
            streams = service.streams(verify=str(authority.bundle), attempts=1, connect_timeout=0.5)
            with pytest.raises(SSLError):
                ask(streams)
            assert service.requests == []

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    def test_tls_of_today_is_spoken(self, authority, version):
        context = authority.context("localhost")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        with Service(contexts=[context], name="localhost") as service:
            streams = service.streams(verify=str(authority.bundle))
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, SHORT]


class TestBundles:
    @pytest.mark.parametrize("way", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "ca_bundle", "verify"])
    def test_an_own_bundle_is_taken_from_where_boto3_takes_it(
        self, authority, tmp_path, monkeypatch, way
    ):
        config = tmp_path / "config"
        config.write_text(f"[default]\nca_bundle = {authority.bundle}\n")
        if way == "ca_bundle":
            monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        elif way != "verify":
            monkeypatch.setenv(way, str(authority.bundle))
        verify = str(authority.bundle) if way == "verify" else None
        with Service(contexts=[authority.context("localhost")], name="localhost") as service:
            streams = service.streams(verify=verify)
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, SHORT]

    def test_the_bundle_is_that_of_when_the_client_was_made(self, authority, tmp_path, monkeypatch):
        other = Authority(tmp_path, "other")
        with Service(contexts=[other.context("localhost")], name="localhost") as service:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.bundle))
            streams = service.streams(attempts=1, connect_timeout=0.5)
            monkeypatch.setenv("AWS_CA_BUNDLE", str(other.bundle))
            with pytest.raises(SSLError):
                ask(streams)
            assert service.requests == []

    def test_without_a_bundle_an_authority_of_ones_own_is_unknown(self, authority):
        with Service(contexts=[authority.context("localhost")], name="localhost") as service:
            with pytest.raises(SSLError):
                ask(service.streams(attempts=1, connect_timeout=0.5))
            assert service.requests == []


class TestLeftToBoto3:
    """What the runtime cannot do as boto3 does: boto3 asks, each time."""

    def test_a_client_certificate(self, authority):
        context = authority.context("localhost")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.bundle)
        mine = str(authority.files("me", client=True))
        with Service(contexts=[context], name="localhost") as service:
            streams = service.streams(verify=str(authority.bundle), config=Config(client_cert=mine))
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, BOTO3]

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_no_verification(self, tmp_path):
        with Service(contexts=[Authority(tmp_path).context("other")], name="localhost") as service:
            streams = service.streams(verify=False)
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, BOTO3]

    def test_plain_http_behind_a_proxy(self, monkeypatch):
        with Service() as proxy, Service() as service:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            streams = service.streams()
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert (proxy.askers, service.askers) == ([BOTO3, BOTO3], [])

    def test_a_proxy_with_settings_of_its_own(self, authority):
        with (
            Tunnel() as proxy,
            Service(contexts=[authority.context("localhost")], name="localhost") as service,
        ):
            config = Config(
                proxies={"https": proxy.url},
                proxies_config={"proxy_ca_bundle": str(authority.bundle)},
            )
            streams = service.streams(verify=str(authority.bundle), config=config)
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, BOTO3]
            assert proxy.targets == [f"localhost:{service.port}"]


class TestProxies:
    @pytest.mark.parametrize("way", ["HTTPS_PROXY", "https_proxy", "config", "bare name"])
    def test_https_is_tunnelled_and_the_name_is_still_checked(self, authority, monkeypatch, way):
        contexts = [authority.context("localhost"), authority.context("attacker.example")]
        with Tunnel() as proxy, Service(contexts=contexts, name="localhost") as service:
            given = proxy.url.removeprefix("http://") if way == "bare name" else proxy.url
            config = Config(proxies={"https": given}) if way in ("config", "bare name") else None
            if config is None:
                monkeypatch.setenv(way, given)
            streams = service.streams(
                verify=str(authority.bundle), config=config, attempts=1, connect_timeout=0.5
            )
            assert [ask(streams) for _ in range(3)] == [PAGE] * 3
            assert service.askers == [BOTO3, SHORT, SHORT]
            assert proxy.targets == [f"localhost:{service.port}"]
            service.cut()
            deadline = time.monotonic() + 20
            while len(service.accepted) == 1 and time.monotonic() < deadline:
                assert short(streams) is None
            with pytest.raises(SSLError):
                streams.get_records("arn", "it-1")
            assert service.askers == [BOTO3, SHORT, SHORT]

    def test_a_user_and_a_password_are_told(self, authority):
        with (
            Tunnel(user="me:p@ss") as proxy,
            Service(contexts=[authority.context("localhost")], name="localhost") as service,
        ):
            url = proxy.url.replace("http://", "http://me:p%40ss@")
            config = Config(proxies={"https": url})
            streams = service.streams(verify=str(authority.bundle), config=config)
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, SHORT]
            assert (proxy.targets, proxy.refused) == ([f"localhost:{service.port}"], [])

    def test_a_proxy_that_refuses_is_told_by_boto3(self, authority):
        with (
            Tunnel(user="me:right") as proxy,
            Service(contexts=[authority.context("localhost")], name="localhost") as service,
        ):
            url = proxy.url.replace("http://", "http://me:wrong@")
            config = Config(proxies={"https": url})
            streams = service.streams(
                verify=str(authority.bundle), config=config, attempts=1, connect_timeout=0.5
            )
            with pytest.raises(ProxyConnectionError):
                ask(streams)
            assert service.requests == []

    @pytest.mark.parametrize("spared", ["localhost", "*", "127.0.0.1,localhost"])
    def test_no_proxy_is_heeded(self, authority, monkeypatch, spared):
        with (
            Tunnel() as proxy,
            Service(contexts=[authority.context("localhost")], name="localhost") as service,
        ):
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", spared)
            streams = service.streams(verify=str(authority.bundle))
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, SHORT]
            assert proxy.targets == []


class TestAddresses:
    def test_plain_http(self):
        with Service(name="localhost") as service:
            streams = streams_of(service.url)
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, SHORT]

    @pytest.mark.parametrize("encrypted", [False, True])
    def test_ipv6(self, authority, encrypted):
        contexts = [authority.context("::1")] if encrypted else []
        with Service(host="::1", contexts=contexts) as service:
            streams = service.streams(verify=str(authority.bundle))
            assert [ask(streams) for _ in range(2)] == [PAGE] * 2
            assert service.askers == [BOTO3, SHORT]
            assert {lowered(headers)["host"] for headers, _ in service.requests} == {
                f"[::1]:{service.port}"
            }

    def test_ipv6_of_another_address_is_refused(self, authority):
        with Service(host="::1", contexts=[authority.context("::2")]) as service:
            with pytest.raises(SSLError):
                ask(service.streams(verify=str(authority.bundle), attempts=1, connect_timeout=0.5))
            assert service.requests == []


class _NotSentError(Exception):
    pass


class TestAws:
    """AWS's own endpoints, without asking them."""

    def learned(self, **options):
        client = boto3.session.Session(region_name="eu-west-1").client(
            "dynamodbstreams", aws_access_key_id="a", aws_secret_access_key="b", **options
        )
        requests = []

        def keep(request, **_):
            requests.append(request)
            raise _NotSentError

        client.meta.events.register_first("before-send.dynamodb-streams.GetRecords", keep)
        made = GetRecords(client)
        with pytest.raises(_NotSentError):
            client.get_records(ShardIterator="it-1")
        return made._learn(requests[0])

    def test_the_public_authorities_are_trusted(self):
        found = self.learned()
        assert found.url == "https://streams.dynamodb.eu-west-1.amazonaws.com/"
        place = found.pool._place
        assert (place.host, place.port) == ("streams.dynamodb.eu-west-1.amazonaws.com", 443)
        assert place.tls is not None

    def test_an_endpoint_with_an_account_id_is_kept(self):
        found = self.learned(aws_account_id="111122223333")
        host = "111122223333.streams-ddb.eu-west-1.amazonaws.com"
        assert found.url == f"https://{host}/"
        assert found.pool._place.host == host
