"""Tests of the one language of transforms."""
