"""The node's one key: on disk in a Web3 Secret Storage file, in memory as the signer of everything.

    identity = await load_or_create(path, passphrase, chain_id)

The same secp256k1 key is the libp2p identity and the Ethereum address. The file is an ordinary V3 keystore (0600) with
one more entry, ``pasar``: the chain it was made for, whether a passphrase protects it, whether it is for development.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import coincurve
import trio
from eth_keyfile.keyfile import create_keyfile_json, decode_keyfile_json

from p2p.errors import Misconfigured
from p2p.limits import bound_recursion
from p2p.peer import Address, PeerId, address_of, peer_of

MAX_FILE = 64 * 1024
SCRYPT_N = 2**17
SCRYPT_N_OPEN = 2**12  # without a passphrase there is nothing to protect by being slow
MAX_SCRYPT_MEMORY = 512 * 1024**2
bound_recursion()  # eth_keyfile has lifted it
_scrypt = trio.CapacityLimiter(1)  # a quarter of a gigabyte each


class Identity:
    """Holds a valid private key; ``peer``, ``address`` and every signature belong to it. Never printed."""

    __slots__ = ("_key", "address", "chain_id", "development", "peer", "protected")

    def __init__(
        self, private_key: bytes, *, chain_id: int | None = None, protected: bool = False, development: bool = False
    ) -> None:
        """``chain_id`` is the chain that the key was made for, None when it was made for none in particular."""
        self._key = coincurve.PrivateKey(private_key)
        self.peer: PeerId = peer_of(self._key.public_key.format(compressed=True))
        self.address: Address = address_of(self.peer)
        self.chain_id, self.protected, self.development = chain_id, protected, development

    @classmethod
    def fresh(cls, chain_id: int | None = None, *, development: bool = False) -> Identity:
        """A new random key that is on no disk."""
        return cls(coincurve.PrivateKey().secret, chain_id=chain_id, development=development)

    @property
    def private_key(self) -> bytes:
        """The secret itself, for the libp2p host, which signs its own handshakes."""
        secret: bytes = self._key.secret
        return secret

    def sign(self, digest: bytes) -> bytes:
        """r || s || v over 32 bytes, v 27 or 28, low s. Deterministic (RFC 6979)."""
        if len(digest) != 32:
            raise ValueError("a digest has 32 bytes")
        signature: bytes = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([signature[64] + 27])

    def require_chain(self, chain_id: int, development: bool) -> None:
        """Raise Misconfigured when this key must not sign on ``chain_id``; ``development`` says what that chain is.

        A development key, and one that no passphrase protects, signs on the chain it was made for and on no other; one
        made for no chain in particular signs on development chains.
        """
        if self.chain_id == chain_id or (self.chain_id is None and development):
            return
        made_for = "no chain in particular" if self.chain_id is None else f"chain {self.chain_id}"
        if self.development:
            raise Misconfigured(f"a development key made for {made_for} does not sign on chain {chain_id}")
        if not self.protected:
            raise Misconfigured(
                f"a keystore without a passphrase, made for {made_for}, does not sign on chain {chain_id}: "
                "name another data directory and a passphrase file"
            )

    def __repr__(self) -> str:
        return f"Identity(0x{self.address.hex()})"


async def load_or_create(path: Path, passphrase: str, chain_id: int | None, *, development: bool = False) -> Identity:
    """The identity in the keystore at ``path``; a new one, written there first, when there is no such file.

    Raises Misconfigured with one line for a file that is unreadable, garbled, open to others, or of another passphrase.
    """
    return await trio.to_thread.run_sync(_load_or_create, path, passphrase, chain_id, development, limiter=_scrypt)


def _load_or_create(path: Path, passphrase: str, chain_id: int | None, development: bool) -> Identity:
    try:
        if not path.exists():
            _create(path, passphrase, chain_id, development)
        return _load(path, passphrase)
    except OSError as exc:
        raise Misconfigured(f"keystore {path}: {exc.strerror or exc}") from exc


def _create(path: Path, passphrase: str, chain_id: int | None, development: bool) -> None:
    """Write a new keystore so that it is there whole or not at all; another process may win the race."""
    rounds = SCRYPT_N if passphrase else SCRYPT_N_OPEN
    secret = coincurve.PrivateKey().secret
    keystore = create_keyfile_json(secret, passphrase.encode(), kdf="scrypt", iterations=rounds)
    keystore["address"] = address_of(peer_of(coincurve.PublicKey.from_secret(secret).format())).hex()
    keystore["pasar"] = {"chain_id": chain_id, "passphrase": bool(passphrase), "development": development}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(keystore, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, it never replaces a key that was written meanwhile
        except FileExistsError:
            return
        except OSError:
            os.rename(temporary, path)  # a file system without hard links
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _load(path: Path, passphrase: str) -> Identity:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        content = file.read(MAX_FILE + 1)
    if status.st_uid != os.geteuid():
        raise Misconfigured(f"keystore {path} belongs to another user: run as its owner, or name another --data-dir")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Misconfigured(f"keystore {path} can be read by others: chmod 600 {path}")
    keystore, extra = _parse(path, content)
    try:
        private_key = decode_keyfile_json(keystore, passphrase.encode())
    except ValueError as exc:
        if "MAC" in str(exc):
            raise Misconfigured(f"keystore {path}: {_wrong(extra, passphrase)}") from exc
        raise Misconfigured(f"keystore {path} is garbled") from exc
    except (KeyError, TypeError, AttributeError, NotImplementedError) as exc:
        raise Misconfigured(f"keystore {path} is garbled") from exc
    try:
        return Identity(
            private_key,
            chain_id=extra.get("chain_id"),
            protected=bool(passphrase),
            development=extra.get("development") is True,
        )
    except ValueError as exc:
        raise Misconfigured(f"keystore {path} holds no key") from exc


def _parse(path: Path, content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keystore and our entry in it, with every cost that the file could impose bounded."""
    if len(content) > MAX_FILE:
        raise Misconfigured(f"keystore {path} is no keystore: larger than {MAX_FILE} bytes")
    try:
        keystore = json.loads(content)
        crypto = keystore.get("crypto", keystore.get("Crypto"))
        parameters, extra = crypto["kdfparams"], keystore.get("pasar", {})
        cost = 128 * int(parameters.get("n", 1)) * int(parameters.get("r", 1)) * int(parameters.get("p", 1))
        rounds = int(parameters.get("c", 1))
        chain_id = extra.get("chain_id")
        sound = keystore["version"] == 3 and (chain_id is None or type(chain_id) is int)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise Misconfigured(f"keystore {path} is garbled") from exc
    if not sound or not 0 < cost <= MAX_SCRYPT_MEMORY or not 0 < rounds <= 10_000_000:
        raise Misconfigured(f"keystore {path} is no keystore of this kind")
    return keystore, extra


def _wrong(extra: dict[str, Any], passphrase: str) -> str:
    if extra.get("passphrase") is True and not passphrase:
        return "it has a passphrase and none was given"
    if extra.get("passphrase") is False and passphrase:
        return "a passphrase was given and it has none"
    return "wrong passphrase"
