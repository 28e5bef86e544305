"""The labeling page: where it listens, who may come in, who is asked twice."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class LabelingPageSettings(BaseModel):
    """The page on which people label (`al label`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="where the page listens; loopback unless you say otherwise")
    port: int = Field(8809, ge=1, le=65535, description="of the labeling page")
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^/?#@\s]+)?$",
        description="address people use, where a proxy stands before the page, like https://label.example.org",
    )
    login: Literal["link", "entra"] = Field(
        "link", description="who labels: link: a link for each person; entra: the built-in login of Azure before it"
    )
    trusted_proxies: tuple[str, ...] = Field(
        ("127.0.0.1/32", "::1/128"), description="networks that the login of Azure sends requests from"
    )
    secret: SecretStr = Field(
        SecretStr(""), description="signs links and cookies; several pages on one store need the same; empty: a file"
    )
    lease_seconds: float = Field(600, ge=10, description="how long a picture is kept for whoever was given it")
    overlap: int = Field(1, ge=1, le=20, description="people who are asked about each picture")
    overlap_when: Literal["always", "model_disagrees"] = Field(
        "always", description="model_disagrees: more than one only where the first answer and the model disagree"
    )
    auto_release: bool = Field(False, description="release a round by itself when every picture is answered")

    @property
    def url(self) -> str:
        """Where people find the page."""
        return self.public_url or f"http://{self.host}:{self.port}"

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)
        return networks
