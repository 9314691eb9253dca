/** JPEG, by the library that Pillow itself uses: libjpeg-turbo. */
import createCodec from "../vendor/libjpegturbowasm_decode.js";
import { checkSize, PictureError } from "./errors.js";

const SOI = 0xd8, EOI = 0xd9, SOS = 0xda, TEM = 0x01;
const isRestart = (code) => code >= 0xd0 && code <= 0xd7;
// Of C0 to CF, the markers that begin no frame: DHT, JPG, DAC.
const isFrame = (code) => code >= 0xc0 && code <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(code);

let codec;

export async function decodeJpeg(bytes) {
  const { width, height, components } = header(bytes);
  checkSize(width, height);
  if (components !== 1 && components !== 3) {
    const kind = components === 4 ? "CMYK" : `${components} components`;
    throw new PictureError(`JPEG of ${kind} is not read here, only gray and RGB`, "unsupported");
  }
  codec ??= createCodec({
    locateFile: (name) => new URL(`../vendor/${name}`, import.meta.url).href,
  });
  const { JPEGDecoder } = await codec;
  const decoder = new JPEGDecoder();
  try {
    decoder.getEncodedBuffer(bytes.length).set(bytes);
    decoder.decode(); // throws a bare number, at libjpeg's warnings too
    const info = decoder.getFrameInfo();
    const pixels = decoder.getDecodedBuffer(); // in the codec's memory: copy it
    const data = info.componentCount === 1 ? fromGray(pixels) : pixels.slice();
    return { data, width: info.width, height: info.height, channels: 3 };
  } finally {
    decoder.delete();
  }
}

/** Size and components, after a check that the file goes on to its end marker. */
function header(bytes) {
  let found = null;
  let at = 2;
  for (;;) {
    at = bytes.indexOf(0xff, at);
    while (at >= 0 && bytes[at + 1] === 0xff) at += 1; // fill bytes
    const code = bytes[at + 1];
    if (at < 0 || code === undefined) throw new PictureError("this JPEG file is cut off");
    if (code === EOI) break;
    if (code === 0 || isRestart(code) || code === TEM || code === SOI) {
      at += 2;
      continue;
    }
    if (isFrame(code)) {
      found ??= {
        height: (bytes[at + 5] << 8) | bytes[at + 6],
        width: (bytes[at + 7] << 8) | bytes[at + 8],
        components: bytes[at + 9],
      };
    }
    if (code === SOS && !found) break;
    at += 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
  }
  if (!found) throw new PictureError("this JPEG file is damaged: it has no picture in it");
  return found;
}

function fromGray(pixels) {
  const data = new Uint8Array(3 * pixels.length);
  for (let i = 0, at = 0; i < pixels.length; i += 1, at += 3) {
    data[at] = data[at + 1] = data[at + 2] = pixels[i];
  }
  return data;
}
