const SAMPLES = 4; // of a side, that are averaged for a pixel of the preview
const QUALITY = 0.85;

/**
 * A small JPEG of decoded pixels: what was scored, not what the browser would show.
 *
 * @param {{data: Uint8Array, width: number, height: number, channels: number}} picture
 * @param {number} side the most pixels of a side.
 * @returns {Promise<Blob>}
 */
export async function jpegOf({ data, width, height, channels }, side) {
  const factor = Math.min(1, side / Math.max(width, height));
  const [wide, high] = [width, height].map((length) => Math.max(1, Math.round(length * factor)));
  const image = new ImageData(wide, high);
  const [columns, rows] = [samples(width, wide), samples(height, high)];
  const [across, down] = [columns.length / wide, rows.length / high];
  for (let y = 0, to = 0; y < high; y += 1) {
    for (let x = 0; x < wide; x += 1, to += 4) {
      let red = 0, green = 0, blue = 0;
      for (let j = 0; j < down; j += 1) {
        const row = rows[y * down + j] * width;
        for (let i = 0; i < across; i += 1) {
          const from = channels * (row + columns[x * across + i]);
          red += data[from];
          green += data[from + 1];
          blue += data[from + 2];
        }
      }
      const count = across * down;
      image.data.set([red / count, green / count, blue / count, 255], to);
    }
  }
  const canvas = new OffscreenCanvas(wide, high);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
}

/** Which places of a side are looked at, for each of fewer places. */
function samples(length, count) {
  const each = Math.min(SAMPLES, Math.max(1, Math.floor(length / count)));
  const step = length / (count * each);
  return Uint32Array.from({ length: count * each }, (_, at) => Math.floor((at + 0.5) * step));
}
