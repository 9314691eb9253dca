// Scores JPEGs by the file of `open-nsfw export onnx nsfw.onnx --input picture`, in node.
// For Yahoo's network; the labels of other ones, in order, are in their file's metadata.
//
// npm install --ignore-scripts onnxruntime-node jpeg-js  (the scripts would fetch CUDA)
// node classify_onnx.cjs nsfw.onnx photo.jpg ...
const fs = require("fs");
const path = require("path");
const { createRequire } = require("module");
// Modules are of the folder where npm installed them, not of the one of this file.
const here = createRequire(path.join(process.cwd(), "package.json"));
const ort = here(process.env.ORT || "onnxruntime-node"); // or onnxruntime-web
const jpeg = here("jpeg-js");
// By default jpeg-js fills what a broken file lacks.
const strict = { useTArray: true, tolerantDecoding: false };

async function score(session, file) {
  const { width, height, data } = jpeg.decode(fs.readFileSync(file), strict);
  const image = new ort.Tensor("uint8", data, [1, height, width, 4]); // RGBA
  const { predictions } = await session.run({ image });
  if (predictions.data.length !== 2) throw new Error("the model is not Yahoo's");
  return predictions.data[1];
}

async function main([model, ...files]) {
  if (!files.length) throw new Error("usage: node classify_onnx.cjs MODEL JPEG...");
  const session = await ort.InferenceSession.create(model);
  for (const file of files) {
    try {
      console.log(JSON.stringify({ path: file, nsfw: await score(session, file) }));
    } catch (error) {
      fail(`${file}: ${error.message}`);
    }
  }
}

function fail(message) {
  console.error(`error: ${message}`);
  process.exitCode = 1;
}

main(process.argv.slice(2)).catch((error) => fail(error.message));
