// A photo and its depth in, the object that stands out back.

import { ask, read } from "./api.js";
import { Attempt } from "./attempt.js";
import { curlBlock, curlLine } from "./curl.js";
import { bringIntoView, find, h, save, stem } from "./dom.js";
import { warning } from "./explain.js";
import { example, sortTwo } from "./files.js";
import { chooser } from "./models.js";
import { Stage } from "./stage.js";
import { timingBar } from "./timing.js";
import { Well, toCanvas } from "./well.js";

const SHOWN_PX = 1600;
const EXAMPLES = [
  { name: "vase", convention: "near_bright", says: "bright is near" },
  { name: "cone", convention: "near_dark", says: "dark is near" },
  { name: "mug", convention: "metric", says: "millimetres, 16 bits" },
];
const OUTPUTS = [
  ["map", "Map", "8 bits", "map.png"],
  ["map16", "Map", "16 bits", "map16.png"],
  ["mask", "Mask", "black and white", "mask.png"],
  ["cutout", "Cut-out", "transparent", "cutout.png"],
  ["overlay", "Overlay", "photo, tinted", "overlay.png"],
  ["npy", "NumPy", "float32", "map.npy"],
  ["json", "JSON", "numbers and mask", "map.json"],
];
const THRESHOLDED = new Set(["mask", "cutout", "json"]);

