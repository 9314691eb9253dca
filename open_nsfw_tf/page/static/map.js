/** The map of what each place of a picture adds to its score, as SVG. */

// As `open-nsfw explain` draws it: in full colour from this much of log-odds on.
const FULL = 0.5;
const OPACITY = 0.75;
const RAISES = "rgb(213 94 0)", LOWERS = "rgb(0 114 178)";
const UNSEEN = "rgb(128 128 128 / .6)";
// The network sees the middle 224 of 256 pixels: 14 of 16 parts, in 7 x 7 places.
const SIDE = 16, EDGE = 1, CELLS = 7, STEP = 2;
const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** @param {Float32Array} cells 7 x 7 places, row by row. */
export function mapOf(cells) {
  const map = shape("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const end = SIDE - EDGE;
  map.append(shape("path", {
    d: `M0 0H${SIDE}V${SIDE}H0ZM${EDGE} ${EDGE}V${end}H${end}V${EDGE}Z`,
    fill: UNSEEN,
  }));
  cells.forEach((value, index) => {
    map.append(shape("rect", {
      x: EDGE + STEP * (index % CELLS),
      y: EDGE + STEP * Math.floor(index / CELLS),
      width: STEP,
      height: STEP,
      fill: value > 0 ? RAISES : LOWERS,
      "fill-opacity": (OPACITY * Math.min(1, Math.abs(value) / FULL)).toFixed(3),
    }));
  });
  return map;
}
