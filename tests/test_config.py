"""What an operator may set: sources, bounds, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.config import Config, load_config, passphrase_of
from p2p.errors import Misconfigured

PEER = "16Uiu2HAmEWQnHq2jLKJypwVnVoQeFCULuyop6atvq2eWjYSUjzNi"


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASAR_NETWORK", "from-env")
    monkeypatch.setenv("PASAR_LOCAL_PORT", "5100")
    assert load_config().network == "from-env"
    config = load_config(network="from-flag")
    assert (config.network, config.local_port, config.chain_port) == ("from-flag", 5100, 5101)


def test_flags_that_were_not_given_leave_the_default() -> None:
    assert load_config(network=None, bootstrap=()).network == "main"


def test_amounts_read_as_people_write_them() -> None:
    assert load_config(price="500gwei").price == 500 * 10**9
    assert load_config(price="0.001eth").price == 10**15


def test_lists_come_from_the_environment_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASAR_BOOTSTRAP", f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}, /ip4/127.0.0.1/tcp/2/p2p/{PEER}")
    config = load_config()
    assert len(config.bootstrap) == 2
    assert not config.local_bootstrap


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"bootstrap": ("/ip4/127.0.0.1/tcp/1",)}, "names no peer"),
        ({"bootstrap": ("/ip4/127.0.0.1/tcp/1/p2p/16Uxyz",)}, "ends in no peer id"),
        ({"listen": ("127.0.0.1:4701",)}, "no multiaddr"),
        ({"announce": ("/ip4/127.0.0.1/udp/1",)}, "no tcp port"),
        ({"network": "Has Spaces"}, "network"),
        ({"price": "cheap"}, "is no amount"),
        ({"price": "-1"}, "no whole amount"),
        ({"rpc": "127.0.0.1:8545"}, "no http(s) URL"),
        ({"broker": "0x1234"}, "40 hex digits"),
        ({"http": "8080"}, "HOST:PORT"),
        ({"http": "0.0.0.0:8080"}, "not on loopback"),
        ({"local_port": 65535}, "local-port"),
        ({"shelf": {"memory": "lots"}}, "is no size"),
        ({"shelf": {"memory": "-1"}}, "is no size"),
        ({"shelf": {"no_such": 1}}, "no-such"),
        ({"no_such_setting": 1}, "no-such-setting"),
    ],
)
def test_a_wrong_setting_is_one_line(flags: dict[str, object], says: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load_config(**flags)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_read_as_people_write_them_and_a_flag_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASAR_SHELF__MEMORY", "1.5GB")
    monkeypatch.setenv("PASAR_SHELF__DISK", "500mb")
    shelf = load_config(shelf={"pulls": True}).shelf
    assert (shelf.memory, shelf.disk, shelf.pulls) == (1_500_000_000, 500_000_000, True)
    assert load_config(shelf={"memory": "7"}).shelf.memory == 7
    monkeypatch.setenv("PASAR_MODELS", "tiny, org/name")
    assert load_config().models == ("tiny", "org/name")


def test_there_are_at_most_twenty_settings() -> None:
    tables = ("shelf", "prices", "safety")
    assert len(set(Config.model_fields) - set(tables)) <= 20


def test_the_passphrase_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("open sesame\nnot this line\n")
    assert passphrase_of(load_config(passphrase_file=secret)) == "open sesame"
    assert passphrase_of(load_config()) == ""
    with pytest.raises(Misconfigured):
        passphrase_of(load_config(passphrase_file=tmp_path / "missing"))
