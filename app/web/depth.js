// Depth maps as numbers, at the precision of the file, and as the network will see them.
//
// A browser cuts 16 bits down to 8 and shows no TIFF or .npy, so the common forms are read here:
// grey PNG of 8 and 16 bits, TIFF uncompressed or deflated, .npy.

/**
 * @typedef {{width: number, height: number, values: ArrayLike<number>, kind: string}} Grey
 */

/** @returns {Promise<Grey | null>} null: readable only by the service, or by nobody */
export async function readGrey(file) {
  const data = new Uint8Array(await file.arrayBuffer());
  try {
    if (isPng(data)) return (await readPng(data)) ?? (await readByBrowser(file));
    if (isNpy(data)) return readNpy(data);
    if (isTiff(data)) return await readTiff(data);
    return await readByBrowser(file);
  } catch {
    return null;
  }
}

/** Whether the file's head says one grey channel; decides which of two dropped files is which. */
export async function looksGrey(file) {
  const data = new Uint8Array(await file.slice(0, 256 * 1024).arrayBuffer());
  if (isNpy(data)) return true;
  if (isPng(data)) return data[25] === 0 || data[25] === 4;
  if (isTiff(data)) {
    try {
      return (tiffTags(data).get(262)?.[0] ?? 2) < 2;
    } catch {
      return false;
    }
  }
  if (data[0] === 0xff && data[1] === 0xd8) return jpegComponents(data) === 1;
  return false;
}

export const isTiff = (data) =>
  (data[0] === 0x49 && data[1] === 0x49 && data[2] === 42) ||
  (data[0] === 0x4d && data[1] === 0x4d && data[3] === 42);
const isPng = (data) => data[0] === 0x89 && data[1] === 0x50 && data[2] === 0x4e;
const isNpy = (data) => data[0] === 0x93 && data[1] === 0x4e && data[2] === 0x55;

/**
 * Near as bright, scaled between the extremes of what is valid: what the service makes of it.
 *
 * @returns {{image: ImageData, missing: number}} missing pixels are transparent; their share
 */
export function shade(grey, convention, width, height) {
  const { values } = grey;
  let low = Infinity;
  let high = -Infinity;
  let missing = 0;
  const valid = (value) => Number.isFinite(value) && (convention !== "metric" || value > 0);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (!valid(value)) missing++;
    else {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  const image = new ImageData(width, height);
  const scale = high > low ? 255 / (high - low) : 0;
  for (let y = 0, to = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * grey.height) / height) * grey.width;
    for (let x = 0; x < width; x++, to += 4) {
      const value = values[row + Math.floor(((x + 0.5) * grey.width) / width)];
      if (!valid(value)) continue;
      const level = scale ? (value - low) * scale : 127.5;
      const near = convention === "near_bright" ? level : 255 - level;
      image.data[to] = image.data[to + 1] = image.data[to + 2] = near;
      image.data[to + 3] = 255;
    }
  }
  return { image, missing: missing / values.length };
}

