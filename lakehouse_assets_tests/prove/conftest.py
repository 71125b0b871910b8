"""What tests of proofs share."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def seed() -> int:
    """What chance is drawn from; LAKEHOUSE_TEST_SEED repeats it."""
    found = int(os.environ.get("LAKEHOUSE_TEST_SEED") or random.randrange(1 << 30))
    print("LAKEHOUSE_TEST_SEED =", found)
    return found
