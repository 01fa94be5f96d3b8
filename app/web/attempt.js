// One task that may be sent again: shows that it runs, what went wrong, and waits where waiting helps.

import { ask, hasKey, Refusal, useKey } from "./api.js";
import { bringIntoView, h } from "./dom.js";
import { explain } from "./explain.js";

const SLOW_MS = 4000;
const POLL_MS = 3000;
const MAX_AUTOMATIC = 20;
let fields = 0;

export class Attempt {
  /**
   * @param {HTMLElement} place where notices and progress go
   * @param {object} hooks `busy(boolean)`, `failed(refusal)` and `actions(words)`, which answers
   *   buttons that help in the task at hand
   */
  constructor(place, { busy = () => {}, failed = () => {}, actions = () => [] } = {}) {
    this.place = place;
    this.hooks = { busy, failed, actions };
    this.controller = null;
    this.timer = 0;
    document.addEventListener("key", () => this.waitsForKey && this.again());
  }

  /** Run `work(signal)`; an attempt still under way is abandoned. */
  run(work) {
    this.work = work;
    this.tries = 0;
    return this.again();
  }

  stop() {
    this.controller?.abort();
    clearTimeout(this.timer);
    clearInterval(this.clock);
    this.waitsForKey = false;
    this.place.replaceChildren();
    this.hooks.busy(false);
  }

  cancel() {
    this.stop();
    const again = h("button", { type: "button", class: "quiet", text: "Send again", click: () => this.again() });
    const text = h("span", { text: "Cancelled. The service may still finish its work." });
    this.place.replaceChildren(h("div", { class: "progress", role: "status" }, text, again));
  }

  async again() {
    this.stop();
    const controller = (this.controller = new AbortController());
    this.hooks.busy(true);
    this.showProgress();
    try {
      await this.work(controller.signal);
      if (controller.signal.aborted) return;
      this.stop();
    } catch (error) {
      if (controller.signal.aborted) return;
      this.stop();
      if (!(error instanceof Refusal)) {
        console.error(error);
        error = new Refusal({ code: "page", title: "This page stumbled", detail: String(error.message ?? error) });
      }
      this.hooks.failed(error);
      this.showRefusal(error);
    }
  }

  showProgress() {
    const began = performance.now();
    const text = h("span", { text: "Working" });
    const cancel = h("button", { type: "button", class: "quiet", text: "Cancel", click: () => this.cancel() });
    const note = h("div", { class: "progress", role: "status" }, h("div", { class: "progress-bar" }), text, cancel);
    note.hidden = true;
    this.place.replaceChildren(note);
    // A quick answer needs no word on progress.
    this.clock = setInterval(() => {
      const passed = performance.now() - began;
      note.hidden = passed < 400;
      const seconds = Math.floor(passed / 1000);
      text.textContent =
        passed < SLOW_MS
          ? "Working"
          : `Still working, ${seconds} s. Large pictures and a busy service take longer.`;
    }, 200);
  }

  showRefusal(refusal) {
    document.dispatchEvent(new CustomEvent("trouble"));
    const words = explain(refusal);
    const buttons = [...this.hooks.actions(words, refusal)];
    if (words.again) {
      buttons.push(h("button", { type: "button", text: words.again, click: () => this.again() }));
    }
    const countdown = h("p", { class: "notice-wait" });
    const marks = [refusal.status || "", refusal.code, refusal.id && `request ${refusal.id}`];
    this.place.replaceChildren(
      h(
        "div",
        { class: "notice", role: "alert", "data-code": refusal.code },
        h("h2", { text: words.title }),
        words.said ? h("p", { class: "notice-said", text: words.said }) : null,
        words.advice ? h("p", { text: words.advice }) : null,
        words.key ? this.keyForm() : null,
        countdown,
        buttons.length ? h("div", { class: "notice-actions" }, buttons) : null,
        refusal.status ? h("p", { class: "notice-code", text: marks.filter(Boolean).join(" · ") }) : null,
      ),
    );
    bringIntoView(this.place);
    if (words.key) this.waitsForKey = true;
    else if (refusal.code === "unreachable" || refusal.status === 502) this.waitForService();
    else if (refusal.status === 429 || refusal.status === 503) this.count(refusal.wait ?? 3, countdown);
  }

  keyForm() {
    const id = `key-${++fields}`;
    const field = h("input", {
      type: "password",
      id,
      autocomplete: "off",
      spellcheck: "false",
      required: true,
    });
    const submit = (event) => {
      event.preventDefault();
      if (field.value.trim()) useKey(field.value);
    };
    return h(
      "form",
      { class: "key-form", submit },
      h("label", { for: id, text: hasKey() ? "The last one was refused. API key" : "API key" }),
      h("div", { class: "key-row" }, field, h("button", { type: "submit", text: "Use it" })),
    );
  }

  /** Send again after `seconds`, which count down in `place`. */
  count(seconds, place) {
    if (++this.tries > MAX_AUTOMATIC) return;
    let left = seconds;
    const tick = () => {
      if (left <= 0) {
        this.again();
        return;
      }
      place.textContent = `Trying again in ${left} s`;
      left -= 1;
      this.timer = setTimeout(tick, 1000);
    };
    tick();
  }

  /** Send again once the service answers at all. */
  waitForService() {
    this.timer = setTimeout(async () => {
      const asked = this.controller;
      try {
        await ask("livez");
      } catch {
        if (asked === this.controller) this.waitForService();
        return;
      }
      if (asked === this.controller) this.again();
    }, POLL_MS);
  }
}
