"""What Prometheus is told, over the whole way; and that the dashboard asks for nothing else."""

import json
import re
from pathlib import Path

from harness.calls import Calls, refused_for
from harness.processes import wait_until
from harness.scrape import scrape
from harness.streams import checkpointed, forget_heartbeat
from memoryd.engine.messages import EngineStats
from memoryd.metrics import Metrics, Snapshot
from memoryd_client import Sampling
from memoryd_proto.errors import Reason

DASHBOARD = Path(__file__).parents[2] / "docs" / "deploy" / "grafana.json"
STATS = EngineStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
FEW = Sampling(max_tokens=3)


def test_what_a_daemon_does_is_counted(start_daemon, name):
    daemon = start_daemon(metrics_listen="127.0.0.1:0", slots=3, lanes=2, checkpoint_tokens=64)
    port = daemon.wait_for("metrics")["port"]
    with daemon.client() as client:
        client.create_session(name)
        end = client.append_stream(name, "many words " * 100).offset.tokens
        client.query(name, "What?", sampling=FEW).text()
        chat = client.chat(name, "Hello", sampling=FEW)
        chat.text()
        appended = client.get_session(name).acked_tokens
        checkpointed(client, name, every=64)
        with Calls(daemon.address) as calls:
            refused_for(Reason.SESSION_NOT_FOUND, lambda: calls.query("nothing"))
        wait_until(
            lambda: scrape(port)("memoryd_calls_total", result="SESSION_NOT_FOUND") == 1,
            "it is told",
        )
        stats = client.get_stats()
    told = scrape(port)
    assert told("memoryd_calls_total", rpc="Query", tenant="default", result="OK") == 1
    assert told("memoryd_calls_total", rpc="Query", result="SESSION_NOT_FOUND") == 1
    assert told("memoryd_call_seconds_count", rpc="AppendStream") == 1
    assert told("memoryd_first_text_seconds_count") == 2
    assert end < appended
    assert told("memoryd_appended_tokens_total", tenant="default") == appended
    assert told("memoryd_absorbed_tokens_total", tenant="default") == stats.tokens_absorbed
    assert told("memoryd_engine_absorbed_tokens_total") == stats.tokens_absorbed
    assert told("memoryd_engine_generated_tokens_total") == stats.tokens_generated
    assert 3 < told("memoryd_reply_tokens_total", tenant="default") <= 6
    assert 0 < told("memoryd_engine_decode_steps_total") <= stats.tokens_generated
    assert 0 < told("memoryd_engine_absorb_steps_total") <= stats.tokens_absorbed / 8
    assert told("memoryd_checkpoint_seconds_count") == stats.checkpoints > 0
    assert told("memoryd_checkpoint_bytes_sum") > 0
    assert told("memoryd_lease_events_total", event="acquired") == 1
    assert (told("memoryd_slots"), told("memoryd_slots_used")) == (3, 1)
    assert (told("memoryd_lanes"), told("memoryd_lanes_used")) == (2, 0)
    assert told("memoryd_sessions", tenant="default") == 1
    assert told("memoryd_draining") == 0
    assert told("process_resident_memory_bytes") > 1e7
    assert name not in told.text  # tenants, never sessions
    assert daemon.terminate() == 0


def test_calls_passed_on_takeovers_and_losses_are_counted(pair, name):
    c = pair.third(metrics_listen="127.0.0.1:0")
    port = c.wait_for("metrics")["port"]
    pair.on_a.create_session(name)
    pair.on_a.append(name, "a owns it")
    with c.client() as on_c:
        on_c.append(name, "passed on")
        assert scrape(port)("memoryd_forwarded_calls_total", rpc="Append") == 1
        ids = [client.get_stats().daemon_id for client in (pair.on_a, on_c)]
        pair.a.pause()
        forget_heartbeat(pair.redis.raw, ids[0])
        on_c.append(name, "taken over")
        assert scrape(port)("memoryd_lease_events_total", event="taken_over") == 1
        pair.a.resume()
        c.pause()
        forget_heartbeat(pair.redis.raw, ids[1])
        pair.on_b.append(name, "and taken over again")
        c.resume()
        on_c.query(name, "Who has it?", sampling=FEW).text()
        assert scrape(port)("memoryd_lease_events_total", event="lost") == 1


def exposed() -> set[str]:
    """Every sample name there can be."""
    metrics = Metrics()
    metrics.watch(lambda: Snapshot(STATS, {"t": 1}, {"t": 2}, replies=1, draining=False))
    metrics.call_ended("Query", "t", "OK", 0.1)
    metrics.first_text("Query", 0.1)
    metrics.forwarded("Query")
    for told in (metrics.appended, metrics.absorbed, metrics.replied):
        told("t", 1)
    metrics.checkpointed(0.1, 1000)
    metrics.checkpoint_delayed()
    metrics.lease("acquired")
    metrics.quota_refused("t", "sessions")
    metrics.stored("t", 1, 1000)
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


def queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    variables = [item["query"] for item in dashboard["templating"]["list"]]
    return [target["expr"] for panel in panels for target in panel["targets"]] + variables


def test_the_dashboard_asks_only_for_what_there_is():
    asked = {
        name for query in queries() for name in re.findall(r"\b(?:memoryd|process)_\w+", query)
    }
    assert asked
    assert asked <= exposed(), asked - exposed()


def test_the_dashboard_shows_everything_there_is():
    shown = " ".join(queries())
    ours = {name for name in exposed() if name.startswith("memoryd_")}
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in ours}
    missing = {name for name in families if name not in shown and f"{name}_total" not in shown}
    assert not missing


def test_panels_do_not_overlap():
    taken = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
