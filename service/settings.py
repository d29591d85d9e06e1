"""Every setting of the service: one documented class, read from options, ``FLOWMODEL_*`` variables and a TOML file."""

from __future__ import annotations

import difflib
import os
import re
import socket
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from flowmodel.artefact.store import is_url

PREFIX = "FLOWMODEL_"

_KUBERNETES_SERVICE_LINK = re.compile(r"FLOWMODEL_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP).*)?)")
"""What Kubernetes puts into every pod beside a Service called ``flowmodel``; never settings of ours."""


class SettingsError(ValueError):
    """A setting has a wrong value or an unknown name; the text names each one and where it came from."""


class Settings(BaseSettings):
    """What ``flowmodel serve`` runs with.

    An option on the command line overrides a ``FLOWMODEL_*`` variable, which overrides the ``--config`` file, which
    overrides the default here.

    Example:
        >>> Settings(store="models", http_port=0).max_rows_per_batch
        4096
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)

    engine: Literal["torchserve", "inprocess"] = Field(
        "torchserve", description="What computes: a TorchServe child process, or the gateway's own process."
    )
    store: Path | str = Field(
        Path("model_store"), description="Directory of published models, or a URL that fsspec opens."
    )
    store_cache: Path | None = Field(
        None, description="Where versions of a store that is a URL are kept; without, a folder of the user's cache."
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address that the gRPC and HTTP servers listen on.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port of the gRPC server; 0 takes a free one.")
    http_port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP server; 0 takes a free one.")

    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="Gateway processes that share the ports; with more than 1, a parent starts and watches them.",
    )

    token_file: Path | None = Field(
        None, description="File of the tokens that callers must present, made by `flowmodel token new`; without, none."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate that both servers present; without, they speak plain text."
    )
    tls_key: Path | None = Field(None, description="PEM file of the private key of tls_certificate, not encrypted.")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file of the authorities one of which must have signed a client's certificate; without, "
        "clients need none.",
    )

    admin_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the admin API; 0 takes a free one; without, there is none."
    )
    admin_host: str = Field("127.0.0.1", min_length=1, description="Address that the admin API listens on.")
    admin_token_file: Path | None = Field(
        None,
        description="File of the tokens that callers of the admin API must present, with the scope admin; "
        "admin_port needs one.",
    )

    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Threads an engine computes one batch with."
    )
    torchserve_address: str | None = Field(
        None,
        description="host:port of the gRPC inference API of a TorchServe that runs elsewhere; without, a child.",
    )
    torchserve_management_address: str | None = Field(
        None, description="host:port of that TorchServe's gRPC management API."
    )
    torchserve_key_file: Path | None = Field(
        None, description="key_file.json of that TorchServe, where it asks for its keys; a child has its own."
    )
    torchserve_start_timeout_seconds: float = Field(
        120.0, gt=0, description="How long TorchServe may take to start, and to load a model."
    )
    torchserve_heap: str = Field(
        "512m", pattern=r"^\d+[kKmMgG]$", description="Java heap of the TorchServe child, as 512m or 2g."
    )

    max_rows_per_batch: int = Field(4096, ge=1, description="Most rows of one engine call; larger requests are split.")
    max_engine_calls: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Engine calls under way at once for each model version and operation; without, 1 in the gateway's "
        "own process and 2 with TorchServe, where the second hides the way there and back.",
    )
    max_rows_per_request: int = Field(1_000_000, ge=1, description="Most rows of one LogProb request.")
    max_samples_per_request: int = Field(1_000_000, ge=1, description="Most samples of one Sample request.")
    max_queue_rows: int = Field(
        262_144,
        ge=1,
        description="Rows that may wait for one model version and operation; a request is refused when it would not "
        "fit, but one that meets an empty queue is always taken.",
    )
    max_request_bytes: int = Field(64 * 1024**2, ge=1024, description="Longest request message or body, in bytes.")
    max_response_bytes: int = Field(
        256 * 1024**2, ge=1024, description="Largest array of samples answered to one request, in bytes."
    )
    max_samples_per_stream: int = Field(10**9, ge=1, description="Most samples of one StreamSample request.")
    max_chunk_bytes: int = Field(
        8 * 1024**2,
        ge=1024,
        description="Longest chunk of rows in a stream, and longest row of a streamed body, in bytes.",
    )
    max_spool_bytes: int = Field(
        1024**3,
        ge=0,
        description="Bytes of a streamed answer kept on disk while its HTTP client still sends and does not read yet; "
        "who goes on sending beyond them without reading is cut off.",
    )
    grpc_keepalive_seconds: float = Field(
        60.0, gt=0, description="Silence on a gRPC connection after which its client is asked whether it lives."
    )
    http_keepalive_seconds: float = Field(
        75.0, gt=0, description="How long an HTTP connection is kept open between two requests."
    )
    stream_idle_seconds: float = Field(
        120.0, gt=0, description="How long a stream waits for a client that neither sends nor reads, in seconds."
    )
    max_concurrent_requests: int = Field(
        10_000, ge=1, description="Requests under way at once, of all clients and both servers."
    )
    max_connections: int = Field(1000, ge=1, description="Connections open at once, of each of the two servers.")
    max_concurrent_streams: int = Field(
        1000, ge=1, description="Calls under way at once on one gRPC connection; a client keeps further ones back."
    )
    request_head_seconds: float = Field(
        30.0, gt=0, description="How long an HTTP connection may take to send a request's head, its first one included."
    )
    client_requests_per_second: float | None = Field(
        None, gt=0, description="Requests that one client may make in a second; without, as many as it likes."
    )
    client_rows_per_second: float | None = Field(
        None,
        gt=0,
        description="Rows that one client may have scored or drawn in a second; without, as many as it likes.",
    )
    client_concurrent_requests: int | None = Field(
        None, ge=1, description="Requests that one client may have under way at once; without, as many as it likes."
    )
    default_timeout_seconds: float = Field(
        60.0, gt=0, description="Deadline of a request that brings none of its own, in seconds."
    )

    loaded_versions: int = Field(
        2,
        ge=1,
        description="How many versions of each model are kept loaded: the default and the newest; the previous "
        "default, canary and shadow come on top.",
    )
    max_loaded_bytes: int | None = Field(
        None,
        ge=1,
        description="Most memory of loaded versions, counted as the length of their scorer.pt; what was not asked for "
        "the longest time is unloaded, default versions last, and loaded again when it is asked for.",
    )
    store_poll_seconds: float = Field(1.0, gt=0, description="How often the store is looked at for new versions.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages written to standard error."
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="How long requests under way may take to finish when the service is told to stop."
    )

    @property
    def engine_calls(self) -> int:
        """``max_engine_calls``, or what measured best for the engine."""
        return self.max_engine_calls or (1 if self.engine == "inprocess" else 2)

    @field_validator("store", mode="before")
    @classmethod
    def _path_or_url(cls, value: object) -> object:
        return Path(value) if isinstance(value, str) and not is_url(value) else value

    @field_validator("processes")
    @classmethod
    def _ports_can_be_shared(cls, value: int) -> int:
        # Elsewhere the option exists and one of the processes gets all connections.
        if value > 1 and not (sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")):
            raise ValueError(
                "must be 1 on this system: several processes share their ports by SO_REUSEPORT, which only Linux has "
                "with connections spread over all of them"
            )
        return value

    @field_validator("torchserve_address", "torchserve_management_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r".+:\d{1,5}", value):
            raise ValueError("must be host:port, as 127.0.0.1:7070")
        return value

    @field_validator("store")
    @classmethod
    def _store_is_no_file(cls, value: Path | str) -> Path | str:
        if Path(value).is_file():
            raise ValueError("is a file; expected the directory of published models, or one that is yet to be made")
        return value

    @field_validator("tls_key")
    @classmethod
    def _key_and_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_certificate") is None):
            missing = "tls_certificate" if value is not None else "tls_key"
            raise ValueError(f"{missing} is missing; TLS needs tls_certificate and tls_key")
        return value

    @field_validator("admin_token_file")
    @classmethod
    def _admin_needs_tokens(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("admin_port") is not None:
            raise ValueError(
                "is missing; the admin API answers nobody without a token: make a file with "
                "`flowmodel token new NAME --scopes admin --token-file FILE`"
            )
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _client_ca_with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certificate") is None:
            raise ValueError("tls_certificate is missing; client certificates are asked for in TLS alone")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options before variables before the file; no dotenv file and no secrets directory."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    other_variables: Callable[[], Collection[str]] = frozenset,
) -> Settings:
    """Read the settings from all their sources.

    Args:
        config: a TOML file whose keys are the fields' names.
        options: what the command line gave, by field name; None values count as not given.
        other_variables: ``FLOWMODEL_*`` variables that are not settings of the service but known, such as those of the
            other ``flowmodel`` commands; asked for only when there is a variable that is not a setting.

    Raises:
        SettingsError: a value is wrong, a key or variable unknown, or the file unreadable.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    _refuse_unknown_variables(other_variables)
    if config is not None:
        _refuse_unreadable(config)

    class _Configured(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return _Configured(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(item, given, config) for item in error.errors())) from None


