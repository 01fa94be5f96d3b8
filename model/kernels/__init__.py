"""Cross-diffusion attention without N x N matrices; `dispatch` picks one of several forms."""
