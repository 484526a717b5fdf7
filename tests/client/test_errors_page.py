"""docs/errors.md is what its script writes now, and each situation in it is held by a test."""

import ast
import importlib.util
import sys
from pathlib import Path

import grpc
import pytest

from memoryd_proto.errors import ERRORS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("errors_page", DOCS / "errors.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules["errors_page"] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    yield script
    del sys.modules["errors_page"]


def test_the_page_is_up_to_date_and_has_every_reason(script):
    assert script.PAGE == DOCS / "errors.md"
    assert script.render() == script.PAGE.read_text(encoding="utf-8"), "run python docs/errors.py"
    for reason in ERRORS:
        assert f"| `{reason}` |" in script.render()


def test_every_situation_has_its_test(script):
    for row in script.situations():
        path, _, name = row.test.partition("::")
        tests = {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in tests, row


def test_every_reason_has_its_situation_and_every_outcome_is_one(script):
    outcomes = {row.outcome for row in script.situations()}
    assert outcomes >= set(ERRORS)
    statuses = {code.name for code in grpc.StatusCode}
    assert outcomes <= set(ERRORS) | statuses | {"exit 1"}