def _refuse_unknown_variables(other_variables: Callable[[], Collection[str]]) -> None:
    """Catch misspelt variables, which would otherwise be silently without effect."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    ours = {name for name in os.environ if name.startswith(PREFIX) and not _KUBERNETES_SERVICE_LINK.fullmatch(name)}
    unknown = sorted(ours - known)
    if unknown:
        known |= set(other_variables())
        unknown = sorted(ours - known)
    if unknown:
        raise SettingsError("\n".join(f"{name} is not a setting{_nearest(name, known)}" for name in unknown))


def _refuse_unreadable(config: Path) -> None:
    try:
        with config.open("rb") as file:
            tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {config}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {config} is not TOML: {error}") from None


def _explain(item: Any, given: Mapping[str, Any], config: Path | None) -> str:
    """One line on one wrong setting: where it came from, what is wrong, what was given."""
    name = str(item["loc"][0]) if item["loc"] else "settings"
    if item["type"] == "extra_forbidden":
        return f"{name} in {config} is not a setting{_nearest(name, Settings.model_fields)}"
    variable = f"{PREFIX}{name.upper()}"
    if name in given:
        source = "--" + name.replace("_", "-")
    elif variable in os.environ:
        source = variable
    elif config is None or item["input"] is None:
        source = name
    else:
        source = f"{name} in {config}"
    text = item["msg"].removeprefix("Value error, ")
    # A setting that is missing where another one needs it was not given.
    given_text = "" if item["input"] is None else f"; given {item['input']!r}"
    return f"{source}: {text[:1].lower()}{text[1:]}{given_text}"


def _nearest(name: str, known: Collection[str]) -> str:
    """``"; did you mean ...?"``, or where to find the list when nothing is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else "; `flowmodel serve --help` lists them"
