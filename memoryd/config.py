"""The daemon's settings: read once at the edge, frozen, handed down.

Each comes from, in this order, a command-line flag, an environment variable `MEMORYD_<NAME>`, the
YAML configuration file, its default.
"""

import ipaddress
from pathlib import Path
from typing import Any, Literal, Self

import platformdirs
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)
from pydantic_settings import SettingsError as UnreadableSource
from yaml import YAMLError

from memoryd.errors import BadArgument
from memoryd.scopes import Scope
from memoryd.storage.keys import validate_name

DEFAULT_LISTEN = "127.0.0.1:7420"


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and says what to write instead."""


class ApiKey(BaseModel):
    """A caller's key: `sha256` is the hex digest of the whole key, so that no secret is stored."""

    tenant: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = tuple(Scope)

    @field_validator("tenant")
    @classmethod
    def _names_a_tenant(cls, value: str) -> str:
        try:
            return validate_name(value, "tenant name")
        except BadArgument as error:
            raise ValueError(error.message) from None


class Settings(BaseSettings):
    """All settings of one daemon."""

    model_config = SettingsConfigDict(env_prefix="MEMORYD_", frozen=True, extra="forbid")

    model: Path | None = None  # folder of the model; None is the default model in the cache
    listen: str = DEFAULT_LISTEN  # host:port; port 0 lets the system choose
    advertise: str | None = None  # address that other daemons reach this one at; None: listen's
    redis_url: str | None = None  # None starts a private server on a unix socket
    data_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path("memoryd"))
    redis_binary: Path | None = None
    durability: Literal["auto", "everysec", "always", "replicated"] = "auto"

    slots: int = Field(default=32, ge=1, le=100_000)  # sessions whose state is in memory
    lanes: int = Field(default=8, ge=1, le=1024)  # replies written at the same time
    threads: int = Field(default=0, ge=0, le=1024)  # of the model; 0 is one for each core
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    checkpoint_tokens: int = Field(default=4096, ge=1)  # absorbed tokens between checkpoints
    backlog_soft_tokens: int = Field(default=16_384, ge=1)  # streams are read slowly beyond it
    backlog_hard_tokens: int = Field(default=65_536, ge=1)  # appends are refused beyond it
    max_message_bytes: int = Field(default=4 << 20, ge=1 << 10, le=1 << 30)
    max_prompt_tokens: int = Field(default=4096, ge=16)  # tail, question and framing of a query
    max_reply_tokens: int = Field(default=1024, ge=1)
    default_reply_tokens: int = Field(default=256, ge=1)
    turn_timeout: float = Field(default=600.0, gt=0)  # seconds until an open turn is closed

    export_key: SecretStr | None = Field(default=None, min_length=16)  # signs exported sessions
    import_unsigned: bool | None = None  # take files it did not sign; None: only without a key
    max_import_archive_bytes: int = Field(default=64 << 20, ge=0)  # an import is held whole

    heartbeat_ttl: float = Field(default=10.0, ge=0.5)  # seconds; longer than a failover takes
    storage_deadline: float = Field(default=15.0, gt=0)  # seconds until Redis counts as away
    drain_timeout: float = Field(default=60.0, gt=0)  # seconds that running replies get on drain
    max_connection_age: float = Field(default=0.0, ge=0)  # seconds; 0 keeps connections

    max_waiting_replies: int = Field(default=256, ge=0)  # beyond those on lanes

    # Of each tenant that has none of its own, over all daemons; 0 is no limit.
    quota_sessions: int = Field(default=0, ge=0, lt=2**53)
    quota_stored_bytes: int = Field(default=0, ge=0, lt=2**53)
    quota_tokens_per_minute: int = Field(default=0, ge=0, lt=2**53)  # read and written together
    quota_concurrent_queries: int = Field(default=0, ge=0, lt=2**53)  # replies of Query and Chat

    api_keys: tuple[ApiKey, ...] = ()  # empty: every caller is the tenant "default"
    tls_cert: Path | None = None  # PEM chain of this daemon; None speaks plain text
    tls_key: Path | None = None  # PEM key of tls_cert, not encrypted
    tls_client_ca: Path | None = None  # PEM; callers must show a certificate that it signed
    tls_peer_ca: Path | None = None  # PEM; signs other daemons' certificates; None: the system's
    metrics_listen: str | None = None  # host:port of the Prometheus listener; None: there is none
    otlp_endpoint: str | None = None  # URL of an OpenTelemetry collector; None: no traces
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"

    @field_validator("listen", "advertise", "metrics_listen")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None:
            host, _, port = value.rpartition(":")
            if not host or not port.isdigit() or int(port) > 65535:
                raise ValueError(f"write it as host:port, for example {DEFAULT_LISTEN}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.backlog_hard_tokens < self.backlog_soft_tokens:
            raise ValueError("backlog_hard_tokens must not be below backlog_soft_tokens")
        if not self.api_keys and not self.listens_on_loopback:
            raise ValueError(
                f"listen={self.listen} is reachable from outside and no api_keys are set: "
                "listen on 127.0.0.1, or set api_keys in the configuration file"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both, or neither")
        if self.tls_cert is None and (self.tls_client_ca or self.tls_peer_ca):
            raise ValueError("tls_client_ca and tls_peer_ca need tls_cert and tls_key: set them")
        if len({key.sha256 for key in self.api_keys}) < len(self.api_keys):
            raise ValueError("two of api_keys have the same sha256: give each caller its own key")
        if self.durability == "replicated" and self.redis_url is None:
            raise ValueError("durability=replicated needs redis_url: the private server has none")
        return self

    @property
    def listens_on_loopback(self) -> bool:
        return _is_loopback(self.listen.rpartition(":")[0])

    @property
    def takes_unsigned_imports(self) -> bool:
        return self.export_key is None if self.import_unsigned is None else self.import_unsigned

    @classmethod
    def load(cls, config_file: Path | None = None, **flags: object) -> Self:
        """Reads flags (None means not given), environment, and the file if one is named.

        Raises SettingsError with one sentence for each setting that does not fit.
        """
        given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
        if config_file is not None and not config_file.is_file():
            raise SettingsError(f"the configuration file {config_file} does not exist")

        class WithFile(cls):  # type: ignore[misc, valid-type]
            @classmethod
            def settings_customise_sources(
                cls,
                settings_cls: type[BaseSettings],
                init_settings: PydanticBaseSettingsSource,
                env_settings: PydanticBaseSettingsSource,
                dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
                file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                file = YamlConfigSettingsSource(settings_cls, yaml_file=config_file)
                return init_settings, env_settings, file

        try:
            loaded = WithFile(**given)
            return cls.model_construct(**{name: getattr(loaded, name) for name in cls.model_fields})
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, line['loc'])) or 'settings'}: "
                f"{line['msg'].removeprefix('Value error, ')}"
                for line in error.errors()
            ]
            raise SettingsError("; ".join(lines)) from None
        except UnreadableSource as error:
            # A list in the environment is JSON.
            raise SettingsError(f"{_one_line(error)}: {_one_line(error.__cause__)}") from None
        except (OSError, ValueError, YAMLError) as error:
            raise SettingsError(
                f"the configuration file {config_file} cannot be read ({_one_line(error)}): "
                "write one setting a line, as in `listen: 127.0.0.1:7420`"
            ) from None


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
