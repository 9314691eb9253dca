/** WebP, by libwebp, which Pillow uses too. */
import createCodec from "../vendor/webp_dec.js";
import { checkSize, PictureError } from "./errors.js";
import { joined } from "./png.js";

const ANIMATED = 2, ALPHA = 16; // flags of VP8X
const FRAME_HEAD = 16; // bytes of ANMF before the frame's own chunks

let codec;

export async function decodeWebp(bytes) {
  const { file, width, height, frame } = firstFrame(bytes);
  codec ??= createCodec({
    locateFile: (name) => new URL(`../vendor/${name}`, import.meta.url).href,
  });
  const image = (await codec).decode(file);
  if (!image) throw new PictureError("this WebP file is damaged or cut off");
  const data = new Uint8Array(image.data.buffer);
  if (image.width === width && image.height === height) {
    return { data, width, height, channels: 4 };
  }
  return { data: placed(data, frame, width, height), width, height, channels: 4 };
}

/** A frame on the canvas of its animation, which is black where it does not reach. */
function placed(pixels, { x, y, width: wide, height: high }, width, height) {
  const canvas = new Uint8Array(4 * width * height);
  for (let row = 0; row < high; row += 1) {
    const line = pixels.subarray(4 * wide * row, 4 * wide * (row + 1));
    canvas.set(line, 4 * (width * (y + row) + x));
  }
  return canvas;
}

/** A still WebP of the picture's chunks alone, and the size of the canvas. */
function firstFrame(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = 8 + view.getUint32(4, true);
  if (end > bytes.length) throw new PictureError("this WebP file is cut off");
  const all = chunks(bytes, view, 12, end);
  const extended = all[0]?.name === "VP8X" ? all[0] : null;
  if (!extended) return still(bytes, view, all, null);
  const at = extended.start + 8;
  const canvas = { width: uint24(view, at + 4) + 1, height: uint24(view, at + 7) + 1 };
  checkSize(canvas.width, canvas.height);
  if (!(bytes[at] & ANIMATED)) return still(bytes, view, all, canvas);
  const first = all.find(({ name }) => name === "ANMF");
  if (!first) throw new PictureError("this WebP file is damaged: it has no frame");
  const head = first.start + 8;
  const frame = {
    x: 2 * uint24(view, head),
    y: 2 * uint24(view, head + 3),
    width: uint24(view, head + 6) + 1,
    height: uint24(view, head + 9) + 1,
  };
  if (frame.x + frame.width > canvas.width || frame.y + frame.height > canvas.height) {
    throw new PictureError("this WebP file is damaged: a frame leaves its canvas");
  }
  const inside = chunks(bytes, view, head + FRAME_HEAD, first.end);
  return { ...still(bytes, view, inside, frame), ...canvas, frame };
}

const uint24 = (view, at) => view.getUint16(at, true) | (view.getUint8(at + 2) << 16);

function chunks(bytes, view, start, end) {
  const found = [];
  let at = start;
  while (at + 8 <= end) {
    const name = String.fromCharCode(...bytes.subarray(at, at + 4));
    const size = view.getUint32(at + 4, true);
    const next = at + 8 + size + (size % 2);
    found.push({ name, start: at, end: Math.min(next, end) });
    at = next;
  }
  if (at !== end) throw new PictureError("this WebP file is damaged or cut off");
  return found;
}

function still(bytes, view, all, declared) {
  const pictures = all.filter(({ name }) => name === "VP8 " || name === "VP8L");
  if (pictures.length !== 1) {
    throw new PictureError("this WebP file is damaged: expected one picture in it");
  }
  const [{ name, start, end }] = pictures;
  const size = name === "VP8 " ? lossySize(view, start + 8) : losslessSize(view, start + 8);
  checkSize(size.width, size.height);
  if (declared && (size.width !== declared.width || size.height !== declared.height)) {
    throw new PictureError("this WebP file is damaged: its sizes do not agree");
  }
  const alpha = all.find((chunk) => chunk.name === "ALPH");
  const body = [bytes.subarray(start, end)];
  if (alpha && name === "VP8 ") {
    body.unshift(extendedHeader(size), bytes.subarray(alpha.start, alpha.end));
  }
  const length = 4 + body.reduce((sum, part) => sum + part.length, 0);
  const riff = new Uint8Array(12);
  riff.set([82, 73, 70, 70, ...littleEndian(length, 4), 87, 69, 66, 80]);
  return { file: joined([riff, ...body]), ...size };
}

function extendedHeader({ width, height }) {
  const sides = [...littleEndian(width - 1, 3), ...littleEndian(height - 1, 3)];
  return Uint8Array.of(86, 80, 56, 88, 10, 0, 0, 0, ALPHA, 0, 0, 0, ...sides);
}

const littleEndian = (value, count) =>
  Array.from({ length: count }, (_, index) => (value >>> (8 * index)) & 255);

const lossySize = (view, at) => ({
  width: view.getUint16(at + 6, true) & 0x3fff,
  height: view.getUint16(at + 8, true) & 0x3fff,
});

function losslessSize(view, at) {
  const packed = view.getUint32(at + 1, true);
  return { width: (packed & 0x3fff) + 1, height: ((packed >>> 14) & 0x3fff) + 1 };
}
