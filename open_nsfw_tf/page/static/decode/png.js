/** PNG, by the Rust library `png`; checksums, which it ignores, are checked here. */
import initialize, { decode, decode_rgba16 } from "../vendor/squoosh_png.js";
import { checkSize, PictureError } from "./errors.js";

const SIGNATURE = 8;
const KEPT = ["IHDR", "PLTE", "tRNS", "IDAT"]; // the only chunks that make pixels
const IEND = Uint8Array.of(0, 0, 0, 0, 73, 69, 78, 68, 0xae, 0x42, 0x60, 0x82);
const GRAY = 0;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc(bytes) {
  let sum = 0xffffffff;
  for (let i = 0; i < bytes.length; i += 1) sum = TABLE[(sum ^ bytes[i]) & 255] ^ (sum >>> 8);
  return ~sum >>> 0;
}

export async function decodePng(bytes) {
  const { file, width, height, depth, colour } = checked(bytes);
  checkSize(width, height);
  await initialize(new URL("../vendor/squoosh_png_bg.wasm", import.meta.url));
  if (depth === 16 && colour === GRAY) return gray16(file, width, height);
  const { data } = decode(file);
  return { data: new Uint8Array(data.buffer), width, height, channels: 4 };
}

/** Pillow clips 16-bit gray at 255 instead of taking the high byte. */
function gray16(file, width, height) {
  const image = decode_rgba16(file);
  const wide = image.data; // a view of the codec's memory
  const data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    data[to] = data[to + 1] = data[to + 2] = Math.min(255, wide[from]);
  }
  image.free();
  return { data, width, height, channels: 3 };
}

/** The header, and a file of the chunks that make pixels, each with a right checksum. */
function checked(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [bytes.subarray(0, SIGNATURE)];
  let begun = false;
  for (let at = SIGNATURE; at + 12 <= bytes.length; ) {
    const end = at + 12 + view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (begun && name !== "IDAT") break; // as Pillow, which has all pixels now
    if (end > bytes.length) throw new PictureError("this PNG file is cut off");
    if (crc(bytes.subarray(at + 4, end - 4)) !== view.getUint32(end - 4)) {
      throw new PictureError(`this PNG file is damaged: a wrong checksum of ${name}`);
    }
    begun = name === "IDAT";
    if (KEPT.includes(name)) parts.push(bytes.subarray(at, end));
    at = end;
  }
  if (!begun || String.fromCharCode(...bytes.subarray(12, 16)) !== "IHDR") {
    throw new PictureError("this PNG file is damaged or cut off");
  }
  const file = joined([...parts, IEND]);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  return { file, width, height, depth: bytes[24], colour: bytes[25] };
}

export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
