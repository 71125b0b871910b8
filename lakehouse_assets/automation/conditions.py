"""When a derived table is refreshed: when the data of a table that it reads has changed.

    eager, without its time window (an old day that is corrected counts, too), and with these differences:
    - a dependency counts as updated when its data version changed, not when a run found nothing new;
    - an update that falls into the same tick as a request is kept, not taken for handled: a run that was requested
      earlier cannot have read it. (Eager forgets it, and the last rows of a stream would wait for the next ones);
    - of tables with days each day counts by itself; whether a run that changed some of them has made the table as
      well is told by a tag of the run (`mark` in `assets/partitions.py`), for Dagster knows it of the last day only;
    - nothing is requested while a blocking check of a dependency has failed. A check that was not run since the
      last commit does not block: commits of the command line are reported without checks.
What does not belong here: sensors and schedules.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagster import AssetKey, AssetSelection, AutomationCondition


def derived(
    views: Sequence[AssetKey] = (), partial: Sequence[AssetKey] = (), tag: str | None = None
) -> AutomationCondition:
    """The condition of a table that reads other tables.

    Args:
        views: dependencies that hold no rows; they are never materialized, and nothing waits for them.
        partial: dependencies with days that a table without them reads: nothing waits for days that have no data.
        tag: the tag of runs that make the table, where it reads days: what such a run changed, it has read as well.
    """
    same_run = (
        AutomationCondition.all_new_updates_have_run_tags(tag_keys={tag})
        if tag
        else AutomationCondition.executed_with_root_target()
    )
    moved = AutomationCondition.any_deps_match(
        (AutomationCondition.data_version_changed() & ~same_run).with_label("data_changed_by_another_run")
        | AutomationCondition.will_be_requested()
    ).with_label("any_deps_moved")
    handled = AutomationCondition.newly_requested() & ~moved
    missing = AutomationCondition.newly_missing().since(handled) & AutomationCondition.missing()
    sound = AutomationCondition.all_deps_match(
        AutomationCondition.all_checks_match(~AutomationCondition.check_failed(), blocking_only=True)
    ).with_label("no_blocking_check_of_a_dep_failed")
    condition = (
        (missing | moved.since(handled))
        & _there(partial)
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
        & sound
    )
    seen = condition.ignore(AssetSelection.assets(*views)) if views else condition
    return seen.with_label("data_of_a_dep_changed")


def _there(partial: Sequence[AssetKey]) -> AutomationCondition:
    """Whether every dependency was made; of one with days, of which all are read, any day will do."""
    missing = AutomationCondition.any_deps_missing()
    if not partial:
        return ~missing
    found = ~missing.ignore(AssetSelection.assets(*partial))
    made = ~AutomationCondition.missing() | AutomationCondition.will_be_requested()
    for key in partial:
        found &= AutomationCondition.any_deps_match(made).allow(AssetSelection.assets(key))
    return found
