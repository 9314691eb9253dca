/**
 * Install the packages of package-lock.json by npm, and copy what the page needs of them
 * into the Python package, each file only if it has the SHA-256 of vendor.json.
 *
 *     node web/vendor.js
 *
 * `--record` writes vendor.json anew, after a change of package.json.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const PAGE = join(HERE, "..", "open_nsfw_tf", "page");
const TARGET = join(PAGE, "static", "vendor");
const LIST = join(HERE, "vendor.json");
const NPM = process.platform === "win32" ? "npm.cmd" : "npm";

const record = process.argv.includes("--record");
const quiet = ["--ignore-scripts", "--no-audit", "--no-fund"];
execFileSync(NPM, ["ci", ...quiet], { cwd: HERE, stdio: ["ignore", "ignore", "inherit"] });

const list = JSON.parse(readFileSync(LIST, "utf8"));
const made = join(PAGE, "vendor.new"); // not in static, all of which is published
rmSync(made, { recursive: true, force: true });
mkdirSync(made, { recursive: true });
for (const [name, file] of Object.entries(list.files)) {
  const source = readFileSync(join(HERE, file.from));
  const content = Buffer.concat([source, Buffer.from(file.append ?? "")]);
  const sha256 = createHash("sha256").update(content).digest("hex");
  if (record) file.sha256 = sha256;
  if (sha256 !== file.sha256) {
    console.error(`${file.from}: expected SHA-256 ${file.sha256}, got ${sha256}`);
    process.exit(1);
  }
  writeFileSync(join(made, name), content);
}
const text = `${JSON.stringify(list, null, 2)}\n`;
if (record) writeFileSync(LIST, text);
writeFileSync(join(made, "vendor.json"), text);
rmSync(TARGET, { recursive: true, force: true });
mkdirSync(dirname(TARGET), { recursive: true }); // in a container's build only web is there
renameSync(made, TARGET);
console.log(`${Object.keys(list.files).length} files are in ${TARGET}`);
