"""What the read options of a kdb+ table mean, and what is refused, without a connection."""

from __future__ import annotations

import pickle

import pytest

from lakehouse_assets.entities.model import Entity
from lakehouse_assets.errors import LakehouseError, SecretError, SettingsError
from lakehouse_assets.sources.kdb_client import OwnClient
from lakehouse_assets.sources.kdb_options import OPTIONS, KdbOptions, faults_of, options_of
from lakehouse_assets.sources.kdb_pykx import PykxClient
from lakehouse_assets_tests.sources.kdb_desk import BY_DAY

SECRET = {"user": "u", "password": "${secret:KDB_WORD}"}


def entity(source: str = "trade", schema: str | None = None, **given: object) -> Entity:
    """An entity with options without `kdb.`; a name with `.` stands as it is."""
    options = {"host": "h", "port": 5010, **given}
    by_date = given.get("partition") is not None or given.get("kdb.partition") is not None
    return Entity(
        entity_id="t",
        source=source,
        destination="extract.t" if by_date else "bronze.t",
        source_format="kdb",
        source_schema=schema,
        lakehouse=BY_DAY if by_date else {},
        read_options={
            name if "." in name else f"kdb.{name}": str(value) for name, value in options.items() if value is not None
        },
    )


def test_the_defaults() -> None:
    """Host, port and a table are enough: whole, in clear text, with limits of time and memory."""
    assert options_of(entity()) == KdbOptions("h", 5010, "trade")
    assert (KdbOptions.timeout, KdbOptions.connect_timeout, KdbOptions.slice_rows) == (60, 5, 250_000)


def test_every_option_is_read() -> None:
    """Each option has its place."""
    given = options_of(
        entity(
            "orders", host="10.0.0.1", port="05011", table=" quote ", partition="date", **SECRET, tls="TRUE",
            tlsCaFile="/ca.pem", client="qipc", timeout="0.5", connectTimeout="2", sliceRows=10, infinities="null",
            nanoseconds="refuse",
        )
    )  # fmt: skip
    assert given == KdbOptions(
        "10.0.0.1",
        5011,
        "quote",
        "date",
        "u",
        "${secret:KDB_WORD}",
        True,
        "/ca.pem",
        "qipc",
        0.5,
        2.0,
        10,
        "null",
        "refuse",
    )


def test_the_server_is_made_of_them() -> None:
    """The password is resolved where the connection is made, and nowhere shown."""
    options = options_of(
        entity(**SECRET, tls=True, tlsCaFile="/ca.pem", infinities="null", timeout=7, connectTimeout=3)
    )
    server = options.server({"KDB_WORD": "hunter2"})
    assert server.credentials() == b"u:hunter2\x06\x00"
    assert (server.timeout, server.connect_timeout, server.infinities) == (7, 3, "null")
    assert server.tls is not None
    assert server.tls.authorities == "/ca.pem"
    assert "hunter2" not in f"{options!r}{server!r}"
    assert b"hunter2" not in pickle.dumps(options)
    with pytest.raises(SecretError, match="KDB_WORD"):
        options.server({})


def test_the_client_is_chosen() -> None:
    """The project's own, or PyKX; neither connects before it is asked."""
    assert isinstance(options_of(entity()).connect({}), OwnClient)
    assert isinstance(options_of(entity(client="pykx")).connect({}), PykxClient)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"slicerows": 5}, "no such read option (got 'kdb.slicerows')"),
        ({"header": "true", "kafka.x": "1"}, "no such read option"),
        ({"host": None}, "kdb.host is required"),
        ({"host": "h:5010"}, "") ,
        ({"host": "a b"}, "kdb.host has a value that it cannot have (got 'a b')"),
        ({"port": None}, "kdb.port is required"),
        ({"port": "x"}, "kdb.port has a value that it cannot have (got 'x')"),
        ({"port": "0"}, "kdb.port has a value that it cannot have (got '0')"),
        ({"port": "65536"}, "kdb.port has a value that it cannot have (got '65536')"),
        ({"table": "t;exit 0"}, "cannot be a table of kdb+ (got 't;exit 0')"),
        ({"partition": "d t"}, "kdb.partition has a value that it cannot have (got 'd t')"),
        ({"user": "a:b"}, "kdb.user has a value that it cannot have (got 'a:b')"),
        ({"password": "${secret:X}"}, "kdb.password is given without kdb.user"),
        ({"tls": "yes"}, "kdb.tls has a value that it cannot have (got 'yes')"),
        ({"tlsCaFile": "/ca.pem"}, "kdb.tlsCaFile is given, but the connection is not TLS"),
        ({"tls": True, "client": "pykx"}, "PyKX does not check the host name of a certificate"),
        ({"client": "q"}, "kdb.client has a value that it cannot have (got 'q')"),
        ({"timeout": "0"}, "kdb.timeout has a value that it cannot have (got '0')"),
        ({"timeout": "1m"}, "kdb.timeout has a value that it cannot have (got '1m')"),
        ({"connectTimeout": "-1"}, "kdb.connectTimeout has a value that it cannot have (got '-1')"),
        ({"sliceRows": "0"}, "kdb.sliceRows has a value that it cannot have (got '0')"),
        ({"infinities": "keep"}, "kdb.infinities has a value that it cannot have (got 'keep')"),
        ({"nanoseconds": "truncate"}, "kdb.nanoseconds has a value that it cannot have (got 'truncate')"),
        ({"schema": "a int"}, "the columns of a kdb table come from its `meta`"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused(given: dict[str, object], told: str) -> None:
    """Each with the value and the legal choices, by `options_of` and by `faults_of` alike."""
    broken = entity(**given)  # type: ignore[arg-type]
    if not told:
        assert options_of(broken).host == "h:5010"
        return
    with pytest.raises(SettingsError) as error:
        options_of(broken)
    assert told in str(error.value)
    assert str(error.value).startswith(("bronze.t: ", "extract.t: "))
    assert str(error.value) in map(str, faults_of(broken))


def test_an_unknown_option_names_the_choices() -> None:
    """All options, and the nearest."""
    with pytest.raises(SettingsError, match="did you mean 'kdb.sliceRows'") as error:
        options_of(entity(slicerows=5))
    assert error.value.choices == OPTIONS


def test_a_password_in_clear_is_no_entity() -> None:
    """It is a reference, or nothing; the message does not repeat it."""
    with pytest.raises(ValueError, match="must hold a reference to a secret") as error:
        entity(user="u", password="hunter2")
    assert "hunter2" not in str(error.value)


def test_all_faults_are_found_at_once() -> None:
    """Each once; none where there is none."""
    found = faults_of(entity("a b", hots="h", host=None, port="x", tls="yes", sliceRows="few", timeout="soon"))
    assert [error.value for error in found] == ["kdb.hots", None, "x", "a b", "yes", "soon", "few"]
    assert faults_of(entity(**SECRET, tls=True)) == []


@pytest.mark.parametrize("name", sorted({*OPTIONS} - {"kdb.password"}))
def test_what_cannot_be_read_has_a_fault(name: str) -> None:
    """An entity that `options_of` refuses has a fault, and one that it takes has none."""
    broken = entity(**{name: "\x00"})
    told = None
    try:
        options_of(broken)
    except LakehouseError as error:
        told = str(error)
    assert told in map(str, faults_of(broken)) if told else faults_of(broken) == []
