"""What tests of object stores share: each store in its turn, and a bad network before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lakehouse_assets_tests.conftest import Bucket
from lakehouse_assets_tests.stores.wire import RemoteProxy, proxy_before

ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "azure": "AZURITE_BLOB_STORAGE_URL"}
"""Kind of store -> the option that says where it is."""


@dataclass(frozen=True)
class Wire:
    """A bucket behind a bad network: the proxy, and the bucket as it is reached through it."""

    proxy: RemoteProxy
    bucket: Bucket

    def trying(self, **options: str) -> Bucket:
        """The bucket for clients that try as often as is usual, or as `options` say."""
        usual = {name: value for name, value in self.bucket.options.items() if name != "max_retries"}
        return Bucket(self.bucket.root, usual | options)


@pytest.fixture(params=["s3", pytest.param("azure", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Bucket:
    """A fresh bucket of each kind of store."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def wire(store: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """The bucket behind a proxy; nothing is wrong with it until a rule is made. Clients try once and give up."""
    option = next(name for name in ENDPOINTS.values() if name in store.options)
    with proxy_before(store.options[option]) as proxy:
        if option.startswith("AZURITE"):  # delta-rs reads it there
            monkeypatch.setenv(option, proxy.url)
        yield Wire(proxy, Bucket(store.root, store.options | {option: proxy.url, "max_retries": "0"}))
