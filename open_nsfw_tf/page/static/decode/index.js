/**
 * From the bytes of a picture file to the pixels that Pillow would give: alpha is
 * dropped, EXIF orientation and colour profiles are ignored, and of an animation the
 * first frame is taken. What cannot be decoded to the very same pixels is refused.
 */
import { checkSize, PictureError } from "./errors.js";
import { decodeGif } from "./gif.js";
import { decodeJpeg } from "./jpeg.js";
import { decodePng } from "./png.js";
import { decodeBmp, decodePnm } from "./raw.js";
import { decodeWebp } from "./webp.js";

const text = (bytes, start, end) => String.fromCharCode(...bytes.subarray(start, end));
const starts = (...heads) => (bytes) =>
  heads.some((head) => text(bytes, 0, head.length) === head);
const brand = (...brands) => (bytes) =>
  text(bytes, 4, 8) === "ftyp" && brands.includes(text(bytes, 8, 12));

/** By first bytes, never by name. A row without a decoder is a format to be refused. */
const FORMATS = [
  ["JPEG", starts("\xff\xd8\xff"), decodeJpeg],
  ["PNG", starts("\x89PNG\r\n\x1a\n"), decodePng],
  ["WebP", (bytes) => starts("RIFF")(bytes) && text(bytes, 8, 12) === "WEBP", decodeWebp],
  ["GIF", starts("GIF87a", "GIF89a"), decodeGif],
  ["BMP", starts("BM"), decodeBmp],
  ["PPM", starts("P5", "P6"), decodePnm],
  ["TIFF", starts("II*\0", "MM\0*", "II+\0", "MM\0+")],
  ["AVIF", brand("avif", "avis")],
  ["HEIC", brand("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1")],
  ["JPEG XL", starts("\xff\x0a", "\0\0\0\x0cJXL ")],
  ["JPEG 2000", starts("\0\0\0\x0cjP  ", "\xff\x4f\xff\x51")],
  ["ICO", starts("\0\0\x01\0")],
  ["PDF", starts("%PDF")],
];

const KNOWN = FORMATS.filter(([, , decode]) => decode).map(([name]) => name).join(", ");

/**
 * @param {Uint8Array} bytes of a picture file.
 * @returns {Promise<{data: Uint8Array, width: number, height: number, channels: number,
 *   format: string}>} rows of 3 or 4 channels, RGB first.
 * @throws {PictureError}
 */
export async function decode(bytes) {
  if (!bytes.length) throw new PictureError("the file is empty: expected a picture");
  const found = FORMATS.find(([, matches]) => matches(bytes));
  if (!found) throw new PictureError(`this is not a picture of a known kind (${KNOWN})`);
  const [format, , decoder] = found;
  if (!decoder) {
    throw new PictureError(`${format} is not read here, only ${KNOWN}`, "unsupported");
  }
  try {
    return { format, ...(await decoder(bytes)) };
  } catch (error) {
    if (error instanceof PictureError) throw error;
    if (error instanceof RangeError && /alloc|length|memory/i.test(error.message)) {
      throw new PictureError("there is not enough memory to decode it", "too_large");
    }
    throw new PictureError(`this ${format} file is damaged or cut off`);
  }
}

/** The pixels of an ImageData, as `decode` returns them. */
export function fromImageData({ data, width, height }) {
  checkSize(width, height);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { format: "pixels", data: bytes, width, height, channels: 4 };
}
