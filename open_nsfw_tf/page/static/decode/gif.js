/**
 * The first frame of a GIF, in the colours of its palette.
 *
 * By hand, as libraries make transparent pixels black or skip them, while Pillow shows
 * the colour that they have.
 */
import { checkSize, PictureError } from "./errors.js";

const MAX_CODE_BITS = 12;
const PASSES = [[0, 8], [4, 8], [2, 4], [1, 2]]; // of interlaced rows: first and step

export function decodeGif(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const frame = findFrame(bytes, view);
  checkSize(frame.width, frame.height);
  const indices = uncompressed(bytes, frame);
  const { width, height, palette, fill } = frame;
  const data = new Uint8Array(3 * width * height);
  if (frame.wide < width || frame.high < height) {
    data.forEach((_, at) => { data[at] = palette[3 * fill + (at % 3)]; });
  }
  paint(data, indices, frame);
  return { data, width, height, channels: 3 };
}

/** From the header to the first frame's data, past extensions. */
function findFrame(bytes, view) {
  const screen = { width: view.getUint16(6, true), height: view.getUint16(8, true) };
  let at = 13;
  let palette = grays();
  if (bytes[10] & 128) [palette, at] = readPalette(bytes, at, bytes[10]);
  let fill = 0;
  for (; at < bytes.length; ) {
    const kind = bytes[at];
    if (kind === 0x3b) break; // the end
    if (kind === 0x2c) return frameAt(bytes, view, at + 1, screen, palette, fill);
    if (kind !== 0x21) {
      at += 1; // as Pillow, which looks for the next block
      continue;
    }
    // The graphic control extension: its transparent colour fills the screen.
    if (bytes[at + 1] === 0xf9 && bytes[at + 3] & 1) fill = bytes[at + 6];
    at = afterBlocks(bytes, at + 2);
  }
  throw new PictureError("this GIF file is damaged or cut off: it has no frame");
}

function frameAt(bytes, view, at, screen, shared, fill) {
  const [x, y, wide, high] = [0, 2, 4, 6].map((offset) => view.getUint16(at + offset, true));
  const flags = view.getUint8(at + 8);
  let start = at + 9;
  let palette = shared;
  if (flags & 128) [palette, start] = readPalette(bytes, start, flags);
  const width = Math.max(screen.width, x + wide);
  const height = Math.max(screen.height, y + high);
  return { width, height, x, y, wide, high, palette, fill, start, interlaced: Boolean(flags & 64) };
}

/** Colours that a palette lacks are shades of gray, as Pillow has them. */
const grays = () => Uint8Array.from({ length: 768 }, (_, index) => Math.floor(index / 3));

function readPalette(bytes, at, flags) {
  const end = at + 3 * (2 << (flags & 7));
  const palette = grays();
  palette.set(bytes.subarray(at, end));
  return [palette, end];
}

function afterBlocks(bytes, start) {
  let at = start;
  while (bytes[at]) at += bytes[at] + 1;
  return at + 1;
}

/** The frame's colour indices, row by row as they are stored: LZW. */
function uncompressed(bytes, { start, wide, high }) {
  const rootBits = bytes[start];
  if (!(rootBits >= 1 && rootBits < MAX_CODE_BITS)) {
    throw new PictureError("this GIF file is damaged: a wrong size of its codes");
  }
  const clear = 1 << rootBits;
  const table = 1 << MAX_CODE_BITS;
  const prefix = new Uint16Array(table);
  const last = new Uint8Array(table).map((_, code) => code & 255);
  const stack = new Uint8Array(table + 1);
  const output = new Uint8Array(wide * high);
  const nextCode = codeReader(bytes, start + 1);
  let bits = rootBits + 1, next = clear + 2, previous = -1, first = 0, written = 0;
  while (written < output.length) {
    const code = nextCode(bits);
    if (code === clear) {
      [bits, next, previous] = [rootBits + 1, clear + 2, -1];
      continue;
    }
    if (code === clear + 1 || code > next || (previous < 0 && code > clear)) {
      throw new PictureError("this GIF file is damaged or cut off");
    }
    let depth = 0, at = code;
    if (code === next && previous >= 0) [stack[depth++], at] = [first, previous];
    while (at >= clear) [stack[depth++], at] = [last[at], prefix[at]];
    first = at;
    stack[depth++] = at;
    while (depth && written < output.length) output[written++] = stack[--depth];
    if (previous >= 0 && next < table) {
      [prefix[next], last[next]] = [previous, first];
      next += 1;
      if (next === 1 << bits && bits < MAX_CODE_BITS) bits += 1;
    }
    previous = code;
  }
  return output;
}

/** Gives codes of some bits, least significant first, out of blocks of bytes. */
function codeReader(bytes, start) {
  let at = start, left = 0, buffer = 0, held = 0;
  return (bits) => {
    while (held < bits) {
      if (!left) {
        left = bytes[at];
        at += 1;
        if (!left || at + left > bytes.length) throw new PictureError("this GIF file is cut off");
      }
      buffer |= bytes[at] << held;
      [at, left, held] = [at + 1, left - 1, held + 8];
    }
    const code = buffer & ((1 << bits) - 1);
    [buffer, held] = [buffer >>> bits, held - bits];
    return code;
  };
}

function paint(data, indices, { width, x, y, wide, high, palette, interlaced }) {
  const passes = interlaced ? PASSES : [[0, 1]];
  let from = 0;
  for (const [first, step] of passes) {
    for (let row = first; row < high; row += step) {
      let to = 3 * (width * (y + row) + x);
      for (const end = from + wide; from < end; from += 1, to += 3) {
        const colour = 3 * indices[from];
        data[to] = palette[colour];
        data[to + 1] = palette[colour + 1];
        data[to + 2] = palette[colour + 2];
      }
    }
  }
}
