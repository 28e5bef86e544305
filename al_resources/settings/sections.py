"""The sections of `al.toml`, each what one part of the platform can be told. Azure's two are modules of their own."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

if TYPE_CHECKING:
    from al_core.judging.gate import Rules as GateRules
    from al_core.judging.truth import Part, Reserve
    from al_core.selection import Rules as SelectionRules

SHORTEST_TOKEN = 16


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """Which model this instance improves."""

    name: str = Field(
        "classifier", pattern=r"^[a-z][a-z0-9_-]{1,62}$", description="name in registry, log and endpoint"
    )
    owners: tuple[str, ...] = Field(
        (), description="who answers for it, shown on the pages of its assets: team:NAME, or addresses"
    )

    @field_validator("owners")
    @classmethod
    def _are_owners(cls, owners: tuple[str, ...]) -> tuple[str, ...]:
        for owner in owners:
            if re.fullmatch(r"team:[A-Za-z0-9_-]+|[^@\s:]+@[^@\s:]+\.[^@\s:]+", owner) is None:
                raise ValueError(f"{owner!r} is no owner; write team:NAME, or an address like ann@example.org")
        return owners


class LabelingSettings(_Section):
    """Who labels, and what may come back."""

    project: Literal["page", "label_studio", "manual", "oracle"] = Field(
        "page",
        description="page: people label on `al label`; label_studio: in Label Studio; manual: with a tool of their "
        "own; oracle: known labels",
    )
    classes: tuple[str, ...] = Field((), description="the classes people choose from; empty accepts whatever comes")
    new_classes: Literal["refuse", "grow"] = Field("refuse", description="what to do with a class that is not listed")
    aliases: dict[str, str] = Field({}, description="other names of classes in exports: {alias = class}")
    columns: dict[str, str] = Field(
        {},
        description="columns of plain tables: image, label, annotator, labeled_at, confidence, annotation_seconds; "
        '"" leaves one out. `label` also names the question of a tool that asked several',
    )
    boxes: Literal["set_aside", "largest"] = Field(
        "set_aside",
        description="boxes and polygons of an export: no labels of the image, or the largest one's class is",
    )
    resolve: Literal["latest", "majority", "dawid_skene", "crowdlab"] = Field(
        "latest",
        description="which label counts where several people answered: the latest, what most said, or what they mean "
        "together by how far each can be relied on (Dawid-Skene), with a classifier beside them (CROWDLAB)",
    )
    review_share: float = Field(
        0.0, ge=0, le=0.5, description="share of a round's budget that brings probably wrong labels back; 0: none"
    )
    review_floor: float = Field(
        0.3, gt=0, lt=1, description="the review stops when fewer of the last 20 labels were wrong"
    )
    staged_names: Literal["id", "own"] = Field(
        "id", description="what staged files are called: the content id, or the id and the image's own name behind it"
    )
    settle_seconds: float = Field(
        60,
        ge=0,
        description="an unreadable export that has not changed for so long is broken, not half-written",
    )
    oracle_labels: str = Field("", description="the oracle's answers: a JSON file {image id: label}")


class SelectionSettings(_Section):
    """Which images are worth a person's time, and how many of them."""

    strategy: str = Field("margin", description="a query strategy, see `al strategies`")
    strategy_settings: dict[str, float | str] = Field({}, description="of that strategy, like beta or base")
    pool_limit: int = Field(
        50_000, ge=1, description="candidates loaded for a strategy that needs embeddings or probabilities"
    )
    seed_pool: int = Field(
        5_000,
        ge=0,
        description="images, at most, that a pretrained encoder looks at before the first labels, to choose those that "
        "teach by coverage; 0 draws all of them at random",
    )
    rescore_limit: int = Field(
        5_000,
        ge=0,
        description="images, at most, that a newer model scores again to choose from them; fewer than the budget: the "
        "serving one chooses. Logged embeddings of a frozen encoder know no limit",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where strategies that need arrays compute; auto: on a GPU where there is one"
    )
    budget: int = Field(50, ge=1, description="images per round")
    control_share: float = Field(
        0.1, ge=0, le=1, description="share of the budget drawn at random from the reserve: unbiased truth"
    )
    initial_budget: int = Field(200, ge=1, description="images of the seed round, before there is a model")
    near_duplicate_distance: int = Field(
        4,
        ge=-1,
        le=128,
        description="hashes (of 128 bits) that differ in so few bits are one picture; -1: no check",
    )
    seed: int = Field(0, ge=0, description="of every random choice; each round adds its number")
    cron: str = Field("*/10 * * * *", description="when the schedule opens a round")
    min_new_predictions: int = Field(100, ge=0, description="no round before so many eligible images wait")
    worthwhile_gain: float = Field(
        0.005, ge=0, lt=1, description="accuracy a round has to bring to be worth its labels; decides the advice"
    )
    stop_when_advised: bool = Field(False, description="no new round once the advice is to stop")
    max_unlabeled: int | None = Field(
        None,
        ge=0,
        description="no new round while more candidates than this wait for a label; unset: a quarter of the budget",
    )
    pool_scoring_limit: int = Field(
        5_000,
        ge=0,
        description="images of the store, at most, that `prediction_log` scores for a round because the serving model "
        "has not seen them; 0: only what requests and `al score` bring is chosen from",
    )

    @property
    def most_unlabeled(self) -> int:
        """`max_unlabeled`, or what stands for it: the next batch is chosen by who has learned from the last one."""
        return self.budget // 4 if self.max_unlabeled is None else self.max_unlabeled

    @property
    def rules(self) -> SelectionRules:
        """What holds for every batch."""
        from al_core.selection import Rules

        return Rules(self.control_share, self.near_duplicate_distance, self.pool_limit, self.device)


