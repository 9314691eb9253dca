/** One picture of the list: its data, and how it is shown. */
import { mapOf } from "./map.js";

const DECISIONS = { accept: "accept", review: "review", block: "block", error: "no score", pending: "waiting" };

const element = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};

export class Card {
  state = "pending";
  wrong = false;
  removed = false;
  sendable = false;
  nsfw = null;
  sfw = null;
  error = null;
  cells = null;
  decided = null;

  /**
   * @param {string} name of the picture.
   * @param {{changed: () => void, remove: (card: Card) => void, send: () => void}} on
   *   what its buttons do.
   */
  constructor(name, on) {
    this.name = name;
    const button = (text, properties) => element("button", { type: "button", textContent: text, ...properties });
    this.frame = button("", { className: "frame", ariaPressed: "false", disabled: true });
    this.frame.append(element("span", { className: "empty", textContent: "…" }));
    this.frame.addEventListener("click", () => {
      this.frame.ariaPressed = String(this.frame.ariaPressed !== "true");
    });
    this.score = element("span", { className: "score" });
    this.decision = element("span", { className: "decision" });
    this.level = element("i");
    this.facts = element("p", { className: "facts" });
    this.mark = button("Wrong", { ariaPressed: "false", hidden: true, title: "The likelier class is wrong" });
    this.mark.setAttribute("aria-label", `Wrong: the score of ${name}`);
    this.mark.addEventListener("click", () => {
      this.wrong = !this.wrong;
      this.mark.ariaPressed = String(this.wrong);
      on.changed();
    });
    this.sender = button("Send to the server", { hidden: true });
    this.sender.addEventListener("click", on.send);
    const remover = button("Remove", { className: "remove" });
    remover.setAttribute("aria-label", `Remove ${name}`);
    remover.addEventListener("click", () => on.remove(this));
    const meter = element("div", { className: "meter" }, this.level);
    meter.setAttribute("aria-hidden", "true");
    const body = element(
      "div",
      { className: "body" },
      element("h3", { className: "name", textContent: name, title: name }),
      element("div", { className: "verdict" }, this.score, this.decision),
      meter,
      this.facts,
      element("div", { className: "actions" }, this.mark, this.sender, remover),
    );
    this.node = element("li", { className: "card pending" }, this.frame, body);
  }

  wait(words) {
    [this.state, this.error] = ["pending", null];
    this.sender.hidden = true;
    this.facts.textContent = words;
  }

  succeed({ sfw, nsfw, cells, format, width, height, milliseconds, preview, server }) {
    Object.assign(this, { state: "scored", sfw, nsfw, cells: cells ?? null, error: null });
    this.score.textContent = nsfw.toFixed(4);
    this.level.style.width = `${100 * nsfw}%`;
    this.mark.hidden = false;
    this.sender.hidden = true;
    const time = milliseconds && Math.round(milliseconds.decode + milliseconds.score);
    this.facts.textContent = server
      ? "scored by the server"
      : `${format}, ${width} × ${height}, ${time} ms`;
    if (preview) this.show(preview, width, height);
    else this.frame.firstChild.textContent = "no preview";
  }

  show(preview, width, height) {
    this.url = URL.createObjectURL(preview);
    const image = element("img", { loading: "lazy", src: this.url, alt: "", decoding: "async" });
    this.box = element("span", { className: `picture ${width * 3 >= height * 4 ? "wide" : "tall"}` }, image);
    this.box.style.aspectRatio = `${width} / ${height}`;
    this.frame.replaceChildren(this.box);
    this.frame.setAttribute("aria-label", `${this.name}: show it without blur`);
    this.frame.disabled = false;
  }

  fail(message, sendable) {
    Object.assign(this, { state: "failed", error: message, sendable });
    this.facts.textContent = message;
    this.sender.hidden = !sendable;
    this.frame.firstChild.textContent = "no preview";
  }

  /** Show the decision by two thresholds, and return it. */
  decide(low, high) {
    let decision = { pending: "pending", failed: "error" }[this.state];
    decision ??= this.nsfw < low ? "accept" : this.nsfw < high ? "review" : "block";
    if (decision !== this.decided) {
      this.decided = decision;
      this.node.className = `card ${decision}`;
      this.decision.textContent = DECISIONS[decision];
    }
    return decision;
  }

  /** Draw the map when it is first wanted, and take it away when it no longer is. */
  drawMap(wanted) {
    const drawn = this.box?.querySelector("svg");
    if (wanted && !drawn && this.cells) this.box?.append(mapOf(this.cells));
    if (!wanted) drawn?.remove();
  }

  dispose() {
    this.removed = true;
    this.node.remove();
    if (this.url) URL.revokeObjectURL(this.url);
  }
}