/** 8 bits of whatever the browser can open; the first channel. */
async function readByBrowser(file) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * i];
  return { width, height, values, kind: "8 bits" };
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Grey without alpha, 8 or 16 bits, not interlaced; null for any other PNG. */
async function readPng(data) {
  const view = new DataView(data.buffer);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [bits, colour, interlaced] = [data[24], data[25], data[28]];
  if (colour !== 0 || bits < 8 || interlaced) return null;
  const parts = [];
  for (let at = 8; at + 8 <= data.length; ) {
    const length = view.getUint32(at);
    if (view.getUint32(at + 4) === 0x49444154) parts.push(data.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const step = bits / 8;
  const rows = unfilter(await inflate(parts), width * step, height, step);
  if (bits === 8) return { width, height, values: rows, kind: "8 bits" };
  const values = new Uint16Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = (rows[2 * i] << 8) | rows[2 * i + 1];
  return { width, height, values, kind: "16 bits" };
}

/** Undo PNG's filters, https://www.w3.org/TR/png-3/#9Filters; `step` is the bytes of a pixel. */
function unfilter(raw, stride, height, step) {
  if (raw.length < (stride + 1) * height) throw new Error("pixels are missing");
  const out = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    const from = y * (stride + 1) + 1;
    const to = y * stride;
    for (let x = 0; x < stride; x++) {
      const left = x >= step ? out[to + x - step] : 0;
      const up = y ? out[to + x - stride] : 0;
      let guess = 0;
      if (filter === 1) guess = left;
      else if (filter === 2) guess = up;
      else if (filter === 3) guess = (left + up) >> 1;
      else if (filter === 4) guess = paeth(left, up, x >= step && y ? out[to + x - stride - step] : 0);
      out[to + x] = raw[from + x] + guess;
    }
  }
  return out;
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

const READERS = {
  u1: ["getUint8", 1], u2: ["getUint16", 2], u4: ["getUint32", 4],
  i1: ["getInt8", 1], i2: ["getInt16", 2], i4: ["getInt32", 4],
  f4: ["getFloat32", 4], f8: ["getFloat64", 8],
};

/** `count` numbers of a type like `f4` from `view`. */
function numbers(view, at, count, type, little) {
  const [method, size] = READERS[type];
  const values = type === "u1" || type === "u2" ? new Uint16Array(count) : new Float64Array(count);
  for (let i = 0; i < count; i++) values[i] = view[method](at + i * size, little);
  return values;
}

const inWords = (type) => `${type[0] === "f" ? "floats of " : ""}${8 * Number(type[1])} bits`;

function readNpy(data) {
  const view = new DataView(data.buffer);
  const wide = data[6] > 1;
  const start = wide ? 12 : 10;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(data.subarray(start, start + length));
  const [, order, type] = /'descr':\s*'([<>|=])(\w+)'/.exec(header) ?? [];
  const shape = /'shape':\s*\((\d+),\s*(\d+)\)/.exec(header);
  if (!shape || !(type in READERS) || header.includes("'fortran_order': True")) return null;
  const [height, width] = [Number(shape[1]), Number(shape[2])];
  const values = numbers(view, start + length, width * height, type, order !== ">");
  return { width, height, values, kind: inWords(type) };
}

/** Tag -> numbers, of the first directory. */
function tiffTags(data) {
  const view = new DataView(data.buffer);
  const little = data[0] === 0x49;
  const directory = view.getUint32(4, little);
  const tags = new Map();
  for (let i = 0; i < view.getUint16(directory, little); i++) {
    const entry = directory + 2 + 12 * i;
    const size = { 1: 1, 3: 2, 4: 4 }[view.getUint16(entry + 2, little)];
    if (!size) continue;
    const count = view.getUint32(entry + 4, little);
    const at = count * size <= 4 ? entry + 8 : view.getUint32(entry + 8, little);
    const type = { 1: "u1", 2: "u2", 4: "u4" }[size];
    tags.set(view.getUint16(entry, little), [...numbers(view, at, count, type, little)]);
  }
  return tags;
}

/** One grey channel in strips, uncompressed or deflated, without predictor; null for any other. */
async function readTiff(data) {
  const tags = tiffTags(data);
  const one = (tag, otherwise) => tags.get(tag)?.[0] ?? otherwise;
  const [width, height, bits] = [one(256), one(257), one(258, 1)];
  const type = { 1: "u", 2: "i", 3: "f" }[one(339, 1)] + bits / 8;
  const packing = one(259, 1);
  if (!(type in READERS) || one(277, 1) !== 1 || one(317, 1) !== 1 || one(262, 1) !== 1) return null;
  if (![1, 8, 32946].includes(packing) || !tags.has(273) || one(274, 1) !== 1) return null;
  const counts = tags.get(279);
  const strips = tags.get(273).map((at, i) => data.subarray(at, at + counts[i]));
  const plain = packing === 1 ? strips : await Promise.all(strips.map((strip) => inflate([strip])));
  const whole = await new Blob(plain).arrayBuffer();
  const values = numbers(new DataView(whole), 0, width * height, type, data[0] === 0x49);
  return { width, height, values, kind: inWords(type) };
}

function jpegComponents(data) {
  for (let at = 2; at + 10 < data.length && data[at] === 0xff; ) {
    const marker = data[at + 1];
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return data[at + 9];
    at += 2 + (data[at + 2] << 8) + data[at + 3];
  }
  return 3;
}
