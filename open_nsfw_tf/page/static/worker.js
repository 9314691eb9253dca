/** Decodes and scores, one picture after the other; open-nsfw.js is its other end. */
import * as ort from "./vendor/ort.wasm.min.js";
import { PictureError } from "./decode/errors.js";
import { decode, fromImageData } from "./decode/index.js";
import { jpegOf } from "./preview.js";

const RUNTIME = {
  mjs: new URL("./vendor/ort-wasm-simd-threaded.js", import.meta.url).href,
  wasm: new URL("./vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};
const INPUT = "image", SCORES = "predictions", CELLS = "cells", BIASES = "biases";
const PREPARED = "input"; // what Caffe's `data` blob holds, for tests

let session;
let queue = Promise.resolve();

onmessage = ({ data: { id, load: settings, classify: picture, options } }) => {
  const work = settings
    ? () => load(settings, (...progress) => postMessage({ id, progress }))
    : () => classify(picture, options);
  queue = queue.then(work).then(
    (result) => postMessage({ id, result }),
    (error) => {
      const code = error instanceof PictureError ? error.code : undefined; // others' are numbers
      postMessage({ id, error: { message: String(error.message), code } });
    },
  );
};

async function load({ base, threads }, onProgress) {
  const info = await (await get(new URL("model.json", base))).json();
  const total = info.bytes + info.runtime_bytes;
  const loaded = [0, 0];
  const download = (url, index, size, sha256) =>
    bytesOf(url, size, sha256, (count) => {
      loaded[index] = count;
      onProgress(loaded[0] + loaded[1], total);
    });
  const [model, runtime] = await Promise.all([
    download(new URL(info.file, base), 0, info.bytes, info.sha256),
    download(RUNTIME.wasm, 1, info.runtime_bytes, info.runtime_sha256),
  ]);
  Object.assign(ort.env.wasm, { wasmPaths: RUNTIME, wasmBinary: runtime.buffer, numThreads: threads });
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  ort.env.wasm.wasmBinary = undefined;
  return { ...info, threads };
}

async function get(url, cache = "default") {
  const response = await fetch(url, { cache }).catch(() => null);
  if (!response?.ok) {
    const reason = response ? `status ${response.status}` : "no connection";
    throw new Error(`${new URL(url).pathname} could not be loaded: ${reason}`);
  }
  return response;
}

/** A file, which must be the one that model.json describes. */
async function bytesOf(url, size, sha256, onProgress) {
  for (const cache of ["default", "reload"]) { // the first may be an older one
    const bytes = await received(await get(url, cache), size, onProgress);
    if (bytes && await hasSum(bytes, sha256)) return bytes;
  }
  throw new Error(`${new URL(url).pathname} is not the file that model.json describes`);
}

async function received(response, size, onProgress) {
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return at === size ? bytes : null;
    if (at + value.length > size) {
      await reader.cancel();
      return null;
    }
    bytes.set(value, at);
    at += value.length;
    onProgress(at);
  }
}

async function hasSum(bytes, sha256) {
  if (!globalThis.crypto?.subtle) return true; // not in pages by plain HTTP
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return sha256 === Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function classify(picture, { preview, prepared }) {
  const times = { start: performance.now() };
  const { format, data, width, height, channels } = await pixelsOf(picture);
  times.decoded = performance.now();
  const tensor = new ort.Tensor("uint8", data, [1, height, width, channels]);
  const names = [SCORES, CELLS, BIASES, ...(prepared ? [PREPARED] : [])];
  const output = await session.run({ [INPUT]: tensor }, names);
  times.scored = performance.now();
  const [sfw, nsfw] = output[SCORES].data;
  const result = {
    sfw,
    nsfw,
    ...contributions(output[CELLS], output[BIASES].data),
    format,
    width,
    height,
    milliseconds: { decode: times.decoded - times.start, score: times.scored - times.decoded },
  };
  if (prepared) result.prepared = output[PREPARED].data.slice();
  for (const value of Object.values(output)) value.dispose();
  if (preview) result.preview = await jpegOf({ data, width, height, channels }, preview);
  return result;
}

async function pixelsOf(picture) {
  if (picture instanceof ImageData) return fromImageData(picture);
  if (picture instanceof Blob) return decode(new Uint8Array(await contentOf(picture)));
  if (picture instanceof ArrayBuffer) return decode(new Uint8Array(picture));
  return decode(new Uint8Array(picture.buffer, picture.byteOffset, picture.byteLength));
}

async function contentOf(blob) {
  try {
    return await blob.arrayBuffer();
  } catch {
    throw new PictureError("the file cannot be read: was it moved, changed or removed?");
  }
}

/** What each place adds to the log-odds of NSFW; their sum, with `bias`, is the log-odds. */
function contributions({ data, dims }, biases) {
  const places = dims[2] * dims[3];
  const cells = new Float32Array(places);
  for (let at = 0; at < places; at += 1) cells[at] = (data[places + at] - data[at]) / places;
  return { cells, bias: biases[1] - biases[0] };
}
