/**
 * Keeps the page for use without a network: every file of precache.js, each with the
 * SHA-256 that stands there, so that files of two versions never mix.
 */
importScripts("precache.js");

const PREFIX = `open-nsfw ${registration.scope} `;
const NAME = PREFIX + PRECACHE.version;
// With these the browser lets the page compute in several threads, on any host.
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

async function sha256(buffer) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", buffer));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function keep(cache, name, sum) {
  const url = new URL(name, registration.scope).href;
  for (const mode of ["default", "reload"]) { // the first may be of another version
    const response = await fetch(url, { cache: mode });
    if (!response.ok) continue;
    const headers = new Headers(response.headers);
    headers.delete("Content-Encoding"); // the body is kept as it is decoded
    const body = await response.arrayBuffer();
    if (await sha256(body) !== sum) continue;
    return cache.put(url, new Response(body, { headers }));
  }
  throw new Error(`${name} is not the file that precache.js describes`);
}

async function install() {
  const cache = await caches.open(NAME);
  for (const [name, sum] of Object.entries(PRECACHE.files)) {
    if (!(await cache.match(new URL(name, registration.scope).href))) await keep(cache, name, sum);
  }
}

async function removeOthers() {
  for (const name of await caches.keys()) {
    if (name.startsWith(PREFIX) && name !== NAME) await caches.delete(name);
  }
}

async function answer(request) {
  const url = new URL(request.url);
  const page = new URL("./", registration.scope).pathname === url.pathname;
  const wanted = page ? new URL("index.html", registration.scope).href : url.href;
  const kept = await (await caches.open(NAME)).match(wanted, { ignoreSearch: true });
  if (!kept) return fetch(request);
  const headers = new Headers(kept.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(kept.body, { headers });
}

addEventListener("install", (event) => event.waitUntil(install()));
addEventListener("activate", (event) => event.waitUntil(removeOthers()));
addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const ours = url.startsWith(registration.scope) && method === "GET";
  if (ours) event.respondWith(answer(event.request));
});
