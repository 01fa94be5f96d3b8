"""Measurements that documentation and choices rest on; run by hand."""
