"""Tests of fastnll."""
