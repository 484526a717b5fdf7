"""The server-side scripts: `scripts/*.lua`, each with the shared prelude put after its flags.

They are EVAL scripts and not a function library, because functions are installed per server and
would have to be upgraded for all daemons at once; a script travels with the daemon that calls it.
"""

import hashlib
from dataclasses import dataclass, field
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """One script. writes: whether an OK of it is a write that WAIT can count."""

    name: str
    writes: bool = True
    source: str = field(init=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        folder = resources.files("memoryd.storage") / "scripts"
        flags, body = (folder / f"{self.name}.lua").read_text(encoding="utf-8").split("\n", 1)
        prelude = (folder / "common.lua").read_text(encoding="utf-8")
        source = f"{flags}\n{prelude}\n{body}"
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "sha", hashlib.sha1(source.encode()).hexdigest())  # noqa: S324


CREATE = Script("create")
ACQUIRE = Script("acquire")
APPEND = Script("append")
CHECK = Script("check", writes=False)
COMMIT = Script("commit")
TOUCH = Script("touch")
RELEASE = Script("release")
DELETE = Script("delete")
INDEX_ADD = Script("index_add")
HEARTBEAT = Script("heartbeat")
UPDATE = Script("update")
SNAPSHOT = Script("snapshot")
DROP_SNAPSHOT = Script("drop_snapshot")
INSTALL = Script("install")
ACCOUNT = Script("account")
MEASURE = Script("measure", writes=False)
SPEND = Script("spend")
ENTER = Script("enter")
PUT_FIELDS = Script("put_fields")
STAGE_ARCHIVE = Script("stage_archive")

ALL = (
    CREATE,
    ACQUIRE,
    APPEND,
    CHECK,
    COMMIT,
    TOUCH,
    RELEASE,
    DELETE,
    INDEX_ADD,
    HEARTBEAT,
    UPDATE,
    SNAPSHOT,
    DROP_SNAPSHOT,
    INSTALL,
    ACCOUNT,
    MEASURE,
    SPEND,
    ENTER,
    PUT_FIELDS,
    STAGE_ARCHIVE,
)
