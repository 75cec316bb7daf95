"""Connections to real servers: lost, held up, limited, refused where a table is of others, and named in errors."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pushing import content, pushed_steps
from servers import Addresses

from saat.errors import ArgumentError, DataError, ServerError
from saat.index.catalog import open_remote


@pytest.mark.servers
def test_a_lost_connection_is_made_anew(address: Addresses) -> None:
    remote, other = (open_remote(place) for place in [address("postgresql")] * 2)
    pushed_steps(content(), remote)
    other._run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert len(remote) == len(content())
    for each in (remote, other):
        each.close()


@pytest.mark.servers
def test_a_statement_that_is_held_up_ends_but_those_that_build_a_graph_may_take_long(address: Addresses) -> None:
    place = address("postgresql")
    remote, holder = open_remote(place + "&options=-c%20statement_timeout%3D300ms"), open_remote(place)
    pushed_steps(content(), remote)
    with holder._connection.transaction():
        holder._run("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ServerError, match="statement timeout"):
            len(remote)
    assert len(remote) == len(content())
    with ThreadPoolExecutor(2) as pool:
        with holder._connection.transaction():
            holder._run("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            builds = pool.submit(remote.build_graph)
            time.sleep(0.6)
        builds.result(timeout=30)
        with holder._connection.transaction():
            holder._run("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            puts = pool.submit(remote.put, remote.prepared(content().packed, content().metadata))
            time.sleep(0.6)
        puts.result(timeout=30)
    for each in (remote, holder):
        each.close()


@pytest.mark.servers
def test_a_connection_has_limits_unless_the_address_or_the_server_has_its_own(address: Addresses) -> None:
    place = address("postgresql")
    chosen = {"": "1min", "&options=-c%20statement_timeout%3D0": "0", "&options=-c%20work_mem%3D8MB": "1min"}
    for options, limit in chosen.items():
        with open_remote(place + options) as remote:
            assert remote._run("SHOW statement_timeout") == [(limit,)]
            parameters = remote._connection.info.get_parameters()
            assert {name: parameters[name] for name in ("keepalives_idle", "tcp_user_timeout")} == {
                "keepalives_idle": "30",
                "tcp_user_timeout": "60000",
            }
    with open_remote(place + "&keepalives_idle=5") as remote:
        assert remote._connection.info.get_parameters()["keepalives_idle"] == "5"
        remote._run("ALTER ROLE CURRENT_USER SET statement_timeout = '7s'")
        with open_remote(place) as other:
            assert other._run("SHOW statement_timeout") == [("7s",)]
        remote._run("ALTER ROLE CURRENT_USER RESET statement_timeout")


@pytest.mark.servers
def test_tables_of_others_are_left_alone(address: Addresses) -> None:
    remote = open_remote(address("postgresql"))
    remote._run("CREATE TABLE {table} (mine text)")
    with pytest.raises(DataError, match="already exists"):
        pushed_steps(content(), remote)
    assert remote._run("SELECT count(*) FROM {table}") == [(0,)]
    assert remote._read_manifest() is None
    remote.close()


@pytest.mark.servers
def test_collections_of_others_are_left_alone(address: Addresses) -> None:
    place = address("milvus")
    remote = open_remote(place)
    remote._server.ask("create_collection", remote.address.name, dimension=4)
    with pytest.raises(DataError, match=r"not of saat: the fields of photos_\d+ are id, vector"):
        open_remote(place)
    remote.close()


@pytest.mark.servers
def test_errors_of_postgresql_show_no_password(postgresql: str) -> None:
    wrong = postgresql.replace("postgres:@", "postgres:geheim@").replace("/postgres?", "/nowhere?")
    with pytest.raises(DataError, match='database "nowhere" does not exist') as caught:
        open_remote(wrong)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "client"),
    [("milvus://me:geheim@127.0.0.1:1/p", "pymilvus"), ("postgresql://me:geheim@127.0.0.1:1/p", "psycopg")],
)
def test_a_server_that_does_not_answer_is_named(place: str, client: str) -> None:
    pytest.importorskip(client)
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1/p") as caught:
        open_remote(place)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "client", "extra"),
    [("milvus://h/p", "pymilvus", "milvus"), ("postgresql://h/p", "psycopg", "postgres")],
)
def test_a_client_that_is_missing_is_named(
    place: str, client: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(ArgumentError, match=rf"pip install 'saat\[{extra}\]'"):
        open_remote(place)
