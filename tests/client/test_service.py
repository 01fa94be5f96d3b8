"""Both clients against the application itself."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import mutualformer_client
from app import schemas
from model.runtimes.echo import EchoRuntime
from mutualformer_client import BadPicture, BadRequest, Box, Client, ServiceProblem, calls
from tests.app.tiny import SIDE, crops, embedded, encoded, noise, ramp
from tests.client.conftest import Both


def expected_map(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    aux = (ramp() / np.float32(255))[None, ..., None].astype(np.float32)
    (found,) = EchoRuntime().run(rgb[None], aux)
    return np.asarray(found, np.float32)


def test_arrays_in_array_out(client: Both) -> None:
    answer = client.saliency(noise(), ramp(), output="npy")

    np.testing.assert_allclose(answer.array, expected_map(noise()), atol=1e-6)
    assert answer.array.dtype == np.float32
    assert answer.model_id == "tiny@1"
    assert answer.depth_convention == "near_bright"
    assert answer.timings_ms["total"] > 0
    assert answer.image.mode == "L"


@pytest.mark.parametrize(("output", "step"), [("map", 255), ("map16", 65535)])
def test_maps_come_in_the_precision_that_was_asked_for(
    client: Both, output: str, step: int
) -> None:
    answer = client.saliency(noise(), ramp(), output=output)

    np.testing.assert_allclose(answer.array, expected_map(noise()), atol=0.51 / step)


def test_images_paths_and_bytes_are_the_same_picture(client: Both, tmp_path: Path) -> None:
    path = tmp_path / "rgb.png"
    path.write_bytes(encoded(noise()))
    forms = [noise(), Image.fromarray(noise()), path, str(path), path.read_bytes()]

    answers = [client.saliency(form, ramp()).content for form in forms]

    assert set(answers) == {answers[0]}


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i4", "f4", "f8"])
def test_depth_may_be_any_array_of_numbers(client: Both, dtype: str) -> None:
    wide = ramp().astype(dtype)

    answer = client.saliency(noise(), wide, output="npy")

    np.testing.assert_allclose(answer.array, expected_map(noise()), atol=1e-6)


def test_an_image_held_sideways_is_sent_upright(client: Both, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "photo.png"
    Image.fromarray(noise(SIDE, 2 * SIDE)).save(path, exif=exif)

    with Image.open(path) as photo:
        answer = client.saliency(photo, ramp(2 * SIDE, SIDE))

    assert answer.image.size == (SIDE, 2 * SIDE)


def test_a_cutout_is_an_image_and_no_map(client: Both, tmp_path: Path) -> None:
    answer = client.saliency(noise(), ramp(), output="cutout")
    answer.save(tmp_path / "cutout.png")

    assert answer.image.mode == "RGBA"
    assert (tmp_path / "cutout.png").read_bytes() == answer.content
    with pytest.raises(ValueError, match="holds no map"):
        _ = answer.array


def test_a_report_says_where_the_object_is(client: Both) -> None:
    answer = client.saliency(noise(), ramp(), output="json", threshold=0.6)
    found = answer.report

    expected = expected_map(noise()) >= 0.6
    np.testing.assert_array_equal(found.mask, expected)
    rows, columns = (np.flatnonzero(expected.any(axis=axis)) for axis in (1, 0))
    assert found.bounding_box == Box(
        int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    )
    assert found.area == pytest.approx(expected.mean())
    assert answer.array.shape == expected.shape
    with pytest.raises(ValueError, match="holds no report"):
        _ = client.saliency(noise(), ramp()).report


def test_warnings_come_along(client: Both) -> None:
    assert client.saliency(noise(), np.zeros_like(ramp())).warnings == ["depth is constant"]


def test_many_pairs_keep_their_order_and_a_bad_one_fails_alone(client: Both) -> None:
    pairs = [(noise(seed=seed), ramp()) for seed in range(20)]
    pairs[7] = (noise(), noise())  # colour in place of depth

    answers = client.saliency_many(iter(pairs), output="npy")

    for seed, answer in enumerate(answers):
        if seed == 7:
            assert isinstance(answer, BadPicture)
            assert (answer.code, answer.field) == ("not_depth", "depth")
        else:
            assert isinstance(answer, mutualformer_client.Saliency)
            np.testing.assert_allclose(answer.array, expected_map(noise(seed=seed)), atol=1e-6)


def test_more_crops_than_a_request_takes_become_one_answer(client: Both) -> None:
    pairs = [crops(seed) for seed in range(150)]

    found = client.embeddings(pairs)

    np.testing.assert_allclose(found.vectors, embedded(*pairs), atol=1e-6)
    assert found.model_id == "tiny-reid@1"


def test_a_bad_crop_is_named_by_its_place_among_all(client: Both) -> None:
    pairs = [crops(seed) for seed in range(70)]
    pairs[66] = (pairs[66][0], pairs[66][0])

    with pytest.raises(BadPicture) as caught:
        client.embeddings(pairs)

    assert (caught.value.field, caught.value.index) == ("nir", 66)


def test_the_gallery_is_ranked(client: Both) -> None:
    found = client.similarity([crops(1)], [crops(seed) for seed in range(3)], top_k=2)

    (matches,) = found.matches
    assert matches[0].gallery == 1
    assert len(matches) == 2
    assert matches[0].similarity == pytest.approx(1, abs=1e-6)


def test_models_are_listed(client: Both) -> None:
    found = {model.name: model for model in client.models()}

    assert found["tiny"].task == "saliency"
    assert found["tiny-reid"].input_size == (SIDE, SIDE)
    assert all(model.default for model in found.values())


def test_an_unknown_model_is_a_bad_request(client: Both) -> None:
    with pytest.raises(BadRequest) as caught:
        client.saliency(noise(), ramp(), model="none")

    assert (caught.value.status, caught.value.code) == (404, "unknown_model")
    assert len(caught.value.request_id) == 32


def test_another_model_than_expected_is_refused(client: Both) -> None:
    with pytest.raises(ServiceProblem) as caught:
        client.embeddings([crops(0)], expect_model="other@1")

    assert caught.value.code == "model_mismatch"


def test_options_are_those_of_the_service() -> None:
    for mine, its, own in (
        (calls.SaliencyOptions, schemas.SaliencyOptions, set()),
        (calls.EmbeddingOptions, schemas.EmbeddingOptions, {"encoding"}),
        (calls.SimilarityOptions, schemas.SimilarityOptions, set()),
    ):
        assert set(get_type_hints(mine)) | own == set(its.model_fields)


def test_missing_depth_is_the_models_decision(client: Both) -> None:
    with pytest.raises(ServiceProblem) as caught:
        client.saliency(noise(), None)

    assert (caught.value.status, caught.value.field) == (422, "depth")


def test_an_unknown_option_is_a_type_error() -> None:
    with Client() as client, pytest.raises(TypeError, match="colour"):
        client.saliency(noise(), ramp(), colour="red")  # type: ignore[call-arg]
