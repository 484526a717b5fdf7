"""TLS files that cannot be used are refused at the start, by name."""

from pathlib import Path
from typing import Any

import pytest

from harness.certificates import Authority
from memoryd.config import Settings, SettingsError
from memoryd.rpc.tls import peer_credentials, server_credentials


def settings(**given: Any) -> Settings:
    return Settings.load(None, **given)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def test_without_a_certificate_plain_text_is_spoken():
    assert server_credentials(settings()) is None
    assert peer_credentials(settings()) is None


def test_certificate_key_and_authorities_are_taken(authority):
    files = authority.issue("daemon")
    given = settings(
        tls_cert=files.cert,
        tls_key=files.key,
        tls_client_ca=authority.path,
        tls_peer_ca=authority.path,
    )
    assert server_credentials(given) is not None
    assert peer_credentials(given) is not None


@pytest.mark.parametrize("alone", ["tls_cert", "tls_key", "tls_client_ca", "tls_peer_ca"])
def test_what_belongs_together_is_set_together(alone, tmp_path):
    with pytest.raises(SettingsError, match="tls_key"):
        settings(**{alone: tmp_path / "x.pem"})


def test_a_key_that_cannot_be_used_is_named(authority, tmp_path):
    files, other = authority.issue("daemon"), authority.issue("other")
    locked = authority.issue("locked", password=b"secret")
    for cert, key in (
        (files.cert, other.key),  # of another certificate
        (files.key, files.cert),  # the wrong way round
        (locked.cert, locked.key),  # nobody is there to type its password
        (tmp_path / "absent", files.key),
    ):
        with pytest.raises(SettingsError, match=f"tls_key={key} cannot be used"):
            server_credentials(settings(tls_cert=cert, tls_key=key))


@pytest.mark.parametrize(
    ("name", "credentials"),
    [("tls_client_ca", server_credentials), ("tls_peer_ca", peer_credentials)],
)
def test_an_authority_that_is_none_is_named(authority, tmp_path, name, credentials):
    files = authority.issue("daemon")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no certificate\n")
    for path in (nothing, tmp_path / "absent"):
        given = settings(tls_cert=files.cert, tls_key=files.key, **{name: path})
        with pytest.raises(SettingsError, match=f"{name}={path} cannot be used"):
            credentials(given)
