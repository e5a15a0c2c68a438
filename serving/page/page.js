"use strict";
const REFRESH_MS = 2000, SHOWN_SCORES = 5, IMAGE_SIGNATURE = "serving_bytes";
const $ = (id) => document.getElementById(id);
let state = { models: [], metrics_path: null }, file = null, asked = 0;

// Text only ever enters the page as text: names and messages come from elsewhere.
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
function replaceIfChanged(parent, key, make) {
  if (parent.dataset.key === key) return;
  parent.dataset.key = key;
  parent.replaceChildren(...make());
}
const chip = (text, kind) => {
  const made = element("span", { className: "state" }, text);
  made.dataset.state = kind;
  return made;
};

// Models and health
const isFailed = (version) => version.error_code !== "OK";
const kindOf = (version) => isFailed(version) ? "bad"
  : { AVAILABLE: "good", START: "busy", LOADING: "busy", UNLOADING: "busy" }[version.state] || "";

function showHealth(kind, text) {
  $("health").dataset.state = kind;
  if ($("health-text").textContent !== text) $("health-text").textContent = text;
}
function showModels() {
  const versions = state.models.flatMap((model) => model.versions);
  const failed = versions.filter(isFailed).length;
  const available = versions.filter((version) => version.state === "AVAILABLE").length;
  const count = `${available} ${available === 1 ? "version" : "versions"} available`;
  showHealth(failed ? "bad" : available ? "good" : "waiting", failed ? `${count}, ${failed} failed` : count);
  replaceIfChanged($("models"), JSON.stringify(state.models), () => state.models.map(modelCard));
}
function modelCard(model) {
  const rows = model.versions.map((version) => {
    const labels = Object.keys(model.labels).filter((label) => model.labels[label] === version.version);
    const number = element("td", {}, String(version.version));
    if (labels.length) number.append(" ", element("span", { className: "quiet" }, labels.join(", ")));
    const told = element("td", {}, chip(isFailed(version) ? "FAILED" : version.state, kindOf(version)));
    if (isFailed(version)) told.append(element("p", { className: "quiet" }, version.error_message));
    return element("tr", {}, number, told);
  });
  const head = element("tr", {}, ...["Version", "State"].map((name) => element("th", { scope: "col" }, name)));
  const caption = element("caption", { className: "hidden" }, `Versions of ${model.name}`);
  const tags = model.signatures.map((name) => element("li", {}, name));
  const list = element("ul", { className: "tags" }, ...tags);
  list.setAttribute("aria-label", "Signatures");
  return element("article", { className: "card" }, element("h3", {}, model.name),
    element("table", {}, caption, element("thead", {}, head), element("tbody", {}, ...rows)), list);
}
function showTargets() {
  const targets = state.models.filter((model) => model.signatures.includes(IMAGE_SIGNATURE))
    .flatMap((model) => [null, ...model.versions.filter((v) => v.state === "AVAILABLE").map((v) => v.version)]
      .map((version) => [model.name, version]));
  const chosen = $("target").value;
  replaceIfChanged($("target"), JSON.stringify(targets), () => targets.map(([name, version]) =>
    element("option", { value: JSON.stringify([name, version]) }, version === null ? `${name}, latest` : `${name}, version ${version}`)));
  if (targets.some((target) => JSON.stringify(target) === chosen)) $("target").value = chosen;
  const none = state.models.length > 0 && !targets.length;
  $("file").disabled = none;
  $("target").hidden = !targets.length;
  if (none) answer(element("p", { className: "quiet" }, `No model here takes image files: none has the signature ${IMAGE_SIGNATURE}.`));
}

// Asking
function answer(...children) { $("answer").replaceChildren(...children); }

