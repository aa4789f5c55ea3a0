"""Config: what an operator may set, from flags > environment ``PASAR_*`` > TOML file > defaults.

Constants of the protocol are not settings; they live in the module that enforces them. Every field is checked here,
before anything listens, and a wrong one is ``Misconfigured`` with one clear line. Knows no role's inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from multiaddr import Multiaddr
from platformdirs import user_config_path, user_data_path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from compute.safety import MAX_LABELS, WHOLE, Checking
from compute.spec import (
    AUDIO_TO_TEXT,
    IMAGE_TO_IMAGE,
    IMAGE_TO_TEXT,
    IMAGE_TO_VIDEO,
    SEGMENT_ANYTHING,
    TEXT_TO_IMAGE,
    TRANSCODE,
    UPSCALE,
    VERIFY_STEP,
)
from ledger.money import GWEI, MAX_WEI, parse_wei
from market.policy import Policy
from p2p.addresses import is_local
from p2p.errors import MalformedMessage, Misconfigured, PasarError
from p2p.peer import parse_address, parse_peer

Role = Literal["orchestrator", "gateway", "bootstrap"]
ROLES: tuple[Role, ...] = get_args(Role)
DEFAULT_PRICE = 100 * GWEI  # per million units: a 64 x 64 picture of 20 guided steps costs about 16 gwei
PRICED_APART = frozenset(
    {IMAGE_TO_IMAGE, IMAGE_TO_VIDEO, UPSCALE, AUDIO_TO_TEXT, IMAGE_TO_TEXT, SEGMENT_ANYTHING, TRANSCODE, VERIFY_STEP}
)
NETWORK_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


def _listing(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _checked(check: Callable[[str], Any]) -> Callable[[Any], Any]:
    def run(value: Any) -> Any:
        if isinstance(value, str):
            try:
                check(value)
            except (PasarError, ValueError) as exc:
                raise ValueError(str(exc)) from exc
        return value

    return run


def _multiaddr(text: str) -> str:
    try:
        Multiaddr(text)
    except Exception as exc:  # multiaddr raises many kinds of its own
        raise ValueError(f"{text!r} is no multiaddr; one looks like /ip4/127.0.0.1/tcp/4701") from exc
    if "/tcp/" not in text:
        raise ValueError(f"{text!r} names no tcp port; one looks like /ip4/127.0.0.1/tcp/4701")
    return text


def _bootstrap(text: str) -> str:
    _multiaddr(text)
    if "/p2p/" not in text:
        raise ValueError(
            f"{text!r} names no peer; take the address from the bootstrap's READY line, ending in /p2p/16U.."
        )
    try:
        parse_peer(text.rsplit("/p2p/", 1)[1])
    except MalformedMessage as exc:
        raise ValueError(f"{text!r} ends in no peer id: {exc}") from exc
    return text


def _network(text: str) -> str:
    if not NETWORK_NAME.fullmatch(text):
        raise ValueError("a network's name has 1 to 32 of a-z 0-9 . - and starts with a letter or digit")
    return text


def _http(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is no HOST:PORT")
    return text


_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,2})?")


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text) and not is_doorway(text):
        raise ValueError(f"{text!r} is none of auto, cpu, cuda, cuda:1, mps, nor HOST:PORT for workers of other hosts")
    return text


def is_doorway(device: str) -> bool:
    """Whether this is no device, but where workers of other hosts may come."""
    host, _, port = device.rpartition(":")
    return (
        bool(host)
        and not _DEVICE.fullmatch(host)
        and not _DEVICE.fullmatch(device)
        and port.isdigit()
        and 0 <= int(port) <= 65535
    )


def _rpc(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"{text!r} is no http(s) URL of a JSON-RPC endpoint")
    return text


Wei = Annotated[int, Field(ge=0, le=MAX_WEI)]


def _price(value: Any) -> Any:
    return parse_wei(value) if isinstance(value, str) else value


def _prices(value: Any) -> Any:
    """A table of pipelines and what they cost, each in the words of ``--price``."""
    if not isinstance(value, dict):
        raise ValueError("a table of pipelines, each with its wei per million units")
    if TEXT_TO_IMAGE in value:
        raise ValueError(f"{TEXT_TO_IMAGE} has the price of --price, which the others follow")
    there = {*PRICED_APART, *(found.name for found in entry_points(group="pasar.pipelines"))} - {TEXT_TO_IMAGE}
    for name in set(value) - there:
        raise ValueError(f"no pipeline {str(name)[:64]!r} can be set apart; there are {', '.join(sorted(there))}")
    try:
        return {name: _price(told) for name, told in value.items()}
    except Misconfigured as exc:
        raise ValueError(str(exc)) from exc


_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?([kmgt]?b?)")


def _size(value: Any) -> Any:
    if not isinstance(value, str) or value.isdigit():
        return int(value) if isinstance(value, str) else value
    found = _SIZE.fullmatch(value.lower())
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{value!r} is no size; one looks like 6GB or 500MB")
    return round(float(found[1]) * _UNITS[found[2]])


Bytes = Annotated[int, BeforeValidator(_size), Field(ge=0, le=2**53)]


class ShelfConfig(BaseModel):
    """What loaded and fetched models may take: the table ``[shelf]``, or ``PASAR_SHELF__MEMORY`` and its like.

    ``memory`` 0 is a share of what is free, ``disk`` 0 is no limit but the disk's own. ``pulls``: whether a node may
    fetch models that it is to serve and does not have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: Bytes = 0
    disk: Bytes = 50 * 10**9
    pulls: bool = False
    pinned: tuple[str, ...] = ()