class HoldoutSettings(_Section):
    """Held-out truth: which images may judge, and therefore never teach."""

    reserve: float = Field(
        0.2, gt=0, lt=1, description="of all images, by content hash: no strategy is offered them, they may judge"
    )
    share: float = Field(0.25, gt=0, lt=1, description="of the seed round: images drawn from the reserve, to judge by")
    validation_share: float = Field(0.15, ge=0, lt=1, description="of all other labeled images; for early stopping")

    @property
    def judges(self) -> Reserve:
        """Which images may judge."""
        from al_core.judging.truth import Reserve

        return Reserve(self.reserve)

    @property
    def teaching(self) -> Part:
        """All others: what a strategy may choose from."""
        return self.judges.part("teach")


class GateSettings(_Section):
    """When a challenger may take the champion's place, and what is asked of people to find out."""

    tolerance: float = Field(0.01, ge=0, lt=1, description="accuracy it may lose, at most, to pass")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="certainty demanded, of all looks together")
    duel_labels: int = Field(
        20, ge=0, description="images of a batch, at most, on which the challenger and the champion disagree"
    )
    duel_images: int = Field(5_000, ge=0, description="reserved images, at most, that both answer to be compared")
    class_tolerance: float = Field(
        0.1, gt=0, le=1, description="recall that a single class may lose; what surely lost more is refused"
    )
    latency_ms: float | None = Field(None, gt=0, description="longest time of one answer; none: not looked at")
    size_mb: float | None = Field(None, gt=0, description="largest size of the weights; none: not looked at")

    @property
    def rules(self) -> GateRules:
        """What the gate demands."""
        from al_core.judging.gate import Rules

        return Rules(self.tolerance, self.confidence, self.class_tolerance, self.latency_ms, self.size_mb)


class DeploymentSettings(_Section):
    """How a model version takes the traffic."""

    endpoint: str = Field("classifier", pattern=r"^[a-z][a-z0-9-]{2,31}$", description="its name")
    traffic_steps: tuple[int, ...] = Field((10, 50, 100), description="percent of the traffic, step by step")
    watch_seconds: float | None = Field(
        None,
        ge=0,
        description="how long each step is watched; unset: 2, on a managed endpoint 300: it counts by the minute",
    )
    smoke_images: int = Field(
        8, ge=1, description="holdout images the new deployment must answer before it gets traffic"
    )


