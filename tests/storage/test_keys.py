"""Names keep tenants and sessions apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memoryd.errors import BadArgument
from memoryd.storage.keys import SessionKey, TenantKey, heartbeat_key, validate_name

names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)


@given(names, names, names, names)
def test_different_names_never_share_a_key(
    tenant: str, name: str, other_tenant: str, other: str
) -> None:
    one, two = SessionKey(tenant, name), SessionKey(other_tenant, other)
    assert (one.meta == two.meta) == ((tenant, name) == (other_tenant, other))
    assert TenantKey(tenant).index not in (one.meta, two.meta, heartbeat_key(tenant))


@given(names, names)
def test_all_keys_of_a_session_share_one_hash_tag(tenant: str, name: str) -> None:
    key = SessionKey(tenant, name)
    keys = [key.meta, key.journal("g"), key.blob("g", "a"), key.snap("s}{")]
    tags = {k[k.index("{") : k.index("}") + 1] for k in keys}
    assert len(tags) == 1
    assert all(k.startswith("md1:{") and k.count("{") == k.count("}") == 1 for k in keys)


@pytest.mark.parametrize(
    "name", ["", "a" * 257, "é" * 129, "a\nb", "a\x00b", "\x7f", "\x9f", "\ud800"]
)
def test_an_impossible_name_is_a_bad_argument(name: str) -> None:
    with pytest.raises(BadArgument):
        validate_name(name)
    with pytest.raises(BadArgument):
        SessionKey("tenant", name)
    with pytest.raises(BadArgument):
        SessionKey(name, "session")


@pytest.mark.parametrize("name", ["a", "é" * 128, "a/b:{c}", "会話 1"])
def test_any_other_name_is_kept_as_it_is(name: str) -> None:
    assert validate_name(name) == name
