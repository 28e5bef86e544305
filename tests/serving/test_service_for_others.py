"""The scoring service beyond loopback: by token, by proxy, over TLS; and not at all without."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from serving_stores import png
from small_models import register_model, service_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from al_core.errors import InvalidInput, Unavailable
from al_resources.endpoint.asking import NotAdmitted, caller_of
from al_resources.endpoint.local import LocalEndpoint
from al_resources.platform import Platform
from al_resources.settings import SettingsError, load_settings
from al_serving.app import run_service
from al_serving.guard import ServiceGuard

TOKEN = "a token of more than sixteen characters"


def client(peer: str = "127.0.0.1", **guard: Any) -> TestClient:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("answered")

    app = Starlette(routes=[Route("/{path:path}", answer)])
    guarded = ServiceGuard(app, open_paths=["/health/live"], **guard)
    return TestClient(guarded, base_url="http://127.0.0.1:8808", client=(peer, 5000))


def test_with_a_token_only_who_sends_it_is_answered_under_any_name() -> None:
    guarded = client("203.0.113.9", token=TOKEN)
    headers = {"host": "scoring.example", "authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/score", headers=headers).text == "answered"
    refused = guarded.get("/score", headers={"host": "scoring.example"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get("/score", headers={"authorization": "Bearer another"}).status_code == 401
    assert guarded.get("/health/live").text == "answered"
    assert guarded.get("/metrics").status_code == 401


def test_behind_a_proxy_only_the_proxy_and_this_machine_are_answered() -> None:
    proxy = {"trusted_proxy": "10.0.0.0/30"}
    sent_on = {"host": "scoring.example", "origin": "https://app.example"}
    assert client("10.0.0.2", **proxy).get("/score", headers=sent_on).text == "answered"
    assert client("::ffff:10.0.0.2", **proxy).get("/score", headers=sent_on).text == "answered"
    assert client("127.0.0.1", **proxy).get("/score").text == "answered"
    refused = client("10.0.0.9", **proxy).get("/score", headers={"x-forwarded-for": "10.0.0.2"})
    assert refused.status_code == 403
    assert "only the proxy at 10.0.0.0/30 is answered, this comes from 10.0.0.9" in refused.json()["error"]
    assert client("127.0.0.1", **proxy).get("/score", headers={"host": "rebound.example"}).status_code == 400


def test_a_proxy_has_to_send_the_token_too_where_there_is_one() -> None:
    guarded = client("10.0.0.2", trusted_proxy="10.0.0.2", token=TOKEN)
    assert guarded.get("/score").status_code == 401
    assert guarded.get("/score", headers={"authorization": f"Bearer {TOKEN}"}).text == "answered"


def test_a_service_for_all_without_token_or_proxy_does_not_start(platform: Platform) -> None:
    with pytest.raises(InvalidInput, match=r"AL_SERVING__TOKEN.*serving.trusted_proxy"):
        run_service(platform, host="0.0.0.0")


def test_a_port_that_is_taken_is_named(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} on 127.0.0.1 cannot be had"):
            run_service(platform, port=port)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"token": "short"}, "at least 16 characters"), ({"trusted_proxy": "the proxy"}, "does not appear to be")],
)
def test_what_protects_nothing_is_refused(tmp_path: Path, settings: dict[str, str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as refused:
        load_settings(home=tmp_path, serving=settings)
    assert "short" not in str(refused.value)


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """A self-signed one for another name than the address that is asked."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scoring.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "service.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "service.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *secret))
    return {"tls_certificate": str(tmp_path / "service.pem"), "tls_key": str(tmp_path / "service.key")}


def test_over_tls_with_a_token_the_endpoint_and_its_rollouts_get_in(
    platform: Platform, certificate: dict[str, str]
) -> None:
    serving = platform.settings.serving.model_copy(update={"token": SecretStr(TOKEN), **certificate})
    platform = Platform(platform.settings.model_copy(update={"serving": serving}))
    assert serving.url.startswith("https://127.0.0.1")
    with service_of(platform) as address:
        platform.endpoint.create("blue", register_model(platform))
        platform.endpoint.set_traffic({"blue": 100})
        assert platform.endpoint.score("blue", png(1))["model_version"] == 1
        with httpx.Client(base_url=address, **caller_of(serving)) as caller:
            assert caller.post("/score", content=png(1)).status_code == 200
        with httpx.Client(base_url=address, verify=caller_of(serving)["verify"]) as stranger:
            assert stranger.post("/score", content=png(1)).status_code == 401
        unknowing = LocalEndpoint(
            platform.blobs,
            platform.registry,
            model_name=platform.settings.model.name,
            endpoint=platform.settings.deployment.endpoint,
            url=address,
            caller={"verify": caller_of(serving)["verify"]},
        )
        with pytest.raises(NotAdmitted, match=r"set serving\.token"):
            unknowing.health("blue")


def test_a_certificate_that_cannot_be_read_is_named(platform: Platform) -> None:
    serving = platform.settings.serving.model_copy(update={"tls_certificate": "/missing.pem"})
    with pytest.raises(InvalidInput, match=r"serving.tls_certificate = '/missing.pem' cannot be read"):
        caller_of(serving)
