"""The MutualFormer block: two modalities and a fused stream in, the fused stream out.

Parameter names and shapes are those of the published code, so that its weights load.
Source: Wang et al., "MutualFormer", IJCV 2024, doi:10.1007/s11263-024-02067-x, and its code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import Mixed, diffused_cross_attention
from model.config import Form, Fusion, Implementation
from model.kernels.dispatch import cross_diffusion_attention, self_attention


def at_least_float32(x: Tensor) -> Tensor:
    """Out of a 16-bit type; float64, in which conversions are judged, stays."""
    return x if x.dtype == torch.float64 else x.float()


class Mlp(nn.Module):
    """Two linear layers with a GELU between: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class DropPath(nn.Module):
    """Drops a residual branch for whole samples in training and scales the rest up."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"drop_path must lie in [0, 1), got {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same shape."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep


class StandIn(nn.Module):
    """A learned feature that takes the place of a missing modality's, at every cell or token.

    A picture that is 0 everywhere is missing, so neither a graph nor a request needs a further
    input to say it.

    Args:
        dim: width C of the features.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.feature = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.feature, std=0.02)

    def forward(self, features: Tensor, picture: Tensor, channel: int) -> Tensor:
        """Answer `features`, or for samples whose picture is 0 everywhere the learned one.

        Args:
            features: (B, ...), of width C along the axis `channel`.
            picture: (B, ...), at least 0.
            channel: axis of `features`, from 1.
        """
        largest = picture.flatten(1).amax(dim=1)
        shape = [1] * features.ndim
        shape[channel] = -1
        learned = self.feature.view(shape).to(features.dtype)
        there = largest.view(-1, *[1] * (features.ndim - 1)) > 0
        return torch.where(there, features, learned)


class MutualAttention(nn.Module):
    """Mixes two modalities and attends over their fused stream; the sum is the block's update."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool,
        fusion: Fusion,
        alpha: float,
        steps: int,
        form: Form,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads must divide dim, got {num_heads} and {dim}")
        if fusion not in ("cda", "ca", "concat", "ca_cda"):
            raise ValueError(f"unknown fusion {fusion!r}; known: cda, ca, concat, ca_cda")
        if steps != 1 and fusion != "cda":
            raise ValueError(f"fusion {fusion!r} takes one step, got steps={steps}")
        self.num_heads = num_heads
        self.fusion = fusion
        self.alpha = alpha
        self.steps = steps
        self.form = form
        self.implementation = implementation
        # _r reads RGB, _d its partner (depth in the published code), no suffix the fused stream.
        self.qkv_r = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.qkv_d = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj_rd = nn.Linear(dim * 2, dim)
        self.proj_r = nn.Linear(dim * 2, dim)
        self.proj_d = nn.Linear(dim * 2, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, pair: Tensor, fused: Tensor) -> Tensor:
        """Normalised tokens `pair` (B, N, 2C) and `fused` (B, N, C) -> (B, N, C)."""
        rgb, aux = pair.chunk(2, dim=-1)
        own_rgb, own_aux, cross_rgb, cross_aux = self._mix(
            *self._heads(self.qkv_r(rgb)), *self._heads(self.qkv_d(aux))
        )
        rgb = self.proj_r(torch.cat((self._tokens(own_rgb), self._tokens(cross_rgb)), dim=-1))
        aux = self.proj_d(torch.cat((self._tokens(own_aux), self._tokens(cross_aux)), dim=-1))
        mutual: Tensor = self.proj_rd(torch.cat((rgb, aux), dim=-1))
        q, k, v = self._heads(self.qkv(fused))
        own: Tensor = self.proj(self._tokens(self._attend(q, k, v)))
        return mutual + own

    def _mix(self, *qkv: Tensor) -> Mixed:
        if self.fusion == "cda":
            return cross_diffusion_attention(
                *qkv, alpha=self.alpha, steps=self.steps, form=self.form,
                implementation=self.implementation,
            )  # fmt: skip
        if self.fusion == "ca_cda":
            return diffused_cross_attention(*qkv, alpha=self.alpha, form=self.form)
        q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = qkv
        own_rgb, own_aux = self._attend(q_rgb, k_rgb, v_rgb), self._attend(q_aux, k_aux, v_aux)
        if self.fusion == "ca":
            # As `model.attention.cross_attention`: each side's queries meet the other's keys.
            cross_rgb = self._attend(q_rgb, k_aux, v_aux)
            return own_rgb, own_aux, cross_rgb, self._attend(q_aux, k_rgb, v_rgb)
        # concat: no affinity across modalities; each side is handed the other's self-attention.
        return own_rgb, own_aux, own_aux, own_rgb

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self_attention(q, k, v, implementation=self.implementation)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3C) -> three of (B, heads, N, d)."""
        B, N, width = qkv.shape
        d = width // (3 * self.num_heads)
        q, k, v = qkv.reshape(B, N, 3, self.num_heads, d).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    @staticmethod
    def _tokens(heads: Tensor) -> Tensor:
        """(B, heads, N, d) -> (B, N, C)."""
        return heads.transpose(1, 2).flatten(2)


class MutualFormerBlock(nn.Module):
    """Updates a fused stream from two modalities: mutual attention, then an MLP, both residual.

    Only the fused stream has residuals; the modalities pass unchanged, as in the published code.

    Args:
        dim: width C of each stream.
        num_heads: attention heads; divides `dim`.
        mlp_ratio: hidden width of the MLP over `dim`.
        qkv_bias: whether queries, keys and values have a bias.
        drop_path: probability of dropping a residual branch for a sample in training.
        fusion: how the modalities are mixed: `cda` (cross-diffusion attention), `ca`
            (cross-attention), `concat` (none), `ca_cda` (diffused cross-attention). All share the
            same parameters.
        alpha: weight of the diffused affinity, in [0, 1].
        steps: diffusion steps; only `cda` takes more than one.
        form: `published` or `paper`, see `cross_diffusion_attention`.
        implementation: how attention is computed, see `model.kernels.dispatch`; never what.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        drop_path: float = 0.0,
        *,
        fusion: Fusion = "cda",
        alpha: float = 0.6,
        steps: int = 1,
        form: Form = "published",
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim * 2)
        self.norm1_rd = nn.LayerNorm(dim)
        self.attn = MutualAttention(
            dim, num_heads, qkv_bias, fusion, alpha, steps, form, implementation
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, pair: Tensor, fused: Tensor) -> Tensor:
        """Answer the updated fused stream.

        Args:
            pair: tokens of both modalities side by side, `rgb` first, (B, N, 2C).
            fused: tokens of the fused stream, (B, N, C).

        Returns:
            (B, N, C).
        """
        fused = fused + self.drop_path(self.attn(self.norm1(pair), self.norm1_rd(fused)))
        out: Tensor = fused + self.drop_path(self.mlp(self.norm2(fused)))
        return out
