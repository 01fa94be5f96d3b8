"""The demo page in a real browser: both flows, and everything that may go wrong in them.

make test-browser
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.app.tiny import encoded, npy
from tests.browser.conftest import ROOT, Server

pytestmark = pytest.mark.browser

EXAMPLES = ROOT / "examples"
ANSWERED = "#saliency-view .result:not(.busy) .time-bar"
RANKED = "#reid-view .result:not(.busy) .matrix"
SLOW_MS = 60_000


def payload(name: str, body: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": body}


def choose(page: Any, field: str, file: Path | dict[str, Any]) -> None:
    page.set_input_files(f"#saliency-wells .well-{field} input", file)


def choose_pair(page: Any, rgb: Path | dict[str, Any], depth: Path | dict[str, Any]) -> None:
    choose(page, "rgb", rgb)
    choose(page, "depth", depth)


def scene(height: int = 240, width: int = 320) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A photo (H, W, 3) of a disc before a wall, and its depth in millimetres (H, W), uint16."""
    y, x = np.mgrid[:height, :width]
    disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (height / 4) ** 2
    rgb = np.where(disc[..., None], [200, 60, 40], [150, 160, 170]).astype(np.uint8)
    return rgb, np.where(disc, 800, 2400).astype(np.uint16)


def notice(page: Any, code: str) -> str:
    """The notice of a problem, once it shows."""
    found = page.wait_for_selector(f".notice[data-code={code}]", timeout=SLOW_MS)
    return str(found.inner_text())


def problem(status: int, code: str, detail: str, **headers: str) -> Callable[[Any], None]:
    """Answers a routed request as the service would refuse it."""
    body = {"type": f"urn:mutualformer:{code}", "title": code, "status": status, "code": code}
    return lambda route: route.fulfill(
        status=status,
        headers={"Content-Type": "application/problem+json", "X-Request-Id": "r-1", **headers},
        body=json.dumps({**body, "detail": detail}),
    )


def once(first: Callable[[Any], None]) -> Callable[[Any], None]:
    """Answers the first request so, and lets the others through."""
    requests = iter([first])
    return lambda route: next(requests, lambda other: other.continue_())(route)


def pixel(page: Any, canvas: str, x: float, y: float) -> list[int]:
    """RGBA of a canvas at a share of its width and height."""
    found = page.evaluate(
        """([selector, x, y]) => {
          const canvas = document.querySelector(selector);
          const context = canvas.getContext("2d");
          return [...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
        }""",
        [canvas, x, y],
    )
    return list(found)


