"""Tests of the exported networks."""
