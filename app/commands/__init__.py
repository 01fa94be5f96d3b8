"""The commands beside `serve`; each module is one of them or what several share."""
