"""Data -> checkpoint."""
