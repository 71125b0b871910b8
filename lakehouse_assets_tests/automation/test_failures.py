"""Who is told when a run fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lakehouse_assets.automation.failures import NAME, Alert, channels, tell
from lakehouse_assets.errors import TransientError
from lakehouse_assets.settings import Settings
from lakehouse_assets_tests.assets.house import House

ALERT = Alert("sensors_job", "0123456789", "sensors_job failed: ü")


class Inbox:
    """A real HTTP server that keeps what is posted."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                inbox.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Be silent."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=s3cret"


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """A webhook that listens."""
    found = Inbox()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def evaluate(house: House, cursor: str | None = None) -> Any:
    """One tick of the failure sensor; the run was made in this process, so neither belongs to a code location."""
    context = dg.build_sensor_context(house.instance, cursor=cursor)
    return house.defs.resolve_sensor_def(NAME).evaluate_tick(context)


def test_a_failed_run_is_posted_to_the_webhook(tmp_path: Path, instance: dg.DagsterInstance, inbox: Inbox) -> None:
    """The message names the run, the step and what is to be done; the next tick does not tell it again."""
    house = House(tmp_path, instance, alert_webhook=inbox.url)
    cursor = evaluate(house).cursor
    house.database.unlink()
    result = house.run("bronze.readings")
    told = evaluate(house, cursor)
    (post,) = inbox.posts
    assert post["run_id"] == result.run_id
    assert "bronze__readings" in post["text"]
    assert "edge.db" in post["text"]
    assert "next:" in post["text"]
    evaluate(house, told.cursor)
    assert len(inbox.posts) == 1


def test_a_run_that_succeeds_is_not_told(tmp_path: Path, instance: dg.DagsterInstance, inbox: Inbox) -> None:
    """Only failures are."""
    house = House(tmp_path, instance, alert_webhook=inbox.url)
    cursor = evaluate(house).cursor
    house.add(("a", 1.0))
    assert house.run("bronze.readings").success
    evaluate(house, cursor)
    assert inbox.posts == []


def test_a_channel_that_fails_does_not_silence_the_others(inbox: Inbox) -> None:
    """The others are told, and the tick fails with the name of the one that was not."""
    said: list[str] = []
    dead = channels(Settings(alert_webhook="http://127.0.0.1:1/none"))["webhook"]
    live = channels(Settings(alert_webhook=inbox.url))["webhook"]
    with pytest.raises(TransientError, match="dead"):
        tell(ALERT, {"dead": dead, "live": live}, said.append)
    assert inbox.posts == [{"text": ALERT.text, "job": ALERT.job, "run_id": ALERT.run_id}]
    assert said[0].startswith("dead: ")


def test_the_webhook_is_a_secret() -> None:
    """Its address often holds a token: it is not shown."""
    assert "s3cret" not in repr(Settings(alert_webhook="https://hooks.example.org/s3cret"))


def test_a_failed_run_is_published_to_sns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topic gets subject and message; the subject is what SNS accepts."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    try:
        topic = boto3.client("sns", region_name="eu-west-1").create_topic(Name="alerts")["TopicArn"]
        queue = boto3.client("sqs", region_name="eu-west-1")
        url = queue.create_queue(QueueName="inbox")["QueueUrl"]
        arn = queue.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        boto3.client("sns", region_name="eu-west-1").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        tell(ALERT, channels(Settings(alert_sns_topic=topic)), print)
        (message,) = queue.receive_message(QueueUrl=url)["Messages"]
        assert json.loads(message["Body"])["Message"] == ALERT.text
        assert json.loads(message["Body"])["Subject"] == "lakehouse: sensors_job failed (01234567)"
    finally:
        server.stop()
    assert all(" " <= c <= "~" for c in Alert("jöb" * 60, "1", "").subject)
    assert len(Alert("job" * 60, "1", "").subject) <= 100
