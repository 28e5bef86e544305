"""The container: what only a service far away can do to a blob store."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import AzureCliCredential, DefaultAzureCredential, ManagedIdentityCredential
from azure_adapters import running_azurite

from al_core.records import utc_now
from al_resources.azure import storage as azure_storage
from al_resources.azure.data_explorer import KustoDatabase
from al_resources.azure.storage import DEVELOPMENT_ACCOUNT, account_name, storage_credential
from al_resources.azure.workspace import Arm, workspace_client
from al_resources.blobs.azure import AzureBlobStore
from al_resources.event_queue.azure import AzureEventQueue
from al_resources.image_store import ImageStore
from al_resources.settings import SettingsError
from al_resources.settings.azure_data import AzureDataSettings, Credential
from al_resources.settings.azure_ml import AzureMLSettings
from emulators.azurite import Azurite
from emulators.faults import Fault, FaultyDoor
from emulators.tls_proxy import write_certificates


@pytest.fixture
def door() -> Iterator[FaultyDoor]:
    with FaultyDoor(running_azurite().blob_url) as door:
        yield door


@pytest.fixture
def blobs(door: FaultyDoor, monkeypatch: pytest.MonkeyPatch) -> AzureBlobStore:
    hurried = {"initial_backoff": 0, "increment_base": 0.1, "retry_total": 6, "random_jitter_range": 0}
    monkeypatch.setattr(azure_storage, "PATIENCE", hurried)
    return AzureBlobStore(AzureDataSettings(blob_account_url=door.url, container=running_azurite().container()))


def test_a_create_whose_answer_got_lost_is_sent_again_and_knows_its_own_blob(
    blobs: AzureBlobStore, door: FaultyDoor
) -> None:
    door.faults = [Fault("PUT", "/claim")]
    assert blobs.write("claim", b"mine", if_absent=True)
    assert len([request for request in door.seen if "/claim" in request and request.startswith("PUT")]) == 2
    assert not blobs.write("claim", b"mine", if_absent=True), "another writer, even of the same content, is told so"


def test_a_busy_service_is_asked_again(blobs: AzureBlobStore, door: FaultyDoor) -> None:
    blobs.write("a", b"1")
    door.faults = [Fault("GET", "/a", 503), Fault("PUT", "/b", 503), Fault("HEAD", "/b", 500, "InternalError")]
    assert blobs.read("a") == b"1"
    assert blobs.write("b", b"2")
    assert blobs.exists("b")


def test_what_may_not_be_looked_at_is_not_taken_for_missing(blobs: AzureBlobStore, door: FaultyDoor) -> None:
    from azure.core.exceptions import HttpResponseError

    door.faults = [Fault("HEAD", "/secret", 403, "AuthorizationPermissionMismatch", times=2)]
    for look in (blobs.exists, blobs.info):
        with pytest.raises(HttpResponseError):
            look("secret")


def test_a_container_that_is_missing_is_named_with_the_way_out(door: FaultyDoor) -> None:
    blobs = AzureBlobStore(AzureDataSettings(blob_account_url=door.url, container="no-such-container"))
    for use in (blobs.exists, blobs.info, lambda path: list(blobs.list(path)), lambda path: blobs.write(path, b"")):
        with pytest.raises(OSError, match=r"no-such-container.*al azure init"):
            use("a")


def test_folders_of_a_hierarchical_namespace_are_no_blobs(blobs: AzureBlobStore) -> None:
    from azure.storage.blob import BlobClient

    blobs.write("exports/a.json", b"{}")
    with BlobClient.from_blob_url(blobs.url("exports"), credential=DEVELOPMENT_ACCOUNT) as folder:
        folder.upload_blob(b"", metadata={"Hdi_isfolder": "true"})
    assert [blob.path for blob in blobs.list("")] == ["exports/a.json"]
    assert not blobs.exists("exports")
    with pytest.raises(FileNotFoundError):
        blobs.info("exports")


@pytest.mark.parametrize("path", ["a#b?c=d&e.png", "a?versionid=1", "100%25.json", "a b+c", "'\"; drop table"])
def test_a_name_that_means_something_in_an_address_is_only_a_name(blobs: AzureBlobStore, path: str) -> None:
    blobs.write(path, b"x")
    assert blobs.read(path) == b"x"
    assert [blob.path for blob in blobs.list("")] == [path]
    blobs.copy(path, "copy")
    assert blobs.read("copy") == b"x"
    blobs.delete(path)
    assert not blobs.exists(path)


def test_a_listing_asks_for_one_page_after_the_other(blobs: AzureBlobStore, door: FaultyDoor) -> None:
    for number in range(5):
        blobs.write(f"x/{number}", b"")
    door.seen.clear()
    assert next(blobs.list("x")).path == "x/0"
    assert len(door.seen) == 1
    assert "prefix=x" in door.seen[0]


def test_all_images_are_one_listing_and_a_sample_needs_few(blobs: AzureBlobStore, door: FaultyDoor, png: bytes) -> None:
    images = ImageStore(blobs)
    stored = images.put(png)
    door.seen.clear()
    assert list(images.items()) == [(stored.image_id, stored.uri)]
    assert len(door.seen) == 1
    door.seen.clear()
    assert next(images.items(int(stored.image_id[:15], 16)))[0] == stored.image_id
    assert len(door.seen) == 1


@pytest.mark.parametrize("variable", ["AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"])
def test_what_the_environment_says_beside_the_settings_leads_nowhere_else(
    door: FaultyDoor, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "elsewhere")
    blobs = AzureBlobStore(AzureDataSettings(blob_account_url=door.url, container=running_azurite().container()))
    assert blobs.write("a", b"1")


def test_a_key_or_a_sas_comes_from_the_environment_and_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    azure = AzureDataSettings(blob_account_url="https://images.blob.core.windows.net", storage_credential="key")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY", raising=False)
    with pytest.raises(SettingsError, match="AZURE_STORAGE_ACCOUNT_KEY"):
        AzureBlobStore(azure)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    assert storage_credential(azure, azure.blob_account_url) == {"account_name": "images", "account_key": "a2V5"}
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "?sig=x")
    sas = azure.model_copy(update={"storage_credential": "sas"})
    assert storage_credential(sas, sas.blob_account_url).signature == "sig=x"
    assert "sig" not in AzureBlobStore(sas).url("a")


def test_a_sas_opens_container_and_queue_and_nothing_it_was_not_given_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, Services, generate_account_sas

    azurite = running_azurite()
    azure = AzureDataSettings(
        blob_account_url=azurite.blob_url,
        container=azurite.container(),
        events_queue_url=azurite.queue(),
        storage_credential="sas",
    )
    monkeypatch.setattr(azure_storage, "is_loopback", lambda _: False)  # an account like any other

    def allow(permissions: str) -> AzureBlobStore:
        sas = generate_account_sas(
            **DEVELOPMENT_ACCOUNT,
            services=Services(blob=True, queue=True),
            resource_types=ResourceTypes(container=True, object=True),
            permission=AccountSasPermissions.from_string(permissions),
            expiry=utc_now() + timedelta(hours=1),
        )
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", sas)
        return AzureBlobStore(azure)

    blobs = allow("rwdlacup")
    assert blobs.write("a", b"1", if_absent=True)
    blobs.copy("a", "b")
    assert blobs.read("b") == b"1"
    assert [blob.path for blob in blobs.list("")] == ["a", "b"]
    assert AzureEventQueue(azure, hidden_seconds=1).receive() == []
    reader = allow("rl")
    assert reader.read("a") == b"1"
    with pytest.raises(HttpResponseError):
        reader.write("a", b"2")


class Identity:
    """As azure-identity does it: a token is kept until it has expired."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.issued: list[str] = []
        self._until = 0

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        if time.time() >= self._until:
            self._until = math.ceil(time.time() + self._seconds)
            claims = {
                "aud": "https://storage.azure.com", "iss": "https://sts.windows.net/tenant/", "iat": 0, "nbf": 0,
                "exp": self._until, "jti": len(self.issued),
            }  # fmt: skip
            parts = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({"alg": "none"}, claims)]
            self.issued.append(b".".join([*parts, b""]).replace(b"=", b"").decode())
        return AccessToken(self.issued[-1], self._until)


