/** A picture that gets no score, with the reason in words for its owner. */
export class PictureError extends Error {
  /**
   * @param {string} message one line.
   * @param {"broken" | "unsupported" | "too_large"} code "unsupported": the file may be
   *   good, but this module cannot decode it to the very pixels that Pillow does.
   */
  constructor(message, code = "broken") {
    super(message);
    this.name = "PictureError";
    this.code = code;
  }
}

/** The most pixels of a picture: its copies must fit into WebAssembly's memory. */
export const MAX_PIXELS = 100_000_000;

/** Refuse a size before anything of it is allocated. */
export function checkSize(width, height) {
  if (!(width >= 1 && height >= 1)) {
    throw new PictureError(`expected at least 1 x 1 pixels, got ${width} x ${height}`);
  }
  if (width * height > MAX_PIXELS) {
    throw new PictureError(
      `${width} x ${height} pixels are more than the limit of ${MAX_PIXELS / 1e6} million`,
      "too_large",
    );
  }
}