class SafetyConfig(BaseModel):
    """What this operator does not take or deliver: the table ``[safety]``.

    ``words`` and ``patterns`` are looked for in prompts. ``checker`` is a picture classifier by folder, or ORG/NAME of
    a hub, ``unsafe`` its labels that count, ``let_pass`` the percent up to which a result is delivered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checker: str = Field(default="", max_length=1024)
    unsafe: tuple[str, ...] = Field(default=("nsfw",), max_length=MAX_LABELS)
    let_pass: int = Field(default=50, ge=0, le=100)
    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_policy(self) -> Self:
        try:
            _ = self.policy
        except Misconfigured as exc:
            raise ValueError(str(exc)) from exc
        return self

    @property
    def policy(self) -> Policy:
        """The jobs that are not taken."""
        return Policy(self.words, self.patterns)

    @property
    def checking(self) -> Checking | None:
        """What is done with results; nothing without a checker."""
        return Checking(self.checker, self.unsafe, self.let_pass * WHOLE // 100) if self.checker else None


class ChecksConfig(BaseModel):
    """Which of its own results a gateway has checked: the table ``[checks]``, or ``PASAR_CHECKS__EVERY`` and its like.

    ``every``: one of so many, drawn by chance, 0 for none; ``steps`` of each are run again, or the whole of a job
    without steps. A check is paid by the gateway, at most twice what the checked job cost for each verdict.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=0, ge=0, le=10**6)
    steps: int = Field(default=2, ge=1, le=8)


class Config(BaseSettings):
    """Everything one node is told. Frozen; at most 20 fields that are no tables."""

    model_config = SettingsConfigDict(
        env_prefix="PASAR_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    data_dir: Path | None = None
    home: Path = Field(default_factory=lambda: user_data_path("pasar"))
    network: Annotated[str, AfterValidator(_network)] = "main"
    listen: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listing)] = ()
    announce: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listing)] = ()
    bootstrap: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listing)] = ()
    mdns: bool | None = None
    local_port: int = Field(default=4701, ge=1, le=65534)
    rpc: Annotated[str | None, AfterValidator(_checked(_rpc))] = None
    broker: Annotated[str | None, AfterValidator(_checked(parse_address))] = None
    http: Annotated[str | None, AfterValidator(_checked(_http))] = None
    price: Annotated[Wei, BeforeValidator(_price)] = DEFAULT_PRICE
    prices: Annotated[dict[str, Wei], NoDecode, BeforeValidator(_prices)] = Field(default_factory=dict)
    slots: int | None = Field(default=None, ge=1, le=64)  # None: as many as the device gains from
    threads: int = Field(default=0, ge=0, le=256)
    devices: Annotated[tuple[Annotated[str, AfterValidator(_device)], ...], NoDecode, BeforeValidator(_listing)] = (
        Field(default=(), max_length=32)
    )
    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listing)] = ()
    shelf: ShelfConfig = ShelfConfig()
    safety: SafetyConfig = SafetyConfig()
    checks: ChecksConfig = ChecksConfig()
    passphrase_file: Path | None = None
    log_json: bool = False
    strict_private: bool = False  # limits for one address hold for loopback and private ranges too

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, user_config_path("pasar") / "pasar.toml")
        return init_settings, env_settings, toml

    @property
    def local_bootstrap(self) -> bool:
        """Whether this node looks for the market of this machine instead of a named bootstrap."""
        return not self.bootstrap

    @property
    def lan(self) -> bool:
        """Whether this node names itself on its LAN and looks for others there; untold, where it listens there."""
        if self.mdns is not None:
            return self.mdns
        everywhere = ("/ip4/0.0.0.0/", "/ip6/::/")
        return not self.network.startswith(("demo", "test")) and any(
            addr.startswith(everywhere) or is_local(addr) for addr in self.listen
        )

    @property
    def chain_port(self) -> int:
        """Where the development chain of this machine answers: the port after the local bootstrap's."""
        return self.local_port + 1


def load_config(**flags: Any) -> Config:
    """The config of this process. Flags that are None count as not given. Raises Misconfigured."""
    given = {name: value for name, value in flags.items() if value is not None and value not in ((), {})}
    try:
        config = Config(**given)
        for addr in (*config.listen, *config.announce):
            _multiaddr(addr)
        for addr in config.bootstrap:
            _bootstrap(addr)
    except ValidationError as exc:
        first = exc.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise Misconfigured(f"{name.replace('_', '-')}: {first['msg'].removeprefix('Value error, ')}") from exc
    except (ValueError, MalformedMessage) as exc:
        raise Misconfigured(str(exc)) from exc
    if config.http and config.http.rpartition(":")[0].strip("[]") not in LOOPBACK_HOSTS:
        raise Misconfigured(f"http: {config.http} is not on loopback; the gateway's face is served on loopback only")
    return config


def passphrase_of(config: Config) -> str:
    """The keystore's passphrase: first line of the passphrase file, else none. Raises Misconfigured."""
    if config.passphrase_file is None:
        return ""
    try:
        with config.passphrase_file.open() as file:
            return file.readline(1024).rstrip("\n")
    except OSError as exc:
        raise Misconfigured(f"passphrase-file: cannot read {config.passphrase_file}: {exc.strerror}") from exc
