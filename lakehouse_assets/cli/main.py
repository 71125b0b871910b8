"""The entry point of the command `lakehouse`: finds the command that was asked for and turns errors into exit codes.

What belongs here: the list of commands, what holds for all of them. What does not: any command.
A command's module is imported when the command runs, so that `lakehouse --help` starts fast.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import click

from lakehouse_assets.errors import CatalogError, LakehouseError, SettingsError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("lakehouse_assets.cli.demo:demo", "Run the shipped pipelines on simulated data and show what they built."),
    "run": ("lakehouse_assets.cli.run:run", "Bring tables up to date: what is new is read, nothing is read twice."),
    "plan": ("lakehouse_assets.cli.run:plan", "Show what `run` would read and write, without writing."),
    "sql": ("lakehouse_assets.cli.sql:sql", "Ask a question in Spark SQL of every Delta table under the root."),
    "quarantine": ("lakehouse_assets.cli.quarantine:quarantine", "List, show and requeue rows that broke a rule."),
    "history": ("lakehouse_assets.cli.history:history", "Show, explain and rewind the history of keys."),
    "chart": ("lakehouse_assets.cli.chart:chart", "Draw a table, as its entity says, into a PNG."),
    "upload": ("lakehouse_assets.cli.upload:upload", "Append new SQLite rows to a Delta table until stopped."),
    "simulate": ("lakehouse_assets.cli.simulate:simulate", "Write what a system that is not at hand would write."),
    "entities": ("lakehouse_assets.cli.entities:entities", "List, validate and show the entities of a catalog."),
    "maintain": ("lakehouse_assets.cli.maintain:maintain", "Compact, vacuum and checkpoint tables; no row changes."),
    "prove": ("lakehouse_assets.cli.prove:prove", "Kill runs of a catalog, run them again, and compare whole tables."),
    "doctor": ("lakehouse_assets.cli.doctor:doctor", "Check this machine: what is missing, and what mends it."),
}
"""Name of a command -> where it is defined, and its line in the help."""


class Failed(click.ClickException):
    """An error of this project on its way out of the process."""

    def __init__(self, error: LakehouseError) -> None:
        super().__init__(str(error))
        setattr(self, "exit_code", code_of(error))  # noqa: B010 - click declares it for the class


def code_of(error: LakehouseError) -> int:
    """2 where the command, its settings or the catalog are wrong, else 1."""
    return 2 if isinstance(error, SettingsError | CatalogError) else 1


class _Imported(Mapping[str, click.Command]):
    """The commands by name, each imported when it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(click.Group):
    """The commands, listed in the order of `COMMANDS` without being imported."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.commands = _Imported()  # type: ignore[assignment]  # nobody adds to it

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in the order of the help."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help, made without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error of this project becomes its message and an exit code."""
        try:
            return super().invoke(ctx)
        except LakehouseError as error:
            if ctx.params.get("debug"):
                click.echo(traceback.format_exc(), err=True)
            raise Failed(error) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lakehouse-assets", prog_name="lakehouse")
@click.option("--debug", is_flag=True, envvar="LAKEHOUSE_DEBUG", help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Carry tables from where they are born into an exact Delta lake.

    Data goes to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong use.
    """


def task() -> None:
    """The entry point of a Databricks task, which returns when all went well.

    A command line ends its process with SystemExit, which Databricks takes for a failure even where the code is 0.

    Raises:
        RuntimeError: the command failed; its message stands in the log.
    """
    try:
        code = main.main(prog_name="lakehouse", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise RuntimeError(f"lakehouse failed: {error.format_message()}") from error
    if isinstance(code, int) and code:
        raise RuntimeError(f"lakehouse ended with exit code {code}; the log says why")


if __name__ == "__main__":
    main()
