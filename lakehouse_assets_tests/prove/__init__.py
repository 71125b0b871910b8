"""Tests of the proof that kills change nothing."""
