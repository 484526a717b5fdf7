"""The tenant comes from the key, and a key is known by its digest alone."""

import hashlib

import pytest

from memoryd.config import ApiKey
from memoryd.errors import BadCredentials
from memoryd.rpc.auth import DEFAULT_TENANT, Authenticator


def known(**keys: str) -> Authenticator:
    return Authenticator(
        [
            ApiKey(tenant=tenant, sha256=hashlib.sha256(key.encode()).hexdigest())
            for tenant, key in keys.items()
        ]
    )


def test_without_keys_everybody_is_one_tenant():
    assert known().tenant({"authorization": "Bearer anything"}) == DEFAULT_TENANT


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret", "BEARER  secret "])
def test_a_key_speaks_for_its_tenant(header):
    assert known(ada="secret", bob="other").tenant({"authorization": header}) == "ada"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"authorization": ""},
        {"authorization": "secret"},
        {"authorization": "Basic secret"},
        {"authorization": "Bearer Secret"},
        {"authorization": "Bearer " + hashlib.sha256(b"secret").hexdigest()},
        {"tenant": "ada"},
    ],
)
def test_anything_else_is_refused_without_naming_a_tenant(metadata):
    with pytest.raises(BadCredentials) as refused:
        known(ada="secret").tenant(metadata)
    assert "ada" not in refused.value.message
    assert refused.value.facts == {}
