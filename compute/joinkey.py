"""The key of an orchestrator's door for workers of other hosts: its certificate, the shared key, the file of both.

    worker-door.pem   certificate and its private key, made once; only the orchestrator has it
    worker.key        what a worker needs: ``pasar-worker 1 PIN KEY``, hex; copied to its host by the operator

Both are readable by their owner alone, or refused. Shell; knows no connection.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import ssl
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from compute.joinwire import KEY, PIN
from p2p.errors import Misconfigured

PEM_FILE, KEY_FILE = "worker-door.pem", "worker.key"
_HEAD = ("pasar-worker", "1")
_YEARS = 20  # nobody looks at the date: the certificate is known by its hash
_MAX_FILE = 1024


@dataclass(frozen=True, slots=True)
class JoinKey:
    """What both sides know: the hash of the orchestrator's certificate, and a secret."""

    pin: bytes
    key: bytes = field(repr=False)


def open_door_key(folder: Path) -> tuple[JoinKey, ssl.SSLContext]:
    """The orchestrator's side, made at its first start. Raises Misconfigured for files that others may read."""
    pem = folder / PEM_FILE
    if not pem.exists():
        _write(pem, _made())
    _check_private(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    try:
        context.load_cert_chain(pem)
        certificate = x509.load_pem_x509_certificate(pem.read_bytes())
    except (OSError, ValueError) as exc:
        raise Misconfigured(
            f"{pem} cannot be read: {exc}; remove it and {KEY_FILE}, and the next start makes new ones"
        ) from exc
    pin = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    path = folder / KEY_FILE
    known = read_join_key(path) if path.exists() else None
    if known is None or known.pin != pin:
        known = JoinKey(pin, secrets.token_bytes(KEY))
        _write(path, " ".join((*_HEAD, known.pin.hex(), known.key.hex())).encode() + b"\n")
    return known, context


def read_join_key(path: Path) -> JoinKey:
    """The worker's side. Raises Misconfigured."""
    try:
        _check_private(path)
        with path.open() as file:
            words = file.read(_MAX_FILE).split()
        found = JoinKey(bytes.fromhex(words[2]), bytes.fromhex(words[3]))
    except (OSError, ValueError, IndexError) as exc:
        raise Misconfigured(f"key: {path} is no key of an orchestrator's door: {exc}; copy its {KEY_FILE}") from exc
    if tuple(words[:2]) != _HEAD or (len(found.pin), len(found.key)) != (PIN, KEY):
        raise Misconfigured(f"key: {path} is no key of an orchestrator's door; copy its {KEY_FILE}")
    return found


def guest_context() -> ssl.SSLContext:
    """TLS for a worker: no authority and no name are asked, the certificate's hash is compared by ``pinned``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def pinned(certificate: bytes, key: JoinKey) -> bool:
    """Whether this is the certificate that the key names."""
    return secrets.compare_digest(hashlib.sha256(certificate).digest(), key.pin)


def _made() -> bytes:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pasar worker door")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * _YEARS))
        .sign(private, hashes.SHA256())
    )
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes) -> None:
    """A new file that was never readable by others, there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as exc:
        raise Misconfigured(f"{path} cannot be written: {exc.strerror}") from exc


def _check_private(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Misconfigured(f"key: {path} may be read by others; chmod 600 it, and own it")