def drawing(page: Any, canvas: str) -> np.ndarray[Any, Any]:
    """A canvas, (H, W, 4)."""
    url = page.eval_on_selector(canvas, "canvas => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as image:
        return np.asarray(image.convert("RGBA")).astype(int)


def settle(page: Any) -> None:
    """Let the drawing of the next frame pass."""
    page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")


@pytest.mark.parametrize("name", ["vase", "cone", "mug"])
def test_an_example_is_answered_with_one_click(page: Any, name: str) -> None:
    page.click(f"[data-example={name}]")
    page.wait_for_selector(ANSWERED)
    settle(page)

    assert "of the picture" in page.inner_text(".stage-box .facts")
    assert {"receive", "decode", "infer", "transfer"} <= set(
        page.eval_on_selector_all(".time-list li", "all => all.map((li) => li.dataset.stage)")
    )
    with Image.open(EXAMPLES / "gt" / f"{name}.png") as image:
        gt = np.asarray(image) > 128
    y, x = (float(axis.mean()) for axis in np.nonzero(gt))
    inside = pixel(page, ".stage-over", x / gt.shape[1], y / gt.shape[0])
    assert inside[0] > 200
    assert pixel(page, ".stage-over", 0.5, 0.02)[0] < 60


def test_depth_is_shown_as_the_network_reads_it(page: Any) -> None:
    page.click("[data-example=cone]")
    page.wait_for_selector(ANSWERED)
    far, near = (0.5, 0.02), (0.5, 0.98)
    canvas = ".well-depth canvas"
    as_chosen = pixel(page, canvas, *far)[0], pixel(page, canvas, *near)[0]
    page.check("[name=convention][value=near_bright]")

    assert as_chosen[0] < 20 < 100 < as_chosen[1]
    assert pixel(page, canvas, *far)[0] > 200
    page.wait_for_selector(ANSWERED)
    assert "near_dark" not in page.inner_text("#saliency-view pre")


def test_16_bits_are_read_as_such_and_missing_depth_is_marked(page: Any) -> None:
    page.click("[data-example=mug]")
    page.wait_for_selector(ANSWERED)

    caption = page.inner_text("#saliency-wells .well-depth .well-caption")
    assert re.search(r"16 bits · \d\.\d % missing", caption)
    with Image.open(EXAMPLES / "mug_depth.png") as image:
        depth = np.asarray(image).astype(float)
    valid = depth[depth > 0]
    shown = drawing(page, ".well-depth canvas")
    expected = 255 * (valid.max() - depth) / (valid.max() - valid.min())
    assert np.abs(shown[..., 0] - expected)[depth > 0].max() <= 1
    assert (shown[..., 3] == 0).tolist() == (depth == 0).tolist()


def test_the_threshold_acts_without_the_service(page: Any) -> None:
    page.click("[data-example=mug]")
    page.wait_for_selector(ANSWERED)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/v1/" in request.url else None)
    page.check("[name=view][value=mask]")
    areas = []
    for threshold in ("0.1", "0.5", "0.95"):
        page.fill("#threshold", threshold)
        settle(page)
        share = re.search(r"([\d.]+) % of the picture", page.inner_text(".stage-box .facts"))
        assert share
        areas.append(float(share[1]))

    assert areas[0] > areas[1] > areas[2] > 0
    assert sent == []
    assert "threshold=0.95" in page.inner_text("#saliency-view pre")


def test_the_views_differ_and_the_wipe_moves_by_key(page: Any) -> None:
    page.click("[data-example=vase]")
    page.wait_for_selector(ANSWERED)
    corners = {}
    for view in ("map", "mask", "cutout", "overlay", "depth"):
        page.check(f"[name=view][value={view}]")
        settle(page)
        corners[view] = tuple(pixel(page, ".stage-over", 0.52, 0.5))
    page.focus(".stage-wipe")
    page.keyboard.press("Home")
    at_home = page.eval_on_selector(".stage", "stage => stage.style.getPropertyValue('--wipe')")

    assert len(set(corners.values())) >= 4
    assert at_home == "0%"


@pytest.mark.parametrize("output", ["map", "map16", "mask", "cutout", "overlay", "npy", "json"])
def test_every_output_can_be_kept(page: Any, output: str, tmp_path: Path) -> None:
    page.click("[data-example=vase]")
    page.wait_for_selector(ANSWERED)
    with page.expect_download() as download:
        page.click(f".download[data-output={output}]")
    kept = tmp_path / download.value.suggested_filename
    download.value.save_as(kept)

    assert kept.name.startswith("vase_rgb_")
    if output == "npy":
        assert np.load(kept).shape == (480, 640)
    elif output == "json":
        assert json.loads(kept.read_text())["size"] == {"width": 640, "height": 480}
    else:
        with Image.open(kept) as image:
            assert image.size == (640, 480)
            modes = {"map16": "I;16", "cutout": "RGBA", "overlay": "RGB"}
            assert image.mode == modes.get(output, "L")


def test_the_browser_draws_views_as_the_service_does(page: Any, tmp_path: Path) -> None:
    page.click("[data-example=vase]")
    page.wait_for_selector(ANSWERED)
    page.fill("#threshold", "0.3")
    for view in ("cutout", "overlay"):
        page.check(f"[name=view][value={view}]")
        settle(page)
        with page.expect_download() as download:
            page.click(f".download[data-output={view}]")
        kept = tmp_path / f"{view}.png"
        download.value.save_as(kept)
        with Image.open(kept) as image:
            served = np.asarray(image.convert("RGBA")).astype(int)
        drawn = drawing(page, ".stage-over")
        opaque = served[..., 3] > 200  # a canvas loses colour where it is transparent
        # Two JPEG decoders, and a map of 8 bits in place of floats.
        assert np.abs(drawn - served)[opaque].mean() < 2
        assert np.abs(drawn[..., 3] - served[..., 3]).max() <= 6


def test_the_curl_line_is_the_request(page: Any) -> None:
    rgb, depth = scene()
    choose_pair(
        page,
        payload("it's; a,pair.png", encoded(rgb)),
        payload("depth.png", encoded(depth)),
    )
    page.check("[name=convention][value=metric]")
    page.wait_for_selector(ANSWERED)

    line = page.inner_text("#saliency-view pre")

    assert """'rgb=@"it'\\''s; a,pair.png"'""" in line
    assert "-F depth=@depth.png" in line
    assert "depth_convention=metric" in line


def test_photos_of_12_megapixels_work(page: Any) -> None:
    rgb, depth = scene(3000, 4000)
    noise = np.random.default_rng(0).integers(-20, 20, rgb.shape)
    rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    choose_pair(
        page,
        payload("large.jpg", encoded(rgb, "JPEG", quality=85)),
        payload("large.png", encoded(depth)),
    )
    page.wait_for_selector(ANSWERED, timeout=SLOW_MS)
    began = time.monotonic()
    page.check("[name=view][value=cutout]")
    for threshold in ("0.2", "0.4", "0.6", "0.8"):
        page.fill("#threshold", threshold)
        settle(page)

    assert "4000 \N{MULTIPLICATION SIGN} 3000" in page.inner_text(
        "#saliency-wells .well-rgb .well-caption"
    )
    assert page.eval_on_selector(".stage-over", "canvas => canvas.width") == 1600
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("form", ["tiff16", "tiff-deflate", "tiff-float", "npy", "jpeg"])
def test_depth_of_every_form_is_shown(page: Any, form: str) -> None:
    rgb, depth = scene()
    bodies = {
        "tiff16": lambda: encoded(depth, "TIFF"),
        "tiff-deflate": lambda: encoded(depth, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-float": lambda: encoded(depth.astype(np.float32), "TIFF"),
        "npy": lambda: npy(depth.astype(np.float64)),
        "jpeg": lambda: encoded((depth // 16).astype(np.uint8), "JPEG"),
    }
    choose_pair(page, payload("p.png", encoded(rgb)), payload("d.bin", bodies[form]()))
    page.check("[name=convention][value=metric]")
    page.wait_for_selector(ANSWERED)

    slack = 60 if form == "jpeg" else 0  # what rings at edges stretches the range
    assert pixel(page, ".well-depth canvas", 0.5, 0.5)[0] >= 255 - slack
    assert pixel(page, ".well-depth canvas", 0.1, 0.1)[0] <= slack


def test_a_tiff_photo_is_shown_as_the_service_decoded_it(page: Any) -> None:
    rgb, depth = scene()
    choose_pair(page, payload("p.tif", encoded(rgb, "TIFF")), payload("d.png", encoded(depth)))
    page.wait_for_selector(ANSWERED)
    settle(page)

    assert "as the service read it" in page.inner_text("#saliency-wells .well-rgb .well-caption")
    assert np.abs(np.subtract(pixel(page, ".stage-under", 0.5, 0.5)[:3], [200, 60, 40])).max() <= 2
    assert np.abs(np.subtract(pixel(page, ".stage-under", 0, 0)[:3], [150, 160, 170])).max() <= 2


def test_depth_that_no_browser_shows_is_said_and_sent(page: Any) -> None:
    rgb, depth = scene()
    packed = encoded(depth, "TIFF", compression="tiff_lzw")
    choose_pair(page, payload("p.png", encoded(rgb)), payload("d.tif", packed))
    page.wait_for_selector(ANSWERED)

    assert "cannot show this TIFF" in page.inner_text("#saliency-wells .well-depth")
    assert page.is_hidden("[name=view][value=depth]")


def test_two_files_dropped_at_once_find_their_places(page: Any) -> None:
    rgb, depth = scene()
    page.evaluate(
        """async ([first, second]) => {
          const transfer = new DataTransfer();
          for (const [name, body] of [first, second]) {
            transfer.items.add(new File([Uint8Array.from(body)], name));
          }
          const init = { dataTransfer: transfer, bubbles: true, cancelable: true };
          document.querySelector("h1").dispatchEvent(new DragEvent("drop", init));
        }""",
        [["a.png", list(encoded(depth))], ["b.png", list(encoded(rgb))]],
    )
    page.wait_for_selector(ANSWERED)

    assert page.inner_text("#saliency-wells .well-rgb .well-caption").startswith("b.png")
    assert page.inner_text("#saliency-wells .well-depth .well-caption").startswith("a.png")


def test_a_picture_is_pasted_into_the_empty_well(page: Any) -> None:
    rgb, _ = scene()
    page.evaluate(
        """(body) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(body)], "image.png"));
          const init = { clipboardData: transfer, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new ClipboardEvent("paste", init));
        }""",
        list(encoded(rgb)),
    )

    page.wait_for_selector("#saliency-wells .well-rgb.full canvas")


def test_a_photo_alone_is_answered_where_the_model_does_without_depth(page: Any) -> None:
    alone = page.locator(".alone")
    assert alone.is_hidden()
    choose(page, "rgb", EXAMPLES / "vase_rgb.jpg")

    alone.click()
    page.wait_for_selector(ANSWERED)

    assert "No depth map was sent" in page.inner_text(".warnings")
    assert "depth" not in page.inner_text(".curl")
    assert alone.is_hidden()
    choose(page, "depth", EXAMPLES / "vase_depth.png")
    page.wait_for_function("() => !document.querySelector('.warnings').textContent")
    assert "depth" in page.inner_text(".curl")


def test_a_warning_is_in_plain_words(page: Any) -> None:
    rgb, depth = scene()
    flat = payload("flat.png", encoded(np.full_like(depth, 500)))
    choose_pair(page, payload("p.png", encoded(rgb)), flat)
    page.wait_for_selector(ANSWERED)

    assert "the answer rests on the photo alone" in page.inner_text("#saliency-view .warnings")


def test_a_wrong_file_is_refused_with_advice_and_marked(page: Any) -> None:
    _, depth = scene()
    choose_pair(page, payload("notes.txt", b"not a picture"), payload("d.png", encoded(depth)))

    text = notice(page, "unreadable_picture")

    assert "This file is no picture" in text
    assert "Choose another file" in text
    assert page.is_visible("#saliency-wells .well-rgb.wrong .well-error")
    assert page.is_hidden("#saliency-view .result")


@pytest.mark.parametrize(
    ("dtype", "code"), [(np.uint8, "not_depth"), (np.uint16, "unsupported_picture")]
)
def test_pictures_the_wrong_way_round_are_swapped_by_a_button(
    page: Any, dtype: type, code: str
) -> None:
    rgb, depth = scene()
    grey = encoded((depth // 16).astype(dtype))
    choose_pair(page, payload("d.png", grey), payload("p.png", encoded(rgb)))
    notice(page, code)
    page.click("text=Swap the two")
    page.wait_for_selector(ANSWERED)

    assert page.inner_text("#saliency-wells .well-rgb .well-caption").startswith("p.png")


def test_a_pair_of_two_sizes_is_fitted_by_a_button(page: Any) -> None:
    rgb, _ = scene()
    _, small = scene(120, 160)
    choose_pair(page, payload("p.png", encoded(rgb)), payload("d.png", encoded(small)))
    text = notice(page, "pair_mismatch")
    page.click("text=Fit the depth map to the photo")
    page.wait_for_selector(ANSWERED)

    assert "320 x 240" in text
    assert "resize=true" not in text
    assert "resize=true" in page.inner_text("#saliency-view pre")


def test_overload_counts_down_and_sends_again(page: Any) -> None:
    busy = problem(429, "overloaded", "8 requests wait", **{"Retry-After": "2"})
    page.route("**/v1/saliency*", once(busy))
    page.click("[data-example=vase]")

    text = notice(page, "overloaded")

    assert "Trying again in 2 s" in text
    page.wait_for_selector(ANSWERED)
    assert page.query_selector(".notice") is None


def test_a_starting_service_is_waited_for(page: Any) -> None:
    starting = problem(503, "not_ready", "loading saliency-compact", **{"Retry-After": "1"})
    page.route("**/v1/saliency*", once(starting))
    page.click("[data-example=vase]")

    text = notice(page, "not_ready")

    assert "getting ready" in text
    assert "Loading saliency-compact" in text
    page.wait_for_selector(ANSWERED)


def test_a_page_in_place_of_a_problem_is_explained_too(page: Any) -> None:
    page.route(
        "**/v1/saliency*",
        once(lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>")),
    )
    page.click("[data-example=vase]")

    assert "does not answer" in notice(page, "http_502")
    page.wait_for_selector(ANSWERED)


def test_a_failure_names_the_request(page: Any) -> None:
    page.route("**/v1/saliency*", once(problem(500, "internal_error", "it was logged")))
    page.click("[data-example=vase]")

    assert "request r-1" in notice(page, "internal_error")
    page.click("button:has-text('Try again')")
    page.wait_for_selector(ANSWERED)


def test_a_slow_answer_says_so_and_can_be_cancelled(page: Any) -> None:
    page.route("**/v1/saliency*", lambda _route: None)  # is never answered
    page.click("[data-example=vase]")
    page.wait_for_selector("text=Still working", timeout=10_000)
    page.click("button:has-text('Cancel')")
    page.unroute("**/v1/saliency*")
    page.click("button:has-text('Send again')")

    page.wait_for_selector(ANSWERED)


def test_a_key_is_asked_for_sent_and_kept_nowhere(page: Any) -> None:
    keys: list[str | None] = []

    def guard(route: Any) -> None:
        keys.append(route.request.headers.get("authorization"))
        if keys[-1] == "Bearer letmein":
            route.continue_()
        else:
            problem(401, "unauthorized", "no key", **{"WWW-Authenticate": "Bearer"})(route)

    page.route("**/v1/saliency*", guard)
    page.click("[data-example=vase]")
    notice(page, "unauthorized")
    page.fill("#saliency-view input[type=password]", "letmein")
    page.keyboard.press("Enter")
    page.wait_for_selector(ANSWERED)

    assert keys == [None, "Bearer letmein"]
    assert "$MUTUALFORMER_KEY" in page.inner_text("#saliency-view pre")
    assert "letmein" not in page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
    assert page.context.cookies() == []


def test_a_service_with_keys_answers_once_it_has_one(browser: Any, tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "app", "new-key", "me"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    key, line = (text.split(":", 1)[1].strip() for text in made.stdout.splitlines())
    (tmp_path / "keys").write_text(f"{line}\n")
    guarded = Server(MUTUALFORMER_API_KEYS_FILE=str(tmp_path / "keys"))
    page = browser.new_page()
    try:
        guarded.start()
        page.goto(guarded.url)
        page.click("[data-example=vase]")
        notice(page, "unauthorized")
        page.fill("#saliency-view input[type=password]", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The last one was refused")
        page.fill("#saliency-view input[type=password]", key)
        page.keyboard.press("Enter")
        page.wait_for_selector(ANSWERED)
        page.click("nav >> text=Models")
        page.wait_for_selector(".model")
    finally:
        page.close()
        guarded.stop()


def test_a_stopped_service_is_noticed_and_its_return_too(page: Any, server: Server) -> None:
    rgb, depth = scene()
    server.stop()
    try:
        choose_pair(page, payload("p.png", encoded(rgb)), payload("d.png", encoded(depth)))
        text = notice(page, "unreachable")
        page.wait_for_selector("#status[data-state=gone]", timeout=20_000)
    finally:
        server.start()

    assert "does not answer" in text
    page.wait_for_selector(ANSWERED, timeout=SLOW_MS)
    page.wait_for_selector("#status[data-state=good]", timeout=20_000)


def test_vehicles_are_ranked_and_any_can_be_the_query(page: Any) -> None:
    page.click("nav >> text=Re-identification")
    page.click("[data-example=vehicles]")
    page.wait_for_selector(RANKED)
    first = page.inner_text(".strip li:first-child .match-name")
    values = [float(text) for text in page.locator(".strip .match-value").all_inner_texts()]
    cells = [float(text) for text in page.locator(".matrix tbody td").all_inner_texts()]
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/v1/" in request.url else None)
    page.click(".strip li:has-text('hatchback_a') button")

    assert first == "van_b"
    assert values == sorted(values, reverse=True)
    assert np.allclose(np.diag(np.reshape(cells, (4, 4))), 1)
    assert np.allclose(np.reshape(cells, (4, 4)), np.reshape(cells, (4, 4)).T)
    assert page.inner_text(".strip li:first-child .match-name") == "hatchback_b"
    assert page.inner_text("#reid-view .result h2") == "Most like hatchback_a"
    assert sent == []


def test_the_ranking_is_the_one_of_the_service(page: Any, server: Server) -> None:
    import httpx

    page.click("nav >> text=Re-identification")
    page.click("[data-example=vehicles]")
    page.wait_for_selector(RANKED)
    line = page.inner_text("#reid-view pre")
    files = [
        (field, (name, (EXAMPLES / name).read_bytes()))
        for field, name in re.findall(r"-F (\w+)=@(\S+)", line)
    ]
    answer = httpx.post(f"{server.url}/v1/reid/similarity", files=files, timeout=60).json()
    names = [name.removesuffix("_rgb.jpg") for field, (name, _) in files if field == "gallery_rgb"]
    expected = [
        (names[match["gallery"]], round(match["similarity"], 3))
        for match in answer["queries"][0]["matches"]
    ]
    texts = zip(
        page.locator(".strip .match-name").all_inner_texts(),
        page.locator(".strip .match-value").all_inner_texts(),
        strict=True,
    )

    assert [(name, float(value)) for name, value in texts] == expected


def test_files_are_paired_by_their_names_and_the_rest_is_named(page: Any) -> None:
    page.click("nav >> text=Re-identification")
    names = ["van_b_nir.png", "van_a_rgb.jpg", "hatchback_a_rgb.jpg", "van_a_nir.png"]
    names += ["hatchback_a_nir.png", "hatchback_b_rgb.jpg"]
    page.set_input_files(".adder input", [EXAMPLES / name for name in names])
    page.wait_for_selector(RANKED)

    assert page.inner_text("#query-wells .well-rgb .well-caption").startswith("van_a_rgb.jpg")
    assert page.locator("#gallery .card-name").all_inner_texts()[0] == "hatchback_a"


def test_a_wrong_file_in_the_gallery_is_marked(page: Any) -> None:
    page.click("nav >> text=Re-identification")
    page.click("[data-example=vehicles]")
    page.wait_for_selector(RANKED)
    page.set_input_files(
        ".adder input",
        [payload("x_rgb.jpg", b"nonsense"), payload("x_nir.png", b"nonsense")],
    )

    text = notice(page, "unreadable_picture")

    assert "pair 5" in text
    assert page.inner_text("#gallery .card.wrong .card-name") == "x"
    page.click("#gallery .card.wrong button", force=True)
    page.wait_for_selector(RANKED)


def test_models_show_their_measures_and_parity(page: Any) -> None:
    page.click("nav >> text=Models")
    text = page.inner_text("#models-view")

    assert "saliency-compact" in text
    assert "reid-compact" in text
    assert "S-measure" in text
    assert "batch invariance" in text


def test_the_theme_is_chosen_and_remembered(page: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")
    dark = page.evaluate(colour)
    page.reload()

    assert light != dark
    assert page.evaluate(colour) == dark


def test_the_page_is_usable_by_keyboard_alone(page: Any) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.example") == "vase":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(ANSWERED)
    page.focus("[name=view]:checked")
    page.keyboard.press("ArrowRight")
    settle(page)

    assert page.inner_text(".stage-tag-right") == "Mask"


@pytest.mark.parametrize("view", ["saliency", "reid", "models"])
def test_nothing_is_wider_than_a_phone(browser: Any, server: Server, view: str) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    page = context.new_page()
    page.goto(f"{server.url}/#{view}")
    page.wait_for_selector("#status[data-state=good]")
    if view != "models":
        page.tap(f"#{view}-view .example")
        page.wait_for_selector(ANSWERED if view == "saliency" else RANKED)

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_a_photo_is_turned_as_the_answer_is(page: Any) -> None:
    rgb, depth = scene()
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(rgb).rotate(90, expand=True).save(file, "JPEG", exif=exif.tobytes())
    choose_pair(page, payload("p.jpg", file.getvalue()), payload("d.png", encoded(depth)))
    page.wait_for_selector(ANSWERED)

    assert "320 \N{MULTIPLICATION SIGN} 240" in page.inner_text(
        "#saliency-wells .well-rgb .well-caption"
    )
    assert "says how it was held" in page.inner_text("#saliency-view .warnings")
