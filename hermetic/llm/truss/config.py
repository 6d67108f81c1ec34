"""The whole of a Truss ``config.yaml`` but for its `trt_llm` section, which `hermetic.llm.truss.section` has.

Names, types, defaults and rules are those of truss 0.18.35; its sentences and its code are not.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from hermetic.llm.truss.base import Model, wrong
from hermetic.llm.truss.serving import BaseImage, BisLlm, Build, DockerServer, Resources, Runtime
from hermetic.llm.truss.sources import Bdn, CheckpointList, ExternalData, InternalRepo, ModelRepo, WeightsSource, unique

__all__ = ["COMPARED_WITH", "PYTHONS", "Config"]

#: The version of the `truss` package whose verdicts ours were compared with.
COMPARED_WITH: Final = "0.18.35"
PYTHONS: Final = ("py39", "py310", "py311", "py312", "py313", "py314")


def _python(value: str) -> str:
    if value not in PYTHONS:
        raise wrong("bad-python", f"there is no Python {value!r}", hint=f"one of {', '.join(PYTHONS)}")
    return value


_Internal = Annotated[list[InternalRepo], BeforeValidator(lambda value: [] if value is None else value)]


class Config(Model):
    """What the top level of a config may say."""

    model_name: str | None = None
    model_metadata: dict[str, Any] = Field(default_factory=dict)
    description: str | None = None
    examples_filename: str = "examples.yaml"
    data_dir: str = "data"
    external_data: list[ExternalData] | None = None
    external_package_dirs: list[str] = Field(default_factory=list)
    python_version: Annotated[str, AfterValidator(_python)] = "py313"
    base_image: BaseImage | None = None
    requirements_file: str | None = None
    requirements: list[str] = Field(default_factory=list)
    system_packages: list[str] = Field(default_factory=list)
    environment_variables: dict[str, Any] = Field(default_factory=dict)
    secrets: dict[str, str | None] = Field(default_factory=dict)
    resources: Resources = Field(default_factory=Resources)
    runtime: Runtime = Field(default_factory=Runtime)
    build: Build = Field(default_factory=Build)
    build_commands: list[str] = Field(default_factory=list)
    docker_server: DockerServer | None = None
    model_cache: list[ModelRepo] = Field(default_factory=list)
    weights: list[WeightsSource] = Field(default_factory=list)
    bdn: Bdn = Field(default_factory=Bdn)
    training_checkpoints: CheckpointList | None = None
    bis_llm: BisLlm | None = None
    input_type: str = "Any"
    model_framework: str = "custom"
    model_type: str = "Model"
    model_module_dir: str = "model"
    model_class_filename: str = "model.py"
    model_class_name: str = "Model"
    bundled_packages_dir: str = "packages"
    use_local_src: bool = False
    cache_internal: _Internal = Field(default_factory=list)
    live_reload: bool = False
    apply_library_patches: bool = True
    spec_version: str = "2.0"

    @field_validator("weights")
    @classmethod
    def _once(cls, value: list[WeightsSource]) -> list[WeightsSource]:
        unique([item.mount_location for item in value], "place", "mount_location")
        return value

    @model_validator(mode="after")
    def _either(self) -> Config:
        if self.requirements and self.requirements_file:
            raise wrong("either-or", "either requirements or requirements_file", "requirements_file")
        if self.model_cache and self.weights:
            raise wrong("either-or", "either model_cache or weights", "model_cache")
        server = self.docker_server
        if self.runtime.remote_ssh.enabled and server is not None and server.run_as_user_id is not None:
            raise wrong("ssh-user", "remote_ssh needs the server's own user", "docker_server.run_as_user_id")
        return self

    @property
    def variables(self) -> dict[str, str]:
        """`environment_variables` as the server sees them: all text, as Truss turns them into it."""
        items = self.environment_variables.items()
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in items}

    @property
    def tags(self) -> list[Any]:
        tags = self.model_metadata.get("tags", [])
        return tags if isinstance(tags, list) else []
