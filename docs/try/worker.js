// The worker of an exported page: translates what is drawn as predict.py does, on the machine of whoever draws.
"use strict";
let told, session;

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const even = x => {  // rounded as Python and torch do
  const near = Math.round(x);
  return near - x === .5 && near % 2 ? near - 1 : near;
};

// Files: kept by the browser, where it keeps any; one of another length than the page tells is fetched anew

async function file({file, bytes}, tell) {
  const url = new URL(file, location).href;
  let store = null, response = null;
  try {
    store = await caches.open("pix2pix");
    response = await store.match(url);
    if (response && (await response.clone().blob()).size !== bytes) response = null;
  } catch {}  // no https, or storage is switched off
  if (!response) response = await fetch(url).catch(() => null);
  if (!response || !response.ok)
    throw new Error(`${file} does not come (${response ? response.status : "no answer"}): is the whole folder there?`);
  const data = new Uint8Array(bytes), reader = response.clone().body.getReader();
  let n = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (n + part.value.length <= bytes) data.set(part.value, n);
    n += part.value.length;
    tell(part.value.length);
  }
  if (n !== bytes) throw new Error(`${file} has ${n} bytes of ${bytes}: upload the folder again, or reload the page`);
  if (store) await store.put(url, new Response(data)).catch(() => {});  // the disk may be full
  return data;
}

async function forget(files) {  // of older versions of this page
  try {
    const store = await caches.open("pix2pix"), folder = new URL(".", location).href;
    for (const {url} of await store.keys()) {
      const name = url.startsWith(folder) ? url.slice(folder.length) : "";
      if (name && !name.includes("/") && !files.includes(name)) await store.delete(url);  // of folders within: theirs
    }
  } catch {}
}

// What runs the network: its script, its module (addresses) and its WebAssembly (bytes)

async function fromHere(runtime, tell) {
  const {buffer} = await file(runtime, tell);
  return {script: runtime.script, module: new URL(runtime.module, location).href, wasm: buffer};
}

async function fromElsewhere({script, module, file, integrity}) {  // the browser checks what comes, and keeps it
  const get = async (url, integrity) => {
    const response = await fetch(url, {integrity}).catch(() => null);
    if (!response || !response.ok)
      throw new Error(`${url} does not come, or is another file than this page was made with: nothing of it was run.`);
    return response.arrayBuffer();
  };
  const [first, second, wasm] = await Promise.all([
    get(script, integrity.script), get(module, integrity.module), get(file, integrity.file)]);
  const code = bytes => URL.createObjectURL(new Blob([bytes], {type: "text/javascript"}));
  return {script: code(first), module: code(second), wasm};
}

async function load({model, runtime, network}) {
  told = network;
  let done = 0;
  const tell = n => postMessage({progress: (done += n) / (model.bytes + (runtime.bytes || 0))});
  const parts = runtime.integrity ? fromElsewhere(runtime) : fromHere(runtime, tell);
  const [{script, module, wasm}, weights] = await Promise.all([parts, file(model, tell)]);
  forget([runtime.file, model.file]);
  try {
    importScripts(script);
  } catch {
    throw new Error(`${runtime.script} does not come: is the whole folder there?`);
  }
  const threads = self.crossOriginIsolated ? clamp(navigator.hardwareConcurrency || 1, 1, 4) : 1;
  Object.assign(ort.env.wasm, {numThreads: threads, wasmBinary: wasm,
    wasmPaths: {mjs: module, wasm: new URL(runtime.file, location).href}});
  if (runtime.webgpu && await hasGpu())
    try {
      session = await ort.InferenceSession.create(weights, {executionProviders: ["webgpu"]});
      return "WebGPU";
    } catch {}
  session = await ort.InferenceSession.create(weights, {executionProviders: ["wasm"]});
  return `wasm, ${threads} thread${threads > 1 ? "s" : ""}`;
}

async function hasGpu() {  // one of software takes a minute for a picture
  const adapter = navigator.gpu && await navigator.gpu.requestAdapter();
  return adapter && !(adapter.info && adapter.info.isFallbackAdapter);
}

// Sizes, as in pairs/geometry.py

function networkSize(w, h) {
  const {sizes, resize, load_size: load, crop} = told;
  if (!sizes) return crop || [w, h];
  const aspect = w / h, shorter = Math.min(w, h);
  const near = clamp(aspect, ...sizes.aspect), short = clamp(shorter, ...sizes.shorter);
  const like = near === aspect && short === shorter ? [w, h] : near >= 1 ? [short * near, short] : [short, short / near];
  const whole = resize === "stretch" ? crop : resize === "none" ? like
    : like.map(side => Math.max(1, even(side * load / Math.min(...like))));
  return [w, h].map((side, i) => Math.max(1, even(side * whole[i] / like[i])));
}

const cubic = x => {  // Pillow's, and torch's with antialias
  x = Math.abs(x);
  return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-.5 * x + 2.5) * x - 4) * x + 2 : 0;
};

