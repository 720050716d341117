"use strict";
// Sampling from the model embedded in the page: DDIM with a table of coefficients; onnxruntime-web runs the network.

/** Sample an image. `network(x, label, kind, way)` -> y, with x and y Float32Arrays of one image; see export/web.py.
 *  `watch(x0, k)` is called after each step. */
async function denoise(network, table, noise, kind, watch) {
  const [[scale], ...steps] = table;
  let x = noise.map((value) => value * scale);
  for (const [k, [cIn, label, p, q, alpha, sigma, alphaS, sigmaS, ...way]] of steps.entries()) {
    const y = await network(x.map((value) => cIn * value), label, kind, way), limit = way.length && sigmaS ? Infinity : 1;
    const x0 = new Float32Array(x.length), next = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) {
      x0[i] = Math.min(limit, Math.max(-limit, p * x[i] + q * y[i]));
      next[i] = alphaS * x0[i] + (sigmaS * (x[i] - alpha * x0[i])) / sigma;
    }
    x = next;
    await watch(x0, k + 1);
  }
  return x;
}

async function unpacked(name) {
  const bytes = Uint8Array.from(atob(document.getElementById(`packed-${name}`).textContent), (byte) => byte.charCodeAt());
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Load the embedded network as a function. */
async function openNetwork(found) {
  const module = new Blob([await unpacked("runtime")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(module));
  ort.env.wasm.numThreads = 1; // more threads need HTTP headers, which a local file does not have
  ort.env.wasm.wasmBinary = await unpacked("machine");
  const session = await ort.InferenceSession.create(await unpacked("network"), { executionProviders: ["wasm"] });
  return async (x, label, kind, way) => {
    const inputs = { x: new ort.Tensor("float32", x, [1, ...found.shape]), label: new ort.Tensor("float32", [label], [1]) };
    if (found.classes.length) inputs.classes = new ort.Tensor("int64", [BigInt(kind)], [1]);
    if (way.length) inputs.augment = new ort.Tensor("float32", way, [1, way.length]);
    return (await session.run(inputs)).y.data;
  };
}

const form = document.getElementById("drawing"), model = JSON.parse(form.dataset.model), { seed, n, steps, kind } = form.elements;
const [channels, height, width] = model.shape, said = document.querySelector("[role=status]");
let opened = null; // the network (a promise), once requested
let turn = 0, drawn = Promise.resolve(); // the latest request; the end of the one before

function paint(canvas, x) {
  const pen = canvas.getContext("2d"), image = pen.createImageData(width, height);
  const byte = (i, c) => Math.round((x[c * height * width + i] + 1) * 127.5);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = byte(i, channels < 3 ? 0 : c);
    image.data[4 * i + 3] = channels === 4 ? byte(i, 3) : 255; // composited over the canvas's white background
  }
  pen.putImageData(image, 0, 0);
}

form.onsubmit = (event) => {
  event.preventDefault();
  const mine = ++turn;
  drawn = drawn.then(() => draw(() => mine !== turn));
};
if (location.hash === "#draw") // by itself, once it is seen
  new IntersectionObserver(([at], self) => at.isIntersecting && (self.disconnect(), form.requestSubmit())).observe(form);
if ("1" in model.tables) seed.oninput = () => form.checkValidity() && form.requestSubmit(); // fast enough to follow

async function draw(outdated) {
  const button = form.querySelector("button"), total = Number(n.value), table = model.tables[steps.value], began = performance.now();
  const look = `width: ${width * Math.max(1, Math.floor(160 / width))}px; flex: none; background: #fff`;
  const canvases = Array.from({ length: total }, (_, i) => h("canvas", { width, height, role: "img", "aria-label": `Picture ${i + 1}`, style: look }));
  button.disabled = true;
  form.parentElement.querySelector(".pair").replaceChildren(...canvases);
  try {
    said.textContent = "loading the network …";
    const network = await (opened ??= openNetwork(model));
    for (const [i, canvas] of canvases.entries()) {
      if (outdated()) return;
      const noise = gaussian(Number(seed.value) * 1000 + i, channels * height * width);
      paint(canvas, await denoise(network, table, noise, Number(kind.value), async (x0, k) => {
        paint(canvas, x0);
        said.textContent = `picture ${i + 1} of ${total}, step ${k} of ${table.length - 1}`;
        await new Promise((wake) => setTimeout(wake)); // let the browser paint
      }));
    }
    said.textContent = `${total} in ${((performance.now() - began) / 1000).toPrecision(3)} s`;
  } catch (error) {
    said.textContent = `This browser cannot draw (${error.message}); Chrome 91, Firefox 113, Safari 16.4 and newer ones can.`;
  }
  button.disabled = false;
}