function choose(chosen) {
  if (!chosen || $("file").disabled) return;
  file = chosen;
  URL.revokeObjectURL($("preview").src);
  const preview = $("preview");
  preview.onload = () => preview.classList.toggle("pixels", preview.naturalWidth < 128);
  preview.src = URL.createObjectURL(file);
  preview.alt = `The image ${file.name}`;
  preview.hidden = false;
  $("invitation").hidden = true;
  $("drop").classList.add("filled");
  $("file-name").textContent = `${file.name}, ${(file.size / 1024).toFixed(1)} KB`;
  ask();
}
const readBase64 = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});
async function ask() {
  if (!file || !$("target").value) return;
  const turn = ++asked, [name, version] = JSON.parse($("target").value);
  const path = `v1/models/${encodeURIComponent(name)}${version === null ? "" : `/versions/${version}`}:predict`;
  $("answer").setAttribute("aria-busy", "true");
  let shown;
  try {
    const body = JSON.stringify({ signature_name: IMAGE_SIGNATURE, instances: [{ b64: await readBase64(file) }] });
    const begun = performance.now();
    const response = await fetch(path, { method: "POST", body });
    const content = await response.json();
    const milliseconds = performance.now() - begun;
    if (!response.ok) throw new Error(content.error || response.statusText);
    shown = scores(content.predictions[0], state.models.find((model) => model.name === name), milliseconds, path);
  } catch (error) {
    const failure = element("p", { className: "failure" }, error.message);
    failure.setAttribute("role", "alert");
    shown = [failure];
  }
  if (turn !== asked) return;  // another image has been chosen meanwhile
  answer(...shown);
  $("answer").setAttribute("aria-busy", "false");
}
function scores(prediction, model, milliseconds, path) {
  const names = model && model.class_names.length === prediction.probabilities.length ? model.class_names : null;
  const best = prediction.probabilities.map((score, id) => [score, names ? names[id] : `class ${id}`])
    .sort(([a], [b]) => b - a).slice(0, SHOWN_SCORES);
  const rows = best.map(([score, name]) => {
    const bar = element("div", { className: "bar" });
    bar.style.width = `${100 * score}%`;
    return element("li", {}, element("span", { className: "name", title: name }, name),
      element("div", { className: "track" }, bar), element("span", { className: "number" }, `${(100 * score).toFixed(1)} %`));
  });
  const command = `printf '{"signature_name": "${IMAGE_SIGNATURE}", "instances": [{"b64": "%s"}]}' \\\n` +
    `  "$(base64 < IMAGE | tr -d '\\n')" |\n  curl ${new URL(path, location).href} -d @-`;
  return [element("p", { className: "label" }, prediction.label), element("ol", { className: "scores" }, ...rows),
    element("p", { className: "quiet" }, `Answered in ${formatTime(milliseconds * 1000)}.`),
    element("details", {}, element("summary", {}, "The same with curl"), element("pre", { tabIndex: 0 }, command))];
}

// Latency
const formatTime = (us) => us < 1000 ? `${us.toFixed(0)} µs` : us < 1e6 ? `${(us / 1000).toPrecision(3)} ms` : `${(us / 1e6).toPrecision(3)} s`;

function readHistograms(text) {
  const found = new Map();
  for (const [, pairs, value] of text.matchAll(/^:tensorflow:serving:request_latency_bucket\{(.*)\} (\S+)$/gm)) {
    const labels = Object.fromEntries([...pairs.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, k, v]) => [k, v]));
    const title = `${labels.model_name} ${labels.API || ""} ${labels.entrypoint || ""}`;
    if (!found.has(title)) found.set(title, []);
    found.get(title).push([labels.le === "+Inf" ? Infinity : Number(labels.le), Number(value)]);
  }
  return [...found].map(([title, pairs]) => {
    pairs.sort(([a], [b]) => a - b);
    const buckets = pairs.map(([to, sum], i) => ({ from: i ? pairs[i - 1][0] : 0, to, count: sum - (i ? pairs[i - 1][1] : 0) }));
    return { title, buckets, total: pairs.length ? pairs.at(-1)[1] : 0 };
  }).filter(({ total }) => total > 0);
}
function quantile({ buckets, total }, share) {
  let before = 0;
  for (const { from, to, count } of buckets) {
    if (count && before + count >= share * total) return to === Infinity ? from : from + (to - from) * (share * total - before) / count;
    before += count;
  }
  return NaN;
}
function latencyCard(histogram) {
  const { buckets, title, total } = histogram, filled = buckets.map(({ count }) => count > 0);
  const shown = buckets.slice(Math.max(0, filled.indexOf(true) - 2), filled.lastIndexOf(true) + 3);
  const most = Math.max(...shown.map(({ count }) => count));
  const plot = element("div", { className: "plot" }, ...shown.map(({ from, to, count }) => {
    const bar = element("div", { title: `${formatTime(from)} to ${to === Infinity ? "more" : formatTime(to)}: ${count}` });
    bar.style.height = `${100 * count / most}%`;
    return bar;
  }));
  const figures = [["Calls", total.toLocaleString("en")], ...[50, 90, 99].map((p) => [`p${p}`, formatTime(quantile(histogram, p / 100))])];
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `Histogram of ${title}: ${figures.map(([name, value]) => `${name} ${value}`).join(", ")}`);
  const axis = element("div", { className: "axis" }, element("span", {}, formatTime(shown[0].from)), element("span", {}, formatTime(shown.at(-1).from)));
  const list = element("dl", { className: "figures" }, ...figures.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  return element("article", { className: "card" }, element("h3", {}, title), plot, axis, list);
}

// Keeping up to date
async function refresh() {
  try {
    state = await (await fetch("page.json")).json();
    showModels();
    showTargets();
    if (state.metrics_path) {
      const histograms = readHistograms(await (await fetch(state.metrics_path)).text());
      $("metrics-link").href = state.metrics_path;
      $("latency-section").hidden = !histograms.length;
      replaceIfChanged($("latency"), JSON.stringify(histograms), () => histograms.map(latencyCard));
    }
  } catch {
    showHealth("bad", "The server does not answer");
  }
  setTimeout(refresh, REFRESH_MS);
}
$("file").addEventListener("change", (event) => { choose(event.target.files[0]); event.target.value = ""; });
$("target").addEventListener("change", ask);
document.addEventListener("paste", (event) => choose([...event.clipboardData.files][0]));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}
refresh();
