"""What the models of a config share: frozen, no unknown fields, errors with a code and a field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, LiteralString

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

__all__ = ["Auth", "Count", "Model", "Strict", "Text", "Upper", "wrong"]

#: A secret's name when the config names none, not a secret.
HF_SECRET: Final = "hf_access_token"  # noqa: S105

Text = Annotated[str, Field(min_length=1)]
Strict = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
Upper = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)


class Model(BaseModel):
    """A mapping of the config.

    Types convert as Truss lets them convert: ``"8"`` is an int unless the field says `Strict`, a number is never text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def wrong(code: LiteralString, message: str, field: str = "", **more: Any) -> PydanticCustomError:
    """An error with our own code; `field` is the dotted path below the model that raises it."""
    return PydanticCustomError(code, "{text}", {"text": message, "field": field, **more})


class Auth(Model):
    """Who one is to a cloud. Which of the fields must be there, and which must not, `METHODS` of a subclass says."""

    aws_oidc_role_arn: str | None = None
    aws_oidc_region: str | None = None
    gcp_oidc_service_account: str | None = None
    gcp_oidc_workload_id_provider: str | None = None
    aws_assume_role_arn: str | None = None
    aws_assume_role_region: str | None = None


_CLOUD: Final = {
    "AWS_OIDC": ("aws_oidc_role_arn", "aws_oidc_region"),
    "GCP_OIDC": ("gcp_oidc_service_account", "gcp_oidc_workload_id_provider"),
    "AWS_ASSUME_ROLE": ("aws_assume_role_arn", "aws_assume_role_region"),
}


def check_auth(auth: Auth, method: str, secret: str, by_secret: str) -> None:
    """Raise unless exactly the fields of `method` are set; `secret` is the field that method `by_secret` needs."""
    needs = {**_CLOUD, by_secret: (secret,)}
    if method not in needs:
        return
    every = {name for names in needs.values() for name in names}
    given = {name for name in every if getattr(auth, name) not in (None, "")}
    _one_of(method, sorted(set(needs[method]) - given), "auth-field-missing", "needs")
    _one_of(method, sorted(given - set(needs[method])), "auth-field-unused", "takes no")


def _one_of(method: str, names: Iterable[str], code: LiteralString, verb: str) -> None:
    for name in names:
        raise wrong(code, f"auth_method {method} {verb} {name}", name)
