// Scores JPEGs by the file of `open-nsfw export onnx nsfw.onnx --input picture`, in node.
//
// npm install onnxruntime-node jpeg-js
// node classify_onnx.cjs nsfw.onnx photo.jpg ...
const fs = require("fs");
const path = require("path");
const { createRequire } = require("module");
const here = createRequire(path.join(process.cwd(), "package.json"));
const ort = here(process.env.ORT || "onnxruntime-node"); // or onnxruntime-web
const jpeg = here("jpeg-js");

async function main([model, ...files]) {
  const session = await ort.InferenceSession.create(model);
  for (const file of files) {
    const { width, height, data } = jpeg.decode(fs.readFileSync(file), { useTArray: true });
    const image = new ort.Tensor("uint8", data, [1, height, width, 4]); // RGBA
    const { predictions } = await session.run({ image });
    console.log(JSON.stringify({ path: file, nsfw: predictions.data[1] }));
  }
}

main(process.argv.slice(2));
