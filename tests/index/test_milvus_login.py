"""Milvus with TLS and a login: what its client is told, and a real server that asks for both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from running import running_milvus
from servers import check_wanted

from saat.index.address import parse_address
from saat.index.milvus_server import TOKEN, connection

ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"  # of gRPC, read once a process; so each try is a process
PUSH_AND_SEARCH = """
import sys
import numpy as np
import pyarrow as pa
from saat.index.catalog import open_remote
from saat.index.content import IndexContent, ModelKey
from saat.index.flat import FlatIndex
from saat.index.push import push
model = ModelKey("a" * 32, 24)
packed = np.random.default_rng(0).integers(0, 256, (50, 3), dtype=np.uint8)
content = IndexContent.empty(model).added(packed, pa.table({"path": [str(row) for row in range(50)]}), model=model)
with open_remote(sys.argv[1]) as remote:
    list(push(content, remote, identity="ours", created="now", batch_size=30))
with open_remote(sys.argv[1]) as remote:
    remote.check_complete()
    flat = FlatIndex(24)
    flat.add(content.packed, content.ids)
    assert (remote.search(packed, 7).ids == flat.search(packed, 7).ids).all()
    print(remote.address, len(remote), "items")
"""
OPEN = "import sys; from saat.index.catalog import open_remote; open_remote(sys.argv[1])"


@pytest.mark.parametrize(
    ("address", "token", "uri", "sent"),
    [
        ("milvus://db/p", "", "http://db:19530", ""),
        ("milvus://db:1/p", "a-key", "http://db:1", "a-key"),
        ("milvus+tls://db/p", "me:secret", "https://db:19530", "me:secret"),
        ("milvus+tls://you:a%40b@[::1]:443/p", "me:secret", "https://[::1]:443", "you:a@b"),
    ],
)
def test_what_the_client_is_told(address: str, token: str, uri: str, sent: str) -> None:
    assert connection(parse_address(address), token) == {"uri": uri, "token": sent}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Run Milvus with TLS and login; return host and port, and the certificate of who vouches for the server."""
    check_wanted("milvus")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for words in (
        "req -x509 -newkey rsa:2048 -noenc -days 2 -subj /CN=saat-tests -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -noenc -subj /CN=milvus -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -days 2 -extfile names -out server.pem",
    ):
        subprocess.run(["openssl", *words.split()], check=True, cwd=folder, capture_output=True)
    paths = {
        f"{name}_path": str(folder / file)
        for name, file in {"ca_pem": "ca.pem", "server_pem": "server.pem", "server_key": "server.key"}.items()
    }
    with running_milvus({"tls_mode": 1, "authorization_enabled": True} | paths) as server:
        yield f"127.0.0.1:{server.port}", folder / "ca.pem"


def run(program: str, address: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, address],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.servers
@pytest.mark.parametrize(("login", "token"), [("", "root:Milvus"), ("root:Milvus@", "")])
def test_an_index_over_tls_with_a_login(secured: tuple[str, Path], login: str, token: str) -> None:
    place, roots = secured
    address = f"milvus+tls://{login}{place}/over_tls"
    done = run(PUSH_AND_SEARCH, address, {ROOTS: str(roots), TOKEN: token})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"milvus+tls://{place}/over_tls 50 items\n"


@pytest.mark.servers
@pytest.mark.parametrize(
    ("scheme", "token", "trusted"),
    [
        ("milvus", "root:Milvus", True),
        ("milvus+tls", "root:Milvus", False),
        ("milvus+tls", "", True),
        ("milvus+tls", "root:geheim", True),
    ],
)
def test_who_does_not_fit_is_refused(secured: tuple[str, Path], scheme: str, token: str, trusted: bool) -> None:
    place, roots = secured
    variables = {TOKEN: token} | ({ROOTS: str(roots)} if trusted else {})
    refused = run(OPEN, f"{scheme}://{place}/refused", variables)
    assert refused.returncode == 1
    assert f"ServerError: {scheme}://{place}/refused: " in refused.stderr
    assert "geheim" not in refused.stderr
