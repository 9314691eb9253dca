/**
 * Yahoo's Open-NSFW in the browser, with Caffe's scores: nothing is uploaded.
 *
 *     import { OpenNsfw } from "./open-nsfw.js";
 *     const model = await OpenNsfw.load();
 *     const { nsfw } = await model.classify(file);
 *
 * Pictures are decoded and scored in a worker, so that the page stays responsive.
 */
import { PictureError } from "./decode/errors.js";

export { PictureError };

export class OpenNsfw {
  #worker;
  #waiting = new Map();
  #next = 0;

  /**
   * @param {object} [options]
   * @param {string | URL} [options.base] the folder of `model.json` and `model.onnx`;
   *   without it, that of this module.
   * @param {number} [options.threads] of the computation; more than one only in pages
   *   that are isolated (COOP and COEP). Without it: up to four.
   * @param {(loaded: number, total: number) => void} [options.onProgress] bytes of the
   *   download.
   * @returns {Promise<OpenNsfw>}
   * @throws {Error} something could not be loaded.
   */
  static async load({ base = new URL("./", import.meta.url), threads, onProgress } = {}) {
    const model = new OpenNsfw();
    const most = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    const options = {
      base: new URL(base, globalThis.document?.baseURI ?? import.meta.url).href,
      threads: Math.max(1, Math.min(threads ?? 4, most)),
    };
    try {
      model.info = await model.#ask({ load: options }, onProgress);
    } catch (error) {
      model.close();
      throw error;
    }
    return model;
  }

  /** Use `OpenNsfw.load()`. */
  constructor() {
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#answer(data);
    this.#worker.onerror = (event) => {
      const reason = event.message || "its files could not be loaded";
      this.#fail(new Error(`the worker has stopped: ${reason}`));
    };
  }

  /**
   * @param {Blob | ArrayBuffer | ArrayBufferView | ImageData} picture a file, its bytes,
   *   or pixels.
   * @param {object} [options]
   * @param {number} [options.preview] pixels of the longer side of a small JPEG of what
   *   was scored, to be returned too.
   * @returns {Promise<object>} see open-nsfw.d.ts.
   * @throws {PictureError} it cannot be read, or not exactly.
   */
  async classify(picture, options = {}) {
    const kinds = [Blob, ArrayBuffer, ImageData];
    if (!ArrayBuffer.isView(picture) && !kinds.some((kind) => picture instanceof kind)) {
      throw new TypeError("expected a Blob, a File, bytes or an ImageData");
    }
    return this.#ask({ classify: picture, options });
  }

  /** End the worker, and free its memory. */
  close() {
    this.#worker.terminate();
    this.#fail(new Error("the model was closed"));
  }

  #ask(request, onProgress) {
    if (this.failed) return Promise.reject(this.failed);
    return new Promise((resolve, reject) => {
      this.#next += 1;
      this.#waiting.set(this.#next, { resolve, reject, onProgress });
      this.#worker.postMessage({ id: this.#next, ...request });
    });
  }

  #answer({ id, result, error, progress }) {
    const { resolve, reject, onProgress } = this.#waiting.get(id);
    if (progress) {
      onProgress?.(...progress);
      return;
    }
    this.#waiting.delete(id);
    if (!error) resolve(result);
    else reject(error.code ? new PictureError(error.message, error.code) : new Error(error.message));
  }

  #fail(error) {
    this.failed ??= error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
