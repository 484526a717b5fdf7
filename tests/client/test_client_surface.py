"""What the package shows, and what it must not import."""

import inspect
import subprocess
import sys

import memoryd_client
from memoryd_client import AsyncClient, AsyncReply, AsyncWriter, Client, Reply, Writer


def test_all_is_every_public_name():
    public = {
        name
        for name, value in vars(memoryd_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(memoryd_client.__all__) == memoryd_client.__all__
    assert public == set(memoryd_client.__all__)


def public_methods(cls):
    renamed = {"aclose": "close"}
    return {
        renamed.get(name, name): list(inspect.signature(value).parameters.values())
        for name, value in vars(cls).items()
        if callable(value) and (name == "__init__" or not name.startswith("_"))
    }


def plain(parameters):
    return [(p.name, p.kind, p.default) for p in parameters]


def test_both_clients_take_the_same_arguments():
    for blocking, awaiting in ((Client, AsyncClient), (Reply, AsyncReply), (Writer, AsyncWriter)):
        ours, theirs = public_methods(blocking), public_methods(awaiting)
        assert {name: plain(p) for name, p in ours.items()} == {
            name: plain(p) for name, p in theirs.items()
        }


def test_importing_the_client_brings_in_neither_torch_nor_the_daemon():
    code = (
        "import memoryd_client, sys;"
        "heavy = {'torch', 'numpy', 'redis', 'pydantic', 'tokenizers', 'memoryd', 'lalte'};"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
