"""When a derived table is refreshed: when the data of a table that it reads has changed.

    eager, without its time window (tables here have no partitions), and with three differences:
    - a dependency counts as updated when its data version changed, not when a run found nothing new;
    - an update that falls into the same tick as a request is kept, not taken for handled: a run that was requested
      earlier cannot have read it. (Eager forgets it, and the last rows of a stream would wait for the next ones);
    - nothing is requested while a blocking check of a dependency has failed. A check that was not run since the
      last commit does not block: commits of the command line are reported without checks.
What does not belong here: sensors and schedules.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagster import AssetKey, AssetSelection, AutomationCondition


def derived(views: Sequence[AssetKey] = ()) -> AutomationCondition:
    """The condition of a table that reads other tables.

    Args:
        views: dependencies that hold no rows; they are never materialized, and nothing waits for them.
    """
    moved = AutomationCondition.any_deps_match(
        (AutomationCondition.data_version_changed() & ~AutomationCondition.executed_with_root_target()).with_label(
            "data_changed_by_another_run"
        )
        | AutomationCondition.will_be_requested()
    ).with_label("any_deps_moved")
    trigger = AutomationCondition.newly_missing() | moved
    handled = AutomationCondition.newly_requested() & ~moved
    sound = AutomationCondition.all_deps_match(
        AutomationCondition.all_checks_match(~AutomationCondition.check_failed(), blocking_only=True)
    ).with_label("no_blocking_check_of_a_dep_failed")
    condition = (
        trigger.since(handled)
        & ~AutomationCondition.any_deps_missing()
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
        & sound
    )
    seen = condition.ignore(AssetSelection.assets(*views)) if views else condition
    return seen.with_label("data_of_a_dep_changed")
