"""The node's key: one key for peer id, address and signatures, and its file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from eth_account import Account
from eth_keyfile import create_keyfile_json

from p2p import identity as module
from p2p.errors import Misconfigured
from p2p.identity import Identity, load_or_create
from p2p.peer import address_of, address_text, keccak256, recover

KEY = bytes(range(1, 33))


@pytest.fixture(autouse=True)
def _quick_scrypt(monkeypatch):
    monkeypatch.setattr(module, "SCRYPT_N", 2**10)
    monkeypatch.setattr(module, "SCRYPT_N_OPEN", 2**10)


def test_one_key_is_peer_address_and_signer():
    identity = Identity(KEY)
    assert address_of(identity.peer) == identity.address
    assert address_text(identity.address) == Account.from_key(KEY).address
    digest = keccak256(b"offer")
    signature = identity.sign(digest)
    assert recover(digest, signature) == identity.peer
    assert signature == bytes(Account.unsafe_sign_hash(digest, KEY).signature)


def test_the_key_is_never_printed():
    assert KEY.hex() not in repr(Identity(KEY)) + str(Identity(KEY))


async def test_a_keystore_is_made_once_and_read_back(tmp_path):
    path = tmp_path / "node" / "keystore.json"
    made = await load_or_create(path, "a passphrase", 42161)
    again = await load_or_create(path, "a passphrase", 1)
    assert again.private_key == made.private_key
    assert (again.chain_id, again.protected, again.development) == (42161, True, False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]
    assert Account.decrypt(json.loads(path.read_text()), "a passphrase") == made.private_key


async def test_two_starts_at_once_agree_on_one_key(tmp_path):
    found = []

    async def start():
        found.append(await load_or_create(tmp_path / "keystore.json", "", None))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(start)
    assert len({identity.private_key for identity in found}) == 1


def test_two_processes_agree_on_one_key(tmp_path):
    path = tmp_path / "keystore.json"
    module._create(path, "", None, False)
    before = path.read_bytes()
    module._create(path, "", None, False)  # lost the race
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["keystore.json"]


async def test_a_keystore_of_another_wallet_is_read(tmp_path):
    path = tmp_path / "keystore.json"
    path.write_text(json.dumps(create_keyfile_json(KEY, b"secret", kdf="pbkdf2", iterations=1000)))
    path.chmod(0o600)
    identity = await load_or_create(path, "secret", 1)
    assert identity.private_key == KEY
    assert identity.chain_id is None


def garbled(path: Path, change) -> None:
    keystore = json.loads(path.read_text())
    change(keystore)
    path.write_text(json.dumps(keystore))


@pytest.mark.parametrize(
    ("change", "passphrase", "says"),
    [
        (lambda path: None, "another", "wrong passphrase"),
        (lambda path: None, "", "it has a passphrase and none was given"),
        (lambda path: path.write_text(""), "right", "garbled"),
        (lambda path: path.write_text("[]"), "right", "garbled"),
        (lambda path: path.write_text("[" * 5_000), "right", "garbled"),
        (lambda path: path.write_bytes(b"\xff" * 100), "right", "garbled"),
        (lambda path: path.write_bytes(b" " * 70_000), "right", "larger than"),
        (lambda path: garbled(path, lambda k: k.pop("crypto")), "right", "garbled"),
        (lambda path: garbled(path, lambda k: k["crypto"].pop("mac")), "right", "garbled"),
        (lambda path: garbled(path, lambda k: k["crypto"]["kdfparams"].update(n=2**40)), "right", "no keystore of"),
        (lambda path: garbled(path, lambda k: k["crypto"].update(ciphertext="zz")), "right", "garbled"),
        (lambda path: garbled(path, lambda k: k.update(version=4)), "right", "no keystore of"),
        (lambda path: path.chmod(0o644), "right", "chmod 600"),
        (lambda path: (path.unlink(), path.mkdir()), "right", "Is a directory"),
    ],
)
async def test_what_is_wrong_with_the_file_is_said_in_one_line(change, passphrase, says, tmp_path):
    path = tmp_path / "keystore.json"
    await load_or_create(path, "right", None)
    change(path)
    with pytest.raises(Misconfigured) as caught:
        await load_or_create(path, passphrase, None)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_deep_document_is_an_error_and_not_the_end_of_the_process():
    code = "import json, web3, p2p.identity\ntry:\n json.loads('[' * 100_000)\nexcept RecursionError:\n print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


DEV, MAIN = 31337, 42161


@pytest.mark.parametrize(
    ("identity", "chain_id", "development", "allowed"),
    [
        (Identity(KEY, chain_id=MAIN, protected=True), MAIN, False, True),
        (Identity(KEY, chain_id=None, protected=True), MAIN, False, True),
        (Identity(KEY, chain_id=1, protected=True), MAIN, False, True),
        (Identity(KEY, chain_id=MAIN), MAIN, False, True),
        (Identity(KEY, chain_id=MAIN), 1, False, False),
        (Identity(KEY, chain_id=None), MAIN, False, False),
        (Identity(KEY, chain_id=None), DEV, True, True),
        (Identity(KEY, chain_id=DEV, development=True), DEV, True, True),
        (Identity(KEY, chain_id=DEV, development=True), MAIN, False, False),
        (Identity(KEY, chain_id=DEV, development=True, protected=True), MAIN, False, False),
    ],
)
def test_keys_stay_on_the_chain_they_were_made_for(identity, chain_id, development, allowed):
    if allowed:
        identity.require_chain(chain_id, development)
    else:
        with pytest.raises(Misconfigured):
            identity.require_chain(chain_id, development)
