"""Tests of the entities and the catalog."""
