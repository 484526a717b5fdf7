"""What only a process shows: exit codes, signals, start-up without torch, drain."""

import signal
import socket
import subprocess
import sys

import pytest

from .conftest import Served


def test_help_imports_neither_torch_nor_grpc():
    code = (
        "import sys\n"
        "from memoryd.cli import main\n"
        "sys.argv = ['memoryd', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'grpc', 'redis', 'pydantic', 'tokenizers', 'google'}\n"
        "print('HEAVY', sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in shown.stdout
    for command in ("serve", "model", "session", "admin", "doctor"):
        assert command in shown.stdout


def test_version_is_the_distributions(run):
    from importlib.metadata import version

    assert run("--version").stdout.strip() == f"memoryd {version('memoryd')}"


def test_ctrl_c_is_exit_code_130(served):
    # A shell that runs the tests in the background has them ignore interrupts. Not in a preexec_fn:
    # gRPC in this process would then write to the new one's standard error.
    interruptible = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from memoryd.cli import main; main()"
    )
    with subprocess.Popen(
        [
            *(sys.executable, "-c", interruptible),
            *("session", "chat", "nobody", f"--target={served.target}"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr.read(2) == b"> "
        process.send_signal(signal.SIGINT)
        # Its input stays open until it has ended: the end of input would end it too, with 0.
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()


def test_no_daemon_is_one_line_and_exit_code_1(run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        result = run("admin", "stats", "--target", f"127.0.0.1:{free.getsockname()[1]}")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "memoryd serve" in result.stderr


def test_a_bug_keeps_its_traceback(run, monkeypatch):
    def broken(*_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("memoryd_client.Client.get_stats", broken)
    assert isinstance(run("admin", "stats").exception, ZeroDivisionError)


def test_a_missing_package_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "memoryd.config", None)
    monkeypatch.delitem(sys.modules, "pydantic_settings", raising=False)

    def absent(*_arguments, **_options):
        raise ModuleNotFoundError("No module named 'pydantic_settings'", name="pydantic_settings")

    monkeypatch.setattr("memoryd_client.Client.get_stats", absent)
    result = run("admin", "stats")
    assert result.exit_code == 1
    assert "pip install 'memoryd[daemon]'" in result.stderr


def test_drain_ends_the_daemon_with_exit_code_0(run, tiny_folder, data_dir):
    served = Served(data_dir, tiny_folder, "--slots=2")
    assert run("session", "create", "a", "--target", served.target).exit_code == 0
    assert run("session", "append", "a", "--target", served.target, stdin=b"x").exit_code == 0
    result = run("admin", "drain", "--target", served.target)
    assert result.exit_code == 0
    assert "1 sessions released" in result.stdout
    assert served.process.wait(60) == 0
    assert served.end() == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--slots=0"], "slots"),
        (["--listen=nowhere"], "host:port"),
        (["--config=/does/not/exist.yaml"], "does not exist"),
    ],
)
def test_serve_names_the_setting_that_is_wrong(run, flags, words):
    result = run("serve", *flags)
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
