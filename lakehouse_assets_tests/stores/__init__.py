"""Tests of lakes on object stores, on bad networks and under bad clocks."""
