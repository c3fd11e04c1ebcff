"""Serving certificates: a pair of PEM texts put into an SSLContext, and a self-signed pair where there is none."""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from attrs import field, frozen

from agentops.net.errors import UsageError

VALID_DAYS = 365


class CertificateError(UsageError):
    """A certificate or key cannot be used; the message names the file and what is wrong with it."""


@frozen(slots=True)
class Pair:
    """A certificate chain and its key, as PEM."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)

    @classmethod
    def read(cls, cert: Path, key: Path) -> Pair:
        """From two files. Raises CertificateError naming the one that cannot be read."""
        parts = []
        for path in (cert, key):
            try:
                parts.append(path.read_bytes())
            except OSError as error:
                raise CertificateError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
        return cls(*parts)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let new handshakes use this pair.

        It is tried in a context of its own first: OpenSSL replaces the certificate before it looks at
        the key, so a bad pair would leave a live context broken. Raises CertificateError.
        """
        with ExitStack() as stack:
            cert, key = (stack.enter_context(_as_file(pem)) for pem in (self.cert_pem, self.key_pem))
            for target in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
                try:
                    target.load_cert_chain(cert, key, password=_no_password)
                except (ssl.SSLError, ValueError, OSError) as error:
                    reason = getattr(error, "reason", None) or str(error)
                    raise CertificateError(f"certificate and key do not work together: {reason}") from error


def server_context(client_ca: Path | None = None) -> ssl.SSLContext:
    """A server's context, TLS 1.2 or later. With `client_ca`, clients must show a certificate it signed.

    Raises CertificateError when `client_ca` cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if client_ca is not None:
        try:
            context.load_verify_locations(cafile=str(client_ca))
        except (ssl.SSLError, OSError) as error:
            raise CertificateError(f"cannot use {client_ca} as the clients' authority: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def self_signed(hosts: Sequence[str], now: datetime) -> Pair:
    """A pair for `hosts` (names or addresses) that is its own authority, valid for a year. Needs `cryptography`.

    Raises CertificateError when that is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as error:
        raise CertificateError(
            "a self-signed certificate needs the package cryptography; install it, or give a certificate directory"
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clients whose clock is behind
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, True, False, False, False),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(
        cert.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one without a password")


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path that holds `data` for as long as the context: `ssl` loads from files only. In memory where possible."""
    if hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd"):
        fd = os.memfd_create("certificate")
        try:
            os.write(fd, data)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name
