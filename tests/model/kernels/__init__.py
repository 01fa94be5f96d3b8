"""Tests of `model.kernels`."""
