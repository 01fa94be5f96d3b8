"""Checkpoint -> verified bundle."""
