// Which of several dropped files is which, and which belong together.

import { ask, read } from "./api.js";
import { looksGrey } from "./depth.js";

const GREY_NAME = /(^|[^a-z])(depth|disp|disparity|nir|ir|infrared)([^a-z]|$)/i;
const ROLE = /(^|[^a-z])(rgb|colou?r|photo|image|depth|disp|disparity|nir|ir|infrared)(?=[^a-z]|$)/gi;

/** Grey by its name, or else by its content. */
async function isGrey(file) {
  return GREY_NAME.test(file.name.replace(/\.[^.]+$/, "")) || (await looksGrey(file));
}

/** Names that differ only in the word for their role are one pair. */
const pairName = (name) =>
  name
    .replace(/\.[^.]+$/, "")
    .replace(ROLE, "$1")
    .replace(/^[^a-z0-9]+|[^a-z0-9]+$/gi, "")
    .toLowerCase();

/** [colour, grey] of up to two files; either may be undefined. */
export async function sortTwo(files) {
  const [first, second] = files;
  const grey = await Promise.all(files.slice(0, 2).map(isGrey));
  if (!second) return grey[0] ? [undefined, first] : [first, undefined];
  return grey[0] && !grey[1] ? [second, first] : [first, second];
}

/**
 * @returns {Promise<{pairs: {rgb: File, nir: File, name: string}[], alone: File[]}>} pairs in the
 *   order of their colour pictures
 */
export async function pairUp(files) {
  const colours = [];
  const greys = [];
  for (const file of files) ((await isGrey(file)) ? greys : colours).push(file);
  const pairs = [];
  const alone = [];
  for (const rgb of colours) {
    const at = greys.findIndex((grey) => pairName(grey.name) === pairName(rgb.name));
    if (at < 0) alone.push(rgb);
    else pairs.push({ rgb, nir: greys.splice(at, 1)[0], name: pairName(rgb.name) });
  }
  // One of each that is left over is a pair, whatever they are called.
  if (alone.length === 1 && greys.length === 1) {
    const [rgb] = alone.splice(0);
    pairs.push({ rgb, nir: greys.splice(0)[0], name: pairName(rgb.name) });
  }
  return { pairs, alone: [...alone, ...greys] };
}

/** One of the service's own examples, as if it had been chosen. */
export async function example(name) {
  return new File([await read(await ask(`page/examples/${name}`), "blob")], name);
}
