"""What needs an NVIDIA GPU, and what is checked there: `make test-gpu`."""
