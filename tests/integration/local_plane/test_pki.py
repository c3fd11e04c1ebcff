"""Certificates and keys in the state directory."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from agentops.local.pki import ensure_pki


def test_files_are_private_and_survive_a_second_start(tmp_path: Path) -> None:
    first = ensure_pki(tmp_path / "pki", addresses=["127.64.0.1"])
    second = ensure_pki(tmp_path / "pki", addresses=["127.64.0.1"])
    assert first == second
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    for file in (tmp_path / "pki").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_the_server_certificate_has_every_name_a_cluster_has(tmp_path: Path) -> None:
    pki = ensure_pki(tmp_path, addresses=["127.80.0.1"])
    cert = x509.load_pem_x509_certificate(pki.server_cert_path.read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    assert {"127.0.0.1", "127.80.0.1"} <= {str(a) for a in names.get_values_for_type(x509.IPAddress)}


def test_a_new_address_renews_the_server_certificate_and_nothing_else(tmp_path: Path) -> None:
    before = ensure_pki(tmp_path, addresses=["127.64.0.1"])
    old = before.server_cert_path.read_bytes()
    after = ensure_pki(tmp_path, addresses=["127.66.0.1"])
    assert after.server_cert_path.read_bytes() != old
    assert (after.ca_pem, after.admin_cert_pem, after.sa_key_pem) == (
        before.ca_pem,
        before.admin_cert_pem,
        before.sa_key_pem,
    )


def test_a_certificate_about_to_expire_is_renewed(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=350)
    old = ensure_pki(tmp_path, addresses=[], now=long_ago).admin_cert_pem
    assert ensure_pki(tmp_path, addresses=[]).admin_cert_pem != old


def test_the_admin_is_in_the_group_of_cluster_admins_and_trusted(tmp_path: Path) -> None:
    pki = ensure_pki(tmp_path, addresses=[])
    cert = x509.load_pem_x509_certificate(pki.admin_cert_pem)
    assert "O=system:masters" in cert.subject.rfc4514_string()
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(pki.ca_pem))
    context = ssl.create_default_context(cadata=pki.ca_pem.decode())
    assert context.cert_store_stats()["x509_ca"] == 1


def test_an_interrupted_write_leaves_no_half_file(tmp_path: Path) -> None:
    ensure_pki(tmp_path, addresses=[])
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]
