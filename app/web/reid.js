// Pairs of crops in, their similarities back: a ranking of the gallery, and a matrix of all.
//
// The service embeds every pair once; cosines are taken here, so that any pair can be the query.

import { ask, read } from "./api.js";
import { Attempt } from "./attempt.js";
import { curlBlock, curlLine } from "./curl.js";
import { bringIntoView, find, h, save } from "./dom.js";
import { warning } from "./explain.js";
import { example, pairUp } from "./files.js";
import { chooser } from "./models.js";
import { timingBar } from "./timing.js";
import { Well, filesOf, toCanvas } from "./well.js";

const THUMB_PX = 240;
const WITH_NUMBERS = 12; // pairs beyond which the cells of the matrix are too small for them
const EXAMPLE = ["van_a", "hatchback_a", "van_b", "hatchback_b"];

export function start() {
  const wells = {};
  for (const [kind, title, takes] of [
    ["rgb", "Colour", "JPEG, PNG, WebP, BMP, TIFF"],
    ["nir", "Near-infrared", "grey, 8 or 16 bits"],
  ]) {
    wells[kind] = new Well({ title, takes, kind, changed: () => send(), several: (files) => add(files) });
    find("query-wells").append(wells[kind].element);
  }

  let gallery = []; // {rgb, nir, name, thumbs: {rgb, nir}}
  const add$ = h("input", {
    type: "file",
    class: "visually-hidden",
    multiple: true,
    accept: "image/*,.tif,.tiff",
    change: () => {
      const files = [...add$.files];
      add$.value = "";
      if (files.length) add(files);
    },
  });
  const adder = h(
    "label",
    { class: "well adder" },
    add$,
    h("span", { class: "well-empty" },
      h("strong", { text: "Add pairs" }),
      h("span", { text: "Drop, paste or choose many files at once" }),
      h("small", { text: "car1_rgb.jpg goes with car1_nir.png" }),
    ),
  );
  adder.addEventListener("dragover", (event) => {
    event.preventDefault();
    adder.classList.add("over");
  });
  adder.addEventListener("dragleave", () => adder.classList.remove("over"));
  adder.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    adder.classList.remove("over");
    add(filesOf(event.dataTransfer));
  });
  find("gallery-add").append(adder);

  const notices = h("div", { class: "notices" });
  const warnings = h("div", { class: "warnings", role: "status" });
  const strip = h("ol", { class: "strip" });
  const stripTitle = h("h2", { class: "label" });
  const matrix = h("div", { class: "matrix-box", tabindex: 0, role: "region", "aria-label": "Similarity of every two pairs" });
  const lowest = h("span");
  const times = h("div");
  const curl = curlBlock();
  const keep = h("button", { type: "button", class: "download" }, h("strong", { text: "Embeddings" }), h("span", { text: "JSON" }));
  const keepRanks = h("button", { type: "button", class: "download" }, h("strong", { text: "Similarities" }), h("span", { text: "CSV" }));
  const result = h(
    "div",
    { class: "result" },
    h("section", {}, stripTitle, strip),
    warnings,
    h("section", {},
      h("h2", { class: "label", text: "Every pair with every other" }),
      matrix,
      h("div", { class: "scale", "aria-hidden": "true" }, lowest, h("span", { class: "scale-bar" }), h("span", { text: "1" }), h("span", { class: "hint", text: "cosine; choose a row to search with it" })),
    ),
    h("section", {}, h("h2", { class: "label", text: "Keep it" }), h("ul", { class: "downloads" }, h("li", {}, keep), h("li", {}, keepRanks))),
    times,
    curl.element,
  );
  result.hidden = true;
  const empty = h(
    "div",
    { class: "empty" },
    h("svg", { viewBox: "0 0 240 120", "aria-hidden": "true" },
      [0, 1, 2, 3].map((row) => [0, 1, 2, 3].map((column) =>
        h("rect", {
          class: row === column ? "solid" : (row + column) % 2 ? "tint-grey" : "tint-one",
          x: 68 + 27 * column, y: 8 + 27 * row, width: 23, height: 23, rx: 4,
        }))),
    ),
    h("p", { text: "The ranking appears here." }),
    h("p", { class: "hint", text: "It takes one query pair and at least one pair to search in." }),
  );
  find("reid-output").append(notices, empty, result);

  const model = chooser(find("reid-model"), "reid", () => send());
  const attempt = new Attempt(notices, {
    busy: (is) => result.classList.toggle("busy", is),
    failed: (refusal) => {
      result.hidden = true;
      empty.hidden = true;
      mark(refusal);
    },
    actions: (words) =>
      words.resize
        ? [h("button", { type: "button", text: "Fit near-infrared to colour", click: () => send({ resize: true }) })]
        : [],
  });

  let fitted = false;
  let answer = null; // {pairs, vectors, body}
  let focus = 0;

  function send({ resize = false } = {}) {
    fitted = resize;
    for (const well of Object.values(wells)) well.mark("");
    for (const card of find("gallery").children) card.classList.remove("wrong");
    if (wells.rgb.file && wells.nir.file && gallery.length) {
      attempt.run(embed);
      return;
    }
    attempt.stop();
    result.hidden = true;
    empty.hidden = false;
  }

  function mark({ field, index, title }) {
    if (index === 0) wells[field]?.mark(title);
    else if (index > 0) find("gallery").children[index - 1]?.classList.add("wrong");
  }

  const query = () => ({ rgb: wells.rgb.file, nir: wells.nir.file, name: wells.rgb.file.name, query: true });

  async function embed(signal) {
    const pairs = [query(), ...gallery];
    const body = new FormData();
    for (const { rgb } of pairs) body.append("rgb", rgb, rgb.name);
    for (const { nir } of pairs) body.append("nir", nir, nir.name);
    const parameters = new URLSearchParams({ encoding: "base64" });
    if (fitted) parameters.set("resize", "true");
    if (model.value) parameters.set("model", model.value);
    const sent = performance.now();
    const response = await ask(`v1/reid/embeddings?${parameters}`, { form: body, signal });
    const text = await read(response, "text", signal);
    const tripMs = performance.now() - sent;
    const report = JSON.parse(text);
    for (const pair of pairs) pair.thumbs ??= await thumbnails(pair);
    if (signal.aborted) return;
    answer = { pairs, vectors: report.embeddings.map(vectorOf), text };
    focus = 0;
    const first = result.hidden;
    result.hidden = false;
    empty.hidden = true;
    warnings.replaceChildren(...report.warnings.map((line) => h("p", { text: warning(line) })));
    times.replaceChildren(timingBar(response.headers.get("Server-Timing"), tripMs));
    show();
    if (first) bringIntoView(result);
  }

  const cosine = (a, b) => Math.max(-1, Math.min(1, a.reduce((sum, value, i) => sum + value * b[i], 0)));

  function ranked() {
    const { pairs, vectors } = answer;
    return pairs
      .map((pair, index) => ({ pair, index, similarity: cosine(vectors[focus], vectors[index]) }))
      .filter(({ index }) => index !== focus)
      .sort((a, b) => b.similarity - a.similarity);
  }

  function show() {
    const { pairs } = answer;
    const label = (index) => (pairs[index].query ? "the query" : pairs[index].name);
    stripTitle.textContent = `Most like ${label(focus)}`;
    strip.replaceChildren(
      ...ranked().map(({ pair, index, similarity }, rank) => {
        const bar = h("span", { class: "bar" }, h("span"));
        bar.firstChild.style.setProperty("width", `${100 * Math.max(0, similarity)}%`);
        return h(
          "li",
          {},
          h("button", { type: "button", class: "match", "aria-label": `Rank ${rank + 1}: ${pair.name}, similarity ${similarity.toFixed(3)}. Search with it`, click: () => search(index) },
            h("span", { class: "match-rank", text: rank + 1 }),
            h("span", { class: "match-pictures" }, picture(pair, "rgb"), picture(pair, "nir")),
            h("span", { class: "match-line" }, h("span", { class: "match-name", text: pair.query ? "the query" : pair.name }), h("span", { class: "match-value", text: similarity.toFixed(3) })),
            bar,
          ),
        );
      }),
    );
    drawMatrix();
    const rest = pairs.filter((_, index) => index !== focus);
    const parameters = new URLSearchParams();
    if (fitted) parameters.set("resize", "true");
    if (model.value) parameters.set("model", model.value);
    curl.show(
      curlLine(
        `v1/reid/similarity${parameters.size ? `?${parameters}` : ""}`,
        [
          ["query_rgb", pairs[focus].rgb.name],
          ["query_nir", pairs[focus].nir.name],
          ...rest.flatMap(({ rgb, nir }) => [["gallery_rgb", rgb.name], ["gallery_nir", nir.name]]),
        ],
        "ranks.json",
      ),
    );
  }

  function search(index) {
    focus = index;
    show();
  }

  function drawMatrix() {
    const { pairs, vectors } = answer;
    // From the tenth below the lowest to 1: cosines of like pictures lie close together.
    const low = Math.floor(10 * Math.min(...vectors.flatMap((a) => vectors.map((b) => cosine(a, b))))) / 10;
    lowest.textContent = low.toFixed(1);
    const name = (index) => (pairs[index].query ? "query" : pairs[index].name);
    const head = (pair, index) => [picture(pair, "rgb"), h("span", { class: "visually-hidden", text: pair.query ? "the query" : pair.name ?? index })];
    const rows = pairs.map((pair, row) =>
      h(
        "tr",
        { class: row === focus ? "chosen" : "" },
        h("th", { scope: "row" }, h("button", { type: "button", class: "matrix-head", "aria-pressed": String(row === focus), "aria-label": `Search with ${pair.query ? "the query" : pair.name}`, click: () => { search(row); matrix.querySelectorAll(".matrix-head")[row].focus(); } }, picture(pair, "rgb"))),
        pairs.map((_, column) => {
          const value = cosine(vectors[row], vectors[column]);
          const cell = h("td", { title: `${name(row)} and ${name(column)}: ${value.toFixed(3)}` }, h("span", { text: value.toFixed(2) }));
          const depth = low < 1 ? (value - low) / (1 - low) : 1;
          cell.style.setProperty("--value", depth.toFixed(3));
          if (depth > 0.5) cell.classList.add(depth > 0.78 ? "strong" : "middle");
          return cell;
        }),
      ),
    );
    matrix.replaceChildren(
      h("table", { class: pairs.length > WITH_NUMBERS ? "matrix dense" : "matrix" },
        h("thead", {}, h("tr", {}, h("td"), pairs.map((pair, index) => h("th", { scope: "col" }, head(pair, index))))),
        h("tbody", {}, rows),
      ),
    );
  }

  function picture({ thumbs, rgb }, kind) {
    const source = thumbs?.[kind];
    if (!source) return h("span", { class: "no-picture", text: kind === "rgb" ? rgb.name : "NIR" });
    const canvas = h("canvas", { width: source.width, height: source.height, "aria-hidden": "true" });
    canvas.getContext("2d").drawImage(source, 0, 0);
    return canvas;
  }

  async function thumbnails({ rgb, nir }) {
    return { rgb: await toCanvas(rgb, THUMB_PX), nir: await toCanvas(nir, THUMB_PX) };
  }

  function drawGallery() {
    find("gallery-count").textContent = gallery.length ? gallery.length : "";
    find("gallery").replaceChildren(
      ...gallery.map((pair) =>
        h(
          "div",
          { class: "card" },
          h("span", { class: "match-pictures" }, picture(pair, "rgb"), picture(pair, "nir")),
          h("span", { class: "card-name", text: pair.name, title: `${pair.rgb.name} and ${pair.nir.name}` }),
          h("button", { type: "button", class: "icon-button well-remove", "aria-label": `Remove: ${pair.name}`, click: () => { gallery = gallery.filter((other) => other !== pair); drawGallery(); send(); } },
            h("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, h("path", { d: "M6 6l8 8M14 6l-8 8" }))),
        ),
      ),
    );
  }

  /** Sort files into pairs; the first is the query if there is none yet. */
  async function add(files) {
    const { pairs, alone } = await pairUp(files);
    const note = find("gallery-note");
    note.textContent = alone.length
      ? `Without a partner, and left out: ${alone.map(({ name }) => name).join(", ")}. Two files are a pair if their names differ only in “rgb” and “nir”.`
      : "";
    if (!pairs.length) return;
    if (!wells.rgb.file && !wells.nir.file) {
      const first = pairs.shift();
      await Promise.all([wells.rgb.put(first.rgb, { quiet: true }), wells.nir.put(first.nir, { quiet: true })]);
    }
    for (const pair of pairs) pair.thumbs = await thumbnails(pair);
    gallery.push(...pairs);
    drawGallery();
    send();
  }

  keep.addEventListener("click", () => save(new Blob([answer.text], { type: "application/json" }), "embeddings.json"));
  keepRanks.addEventListener("click", () => {
    const cell = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const names = answer.pairs.map(({ rgb }) => cell(rgb.name));
    const rows = answer.vectors.map((a, i) => [names[i], ...answer.vectors.map((b) => cosine(a, b).toFixed(6))].join(","));
    save(new Blob([[["", ...names].join(","), ...rows].join("\n"), "\n"], { type: "text/csv" }), "similarities.csv");
  });

  find("reid-examples").append(
    h(
      "button",
      {
        type: "button",
        class: "example example-wide",
        "data-example": "vehicles",
        click: () =>
          attempt.run(async () => {
            const files = await Promise.all(EXAMPLE.flatMap((name) => [example(`${name}_rgb.jpg`), example(`${name}_nir.png`)]));
            queueMicrotask(() => {
              for (const well of Object.values(wells)) well.clear({ quiet: true });
              gallery = [];
              add(files);
            });
          }),
      },
      h("span", { class: "example-pair" }, EXAMPLE.map((name) => h("img", { src: `page/examples/${name}_rgb.jpg`, alt: "", loading: "lazy" }))),
      h("span", { class: "example-name", text: "two vehicles" }),
      h("small", { text: "each before two cameras" }),
    ),
  );

  /** Files dropped or pasted anywhere; a single one fills the query. */
  async function take(files) {
    if (files.length > 1) {
      await add(files);
      return;
    }
    const well = !wells.rgb.file ? wells.rgb : wells.nir;
    await well.put(files[0]);
  }

  return { take };
}

/** base64 of little-endian float32 -> numbers. */
function vectorOf(text) {
  const raw = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(raw.buffer);
  return Array.from({ length: raw.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
