"""Settings of a session that keeps some for itself, as serverless compute does; here Spark's own static ones."""

from __future__ import annotations

import pytest

from lakehouse_assets.engines.spark import SparkEngine
from lakehouse_assets.engines.spark_session import tell
from lakehouse_assets.errors import NotRunnable

STATIC = "spark.sql.warehouse.dir"


def test_a_setting_that_is_kept_at_what_is_wanted_is_left(spark: SparkEngine) -> None:
    """Nothing has to be set where the session has the value already."""
    tell(spark.spark, {STATIC: spark.spark.conf.get(STATIC)})


def test_a_setting_that_is_kept_at_another_value_is_refused(spark: SparkEngine) -> None:
    """The message names the setting, both values, and where it can be made."""
    with pytest.raises(NotRunnable, match=f"keeps {STATIC} at .* need '/elsewhere'") as caught:
        tell(spark.spark, {STATIC: "/elsewhere"})
    assert "job cluster" in str(caught.value)
