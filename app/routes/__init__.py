"""One module a group of paths; each stays thin."""
