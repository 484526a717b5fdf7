"""The doctor finds what is wrong and says what to do."""

import json
import socket

import pytest

from memoryd.cli import checks


@pytest.fixture
def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def diagnose(run, code, **settings):
    env = {f"MEMORYD_{name.upper()}": str(value) for name, value in settings.items()}
    result = run("doctor", "--json", env=env)
    assert result.exit_code == code, (result.stdout, result.stderr)
    return {check["name"]: check for check in json.loads(result.stdout)}


def test_a_ready_machine_passes(run, tiny_folder, data_dir, free_address):
    settings = {"model": tiny_folder, "data_dir": data_dir, "listen": free_address}
    found = diagnose(run, 0, **settings)
    assert [name for name, check in found.items() if check["status"] == "fail"] == []
    assert set(found) == {
        *("python", "torch", "processor", "kernels", "redis", "data", "weights", "port")
    }
    assert "cpu on cpu (tensors on cpu)" in found["kernels"]["found"]
    assert "is free" in found["port"]["found"]
    env = {f"MEMORYD_{name.upper()}": str(value) for name, value in settings.items()}
    shown = run("doctor", env=env).stdout
    assert all(name in shown for name in found)


def test_missing_and_altered_weights_fail(run, tiny_folder, data_dir, free_address, tmp_path):
    found = diagnose(run, 1, model=tmp_path, data_dir=data_dir, listen=free_address)
    assert "memoryd model pull" in found["weights"]["advice"]
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    altered = diagnose(run, 1, model=tmp_path, data_dir=data_dir, listen=free_address)
    assert "tokenizer.json" in altered["weights"]["advice"]


def test_a_missing_redis_binary_fails(run, tiny_folder, data_dir, free_address):
    found = diagnose(
        run,
        1,
        model=tiny_folder,
        data_dir=data_dir,
        listen=free_address,
        redis_binary="/does/not/exist",
    )
    assert found["redis"]["status"] == "fail"
    assert found["redis"]["advice"]


def test_a_gpu_without_its_kernels_is_warned_of(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("lalte_kernels.dispatch.installed", lambda kind: kind == "triton")
    assert "triton on cuda (flash-linear-attention is not installed)" in checks.kernels().found
    assert checks.kernels().status == "ok"
    monkeypatch.setattr("lalte_kernels.dispatch.installed", lambda kind: False)
    assert checks.kernels().status == "warn"
    assert "memoryd[train]" in checks.kernels().advice


def test_a_redis_that_does_not_answer_fails(free_address):
    check = checks.redis(f"redis://user:secret@{free_address}/0", None)
    assert check.status == "fail"
    assert "MEMORYD_REDIS_URL" in check.advice
    assert "secret" not in check.found + check.advice


def test_a_taken_port_fails_and_a_daemon_on_it_does_not(served):
    assert checks.port(served.target).found == f"a daemon answers at {served.target}"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        check = checks.port(f"127.0.0.1:{other.getsockname()[1]}")
    assert check.status == "fail"
    assert "--listen" in check.advice


def test_a_processor_without_bfloat16_is_a_warning(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2\n", encoding="utf-8")
    assert checks.processor(cpuinfo).status == "warn"
    cpuinfo.write_text("flags\t\t: fpu avx2 avx512_bf16\n", encoding="utf-8")
    assert checks.processor(cpuinfo).status == "ok"
    assert checks.processor(tmp_path / "none").status == "ok"


def test_a_client_only_installation_is_told_what_is_missing(run, monkeypatch):
    monkeypatch.setattr(checks, "missing_packages", lambda: ["torch"])
    result = run("doctor")
    assert result.exit_code == 1
    assert "memoryd[daemon]" in result.stdout


def test_a_wrong_setting_is_one_line(run):
    result = run("doctor", env={"MEMORYD_SLOTS": "none"})
    assert result.exit_code == 1
    assert "slots" in result.stderr
