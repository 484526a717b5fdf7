"""What `memoryd doctor` looks at: each check finds one thing and says what to do about it."""

import importlib.util
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from memoryd.config import Settings

OLDEST_PYTHON = (3, 11)
FREE_BYTES_WANTED = 2 << 30
"""Room for the model, the append-only file and its rewrite."""

INSTALL = "pip install 'memoryd[daemon]'"


@dataclass(frozen=True)
class Check:
    """One finding. advice: what to do, empty where all is well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def run_all(settings: "Settings") -> Iterator[Check]:
    """Every check of a machine that is to run the daemon with `settings`."""
    yield python()
    yield torch()
    yield processor()
    yield kernels()
    yield redis(settings.redis_url, settings.redis_binary)
    yield data_folder(settings.data_dir)
    yield weights(settings.model)
    yield port(settings.listen)


def python() -> Check:
    """The interpreter."""
    found = f"Python {platform.python_version()} ({sys.executable})"
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "fail", found, "use Python 3.11 or newer")
    return Check("python", "ok", found)


def missing_packages() -> list[str]:
    """Packages of the daemon that are not installed."""
    wanted = ("torch", "redis", "pydantic_settings", "tokenizers", "msgpack", "xxhash", "structlog")
    return [name for name in wanted if importlib.util.find_spec(name) is None]


def torch() -> Check:
    """torch, and the instruction set that it was built for and found."""
    try:
        import torch as library
    except ImportError as error:
        return Check("torch", "fail", f"cannot be imported ({error})", INSTALL)
    capability = library.backends.cpu.get_cpu_capability()
    found = f"torch {library.__version__}, {capability}, {library.get_num_threads()} threads"
    if capability == "DEFAULT":
        return Check(
            "torch",
            "warn",
            found,
            "neither AVX2 nor AVX-512 is in use: reading will be several times slower",
        )
    return Check("torch", "ok", found)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Check:
    """Whether the processor multiplies bfloat16 by itself."""
    if not cpuinfo.is_file():
        return Check("processor", "ok", f"{platform.machine()}, features not listed by the system")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    fast = sorted(flags & {"avx512_bf16", "amx_bf16", "avx_vnni", "avx512f", "avx2"})
    found = f"{platform.machine()}, {', '.join(fast) or 'no vector features of interest'}"
    if platform.machine() == "x86_64" and not flags & {"avx512_bf16", "amx_bf16"}:
        return Check(
            "processor",
            "warn",
            found,
            "no bfloat16 products in hardware: try `memoryd serve --dtype float32` as well",
        )
    return Check("processor", "ok", found)


def kernels() -> Check:
    """Which implementation each of the model's operations has here, and why that one."""
    from torch.cuda import is_available

    from lalte_kernels.choices import choices

    found, slow = [], False
    for device in ("cpu", "cuda") if is_available() else ("cpu",):
        ops: dict[tuple[str, str], list[str]] = {}
        for choice in choices(device):
            ops.setdefault((choice.implementation, choice.reason), []).append(choice.op)
            slow |= choice.implementation == "reference"
        for (implementation, reason), names in ops.items():
            found.append(f"{', '.join(names)}: {implementation} on {device} ({reason})")
    if slow:
        return Check(
            "kernels",
            "warn",
            "; ".join(found),
            "references are slow: pip install 'memoryd[train]' brings kernels for NVIDIA GPUs",
        )
    return Check("kernels", "ok", "; ".join(found))


def redis(url: str | None, binary: Path | None) -> Check:
    """The Redis that the daemon would use."""
    from memoryd.errors import MemorydError

    try:
        return _running_redis(url) if url is not None else _embedded_redis(binary)
    except MemorydError as error:
        return Check("redis", "fail", "cannot be used", str(error))


def _running_redis(url: str) -> Check:
    from redis import RedisError

    from memoryd.storage.nodes import SyncNodes
    from memoryd.storage.server import check_server
    from memoryd.storage.topology import describe, is_cluster

    address = describe(url)
    nodes = SyncNodes(url, socket_timeout=3.0)
    versions: set[str] = set()
    try:
        for server, client in nodes.primaries().items():
            info = client.info("everything")
            check_server(info, describe(server), clustered=is_cluster(url))
            versions.add(str(info.get("valkey_version") or info["redis_version"]))
    except (RedisError, OSError) as error:
        return Check(
            "redis",
            "fail",
            f"{address} does not answer ({error})",
            "start it, or correct MEMORYD_REDIS_URL",
        )
    finally:
        nodes.close()
    return Check("redis", "ok", f"{address}, version {', '.join(sorted(versions))}")


def _embedded_redis(binary: Path | None) -> Check:
    from memoryd.storage.binaries import find_binary, read_version

    program = find_binary(binary)
    return Check("redis", "ok", f"private server, {read_version(program)} ({program})")


def data_folder(folder: Path) -> Check:
    """Whether the private server's data has a place."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    found = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < FREE_BYTES_WANTED:
        return Check("data", "warn", found, "free some space, or name another folder: --data-dir")
    return Check("data", "ok", found)


def weights(folder: Path | None) -> Check:
    """Whether the model is there and as it was made."""
    from lalte.checkpoints.cache import default_model_dir
    from lalte.checkpoints.errors import CheckpointError
    from lalte.checkpoints.manifest import verify_folder

    folder = folder or default_model_dir()
    try:
        manifest = verify_folder(folder)
    except CheckpointError as error:
        return Check("weights", "fail", str(folder), str(error))
    found = f"{manifest.provenance.name}, fingerprint {manifest.fingerprint}, verified ({folder})"
    return Check("weights", "ok", found)


def port(listen: str) -> Check:
    """Whether the address is free, or a daemon of ours answers there."""
    from memoryd_client import Client, MemorydError, Retry

    host, _, number = listen.rpartition(":")
    try:
        with Client(listen, timeout=2.0, retry=Retry(give_up_after=0)) as client:
            if client.is_serving():
                return Check("port", "ok", f"a daemon answers at {listen}")
    except MemorydError:
        pass  # nobody there, or not a daemon: binding tells which
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(number)))
        except OSError as error:
            return Check(
                "port",
                "fail",
                f"{listen} cannot be bound ({error.strerror})",
                "end what listens there, or choose another address: memoryd serve --listen",
            )
    return Check("port", "ok", f"{listen} is free")
