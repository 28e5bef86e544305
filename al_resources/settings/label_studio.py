"""Label Studio, for teams that have it: where its server is and which of its projects is ours."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LabelStudioSettings(BaseModel):
    """With `labeling.project = "label_studio"`. The token comes from the environment: `LABEL_STUDIO_API_KEY`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        "http://127.0.0.1:8080",
        pattern=r"^https?://[^?#@\s]+$",
        description="the server; its token comes from the environment alone, LABEL_STUDIO_API_KEY",
    )
    project: str = Field(
        "", max_length=50, description="title of the project there, adopted or made; empty: the model's name"
    )
    timeout_seconds: float = Field(30, gt=0, description="for an answer of the server, uploads of pictures included")
    poll_seconds: float = Field(
        15, gt=0, description="what one look for new answers may take; what is left comes at the next"
    )