class ServingSettings(_Section):
    """The scoring service and its collector."""

    host: str = Field("127.0.0.1", description="where the service listens; beyond loopback with token or trusted_proxy")
    port: int = Field(8808, ge=1, le=65535, description="of the scoring service")
    log_embeddings: bool = Field(
        False,
        description="keep the penultimate layer of every prediction: of a frozen encoder in the table of embeddings, "
        "once an image, else in the log",
    )
    max_image_bytes: int = Field(20_000_000, ge=1, description="larger requests are refused")
    max_image_pixels: int = Field(50_000_000, ge=1, description="images with more pixels are refused before decoding")
    durability: Literal["answer", "interval"] = Field(
        "answer",
        description="an answer is given when it is on the disk, or at once and written within serving.flush_seconds: "
        "those of the last seconds are lost when the process is killed",
    )
    flush_rows: int = Field(500, ge=1, description="the collector writes after so many predictions ...")
    flush_seconds: float = Field(2.0, gt=0, description="... or after so long, whichever is first")
    keep_rejected_days: int = Field(
        90, ge=1, description="days for which it stays on record which images were rejected, and why"
    )
    queue_rows: int = Field(20_000, ge=1, description="predictions waiting in memory; more go to the spool on disk")
    spool_bytes: int = Field(
        10_000_000_000, ge=1, description="answers and images waiting on the disk; beyond it requests get 503"
    )

    token: SecretStr = Field(
        SecretStr(""), description="clients send it as bearer; in AL_SERVING__TOKEN rather than in a file"
    )
    trusted_proxy: str = Field(
        "", description="address or network (10.0.0.0/28) of the proxy that knows who asks; nobody else is answered"
    )
    tls_certificate: str = Field("", description="PEM file; with it the service speaks HTTPS")
    tls_key: str = Field("", description="PEM file of the certificate's key, where that is another")
    max_connections: int = Field(1_000, ge=1, description="at once; the one that is silent longest makes room")
    request_seconds: float = Field(30.0, gt=0, description="a request has arrived within, or its connection is closed")
    max_waiting_bytes: int = Field(256_000_000, ge=1, description="of requests that are read or wait for an answer")
    max_request_pixels: int = Field(100_000_000, ge=1, description="of all images of one request together")
    patience_seconds: float = Field(10.0, gt=0, description="a request that waits longer is answered with 429")
    folders: tuple[str, ...] = Field((), description="folders of this machine that `prediction_log` may read")

    @field_validator("token")
    @classmethod
    def _a_token_is_long(cls, token: SecretStr) -> SecretStr:
        if 0 < len(token.get_secret_value()) < SHORTEST_TOKEN:
            raise ValueError(f"a token has at least {SHORTEST_TOKEN} characters, like those of `openssl rand -hex 32`")
        return token

    @field_validator("trusted_proxy")
    @classmethod
    def _a_proxy_is_an_address(cls, proxy: str) -> str:
        if proxy:
            ip_network(proxy)  # says what is wrong with it
        return proxy

    @property
    def url(self) -> str:
        """Where the service answers from this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http{'s' if self.tls_certificate else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"


class SensorSettings(_Section):
    """How often the sensors look, and how much they take at once."""

    export_interval_seconds: int = Field(30, ge=1, description="seconds between two looks for exports")
    round_interval_seconds: int = Field(
        30, ge=1, description="seconds between two looks of `next_round_sensor` at whether a round can be opened"
    )
    exports_per_tick: int = Field(20, ge=1, description="more wait for the next tick")


class MonitoringSettings(_Section):
    """What is watched of the traffic, and what an alarm may do."""

    alpha: float = Field(
        0.05, gt=0, lt=1, description="probability of a false alarm a year, of all looks together, however many"
    )
    reference_images: int = Field(
        4_000,
        ge=200,
        description="images, at most, of the serving version's first traffic, that later traffic is compared with",
    )
    reference_days: float = Field(
        1.0, ge=0, description="how long that first traffic is collected; 7 where weekends differ, 0 for a first try"
    )
    window_images: int = Field(1_000, ge=100, description="images of the newest traffic, at most, that a look compares")
    drift_share: float = Field(
        0.0, ge=0, le=0.5, description="share of a batch, while an alarm stands, for the images that differ most"
    )
    opens_round: bool = Field(
        False, description="an alarm opens the next round at once, without waiting for selection.min_new_predictions"
    )


class DagsterSettings(_Section):
    """What Dagster is told of the loop's runs."""

    training_tags: dict[str, str] = Field(
        {},
        description="tags of the runs that train, like what their pod asks Kubernetes for (`dagster-k8s/config`: JSON)",
    )
    keep_runs_days: int = Field(
        90,
        ge=1,
        description="days after which Dagster's records of a run go, unless an asset or a round has its newest version "
        "from it, or a deployment or decision names it; the ledgers keep everything",
    )


class AlertSettings(_Section):
    """Who is told what happened while nobody was looking. Off while `channels` is empty.

    Addresses and passwords that are secrets come from the environment alone: `ALERT_WEBHOOK_URL`,
    `ALERT_WEBHOOK_TOKEN`, `ALERT_SLACK_URL`, `ALERT_MAIL_PASSWORD`.
    """

    channels: tuple[Literal["webhook", "slack", "mail"], ...] = Field(
        (), description="where alerts go: webhook, slack, mail; empty: nowhere. Secrets: ALERT_* in the environment"
    )
    about: tuple[Literal["failure", "refusal", "drift", "labels"], ...] = Field(
        ("failure", "refusal", "drift", "labels"),
        description="failure: of a run; refusal: of an export or a worse challenger; drift: the alarm; labels: nobody "
        "labels",
    )
    unlabeled_days: float = Field(
        3, gt=0, description="days without a label, while a batch waits, after which `labels` tells of it, and again"
    )
    interval_seconds: int = Field(60, ge=1, description="seconds between two looks of the sensor `alerts`")
    dagster_url: str = Field(
        "", pattern=r"^(https?://[^?#@\s]+)?$", description="of Dagster's pages, as people reach them: links lead there"
    )
    mail_host: str = Field("", description="server that takes mail by SMTP")
    mail_port: int = Field(587, ge=1, le=65535, description="of that server")
    mail_security: Literal["starttls", "tls", "none"] = Field(
        "starttls",
        description="how the connection is secured; none: only for a server on this machine or in its network",
    )
    mail_user: str = Field("", description="who logs in there, with ALERT_MAIL_PASSWORD; empty: nobody does")
    mail_from: str = Field("", description="address that the mail comes from")
    mail_to: tuple[str, ...] = Field((), description="addresses that it goes to")

    @field_validator("mail_from", "mail_to")
    @classmethod
    def _are_addresses(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for one in (given,) if isinstance(given, str) else given:
            if one and re.fullmatch(r"[^@\s,;:<>]+@[^@\s,;:<>]+", one) is None:
                raise ValueError(f"{one!r} is no address; write one like ann@example.org")
        return given

    @model_validator(mode="after")
    def _mail_is_told_where_to(self) -> AlertSettings:
        if "mail" in self.channels and not (self.mail_host and self.mail_from and self.mail_to):
            raise ValueError("channels = mail needs alerts.mail_host, alerts.mail_from and alerts.mail_to")
        return self
