// The answer over its photo: a wipe between the two, and a threshold that acts at once.

import { h, percent } from "./dom.js";
import { shade } from "./depth.js";

// As the service draws them, see `app/answers.py`.
const TINT = [255, 48, 32];
const TINT_STRENGTH = 0.6;
const RAMP = 0.1;

const VIEWS = [
  ["map", "Map"],
  ["mask", "Mask"],
  ["cutout", "Cut-out"],
  ["overlay", "Overlay"],
  ["depth", "Depth"],
];

export class Stage {
  /** @param {() => void} changed the view or the threshold */
  constructor(changed) {
    this.changed = changed;
    this.view = "map";
    this.threshold = 0.5;
    this.under = h("canvas", { class: "stage-under" });
    this.over = h("canvas", { class: "stage-over" });
    this.wipe = h("input", {
      type: "range",
      class: "stage-wipe",
      min: 0,
      max: 100,
      step: 0.5,
      value: 50,
      "aria-label": "Wipe between the photo and the answer",
      input: () => this.place(),
    });
    this.left = h("span", { class: "stage-tag stage-tag-left", text: "Photo" });
    this.right = h("span", { class: "stage-tag stage-tag-right" });
    this.frame = h(
      "div",
      { class: "stage" },
      this.under,
      this.over,
      h("div", { class: "stage-line", "aria-hidden": "true" }, h("span")),
      this.left,
      this.right,
      this.wipe,
    );
    this.views = h(
      "div",
      { class: "segments", role: "radiogroup", "aria-label": "View" },
      VIEWS.map(([value, text]) =>
        h(
          "label",
          {},
          h("input", { type: "radio", name: "view", value, checked: value === this.view, change: () => this.choose(value) }),
          h("span", { text }),
        ),
      ),
    );
    this.number = h("output", { class: "threshold-value", for: "threshold", text: "0.50" });
    this.slider = h("input", {
      type: "range",
      id: "threshold",
      min: 0,
      max: 1,
      step: 0.01,
      value: 0.5,
      input: () => {
        this.threshold = Number(this.slider.value);
        this.number.textContent = this.threshold.toFixed(2);
        this.draw();
        this.changed();
      },
    });
    this.facts = h("dl", { class: "facts" });
    this.element = h(
      "div",
      { class: "stage-box" },
      this.frame,
      h(
        "div",
        { class: "stage-tools" },
        this.views,
        h("div", { class: "threshold" }, h("label", { for: "threshold", text: "Threshold" }), this.slider, this.number),
      ),
      this.facts,
    );
  }

  /**
   * @param {object} answer `photo` canvas, `map` canvas of the same shape with the saliency as grey,
   *   `size` [width, height] of the full map, `grey` and `convention` of the depth, if it was read
   */
  show(answer) {
    this.answer = answer;
    const { width, height } = answer.map;
    for (const canvas of [this.under, this.over]) Object.assign(canvas, { width, height });
    this.frame.style.setProperty("--aspect", width / height);
    this.frame.classList.toggle("stage-small", Math.max(...answer.size) < 200);
    const context = this.under.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(answer.photo, 0, 0, width, height);
    this.photo = context.getImageData(0, 0, width, height);
    const pixels = answer.map.getContext("2d").getImageData(0, 0, width, height).data;
    this.saliency = new Uint8Array(width * height);
    for (let i = 0; i < this.saliency.length; i++) this.saliency[i] = pixels[4 * i];
    this.views.querySelector('[value="depth"]').parentElement.hidden = !answer.grey;
    if (this.view === "depth" && !answer.grey) this.choose("map");
    this.place();
    this.draw();
  }

  choose(view) {
    this.view = view;
    this.views.querySelector(`[value="${view}"]`).checked = true;
    this.draw();
    this.changed();
  }

  place() {
    this.frame.style.setProperty("--wipe", `${this.wipe.value}%`);
    this.wipe.setAttribute("aria-valuetext", `${Math.round(this.wipe.value)} % photo`);
  }

  /** Once a frame at most, however fast the slider moves. */
  draw() {
    if (this.pending || !this.answer) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.paint();
    });
  }

  paint() {
    const { width, height } = this.over;
    this.right.textContent = VIEWS.find(([value]) => value === this.view)[1];
    const context = this.over.getContext("2d");
    context.putImageData(
      this.view === "depth"
        ? shade(this.answer.grey, this.answer.convention, width, height).image
        : this.picture(new ImageData(width, height)),
      0,
      0,
    );
    this.over.classList.toggle("checkers", this.view === "cutout");
    this.over.classList.toggle("holes", this.view === "depth");
    this.measure();
  }

  picture(image) {
    const [to, from, saliency] = [image.data, this.photo.data, this.saliency];
    const least = this.threshold * 255;
    const { view } = this;
    for (let i = 0, at = 0; i < saliency.length; i++, at += 4) {
      const value = saliency[i];
      if (view === "map" || view === "mask") {
        const level = view === "map" ? value : value >= least ? 255 : 0;
        to[at] = to[at + 1] = to[at + 2] = level;
        to[at + 3] = 255;
        continue;
      }
      const tint = view === "overlay" ? (TINT_STRENGTH * value) / 255 : 0;
      for (let channel = 0; channel < 3; channel++) {
        to[at + channel] = from[at + channel] * (1 - tint) + TINT[channel] * tint;
      }
      to[at + 3] = view === "overlay" ? 255 : 255 * ((value - least) / (2 * RAMP * 255) + 0.5);
    }
    return image;
  }

  /** Area and box of the object, from the map as shown. */
  measure() {
    const { width, height } = this.over;
    const least = this.threshold * 255;
    let [count, left, right, top, bottom, most] = [0, width, -1, height, -1, 0];
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (this.saliency[i] > most) most = this.saliency[i];
        if (this.saliency[i] < least) continue;
        count++;
        if (x < left) left = x;
        if (x > right) right = x;
        if (y < top) top = y;
        bottom = y;
      }
    }
    const scale = this.answer.size[0] / width;
    const at = (pixels) => Math.round(pixels * scale);
    const facts = count
      ? [
          ["Object", `${percent(count / this.saliency.length)} of the picture`],
          ["Box", `${at(right - left + 1)} × ${at(bottom - top + 1)} px at (${at(left)}, ${at(top)})`],
          ["Highest saliency", (most / 255).toFixed(2)],
        ]
      : [
          ["Object", "none: nothing reaches this threshold"],
          ["Highest saliency", (most / 255).toFixed(2)],
        ];
    this.facts.replaceChildren(
      ...facts.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value }))),
    );
  }
}
