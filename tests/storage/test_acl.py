"""The Redis user of docs/security.md may run every command that the scripts use."""

import re
from importlib import resources
from pathlib import Path

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"


def allowed() -> set[str]:
    [line] = [line for line in SECURITY.read_text().splitlines() if "ACL SETUSER" in line]
    return {word.removeprefix("+") for word in line.split() if word.startswith("+")}


def test_every_command_of_every_script_is_allowed():
    folder = resources.files("memoryd.storage") / "scripts"
    used = {
        command.lower()
        for script in folder.iterdir()
        for command in re.findall(r"redis\.p?call\('(\w+)'", script.read_text())
    }
    assert len(used) > 10
    assert used <= allowed(), used - allowed()


def test_nothing_dangerous_is_allowed():
    assert not allowed() & {"@all", "@admin", "@dangerous", "config", "flushall", "keys", "eval_ro"}
