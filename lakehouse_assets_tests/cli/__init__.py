"""Tests of the command `lakehouse`."""
