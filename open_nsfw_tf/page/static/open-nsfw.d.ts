/** What classify() answers. */
export interface Result {
  /** Probability, 0 to 1, that the picture is safe; 1 - nsfw. */
  sfw: number;
  /** Probability, 0 to 1, that the picture is pornographic. */
  nsfw: number;
  /**
   * What each of 7 x 7 places of the picture, row by row, adds to the log-odds of nsfw.
   * The places cover the middle 14/16 of each side, which is what the network sees.
   */
  cells: Float32Array;
  /** The log-odds without any place: bias + sum(cells) = log(nsfw / sfw). */
  bias: number;
  /** "JPEG", "PNG", ...; "pixels" of an ImageData. */
  format: string;
  /** Pixels, as stored in the file: EXIF orientation is ignored. */
  width: number;
  height: number;
  milliseconds: { decode: number; score: number };
  /** A small JPEG of what was scored; only if options.preview was given. */
  preview?: Blob;
}

/** What was loaded. */
export interface Info {
  precision: "float32" | "int8";
  /** Whether scores are Caffe's, within 5e-6. */
  exact: boolean;
  /** Of open_nsfw_tf. */
  version: string;
  /** Whether it came from `open-nsfw serve`, to which the page may send pictures. */
  server: boolean;
  threads: number;
}

/** A picture that gets no score. */
export declare class PictureError extends Error {
  /**
   * "unsupported": the file may be good, but is not decoded here to the very same pixels;
   * "too_large": more than 100 million pixels, or than memory has room for.
   */
  readonly code: "broken" | "unsupported" | "too_large";
}

export interface LoadOptions {
  /** The folder of model.json and model.onnx; without it, that of the module. */
  base?: string | URL;
  /** Of the computation; more than one only in isolated pages (COOP and COEP). */
  threads?: number;
  /** Bytes of the download, while it goes on. */
  onProgress?: (loaded: number, total: number) => void;
}

export interface ClassifyOptions {
  /** Pixels of the longer side of a small JPEG of what was scored. */
  preview?: number;
}

export declare class OpenNsfw {
  private constructor();
  /** Load the model into a worker. Rejects with an Error if a file cannot be loaded. */
  static load(options?: LoadOptions): Promise<OpenNsfw>;
  readonly info: Info;
  /**
   * Score a picture: a file, its bytes, or pixels. Pixels of a canvas are not always
   * those of the file that was drawn: prefer the file.
   *
   * Rejects with a PictureError if the picture cannot be read, or not exactly.
   */
  classify(
    picture: Blob | ArrayBuffer | ArrayBufferView | ImageData,
    options?: ClassifyOptions,
  ): Promise<Result>;
  /** End the worker, and free its memory. */
  close(): void;
}
