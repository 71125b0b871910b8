"""The Spark of one cluster: a JVM that tasks attach to, over py4j or over Spark Connect.

A copy of this file is run by the Python of the runtime, inside the cluster's file tree; so it imports nothing of this
project. What belongs here: starting Spark, telling where it listens, stopping one task's jobs. What does not: tasks.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from typing import Any

SERVICE = "org.apache.spark.sql.connect.service"


def end_with(simulator: int) -> None:
    """End this process when the simulator is gone; the JVM ends with its parent."""

    def watch() -> None:
        os.read(simulator, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def listening(spark: Any, connect: bool) -> dict[str, Any]:
    """Where tasks find this Spark."""
    gateway = spark.sparkContext._gateway
    if connect:
        service = getattr(gateway.jvm, f"{SERVICE}.SparkConnectService$")
        return {"remote": f"sc://127.0.0.1:{getattr(service, 'MODULE$').localPort()}"}
    parameters = gateway.gateway_parameters
    return {"port": parameters.port, "secret": parameters.auth_token}


def forget(spark: Any, task: str, *, connect: bool) -> None:
    """Stop what is still done for a task: its session ends, or its job group."""
    if not connect:
        spark.sparkContext.cancelJobGroup(task)
        return
    jvm = spark.sparkContext._jvm
    service = getattr(getattr(jvm, f"{SERVICE}.SparkConnectService$"), "MODULE$")
    service.sessionManager().closeSession(getattr(jvm, f"{SERVICE}.SessionKey")("task", task), False)


def main(path: str) -> None:
    """Start the Spark that a file describes; end when the standard input does."""
    with open(path, encoding="utf-8") as file:
        cluster = json.load(file)
    os.unlink(path)  # the configuration may hold secrets
    end_with(cluster["alive"])
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    for name, value in cluster["conf"].items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    with open(cluster["ready"] + ".new", "w", encoding="utf-8") as file:
        json.dump(listening(spark, cluster["connect"]), file)
    os.rename(cluster["ready"] + ".new", cluster["ready"])
    for line in sys.stdin:  # the tasks that have ended
        try:
            forget(spark, line.strip(), connect=cluster["connect"])
        except Exception:  # the cluster works on: its log has it
            traceback.print_exc()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
