"""`efc worker`, with the real memcached."""

import argparse
import contextlib
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi.cli import main, worker


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@contextlib.contextmanager
def _started(*arguments: str) -> Iterator[int]:
    """A worker, and its port."""
    port = _free_port()
    command = [sys.executable, "-c", "import sys; from csi.cli import main; sys.exit(main(sys.argv[1:]))", "worker"]
    process = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}", *arguments])
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _ask(port: int, command: str, end: str | tuple[str, ...], tls: ssl.SSLContext | None = None) -> str:
    """What a worker answers, once it listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            plain = socket.create_connection(("127.0.0.1", port), timeout=60)
            with plain if tls is None else tls.wrap_socket(plain) as client:
                client.sendall(command.encode())
                answer = ""
                while not answer.endswith(end):
                    answer += client.recv(65_536).decode()
                return answer
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _statistic(port: int, name: str, kind: str = "") -> str:
    found = re.search(rf"STAT {name} (\S+)", _ask(port, f"stats {kind}".strip() + "\r\n", "END\r\n"))
    assert found
    return found[1]


def _await_memory(port: int, items: int) -> None:
    """Waits until the worker has set memory aside for so many items, and holds none."""
    deadline = time.monotonic() + 60
    while int(_statistic(port, "delete_hits")) < items:
        assert time.monotonic() < deadline, "memory is set aside"
        time.sleep(0.02)
    assert _statistic(port, "curr_items") == "0"


def _chunks(port: int, *, size: int) -> int:
    """How many items of so many bytes there is memory for."""
    slabs = _ask(port, "stats slabs\r\n", "END\r\n")
    found = re.search(rf"STAT (\d+):chunk_size {size}\r\n(?:STAT \1:.*\r\n)*?STAT \1:total_chunks (\d+)", slabs)
    return int(found[2]) if found else 0


def _fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["worker", *arguments]) == 1
    return capsys.readouterr().err


def test_memcached_is_set_up_as_daemons_want_it() -> None:
    with _started("--memory", "128MiB", "--threads", "3", "--connections", "500") as port:
        settings = {
            "maxbytes": "134217728", "item_size_max": "2097152", "slab_chunk_max": "16384", "slab_automove": "0",
            "num_threads": "3", "maxconns": "500", "udpport": "0", "flush_enabled": "no", "dump_enabled": "no",
        }  # fmt: skip
        assert {name: _statistic(port, name, "settings") for name in settings} == settings
        _await_memory(port, 4096)
        assert _chunks(port, size=152) >= 4096
        process = Path(f"/proc/{_statistic(port, 'pid')}")
        is_powerless = re.search(r"^CapEff:\s*0+$", (process / "status").read_text(), re.MULTILINE)
        assert process.stat().st_uid != 0 or is_powerless, "it has what root may do"


def test_a_file_says_when_memory_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ready"
    file.touch()
    with _started("--memory", "512MiB", "--ready-file", str(file)) as port:
        assert _statistic(port, "pid"), "it runs, and has removed the file of the worker before it"
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline, "the file is made"
            time.sleep(0.001)
        assert _statistic(port, "delete_hits") == "16384"
    listen = ["--listen", f"127.0.0.1:{_free_port()}"]
    assert "none/ready cannot be made: No such" in _fails(capsys, *listen, "--ready-file", f"{tmp_path}/none/ready")


def test_a_key_is_written_once_for_its_owner_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    before = os.umask(0)
    try:
        assert [main(["worker", "key", str(file)]) for file in files] == [0, 0]
    finally:
        os.umask(before)
    texts = [file.read_text() for file in files]
    assert all(re.fullmatch(r"[0-9a-f]{64}\n", text) for text in texts)
    assert texts[0] != texts[1]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert "never replaced" in _fails(capsys, "key", str(files[0]))
    assert files[0].read_text() == texts[0]
    assert "cannot be written" in _fails(capsys, "key", str(tmp_path / "none" / "key"))


def test_what_cannot_work_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = ["--listen", f"127.0.0.1:{_free_port()}"]
    assert "1000000000 MiB" not in (refused := _fails(capsys, *listen, "--memory", "900TiB"))
    assert "this machine or container has" in refused
    assert "too little" in _fails(capsys, *listen, "--memory", "63MiB")
    assert "--memory 16TiB needs 16.3 TiB" in _fails(capsys, *listen, "--memory", "16TiB")
    for wrong in ("11211", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "a,b:1", "localhost:1"):
        assert "expected an IP address and a port" in _fails(capsys, "--listen", wrong)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "in use" in _fails(capsys, "--listen", f"127.0.0.1:{other.getsockname()[1]}")
    assert "cannot be listened on" in _fails(capsys, "--listen", "192.0.2.1:11211")
    assert "--tls-key and --tls-ca must be given too" in _fails(capsys, *listen, "--tls-certificate", "a")
    files = [item for name in ("certificate", "key", "ca") for item in (f"--tls-{name}", str(tmp_path / name))]
    assert f"{tmp_path}/ca cannot be used for TLS" in _fails(capsys, *listen, *files)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "memcached is not installed" in _fails(capsys, *listen)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--memory", "1"],
        ["--memory", "1.5GiB"],
        ["--threads", "0"],
        ["--connections", "x"],
        ["--disk", "/tmp"],
        ["--disk", "tmp=1GiB"],
        ["--disk", "/tmp=1"],
    ],
)
def test_a_wrong_command_line_is_one(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["worker", *wrong])
    assert ended.value.code == 2


def test_what_memory_has_no_room_for_is_in_a_file_without_a_name(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    value = "v" * 15_000
    with _started("--memory", "64MiB", "--disk", f"{tmp_path}=256MiB", "--connections", "100") as port:
        _await_memory(port, 2048 + 4096)
        assert _chunks(port, size=152) >= 2048
        assert _chunks(port, size=120) >= 4096, "for names of what is in files"
        assert list(tmp_path.iterdir()) == []
        assert _statistic(port, "extstore_limit_maxbytes") == str(256 << 20)
        assert _statistic(port, "limit_maxbytes") == str(65 << 20)
        for number in range(4300):
            assert _ask(port, f"ms key-{number} {len(value)}\r\n{value}\r\n", "\r\n") == "HD\r\n"
        deadline = time.monotonic() + 60
        while int(_statistic(port, "extstore_objects_used")) < 400:
            assert time.monotonic() < deadline, "values go to the file"
            time.sleep(0.02)
        ends = (f"{value}\r\n", "EN\r\n")
        found = [number for number in range(4300) if value in _ask(port, f"mg key-{number} v\r\n", ends)]
        assert int(_statistic(port, "get_extstore")) > 0
        assert int(_statistic(port, "badcrc_from_extstore")) == 0
        assert len(found) * 15_000 > 20 << 20


def test_a_file_that_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listen = ["--listen", f"127.0.0.1:{_free_port()}", "--memory", "64MiB"]
    assert "too little: 64MiB or more" in _fails(capsys, *listen, "--disk", f"{tmp_path}=63MiB")
    assert "with --disk of 900TiB needs" in _fails(capsys, *listen, "--disk", f"{tmp_path}=900TiB")
    more = (shutil.disk_usage(tmp_path).free >> 30) + 64
    assert "are free there" in _fails(capsys, *listen, "--disk", f"{tmp_path}={more}GiB")
    assert "no file can be made there: No such" in _fails(capsys, *listen, "--disk", f"{tmp_path}/none=64MiB")


def _openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


def test_by_tls_memory_is_set_aside_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for name in ("ca", "other"):
        _openssl(tmp_path, f"req -x509 {new} -subj /CN={name} -keyout {name}.key -out {name}.pem")
    _openssl(tmp_path, f"req {new} -subj /CN=worker -keyout worker.key -out worker.csr")
    _openssl(tmp_path, "x509 -req -in worker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out worker.pem")
    certificate = ["--tls-ca", f"{tmp_path}/ca.pem", "--tls-certificate", f"{tmp_path}/worker.pem"]
    assert "KEY_VALUES_MISMATCH" in _fails(
        capsys, "--listen", f"127.0.0.1:{_free_port()}", *certificate, "--tls-key", f"{tmp_path}/other.key"
    )
    with _started("--memory", "512MiB", *certificate, "--tls-key", f"{tmp_path}/worker.key") as port:
        parsed = argparse.Namespace(
            tls_ca=tmp_path / "ca.pem", tls_certificate=tmp_path / "worker.pem", tls_key=tmp_path / "worker.key"
        )
        context, deadline = worker.tls_context(parsed), time.monotonic() + 60
        while "STAT delete_hits 16384\r\n" not in _ask(port, "stats\r\n", "END\r\n", context):
            assert time.monotonic() < deadline
            time.sleep(0.02)
