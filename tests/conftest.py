from __future__ import annotations

from hypothesis import settings

# torch's first call is slow, and timing says nothing about correctness.
settings.register_profile("repository", deadline=None)
settings.load_profile("repository")
