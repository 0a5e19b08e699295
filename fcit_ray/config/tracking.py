"""The section `tracking` of a configuration: where a run's records go beside its folder."""

from typing import Any, Literal

from pydantic import Field, field_validator

from fcit_ray.config.section import Section
from fcit_ray.storage.location import redact


class Tracking(Section):
    """Where a run's records go beside its folder. None of it changes the run's bits, and none can end it."""

    report_to: tuple[str, ...] = ()
    """`tensorboard` (event files in the run folder), `wandb`, `mlflow`, or `module:Class` of your own."""
    project: str = Field("fcit_ray", min_length=1)
    """The project of Weights & Biases, the experiment of MLflow."""
    group: str | None = Field(None, min_length=1)
    """What runs that belong together are grouped by; null: the folder of the comparison or sweep, if it is one."""
    wandb_entity: str | None = Field(None, min_length=1)
    """User or team at Weights & Biases; null: the one that its key belongs to."""
    wandb_mode: Literal["online", "offline"] | None = None
    """`offline` writes W&B's files into the run folder, for `wandb sync`; null: WANDB_MODE, else online."""
    mlflow_uri: str | None = Field(None, min_length=1)
    """A server (`http://localhost:5000`) or a database file (`sqlite:///mlflow.db`); null: MLFLOW_TRACKING_URI. Without
    credentials, which MLflow takes from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or
    MLFLOW_TRACKING_TOKEN."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Keyword arguments of trackers of your own, by `module:Class`."""

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_alone(cls, names: Any) -> Any:
        return (names,) if isinstance(names, str) else names

    @field_validator("report_to")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("expected each tracker once")
        return names

    @field_validator("mlflow_uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        if uri and redact(uri) != uri:
            raise ValueError(
                "credentials would stand in the run folder; expected the address without them, and "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
            )
        return uri

    @field_validator("options")
    @classmethod
    def _of_ones_own(cls, options: dict[str, Any]) -> dict[str, Any]:
        if others := [name for name in options if ":" not in name]:
            raise ValueError(f"expected trackers of your own, module:Class; {others[0]!r} is none")
        return options
