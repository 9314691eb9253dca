/** The list as the table of scores that `open-nsfw` reads, as CSV. */

const COLUMNS = ["path", "sfw", "nsfw", "error", "label"];
const LIKELY = 0.5;

/**
 * @param {{name: string, sfw: ?number, nsfw: ?number, error: ?string, wrong: boolean}[]}
 *   pictures those without a score and without an error yet are left out.
 * @param {boolean} othersAreRight whether unmarked pictures get the likelier class as
 *   their label; otherwise only those marked as wrong have one, the other class.
 */
export function csvOf(pictures, othersAreRight) {
  const rows = pictures
    .filter(({ nsfw, error }) => nsfw !== null || error !== null)
    .map(({ name, sfw, nsfw, error, wrong }) =>
      [name, sfw ?? "", nsfw ?? "", error ?? "", label(nsfw, wrong, othersAreRight)]);
  return [COLUMNS, ...rows].map((row) => `${row.map(quoted).join(",")}\n`).join("");
}

function label(nsfw, wrong, othersAreRight) {
  if (nsfw === null || !(wrong || othersAreRight)) return "";
  return (nsfw >= LIKELY) !== wrong ? "nsfw" : "sfw";
}

function quoted(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