def test_a_token_that_expires_in_the_middle_is_renewed_for_container_and_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, server = write_certificates(tmp_path, ["127.0.0.1"])
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    identity = Identity(seconds=1)
    monkeypatch.setattr(azure_storage, "azure_credential", lambda _: identity)
    with Azurite.start(server) as azurite:
        azure = AzureDataSettings(
            blob_account_url=azurite.blob_url, container="c00", events_queue_url=f"{azurite.queue_url}/q00"
        )
        azure_storage.container_client(azure).create_container()
        azure_storage.queue_client(azure, azure.events_queue_url).create_queue()
        blobs, queue = AzureBlobStore(azure), AzureEventQueue(azure, hidden_seconds=60)
        for number in range(2):
            assert blobs.write(f"a/{number}", b"1", if_absent=True)
            assert not blobs.write(f"a/{number}", b"2", if_absent=True)
            blobs.copy(f"a/{number}", f"b/{number}")
            assert blobs.read(f"b/{number}") == b"1"
            assert len(list(blobs.list("a"))) == number + 1
            assert queue.receive() == []
            time.sleep(2.1)  # it lives for two seconds at most
        assert len(identity.issued) >= 2
        monkeypatch.setattr(azure_storage, "azure_credential", lambda _: Identity(seconds=-60))
        with pytest.raises(ClientAuthenticationError, match="AuthenticationFailed"):
            AzureBlobStore(azure).read("a/0")


