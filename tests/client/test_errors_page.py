"""docs/errors.md is what its script writes now."""

import importlib.util
from pathlib import Path

from memoryd_proto.errors import ERRORS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date_and_has_every_reason():
    spec = importlib.util.spec_from_file_location("errors_page", DOCS / "errors.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE == DOCS / "errors.md"
    assert script.render() == script.PAGE.read_text(encoding="utf-8"), "run python docs/errors.py"
    for reason in ERRORS:
        assert f"| `{reason}` |" in script.render()