export function start() {
  const photo = new Well({
    title: "Colour photo",
    takes: "JPEG, PNG, WebP, BMP, TIFF",
    kind: "rgb",
    changed: () => changed(),
    several: (files) => take(files),
  });
  const depth = new Well({
    title: "Its depth map",
    takes: "grey PNG or TIFF, 8 or 16 bits, .npy",
    kind: "depth",
    changed: () => changed(),
    several: (files) => take(files),
  });
  const alone = h("button", { type: "button", class: "alone", text: "Answer from the photo alone", click: () => { photoAlone = true; send(); } });
  alone.hidden = true;
  find("saliency-wells").append(photo.element, depth.element);
  find("saliency-wells").after(alone);

  const notices = h("div", { class: "notices" });
  const warnings = h("div", { class: "warnings", role: "status" });
  const times = h("div");
  const curl = curlBlock();
  const stage = new Stage(() => describe());
  const downloads = h("ul", { class: "downloads" });
  const downloadNotices = h("div", { class: "notices" });
  const result = h(
    "div",
    { class: "result" },
    stage.element,
    warnings,
    h("section", {}, h("h2", { class: "label", text: "Keep it" }), downloads, downloadNotices),
    times,
    curl.element,
  );
  result.hidden = true;
  const empty = h(
    "div",
    { class: "empty" },
    h("svg", { viewBox: "0 0 240 120", "aria-hidden": "true" },
      h("rect", { class: "line", x: 8, y: 22, width: 64, height: 76, rx: 8 }),
      h("circle", { class: "tint-one", cx: 40, cy: 60, r: 18 }),
      h("rect", { class: "line", x: 88, y: 22, width: 64, height: 76, rx: 8 }),
      h("circle", { class: "tint-grey", cx: 120, cy: 60, r: 18 }),
      h("rect", { class: "line", x: 168, y: 22, width: 64, height: 76, rx: 8 }),
      h("circle", { class: "solid", cx: 200, cy: 60, r: 18 }),
    ),
    h("p", { text: "The answer appears here." }),
    h("p", { class: "hint", text: "Drop both pictures anywhere on this page, or take one of the examples." }),
  );
  find("saliency-output").append(notices, empty, result);

  const model = chooser(find("saliency-model"), "saliency", () => changed(), () => offer());
  const conventionOf = () => document.querySelector('[name="convention"]:checked').value;
  let resize = false;
  let photoAlone = false; // the photo that is there was to be answered without depth
  let kept = null; // the map of the last answer, as a file

  for (const radio of document.querySelectorAll('[name="convention"]')) {
    radio.addEventListener("change", () => {
      depth.read(conventionOf());
      changed();
    });
  }

  const attempt = new Attempt(notices, {
    busy: (is) => result.classList.toggle("busy", is),
    failed: (refusal) => {
      result.hidden = true;
      empty.hidden = true;
      const well = { rgb: photo, depth }[refusal.field];
      well?.mark(refusal.title);
    },
    actions: (words) => [
      words.resize &&
        h("button", { type: "button", text: "Fit the depth map to the photo", click: () => { resize = true; send(); } }),
      words.swap && h("button", { type: "button", text: words.swap, click: swap }),
    ].filter(Boolean),
  });
  const keeping = new Attempt(downloadNotices);

  function changed() {
    resize = false;
    photoAlone = false;
    send();
  }

  /** Without depth only some models answer. */
  function offer() {
    alone.hidden = !photo.file || Boolean(depth.file) || photoAlone || !model.doesWithout;
  }

  function send() {
    photo.mark("");
    depth.mark("");
    keeping.stop();
    offer();
    if (photo.file && (depth.file || photoAlone)) {
      attempt.run(answer);
      return;
    }
    attempt.stop();
    result.hidden = true;
    empty.hidden = false;
  }

  function query(output) {
    const parameters = new URLSearchParams();
    if (conventionOf() !== "near_bright") parameters.set("depth_convention", conventionOf());
    if (output !== "map") parameters.set("output", output);
    if (THRESHOLDED.has(output)) parameters.set("threshold", stage.threshold.toFixed(2));
    if (resize) parameters.set("resize", "true");
    if (model.value) parameters.set("model", model.value);
    const text = parameters.toString();
    return `v1/saliency${text ? `?${text}` : ""}`;
  }

  function form() {
    const body = new FormData();
    body.append("rgb", photo.file, photo.file.name);
    if (depth.file) body.append("depth", depth.file, depth.file.name);
    return body;
  }

  async function answer(signal) {
    const sent = performance.now();
    const response = await ask(query("map"), { form: form(), signal });
    const blob = await read(response, "blob", signal);
    const tripMs = performance.now() - sent;
    const map = await toCanvas(blob, SHOWN_PX);
    const picture = await photoCanvas(signal);
    if (signal.aborted) return;
    kept = blob;
    const first = result.hidden;
    result.hidden = false;
    empty.hidden = true;
    stage.show({
      photo: picture,
      map,
      size: [map.fullWidth, map.fullHeight],
      grey: depth.grey,
      convention: conventionOf(),
    });
    const said = (response.headers.get("X-Warnings") ?? "").split("; ").filter(Boolean);
    const lines = said.map(warning);
    if (response.headers.get("X-Substituted")) lines.unshift("No depth map was sent: the answer rests on the photo alone.");
    warnings.replaceChildren(...lines.map((text) => h("p", { text })));
    times.replaceChildren(timingBar(response.headers.get("Server-Timing"), tripMs));
    describe();
    if (first) bringIntoView(result);
  }

  /** The photo upright; a TIFF, which no browser shows, comes decoded from the service. */
  async function photoCanvas(signal) {
    const canvas = photo.canvas ?? (await toCanvas(photo.file, SHOWN_PX));
    if (canvas) return canvas;
    // At threshold 0 every pixel of the cut-out is at least half opaque, and so keeps its colour.
    const path = query("cutout").replace(/threshold=[\d.]+/, "threshold=0");
    const blob = await read(await ask(path, { form: form(), signal }), "blob", signal);
    const cutout = await toCanvas(blob, SHOWN_PX);
    const context = cutout.getContext("2d");
    const pixels = context.getImageData(0, 0, cutout.width, cutout.height);
    for (let at = 3; at < pixels.data.length; at += 4) pixels.data[at] = 255;
    context.putImageData(pixels, 0, 0);
    photo.accept(cutout);
    return cutout;
  }

  /** The shell line follows what is looked at. */
  function describe() {
    if (!photo.file || !(depth.file || photoAlone)) return;
    const output = stage.view === "depth" ? "map" : stage.view;
    const [, , , file] = OUTPUTS.find(([name]) => name === output);
    const files = [["rgb", photo.file.name]];
    if (depth.file) files.push(["depth", depth.file.name]);
    curl.show(curlLine(query(output), files, `${stem(photo.file.name)}_${file}`));
  }

  downloads.append(
    ...OUTPUTS.map(([output, title, says, file]) => {
      const button = h("button", { type: "button", class: "download", "data-output": output },
        h("strong", { text: title }), h("span", { text: says }));
      button.addEventListener("click", () => {
        const name = `${stem(photo.file.name)}_${file}`;
        if (output === "map") {
          save(kept, name);
          return;
        }
        keeping.run(async (signal) => {
          button.setAttribute("aria-busy", "true");
          try {
            const response = await ask(query(output), { form: form(), signal });
            save(await read(response, "blob", signal), name);
          } finally {
            button.removeAttribute("aria-busy");
          }
        });
      });
      return h("li", {}, button);
    }),
  );

  /** Set both at once, so that half a pair is never sent. */
  async function put(rgb, grey) {
    await Promise.all([rgb && photo.put(rgb, { quiet: true }), grey && depth.put(grey, { quiet: true })]);
    changed();
  }

  async function swap() {
    await put(depth.file, photo.file);
  }

  function choose(convention) {
    document.querySelector(`[name="convention"][value="${convention}"]`).checked = true;
    depth.read(convention);
  }

  find("saliency-examples").append(
    ...EXAMPLES.map(({ name, convention, says }) =>
      h(
        "button",
        {
          type: "button",
          class: "example",
          "data-example": name,
          click: () =>
            attempt.run(async () => {
              const files = await Promise.all([example(`${name}_rgb.jpg`), example(`${name}_depth.png`)]);
              choose(convention);
              // The attempt that fetched them gives way to the one that sends them.
              queueMicrotask(() => put(...files));
            }),
        },
        h("span", { class: "example-pair" },
          h("img", { src: `page/examples/${name}_rgb.jpg`, alt: "", loading: "lazy" }),
        ),
        h("span", { class: "example-name", text: name }),
        h("small", { text: says }),
      ),
    ),
  );

  /** Files dropped or pasted anywhere: each goes where it seems to belong. */
  async function take(files) {
    const [rgb, grey] = await sortTwo(files);
    if (!rgb && !grey) return;
    // A single picture that could be either fills the well that is still empty.
    if (files.length === 1 && grey && depth.file && !photo.file) await put(grey, undefined);
    else if (files.length === 1 && rgb && photo.file && !depth.file) await put(undefined, rgb);
    else await put(rgb, grey);
  }

  return { take };
}
