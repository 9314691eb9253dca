// What nsfwjs itself answers for pictures: for tests/nsfwjs_golden.py.
//
// node nsfwjs_scores.cjs MODEL < JOBS, in a folder where nsfwjs and @tensorflow/tfjs are
// installed. JOBS are lines of JSON, {"name", "height", "width", "rgb": base64}, and so
// are the answers: {"name", "scores": {class: probability}}.
const path = require("path");
const { createRequire } = require("module");
const here = createRequire(path.join(process.cwd(), "package.json"));
const tf = here("@tensorflow/tfjs");
const nsfwjs = here("nsfwjs/core");
const models = {
  mobilenet_v2: ["MobileNetV2", "MobileNetV2Model", {}],
  inception_v3: ["InceptionV3", "InceptionV3Model", { size: 299 }],
};

async function main() {
  const kind = process.argv[2];
  const [name, member, options] = models[kind];
  await tf.setBackend("cpu");
  const definition = here(`nsfwjs/models/${kind}`)[member];
  const model = await nsfwjs.load(name, { ...options, modelDefinitions: [definition] });
  for await (const line of require("readline").createInterface({ input: process.stdin })) {
    const job = JSON.parse(line);
    const pixels = new Uint8Array(Buffer.from(job.rgb, "base64"));
    const picture = tf.tensor3d(pixels, [job.height, job.width, 3], "int32");
    const scores = {};
    for (const one of await model.classify(picture, 5)) {
      scores[one.className.toLowerCase()] = one.probability;
    }
    console.log(JSON.stringify({ name: job.name, scores }));
    picture.dispose();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
