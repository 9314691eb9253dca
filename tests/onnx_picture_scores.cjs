// What an ONNX Runtime of npm answers for pictures: for tests/test_onnx_picture.py.
//
// node onnx_picture_scores.cjs PACKAGE MODEL < JOBS, in a folder where the package is
// installed. JOBS are lines of JSON, {"name", "height", "width", "rgb": base64}, and so
// are the answers: {"name", "nsfw", "input": base64}; MODEL has the outputs predictions
// and input.
const fs = require("fs");
const path = require("path");
const { createRequire } = require("module");
const here = createRequire(path.join(process.cwd(), "package.json"));

async function main([name, model]) {
  const ort = here(name);
  if (ort.env.wasm) ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(fs.readFileSync(model));
  for await (const line of require("readline").createInterface({ input: process.stdin })) {
    const job = JSON.parse(line);
    const pixels = new Uint8Array(Buffer.from(job.rgb, "base64"));
    const image = new ort.Tensor("uint8", pixels, [1, job.height, job.width, 3]);
    const { predictions, input } = await session.run({ image });
    const { buffer, byteOffset, byteLength } = input.data;
    const bytes = Buffer.from(buffer, byteOffset, byteLength).toString("base64");
    console.log(JSON.stringify({ name: job.name, nsfw: predictions.data[1], input: bytes }));
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
