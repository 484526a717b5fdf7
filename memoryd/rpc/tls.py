"""TLS of the server and of the connections to other daemons, from PEM files.

Files are read once, at start; a renewed certificate is taken up by a rolling restart.
"""

import ssl
from pathlib import Path

import grpc

from memoryd.config import Settings, SettingsError


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """None where plain text is spoken. Raises SettingsError for files that cannot be used."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = _pair(settings.tls_cert, settings.tls_key)
    authority = _authority("tls_client_ca", settings.tls_client_ca)
    return grpc.ssl_server_credentials(
        [pair], root_certificates=authority, require_client_auth=authority is not None
    )


def peer_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """For calls to other daemons: they get to see this daemon's certificate. None: plain text."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    key, chain = _pair(settings.tls_cert, settings.tls_key)
    return grpc.ssl_channel_credentials(_authority("tls_peer_ca", settings.tls_peer_ca), key, chain)


def _pair(cert: Path, key: Path) -> tuple[bytes, bytes]:
    """Key and chain. grpc takes anything and then fails each handshake, so they are tried here."""
    try:
        # Without a password at hand OpenSSL would ask for one on the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, lambda: "")
        return key.read_bytes(), cert.read_bytes()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"tls_cert={cert} and tls_key={key} cannot be used ({error}): give a PEM certificate "
            "chain and its unencrypted PEM key"
        ) from None


def _authority(name: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        ssl.create_default_context(cafile=str(path))
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{name}={path} cannot be used ({error}): give certificates in PEM"
        ) from None
