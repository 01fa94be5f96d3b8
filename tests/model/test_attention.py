from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model.attention import (
    affinity,
    cross_attention,
    cross_diffusion_attention,
    diffused_cross_attention,
)
from model.config import Form
from tests import reference

FORMS = get_args(Form)


@dataclass(frozen=True)
class Case:
    """One set of queries, keys and values."""

    qkv: tuple[NDArray[np.float64], ...]
    """q, k, v of `rgb`, then of `aux`, each (B, heads, N, d)."""

    @property
    def largest_logit(self) -> float:
        q_rgb, k_rgb, _, q_aux, k_aux, _ = self.qkv
        pairs = ((q, k) for q in (q_rgb, q_aux) for k in (k_rgb, k_aux))
        d = q_rgb.shape[-1]
        return float(max(np.abs(q @ k.swapaxes(-2, -1)).max() for q, k in pairs) / d**0.5)

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [torch.tensor(each, dtype=dtype) for each in self.qkv]

    def magnitudes(self) -> list[NDArray[np.float64]]:
        """The same with absolute values: affinities are positive, so these sums cancel nothing."""
        q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = self.qkv
        return [q_rgb, k_rgb, np.abs(v_rgb), q_aux, k_aux, np.abs(v_aux)]


def make_case(
    seed: int, B: int = 2, heads: int = 2, N: int = 7, d: int = 4, logit_scale: float = 1.0
) -> Case:
    rng = np.random.default_rng(seed)
    q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = rng.standard_normal((6, B, heads, N, d))
    return Case((q_rgb * logit_scale, k_rgb, v_rgb, q_aux * logit_scale, k_aux, v_aux))


cases = st.builds(
    make_case,
    seed=st.integers(0, 2**31),
    B=st.integers(1, 3),
    heads=st.integers(1, 4),
    N=st.integers(1, 40),
    d=st.integers(1, 16),
    # At 30 most rows are one-hot, and a softmax that forgot its maximum would overflow in float32.
    logit_scale=st.sampled_from([0.0, 0.3, 1.0, 5.0, 30.0]),
)
alphas = st.one_of(st.sampled_from([0.0, 0.6, 1.0]), st.floats(0, 1))


def assert_near(
    actual: tuple[Tensor, ...], expected: reference.Mixed, scale: reference.Mixed, rtol: float
) -> None:
    for name, got, want, size in zip(
        ("own_rgb", "own_aux", "cross_rgb", "cross_aux"), actual, expected, scale, strict=True
    ):
        error = np.abs(got.double().numpy() - want).max() / size.max()
        assert error < rtol, f"{name}: relative error {error:.3g}"


def float32_rtol(case: Case, steps: int) -> float:
    """A bound on rounding, in units of the sum of absolute terms.

    Each of the at most `2 steps + 1` affinities in a product carries the rounding of its logit
    (relative to 1 after `exp`, so times the logit), and sums over N keys, d columns.
    """
    *_, N, d = map(int, case.qkv[0].shape)
    eps = float(np.finfo(np.float32).eps)
    return (2 * steps + 1) * eps * (2 * case.largest_logit + N + d + 8)


@given(case=cases, alpha=alphas, steps=st.integers(1, 4), form=st.sampled_from(FORMS))
def test_cda_equals_the_unfactorised_equations_in_float64(
    case: Case, alpha: float, steps: int, form: Form
) -> None:
    options: dict[str, Any] = {"alpha": alpha, "steps": steps, "form": form}

    actual = cross_diffusion_attention(*case.tensors(), **options)

    expected = reference.cross_diffusion_attention(*case.qkv, **options)
    scale = reference.cross_diffusion_attention(*case.magnitudes(), **options)
    assert_near(actual, expected, scale, rtol=1e-12)


@given(case=cases, alpha=alphas, steps=st.integers(1, 4), form=st.sampled_from(FORMS))
def test_cda_in_float32_errs_by_rounding_alone(
    case: Case, alpha: float, steps: int, form: Form
) -> None:
    options: dict[str, Any] = {"alpha": alpha, "steps": steps, "form": form}
    tensors = case.tensors(torch.float32)
    rounded = Case(tuple(each.double().numpy() for each in tensors))

    actual = cross_diffusion_attention(*tensors, **options)

    expected = reference.cross_diffusion_attention(*rounded.qkv, **options)
    scale = reference.cross_diffusion_attention(*rounded.magnitudes(), **options)
    assert all(each.dtype == torch.float32 for each in actual)
    assert_near(actual, expected, scale, rtol=float32_rtol(rounded, steps))


@given(case=cases)
def test_cross_attention_equals_its_equations(case: Case) -> None:
    actual = cross_attention(*case.tensors())

    scale = reference.cross_attention(*case.magnitudes())
    assert_near(actual, reference.cross_attention(*case.qkv), scale, rtol=1e-12)


@given(case=cases, alpha=alphas, form=st.sampled_from(FORMS))
def test_diffused_cross_attention_equals_its_equations(
    case: Case, alpha: float, form: Form
) -> None:
    actual = diffused_cross_attention(*case.tensors(), alpha=alpha, form=form)

    expected = reference.diffused_cross_attention(*case.qkv, alpha=alpha, form=form)
    scale = reference.diffused_cross_attention(*case.magnitudes(), alpha=alpha, form=form)
    assert_near(actual, expected, scale, rtol=1e-12)


