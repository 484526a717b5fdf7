"""Generates the stubs under memoryd_proto/v1, or with --check says whether they are current.

Runs under the interpreter that has proto/requirements.txt installed (`make proto`).
"""

import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parent
PACKAGE = Path("memoryd_proto/v1")


def generate(destination: Path) -> list[Path]:
    """Writes the stubs below `destination` and gives their paths relative to it."""
    sources = sorted(str(path) for path in (ROOT / PACKAGE).glob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT}", f"-I{well_known}"]
    arguments += [f"--{kind}_out={destination}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main([*arguments, *sources]) != 0:
        raise SystemExit("protoc refused the files above")
    stubs = sorted(path.relative_to(destination) for path in destination.rglob("*_pb2*"))
    for stub in stubs:
        if stub.name.endswith("_pb2_grpc.py") and "class " not in (destination / stub).read_text():
            (destination / stub).unlink()
    return [stub for stub in stubs if (destination / stub).exists()]


def main() -> None:
    check = "--check" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        stubs = generate(Path(folder))
        stale = [
            str(stub)
            for stub in stubs
            if not (ROOT / stub).exists()
            or (ROOT / stub).read_bytes() != (Path(folder) / stub).read_bytes()
        ]
        if check and stale:
            raise SystemExit(f"stale stubs, run `make proto`: {', '.join(stale)}")
        if not check:
            for stub in stubs:
                shutil.copyfile(Path(folder) / stub, ROOT / stub)


main()