function weights(old, size, how) {  // of each new pixel: the first old one, and how much it and those behind it count
  const step = old / size, found = [];
  let centre = step / 2;
  for (let i = 0; i < size; i++, centre += step) {
    let first, all;
    if (how === "nearest") [first, all] = [Math.min(old - 1, Math.floor(centre)), [1]];
    else if (how === "bicubic") {
      const wide = Math.max(1, step), middle = (i + .5) * step;
      first = Math.max(0, Math.trunc(middle - 2 * wide + .5));
      const end = Math.min(old, Math.trunc(middle + 2 * wide + .5));
      all = Array.from({length: end - first}, (_, j) => cubic((first + j - middle + .5) / wide));
    } else if (step > 1) {  // the mean of an area
      first = Math.floor(i * step + 1e-9);
      const end = Math.min(old, Math.ceil((i + 1) * step - 1e-9));
      all = Array.from({length: end - first}, (_, j) =>
        Math.min(first + j + 1, (i + 1) * step) - Math.max(first + j, i * step));
    } else {
      const at = clamp((i + .5) * step - .5, 0, old - 1);
      first = Math.floor(at);
      all = at > first ? [1 - (at - first), at - first] : [1];
    }
    const sum = all.reduce((a, b) => a + b);
    found.push([first, all.map(weight => weight / sum)]);
  }
  return found;
}

function stage({data, w, h, c}, width, height, how, whole) {
  const across = weights(w, width, how), down = weights(h, height, how);
  const rows = new Float32Array(h * width * c), made = new Float32Array(height * width * c);
  const bytes = whole && how === "bicubic";  // Pillow's are bytes between the axes too, and round halves up
  for (let y = 0; y < h; y++)
    across.forEach(([first, all], x) => {
      for (let k = 0; k < c; k++) {
        let sum = 0;
        for (let j = 0; j < all.length; j++) sum += all[j] * data[(y * w + first + j) * c + k];
        rows[(y * width + x) * c + k] = bytes ? clamp(Math.floor(sum + .5), 0, 255) : sum;
      }
    });
  const n = width * c;
  down.forEach(([first, all], y) => {
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (let j = 0; j < all.length; j++) sum += all[j] * rows[(first + j) * n + i];
      made[y * n + i] = whole ? clamp(bytes ? Math.floor(sum + .5) : even(sum), 0, 255) : sum;
    }
  });
  return {data: made, w: width, h: height, c};
}

function resize(image, width, height, how, whole) {  // whole: the numbers are those of 8 bits, and stay so
  if (image.w === width && image.h === height) return image;
  if (how === "linear") {  // one axis may shrink while the other grows
    const [w, h] = [Math.min(image.w, width), Math.min(image.h, height)];
    if (w !== image.w || h !== image.h) image = stage(image, w, h, how, whole);
    if (w === width && h === height) return image;
  }
  return stage(image, width, height, how, whole);
}

function padded(length) {  // the old pixel at each place, reflected at both ends
  const missing = Math.max((told.multiple - length % told.multiple) % told.multiple, told.smallest - length, 0);
  const before = Math.floor(missing / 2), period = Math.max(1, 2 * (length - 1));
  const index = Int32Array.from({length: length + missing}, (_, i) => {
    const at = ((i - before) % period + period) % period;
    return at < length ? at : period - at;
  });
  return {index, before};
}

// The network

async function translate({data, width, height}) {
  const c = told.in_channels, n = width * height, x = new Float32Array(n * c), limits = told.x_limits;
  for (let i = 0, to = 0; i < 4 * n; i += 4) {
    let colour = [data[i], data[i + 1], data[i + 2]];
    if (limits) colour = colour.map(value => clamp((value - limits[0]) / (limits[1] - limits[0]), 0, 1) * 255);
    const [r, g, b] = colour;
    if (c === 1) colour = [limits ? r * .299 + g * .587 + b * .114 : (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16];
    for (const value of colour) x[to++] = value;
  }
  const [w, h] = networkSize(width, height), how = told.x_is_label ? "nearest" : told.interpolation;
  const image = resize({data: x, w: width, h: height, c}, w, h, how, !told.x_limits);
  const across = padded(w), down = padded(h), [W, H] = [across.index.length, down.index.length];
  if (W * H > 2048 * 2048 || Math.max(W, H) > 4096)
    throw new Error(`the network would see ${W}×${H} pixels, too many for a browser: take predict.py`);
  const input = new Float32Array(c * H * W);
  for (let k = 0, to = 0; k < c; k++)
    for (const y of down.index)
      for (const x of across.index) input[to++] = image.data[(y * w + x) * c + k] / 127.5 - 1;
  const {y_fake: {data: made}} = await session.run({x: new ort.Tensor("float32", input, [1, c, H, W])});
  const C = told.out_channels, cropped = new Float32Array(C * h * w);
  for (let y = 0, to = 0; y < h; y++)
    for (let x = 0; x < w; x++)
      for (let k = 0; k < C; k++) cropped[to++] = made[(k * H + y + down.before) * W + x + across.before];
  const y = resize({data: cropped, w, h, c: C}, width, height, told.y_is_label ? "nearest" : "linear", false);
  return colours(y.data, n, C);
}

function colours(data, n, c) {  // RGBA of numbers in [-1, 1]
  const most = told.kind === "uint16" ? 65535 : 255, [low, high] = told.y_limits || [0, most];
  const rgba = new Uint8ClampedArray(4 * n).fill(255);
  for (let i = 0; i < n; i++)
    for (let k = 0; k < 3; k++) {
      const value = even((data[i * c + Math.min(k, c - 1)] + 1) * (high - low) / 2 + low);
      rgba[4 * i + k] = even(clamp(value, Math.max(low, 0), Math.min(high, most)) * 255 / most);
    }
  return rgba;
}

onmessage = async ({data}) => {
  try {
    if (data.model) postMessage({ready: await load(data)});
    else {
      const made = await translate(data);
      postMessage({made}, [made.buffer]);
    }
  } catch (error) {
    postMessage({error: error.message || String(error)});
  }
};