def test_the_reference_normalises_as_research_found() -> None:
    """Rows of an affinity sum to 1, so the published S is its transpose, the paper's itself."""
    q, k = np.random.default_rng(0).standard_normal((2, 6, 3))
    p = reference.softmax_affinity(q, k)

    np.testing.assert_allclose(reference.normalised(p, "published"), p.T, rtol=1e-14)
    np.testing.assert_allclose(reference.normalised(p, "paper"), p, rtol=1e-14)


@settings(max_examples=20)
@given(case=cases)
def test_affinities_are_distributions_over_keys(case: Case) -> None:
    q, k, *_ = case.tensors()

    p = affinity(q, k)

    assert p.min() >= 0
    torch.testing.assert_close(p.sum(-1), torch.ones(p.shape[:-1], dtype=p.dtype))


@given(case=cases, alpha=alphas, steps=st.integers(1, 3), form=st.sampled_from(FORMS))
@settings(max_examples=30)
def test_swapping_the_modalities_swaps_the_answers(
    case: Case, alpha: float, steps: int, form: Form
) -> None:
    rgb, aux = case.tensors()[:3], case.tensors()[3:]
    options: dict[str, Any] = {"alpha": alpha, "steps": steps, "form": form}

    own_rgb, own_aux, cross_rgb, cross_aux = cross_diffusion_attention(*rgb, *aux, **options)
    swapped = cross_diffusion_attention(*aux, *rgb, **options)

    torch.testing.assert_close(swapped, (own_aux, own_rgb, cross_aux, cross_rgb))


@pytest.mark.parametrize("form", FORMS)
def test_reordering_tokens_reorders_the_answers(form: Form) -> None:
    case = make_case(3, N=9)
    order = torch.tensor([4, 2, 8, 0, 1, 7, 3, 6, 5])

    straight = cross_diffusion_attention(*case.tensors(), steps=2, form=form)
    reordered = cross_diffusion_attention(
        *(each[:, :, order] for each in case.tensors()), steps=2, form=form
    )

    torch.testing.assert_close(reordered, tuple(each[:, :, order] for each in straight))


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_and_a_head_do_not_see_their_neighbours(form: Form) -> None:
    case = make_case(4, B=3, heads=3)

    together = cross_diffusion_attention(*case.tensors(), steps=2, form=form)
    alone = cross_diffusion_attention(
        *(each[1:2, 2:3] for each in case.tensors()), steps=2, form=form
    )

    torch.testing.assert_close(tuple(each[1:2, 2:3] for each in together), alone)


def test_without_diffusion_the_prior_remains() -> None:
    q_rgb, k_rgb, v_rgb, q_aux, k_aux, v_aux = case = make_case(5).tensors()
    both = affinity(q_rgb, k_rgb) + affinity(q_aux, k_aux)

    for steps in (1, 3):
        *_, cross_rgb, cross_aux = cross_diffusion_attention(*case, alpha=0.0, steps=steps)

        torch.testing.assert_close((cross_rgb, cross_aux), (both @ v_aux, both @ v_rgb))


def test_feedback_changes_the_answer_of_more_steps() -> None:
    case = make_case(6).tensors()

    *_, one, _ = cross_diffusion_attention(*case, steps=1)
    *_, two, _ = cross_diffusion_attention(*case, steps=2)

    assert (one - two).abs().max() > 0.01


def test_the_published_form_is_not_the_figures() -> None:
    case = make_case(7).tensors()

    *_, published, _ = cross_diffusion_attention(*case, form="published")
    *_, paper, _ = cross_diffusion_attention(*case, form="paper")

    assert (published - paper).abs().max() > 0.01


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_of_cda_are_exact(steps: int, form: Form) -> None:
    inputs = [each.requires_grad_() for each in make_case(8, B=1, heads=2, N=4, d=2).tensors()]

    assert torch.autograd.gradcheck(
        lambda *qkv: cross_diffusion_attention(*qkv, steps=steps, form=form), inputs
    )


@pytest.mark.parametrize("mixer", [cross_attention, diffused_cross_attention])
def test_gradients_of_the_other_mixers_are_exact(mixer: Callable[..., Any]) -> None:
    inputs = [each.requires_grad_() for each in make_case(9, B=1, heads=2, N=4, d=2).tensors()]

    assert torch.autograd.gradcheck(mixer, inputs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": -0.1}, r"alpha must lie in \[0, 1\], got -0.1"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"alpha": float("nan")}, "alpha"),
        ({"form": "figure"}, "form must be 'published' or 'paper', got 'figure'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, Any], message: str) -> None:
    case = make_case(10).tensors()

    with pytest.raises(ValueError, match=message):
        cross_diffusion_attention(*case, **wrong)
    if "steps" not in wrong:
        with pytest.raises(ValueError, match=message):
            diffused_cross_attention(*case, **wrong)


@pytest.mark.parametrize("position", range(1, 6))
@pytest.mark.parametrize("mixer", [cross_diffusion_attention, diffused_cross_attention])
def test_unequal_shapes_are_refused(mixer: Callable[..., Any], position: int) -> None:
    case = make_case(11, N=7).tensors()
    case[position] = case[position][:, :, :6]

    with pytest.raises(ValueError, match=r"\(2, 2, 6, 4\)"):
        mixer(*case)


def test_missing_heads_are_refused() -> None:
    case = make_case(12).tensors()

    with pytest.raises(ValueError, match=r"\(B, heads, N, d\)"):
        cross_diffusion_attention(*(each[:, 0] for each in case))
