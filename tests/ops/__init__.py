"""Tests of the ops, written from the specification alone."""
