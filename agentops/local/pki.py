"""The plane's certificates and keys, kept in the state directory.

    ca.crt, ca.key            signs the two below, and is what kubeconfigs and pods trust
    apiserver.crt, .key       localhost and the names a cluster's API server has
    admin.crt, .key           the kubeconfig's user: group system:masters
    sa.key, sa.pub            signs ServiceAccount tokens (RS256)

Files are written with mode 0600 in a directory of mode 0700, each atomically. The CA and the signing key
live as long as the state directory, so kubeconfigs and tokens survive a restart; the server certificate is made anew
when a name is missing or it nears its end.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=30)
_BACKDATE = timedelta(hours=1)
"""Certificates start a little in the past: clocks of two machines that look at one state dir differ."""

SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@frozen(slots=True)
class Pki:
    """Everything as PEM; `server_cert_path` and `server_key_path` for those who need files."""

    ca_pem: bytes
    server_cert_path: Path
    server_key_path: Path
    admin_cert_pem: bytes
    admin_key_pem: bytes
    sa_key_pem: bytes
    sa_public_pem: bytes


def ensure_pki(directory: Path, *, addresses: Iterable[str], now: datetime | None = None) -> Pki:
    """Read what is in `directory`, make what is missing or about to expire.

    `addresses` are the IP addresses the server is reached by. Raises OSError when the directory cannot be written.
    """
    now = now or datetime.now(UTC)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    ca_key, ca_cert = _authority(directory, now)
    wanted = sorted({"127.0.0.1", "::1", *addresses})
    names = [*(x509.DNSName(n) for n in SERVER_NAMES), *(x509.IPAddress(ipaddress.ip_address(a)) for a in wanted)]
    server = _leaf(directory, "apiserver", ca_key, ca_cert, now, common_name="kube-apiserver", san=names)
    admin = _leaf(directory, "admin", ca_key, ca_cert, now, common_name="agentops-local-admin", group="system:masters")
    sa_key = _signing_key(directory)
    return Pki(
        ca_pem=_pem(ca_cert),
        server_cert_path=server[0],
        server_key_path=server[1],
        admin_cert_pem=admin[0].read_bytes(),
        admin_key_pem=admin[1].read_bytes(),
        sa_key_pem=_key_pem(sa_key),
        sa_public_pem=sa_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _authority(directory: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path, cert_path = directory / "ca.key", directory / "ca.crt"
    if key_path.exists() and cert_path.exists():
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
        if isinstance(key, ec.EllipticCurvePrivateKey) and cert.not_valid_after_utc - now > _RENEW_BEFORE:
            return key, cert
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agentops-local-ca")])
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(key_path, _key_pem(key))
    write_private(cert_path, _pem(cert))
    return key, cert


def _leaf(
    directory: Path,
    stem: str,
    ca_key: ec.EllipticCurvePrivateKey,
    ca_cert: x509.Certificate,
    now: datetime,
    *,
    common_name: str,
    group: str = "",
    san: list[x509.GeneralName] | None = None,
) -> tuple[Path, Path]:
    cert_path, key_path = directory / f"{stem}.crt", directory / f"{stem}.key"
    if cert_path.exists() and key_path.exists():
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
        if cert.not_valid_after_utc - now > _RENEW_BEFORE and _covers(cert, san) and _signed_by(cert, ca_cert):
            return cert_path, key_path
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if group:
        subject.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    usage = ExtendedKeyUsageOID.SERVER_AUTH if san else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(ca_cert.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(cert_sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    write_private(key_path, _key_pem(key))
    write_private(cert_path, _pem(builder.sign(ca_key, hashes.SHA256())))
    return cert_path, key_path


def _key_usage(*, cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not cert_sign,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _covers(cert: x509.Certificate, san: list[x509.GeneralName] | None) -> bool:
    if not san:
        return True
    try:
        have = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return set(san) <= set(have)


def _signed_by(cert: x509.Certificate, ca_cert: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(ca_cert)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _signing_key(directory: Path) -> rsa.RSAPrivateKey:
    path = directory / "sa.key"
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, rsa.RSAPrivateKey):
            return key
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_private(path, _key_pem(key))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_private(directory / "sa.pub", public)
    return key


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` atomically with mode 0600; a crash leaves the old file or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
