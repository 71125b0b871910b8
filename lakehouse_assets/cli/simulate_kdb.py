"""`lakehouse simulate kdb`: a kdb+ process that is not at hand, until stopped.

What belongs here: arguments and what is said. What does not: what is simulated (`simulators/kdb.py`).
"""

from __future__ import annotations

from datetime import date

import click

from lakehouse_assets.cli.output import say
from lakehouse_assets.cli.signals import stopped_by_signals

SHARE = click.FloatRange(0, 1)


def span(_context: click.Context, _option: click.Parameter, text: str) -> tuple[date, date]:
    """The first and the last day of `FROM..TO`, or of one day."""
    first, _, last = text.partition("..")
    try:
        found = date.fromisoformat(first.strip()), date.fromisoformat((last or first).strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not FROM..TO, two days as YYYY-MM-DD") from None
    if found[0] > found[1]:
        raise click.BadParameter(f"{text!r} ends before it begins")
    return found


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=5010, show_default=True, help="0: a free port.")
@click.option("--user", default="", metavar="U", help="Whom it admits (default: everybody).")
@click.option("--password", default="", metavar="P", envvar="LAKEHOUSE_SIMULATED_KDB_PASSWORD", help="Of that user.")
@click.option("--symbols", type=click.IntRange(min=1), default=20, show_default=True, help="How many are traded.")
@click.option("--rows", type=click.IntRange(min=0), default=20_000, show_default=True, help="Trades of a date.")
@click.option("--quotes", type=click.FloatRange(0), default=5.0, show_default=True, help="Quotes for each trade.")
@click.option(
    "--dates",
    "days",
    default="2018-12-10..2018-12-21",
    show_default=True,
    callback=span,
    metavar="FROM..TO",
    help="Its trading days, from 1999-01-04 to 2018-12-31.",
)
@click.option("--seed", default=7, show_default=True, help="What all chance is drawn from.")
@click.option("--skew", type=SHARE, metavar="SHARE", help="Of all rows, those of one symbol.")
@click.option(
    "--nulls", type=SHARE, default=0.001, show_default=True, help="Share of prices and symbols that are NULL."
)
@click.option("--correct", multiple=True, type=click.DateTime(["%Y-%m-%d"]), help="A date whose trades are corrected.")
@click.option("--empty", multiple=True, type=click.DateTime(["%Y-%m-%d"]), help="A date without rows.")
def kdb(
    port: int,
    user: str,
    password: str,
    symbols: int,
    rows: int,
    quotes: float,
    days: tuple[date, date],
    seed: int,
    skew: float | None,
    nulls: float,
    correct: tuple,
    empty: tuple,
) -> None:
    """Serve trades and quotes over q IPC, as a kdb+ database partitioned by date, until stopped (Ctrl-C).

    The prices walk between the real daily prices of the packaged prices.csv. The same arguments serve the same rows.
    It answers what this project asks, and `select … from t where date=…, sym in …`, `meta t`, `count t`, `tables[]`.
    """
    from lakehouse_assets.simulators.kdb_answers import Answers
    from lakehouse_assets.simulators.kdb_config import KdbConfig
    from lakehouse_assets.simulators.kdb_database import Database
    from lakehouse_assets.simulators.kdb_prices import trading_days
    from lakehouse_assets.simulators.kdb_wire import Listener

    if password and not user:
        raise click.UsageError("--password belongs to --user")
    config = KdbConfig(
        port=port, user=user, password=password, dates=trading_days(*days), symbols=symbols, rows=rows, quotes=quotes,
        seed=seed, skew=skew, nulls=nulls,
    )  # fmt: skip
    database = Database(config)
    for moment in empty:
        database.empty(moment.date())
    for moment in correct:
        database.correct(moment.date())
    with stopped_by_signals("ending its connections") as stop:
        listener = Listener(config, Answers(database))
        try:
            say(f"a stand-in for kdb+ listens on {config.host}, port {listener.port}, until stopped (Ctrl-C)")
            say(f"  trade: {rows:,} rows a date, quote: {round(rows * quotes):,}; symbols: {symbols:,}")
            say(f"  dates: {len(database.dates)} from {database.dates[0]} to {database.dates[-1]}")
            say(f"read it with an entity: {_entity(user, listener.port)}")
            stop.wait()
        finally:
            listener.close()


def _entity(user: str, port: int) -> str:
    who = f", kdb.user: {user}, kdb.password: '${{secret:KDB_PASSWORD}}'" if user else ""
    options = f"{{kdb.host: 127.0.0.1, kdb.port: '{port}', kdb.partition: date{who}}}"
    return f"source: trade, source_format: kdb, read_options: {options}"
