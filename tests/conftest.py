from __future__ import annotations

import os

import torch
from hypothesis import settings

# Triton reads this when it is imported: without a GPU, its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# torch's first call is slow, and timing says nothing about correctness.
settings.register_profile("repository", deadline=None)
settings.load_profile("repository")