IDENTITIES = {
    "managed_identity": ManagedIdentityCredential,
    "cli": AzureCliCredential,
    "default": DefaultAzureCredential,
}


@pytest.mark.parametrize("credential", IDENTITIES)
def test_one_identity_logs_in_to_storage_data_explorer_and_workspace(
    credential: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same credential, client id and authority, wherever a login is needed."""
    made: list[Any] = []
    kind = IDENTITIES[credential]
    begin = kind.__init__

    def remember(self: Any, **chosen: Any) -> None:
        made.append((self, chosen))
        begin(self, **chosen)

    monkeypatch.setattr(kind, "__init__", remember)
    identity = AzureDataSettings(
        credential=credential,
        client_id="1234",
        authority="https://login.microsoftonline.us",
        blob_account_url="https://images.blob.core.usgovcloudapi.net",
        kusto_uri="https://c.kusto.usgovcloudapi.net",
    )
    workspace = AzureMLSettings(subscription="s", resource_group="g", workspace="w")
    for log_in in (
        lambda: storage_credential(identity, identity.blob_account_url),
        lambda: KustoDatabase(identity)._connection(identity.kusto_uri),
        lambda: Arm(workspace, identity),
        lambda: workspace_client(workspace, identity),
    ):
        made.clear()
        log_in()
        (_, chosen) = made[0]
        expected = {
            "managed_identity": {"client_id": "1234"},
            "cli": {},
            "default": {
                "authority": "https://login.microsoftonline.us", "managed_identity_client_id": "1234"
            },
        }[credential]  # fmt: skip
        assert chosen == expected


def test_many_writers_keep_their_connections(caplog: pytest.LogCaptureFixture) -> None:
    """Else most of them would connect anew for every image, which takes longer than writing it."""
    azurite = running_azurite()
    blobs = AzureBlobStore(AzureDataSettings(blob_account_url=azurite.blob_url, container=azurite.container()))
    with ThreadPoolExecutor(32) as writers:
        list(writers.map(lambda number: blobs.write(f"images/{number}", b"1"), range(128)))
    assert "Connection pool is full" not in caplog.text


def test_an_account_is_the_first_label_of_its_address() -> None:
    assert account_name("https://images.blob.core.usgovcloudapi.net") == "images"
    assert account_name("http://127.0.0.1:10000/devstoreaccount1") == "devstoreaccount1"
