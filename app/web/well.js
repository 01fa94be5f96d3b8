// A place for one picture: drop, paste or choose; shows what it holds.

import { bytes, h } from "./dom.js";
import { isTiff, readGrey, shade } from "./depth.js";

const PREVIEW_PX = 720;

/** width and height that fit into `longest`, never larger than the picture. */
export function fit(width, height, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** The upright picture on a canvas of at most `longest` pixels a side; null if no browser shows it. */
export async function toCanvas(blob, longest) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
  const [width, height] = fit(bitmap.width, bitmap.height, longest);
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  canvas.fullWidth = bitmap.width;
  canvas.fullHeight = bitmap.height;
  bitmap.close();
  return canvas;
}

/** Files of a drop or paste; a pasted screenshot has no name of its own. */
export const filesOf = (transfer) => [...(transfer?.files ?? [])].filter((file) => file.size);

export class Well {
  /**
   * @param {object} options `title`, `takes` (one line on formats), `kind` "rgb", "depth" or "nir",
   *   `changed()`, `several(files)` for a drop of more than one
   */
  constructor({ title, takes, kind, changed, several = () => {} }) {
    Object.assign(this, { title, kind, changed, several, file: null, grey: null, convention: "near_bright" });
    this.input = h("input", {
      type: "file",
      class: "visually-hidden",
      accept: "image/*,.tif,.tiff" + (kind === "depth" ? ",.npy" : ""),
      change: () => {
        if (this.input.files.length) this.put(this.input.files[0]);
        this.input.value = "";
      },
    });
    this.preview = h("div", { class: "well-preview" });
    this.caption = h("span", { class: "well-caption" });
    this.error = h("p", { class: "well-error" });
    this.remove = h(
      "button",
      { type: "button", class: "icon-button well-remove", "aria-label": `Remove: ${title}`, click: () => this.clear() },
      h("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, h("path", { d: "M6 6l8 8M14 6l-8 8" })),
    );
    this.label = h(
      "label",
      { class: "well" },
      this.input,
      h("span", { class: "well-empty" }, h("strong", { text: title }), h("span", { text: "Drop, paste or choose" }), h("small", { text: takes })),
      this.preview,
    );
    this.element = h("div", { class: `well-box well-${kind}` }, this.label, this.remove, this.caption, this.error);
    this.element.well = this;
    this.element.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.element.classList.add("over");
    });
    this.element.addEventListener("dragleave", () => this.element.classList.remove("over"));
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      this.element.classList.remove("over");
      const files = filesOf(event.dataTransfer);
      if (files.length === 1) this.put(files[0]);
      else if (files.length) this.several(files);
    });
  }

  async put(file, { quiet = false } = {}) {
    this.file = file;
    this.grey = null;
    this.canvas = null;
    this.mark("");
    this.element.classList.add("full");
    this.caption.textContent = `${file.name} · ${bytes(file.size)}`;
    this.preview.replaceChildren(h("span", { class: "well-reading", text: "Reading" }));
    if (!quiet) this.changed();
    await this.show();
  }

  clear({ quiet = false } = {}) {
    this.file = this.grey = this.canvas = null;
    this.mark("");
    this.element.classList.remove("full");
    this.preview.replaceChildren();
    this.caption.textContent = "";
    if (!quiet) this.changed();
  }

  /** Name what is wrong with the picture, or nothing. */
  mark(text) {
    this.error.textContent = text;
    this.element.classList.toggle("wrong", text !== "");
  }

  /** Read depth anew as another convention. */
  read(convention) {
    this.convention = convention;
    if (this.grey) this.draw();
  }

  /** A picture that only the service could decode. */
  accept(canvas) {
    this.canvas = canvas;
    this.preview.replaceChildren(copy(canvas));
    this.describe(canvas.fullWidth, canvas.fullHeight, "shown as the service read it");
  }

  async show() {
    const file = this.file;
    if (this.kind === "depth") {
      const grey = await readGrey(file);
      if (file !== this.file) return;
      this.grey = grey;
      if (grey) this.draw();
      else this.say(await reason(file));
      return;
    }
    const canvas = await toCanvas(file, 1600);
    if (file !== this.file) return;
    this.canvas = canvas;
    if (!canvas) {
      this.say(await reason(file));
      return;
    }
    this.preview.replaceChildren(copy(canvas));
    this.describe(canvas.fullWidth, canvas.fullHeight);
  }

  draw() {
    const [width, height] = fit(this.grey.width, this.grey.height, PREVIEW_PX);
    const { image, missing } = shade(this.grey, this.convention, width, height);
    const canvas = h("canvas", { width, height, class: "holes" });
    canvas.getContext("2d").putImageData(image, 0, 0);
    this.preview.replaceChildren(canvas);
    const holes = missing ? `${(100 * missing).toFixed(1)} % missing` : "";
    this.describe(this.grey.width, this.grey.height, this.grey.kind, holes);
  }

  describe(width, height, ...more) {
    const size = `${width} × ${height}`;
    this.caption.textContent = [this.file.name, size, ...more].filter(Boolean).join(" · ");
  }

  say(text) {
    this.preview.replaceChildren(h("p", { class: "well-words", text }));
  }
}

function copy(canvas) {
  const [width, height] = fit(canvas.width, canvas.height, PREVIEW_PX);
  const small = h("canvas", { width, height });
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, width, height);
  return small;
}

async function reason(file) {
  const head = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  return isTiff(head)
    ? "A browser cannot show this TIFF. The service reads it all the same."
    : "A browser cannot show this file. If it is a picture, the service may read it all the same.";
}
