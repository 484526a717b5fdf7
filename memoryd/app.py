"""The composition root: puts a daemon together from its settings, runs it, and takes it apart.

Order of start: port, storage, model, heartbeat, calls. Order of the end: calls, sessions,
heartbeat, model, storage.
"""

import asyncio
import os
import signal
import sys
import uuid
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from memoryd import logs
from memoryd.allocator import keep_freed_memory
from memoryd.config import Settings, SettingsError
from memoryd.errors import MemorydError

logger = structlog.get_logger(__name__)

HOUSEKEEPING_SECONDS = 1.0
BEATS_PER_TTL = 6
STOP_GRACE_SECONDS = 2.0
SPINS = "2000"  # of an idle worker before it sleeps: some 20 microseconds
COMPILED_PRODUCTS = "128"

Durability = Literal["everysec", "always", "replicated"]


class Daemon:
    """One running daemon: `start_unless_ended`, `run` until a signal or a Drain call, `close`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.daemon_id = uuid.uuid4().hex
        self._ended = asyncio.Event()
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Brings everything up. Raises SettingsError, MemorydError and the model's own errors."""
        from lalte.checkpoints.cache import default_model_dir
        from memoryd.engine.engine import Engine
        from memoryd.engine.messages import EngineOptions
        from memoryd.engine.runner import ModelRunner
        from memoryd.rpc.server import Server

        settings = self.settings
        try:
            self._server = Server(settings)
            self._address = settings.advertise or self._server.address
            self._start_observing()
            url, durability, storage_name = await self._start_storage()
            options = EngineOptions(
                slots=settings.slots,
                lanes=settings.lanes,
                threads=settings.threads,
                dtype=settings.dtype,
            )
            folder = settings.model or default_model_dir()
            self._engine = Engine(partial(ModelRunner.load, folder, options), options)
            # Before the start: a thread that still loads while the interpreter ends aborts it.
            self._stack.push_async_callback(self._engine.stop)
            self._info = await self._engine.start()
            if settings.backlog_soft_tokens < self._info.chunk:
                raise SettingsError(
                    f"backlog_soft_tokens must be at least {self._info.chunk}: the model reads so "
                    "many tokens at a time, and streams would wait for ever"
                )
            await self._start_sessions(url, durability, folder)
            await self._start_heartbeat(url)
            await self._serve(url, durability, storage_name)
        except BaseException:
            await self._stack.aclose()
            raise

    def _start_observing(self) -> None:
        """Metrics are always counted; who wants to see them or traces says where."""
        from memoryd.metrics import Metrics, listening
        from memoryd.tracing import NoTracing, OpenTelemetry, Tracing

        settings = self.settings
        self._metrics = Metrics()
        if settings.metrics_listen is not None:
            try:
                port = self._stack.enter_context(listening(self._metrics, settings.metrics_listen))
            except OSError as error:
                raise SettingsError(
                    f"metrics_listen={settings.metrics_listen} cannot be listened on "
                    f"({error.strerror}): stop what listens there, or choose another port"
                ) from None
            logger.info("metrics", port=port)
        self._tracing: Tracing = NoTracing()
        if settings.otlp_endpoint is not None:
            exporting = OpenTelemetry.exporting(self.daemon_id, settings.otlp_endpoint)
            self._stack.push_async_callback(asyncio.to_thread, exporting.close)
            self._tracing = exporting

    async def _start_storage(self) -> tuple[str, Durability, str]:
        """Finds or starts Redis; gives its URL, what an ack survives, and its name for people."""
        from memoryd.storage.topology import describe

        settings = self.settings
        if settings.redis_url is not None:
            durability = "everysec" if settings.durability == "auto" else settings.durability
            return settings.redis_url, durability, describe(settings.redis_url)
        from memoryd.storage.embedded import EmbeddedServer

        wanted = settings.durability
        server = EmbeddedServer(
            settings.data_dir / "redis",
            durability="auto" if wanted == "replicated" else wanted,
            binary=settings.redis_binary,
        )
        await server.start()
        self._stack.push_async_callback(server.stop)
        return server.url, server.durability, f"embedded ({server.url})"

    async def _start_sessions(self, url: str, durability: Durability, folder: Path) -> None:
        from lalte.text import Tokenizer, TurnFormat
        from memoryd.quotas.quotas import Quotas
        from memoryd.sessions.manager import SessionManager
        from memoryd.sessions.services import Limits, Services
        from memoryd.sessions.text import TextFramer
        from memoryd.storage.blobs import PART_BYTES, BlobStore
        from memoryd.storage.store import Store
        from memoryd.storage.tenants import LIMITS, Quota

        settings, info = self.settings, self._info
        self._store = Store(url, durability=durability, deadline=settings.storage_deadline)
        await self._store.open()
        self._stack.push_async_callback(self._store.close)
        # Checkpoints may be under way when memory runs out, and each part of one stands in the
        # server's input buffer before it stands in its hash.
        self._store.reserve_bytes = 4 * (info.state_bytes + 2 * PART_BYTES)
        blobs = BlobStore(url)
        self._stack.push_async_callback(blobs.close)
        self._quotas = Quotas(
            self._store.tenants,
            Quota(**{name: getattr(settings, f"quota_{name}") for name in LIMITS}),
            self.daemon_id,
            self._metrics,
        )
        self._stack.callback(self._quotas.close)
        tokenizer = Tokenizer.load(folder)
        turn_format = TurnFormat.from_json((folder / "turn_format.json").read_text("utf-8"))
        self._manager = SessionManager(
            Services(
                store=self._store,
                blobs=blobs,
                engine=self._engine,
                framer=TextFramer(
                    tokenizer, turn_format, turn_timeout_ms=int(settings.turn_timeout * 1000)
                ),
                tokenizer=tokenizer,
                stop_ids=turn_format.stop_ids,
                model_id=f"{info.model}@{info.fingerprint}",
                numerics=info.numerics,
                daemon_id=self.daemon_id,
                address=self._address,
                shared=settings.redis_url is not None,
                metrics=self._metrics,
                quotas=self._quotas,
                limits=Limits(
                    checkpoint_tokens=settings.checkpoint_tokens,
                    backlog_soft_tokens=settings.backlog_soft_tokens,
                    backlog_hard_tokens=settings.backlog_hard_tokens,
                    max_prompt_tokens=min(settings.max_prompt_tokens, info.max_prompt_tokens),
                    max_reply_tokens=settings.max_reply_tokens,
                    default_reply_tokens=min(
                        settings.default_reply_tokens, settings.max_reply_tokens
                    ),
                ),
            )
        )

    async def _start_heartbeat(self, url: str) -> None:
        from memoryd.storage.heartbeat import Heartbeat

        ttl = self.settings.heartbeat_ttl
        heartbeat = Heartbeat(url, self.daemon_id, self._address, ttl=ttl)
        await asyncio.to_thread(heartbeat.start)
        self._stack.push_async_callback(asyncio.to_thread, heartbeat.stop)

        async def beat() -> None:
            while True:
                heartbeat.beat()
                await asyncio.sleep(ttl / BEATS_PER_TTL)

        async def keep_house() -> None:
            while True:
                await asyncio.sleep(HOUSEKEEPING_SECONDS)
                self._manager.close_abandoned_turns()

        for work in (beat(), keep_house(), self._quotas.keep_house()):
            task = asyncio.ensure_future(work)
            self._stack.callback(task.cancel)

    async def _serve(self, url: str, durability: Durability, storage_name: str) -> None:
        from memoryd.rpc.admission import Admission
        from memoryd.rpc.auth import RECHECK_SECONDS, Authenticator
        from memoryd.rpc.calls import Host
        from memoryd.rpc.forward import Peers
        from memoryd.rpc.server import transport_options
        from memoryd.rpc.tls import peer_credentials
        from memoryd.storage.api_keys import ApiKeyStore

        settings = self.settings
        peers = Peers(transport_options(settings), peer_credentials(settings))
        self._stack.push_async_callback(peers.close)
        api_keys = ApiKeyStore(url, durability=durability, deadline=settings.storage_deadline)
        self._stack.push_async_callback(api_keys.close)
        authenticator = Authenticator(settings.api_keys, api_keys)
        self._host = Host(
            settings=settings,
            manager=self._manager,
            info=self._info,
            authenticator=authenticator,
            api_keys=api_keys,
            admission=Admission(settings.lanes, settings.max_waiting_replies),
            metrics=self._metrics,
            tracing=self._tracing,
            peers=peers,
            address=self._address,
            storage_name=storage_name,
            durability=durability,
            start_ms=self._manager.services.now_ms(),
            shut_down=self._ended.set,
        )
        self._metrics.watch(self._host.snapshot)

        async def recheck_keys() -> None:
            while True:
                await asyncio.sleep(RECHECK_SECONDS)
                await authenticator.recheck()

        task = asyncio.ensure_future(recheck_keys())
        self._stack.callback(task.cancel)
        if settings.api_keys and settings.tls_cert is None and not settings.listens_on_loopback:
            logger.warning(
                "keys_in_plain_text",
                listen=settings.listen,
                advice="set tls_cert and tls_key, or let only an encrypting proxy reach the port",
            )
        await self._server.start(self._host)
        logger.info(
            "ready",
            address=self._server.address,
            model=self._info.model,
            storage=storage_name,
            durability=durability,
            state_bytes=self._info.state_bytes,
            daemon_id=self.daemon_id,
        )

    async def start_unless_ended(self) -> bool:
        """As `start`, broken off by SIGTERM or SIGINT; says whether the daemon stands."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        starting = asyncio.ensure_future(self.start())
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not starting.done():
            starting.cancel()
        # One that ends all the same stands, and `run` takes it down: a cancellation can get lost
        # in a wait that ends at that moment (asyncio.wait_for before Python 3.12).
        try:
            await starting
        except asyncio.CancelledError:
            logger.info("start_broken_off")
            return False
        return True

    async def run(self) -> None:
        """Serves until SIGTERM, SIGINT or a Drain call, then drains."""
        await self._ended.wait()
        logger.info("draining")
        await self._server.refuse()
        released = await self._host.drain()
        await self._server.stop(STOP_GRACE_SECONDS)
        logger.info("drained", sessions=released)

    async def close(self) -> None:
        await self._stack.aclose()


async def _run(settings: Settings) -> None:
    daemon = Daemon(settings)
    if not await daemon.start_unless_ended():
        return
    try:
        await daemon.run()
    finally:
        await daemon.close()


def serve(settings: Settings) -> int:
    """Runs a daemon to its end; gives the exit status. Errors of start-up are one line."""
    # torch brings an OpenMP runtime whose idle workers spin for milliseconds beside the event loop.
    # If they never do, two threads are slower than one: a layer is a hundred short products, and to
    # wake a worker for each takes longer than its share of the work.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    # oneDNN and torch each keep a compiled product for every number of rows they have met, up to
    # a thousand: replies of all lengths would fill hundreds of megabytes.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, COMPILED_PRODUCTS)
    keep_freed_memory()
    import uvloop

    from lalte.checkpoints.errors import CheckpointError

    logs.configure(settings)
    try:
        uvloop.run(_run(settings))
    except (SettingsError, MemorydError, CheckpointError) as error:
        print(f"memoryd: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
