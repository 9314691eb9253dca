/** Uncompressed pictures: BMP of 24 or 32 bits, and PPM and PGM of 8 bits a value. */
import { checkSize, PictureError } from "./errors.js";

const UNCOMPRESSED = 0;

export function decodeBmp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = view.getUint32(10, true);
  const head = view.getUint32(14, true);
  const old = head === 12; // OS/2's, with sides of 16 bits
  const width = old ? view.getUint16(18, true) : view.getUint32(18, true);
  const signed = old ? view.getUint16(20, true) : view.getInt32(22, true);
  const bits = view.getUint16(old ? 24 : 28, true);
  const compression = old ? UNCOMPRESSED : view.getUint32(30, true);
  if (compression !== UNCOMPRESSED || (bits !== 24 && bits !== 32)) {
    throw new PictureError("BMP is read here with 24 or 32 bits, uncompressed", "unsupported");
  }
  const height = Math.abs(signed);
  checkSize(width, height);
  const step = bits / 8;
  const stride = Math.ceil((width * step) / 4) * 4;
  if (start + stride * (height - 1) + width * step > bytes.length) {
    throw new PictureError("this BMP file is cut off");
  }
  const data = new Uint8Array(3 * width * height);
  for (let row = 0, to = 0; row < height; row += 1) {
    let from = start + stride * (signed > 0 ? height - 1 - row : row);
    for (let x = 0; x < width; x += 1, from += step, to += 3) {
      data[to] = bytes[from + 2];
      data[to + 1] = bytes[from + 1];
      data[to + 2] = bytes[from];
    }
  }
  return { data, width, height, channels: 3 };
}

const SPACE = [9, 10, 11, 12, 13, 32];

export function decodePnm(bytes) {
  const colours = bytes[1] === 0x36 ? 3 : 1; // P6, P5
  const [[width, height, most], start] = numbers(bytes, 2, 3);
  if (most !== 255) {
    throw new PictureError(`PPM is read here with values to 255, not ${most}`, "unsupported");
  }
  checkSize(width, height);
  const end = start + colours * width * height;
  if (end > bytes.length) throw new PictureError("this PPM file is cut off");
  const pixels = bytes.subarray(start, end);
  if (colours === 3) return { data: pixels.slice(), width, height, channels: 3 };
  const data = new Uint8Array(3 * width * height);
  for (let at = 0; at < data.length; at += 1) data[at] = pixels[Math.floor(at / 3)];
  return { data, width, height, channels: 3 };
}

/** Whole numbers between white space and comments, and where the byte behind them is. */
function numbers(bytes, start, count) {
  const found = [];
  let at = start, digits = "";
  while (found.length < count) {
    const byte = bytes[at];
    if (byte === undefined || digits.length > 10) throw new PictureError("this PPM file is cut off");
    at += 1;
    if (SPACE.includes(byte)) {
      if (digits) found.push(Number(digits));
      digits = "";
    } else if (byte === 0x23) {
      while (at < bytes.length && bytes[at] !== 10 && bytes[at] !== 13) at += 1;
      at += 1;
    } else if (byte >= 0x30 && byte <= 0x39) {
      digits += String.fromCharCode(byte);
    } else {
      throw new PictureError("this PPM file is damaged: expected whole numbers at its start");
    }
  }
  return [found, at];
}
