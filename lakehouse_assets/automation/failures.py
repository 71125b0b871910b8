"""Who is told when a run fails: the log always, a webhook and an SNS topic where the settings name one.

What belongs here: the message and its channels. What does not: deciding whether a failure is retried
(`assets/step.py`).
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import dagster as dg

from lakehouse_assets.errors import TransientError
from lakehouse_assets.settings import Settings

NAME = "failures"
TIMEOUT_SECONDS = 10
_LONGEST = 2000
_SUBJECT = 100


@dataclass(frozen=True)
class Alert:
    """A failed run, for people."""

    job: str
    run_id: str
    text: str

    @property
    def subject(self) -> str:
        """One line, as SNS accepts it: printable ASCII, at most 100 characters."""
        line = f"lakehouse: {self.job} failed ({self.run_id[:8]})"
        return "".join(c if " " <= c <= "~" else "?" for c in line)[:_SUBJECT]


def build_failure_sensor(settings: Settings, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """The sensor that tells of every failed run of this project."""

    @dg.run_failure_sensor(
        name=NAME,
        default_status=status,
        description="Tells the log, and the webhook and SNS topic of the settings, that a run failed",
    )
    def failures(context: dg.RunFailureSensorContext) -> None:
        alert = alert_of(context)
        context.log.error(alert.text)
        tell(alert, channels(settings), context.log.error)

    return failures


def alert_of(context: dg.RunFailureSensorContext) -> Alert:
    """What is told of a failed run: the errors of its steps."""
    run = context.dagster_run
    lines = [f"{run.job_name} failed: run {run.run_id}"]
    for event in context.get_step_failure_events():
        told = event.step_failure_data.user_failure_data
        error = event.step_failure_data.error
        said = told.description if told and told.description else error.message if error else event.message
        lines.append(f"{event.step_key}: {(said or '').strip()}")
    if len(lines) == 1:
        lines.append(context.failure_event.message or "no step failed")
    return Alert(run.job_name, run.run_id, "\n".join(lines)[:_LONGEST])


Channel = Callable[[Alert], None]


def channels(settings: Settings) -> dict[str, Channel]:
    """The channels that the settings name, opened when they are used."""
    found: dict[str, Channel] = {}
    if settings.alert_webhook is not None:
        url = settings.alert_webhook.get_secret_value()
        found["webhook"] = lambda alert: _post(url, alert)
    if settings.alert_sns_topic:
        topic = settings.alert_sns_topic
        found["sns"] = lambda alert: _publish(topic, alert)
    return found


def tell(alert: Alert, channels: dict[str, Channel], log: Callable[[str], object]) -> None:
    """Tell every channel; one that fails does not silence the others.

    Raises:
        TransientError: at least one channel failed.
    """
    failed = list(_failed(alert, channels, log))
    if failed:
        raise TransientError(
            f"the failure of run {alert.run_id} could not be told by: {', '.join(failed)}",
            fix="check LAKEHOUSE_ALERT_WEBHOOK and LAKEHOUSE_ALERT_SNS_TOPIC; the log above says why",
        )


def _failed(alert: Alert, channels: dict[str, Channel], log: Callable[[str], object]) -> Iterable[str]:
    for name, channel in channels.items():
        try:
            channel(alert)
        except Exception as error:  # any channel, any library: the others must still be told
            log(f"{name}: {type(error).__name__}: {error}")
            yield name


def _post(url: str, alert: Alert) -> None:
    body = json.dumps({"text": alert.text, "job": alert.job, "run_id": alert.run_id}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        answer.read()


def _publish(topic: str, alert: Alert) -> None:
    import boto3

    region = topic.split(":")[3] if topic.count(":") >= 5 else None
    boto3.client("sns", region_name=region).publish(TopicArn=topic, Subject=alert.subject, Message=alert.text)
