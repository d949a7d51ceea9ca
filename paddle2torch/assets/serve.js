"use strict";

const SVG = "http://www.w3.org/2000/svg";
const UNSURE = 0.8; // lines with less confidence are marked
const $ = (id) => document.getElementById(id);
const status = $("status");
let running = null; // the AbortController of the request that runs
let results = [];
let last = null; // the file that was sent last, for when a token is asked for
let picture = null; // its address in this browser

function say(text, wrong = false) {
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function drawing(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function textOf(page) {
  return page.lines.map((line) => line.text).join("\n");
}

function show(page, source) {
  const section = element("section", { className: "page" });
  const name = page.pages > 1 ? `Page ${page.page} of ${page.pages}` : page.source;
  section.append(element("h2", { textContent: page.error ? `Page ${page.page ?? ""}: ${page.error}` : name }));
  if (!page.error) section.append(figureOf(page, source), listOf(page));
  for (const part of section.querySelectorAll("[data-line]")) {
    const both = () => section.querySelectorAll(`[data-line="${part.dataset.line}"]`);
    part.addEventListener("mouseenter", () => both().forEach((one) => one.classList.add("on")));
    part.addEventListener("mouseleave", () => both().forEach((one) => one.classList.remove("on")));
    part.addEventListener("click", () => both().forEach((one) => one.scrollIntoView({ block: "nearest" })));
  }
  $("pages").append(section);
}

function figureOf(page, source) {
  const figure = element("figure");
  const svg = drawing("svg", { viewBox: `0 0 ${page.width} ${page.height}`, role: "img" });
  svg.append(drawing("title", {}));
  svg.firstChild.textContent = `${page.lines.length} lines`;
  if (source) {
    const image = element("img", { src: source, alt: "" });
    image.addEventListener("error", () => { image.remove(); write(svg, page); }); // a kind that browsers do not show
    figure.append(image);
  } else {
    write(svg, page);
  }
  page.lines.forEach((line, index) => {
    const polygon = drawing("polygon", { points: line.box.map((point) => point.join(",")).join(" "), "data-line": index });
    polygon.classList.toggle("unsure", line.score < UNSURE);
    polygon.append(drawing("title", {}));
    polygon.firstChild.textContent = `${line.text} (${line.score.toFixed(3)})`;
    svg.append(polygon);
  });
  figure.append(svg);
  return figure;
}

function write(svg, page) {
  // The picture of the page is not here: its texts stand in their places.
  for (const line of page.lines) {
    const [[x0, y0], [x1, y1], , [x3, y3]] = line.box;
    const width = Math.hypot(x1 - x0, y1 - y0);
    const height = Math.hypot(x3 - x0, y3 - y0);
    if (height > 1.5 * width) continue;
    const angle = (Math.atan2(y1 - y0, x1 - x0) * 180) / Math.PI;
    const text = drawing("text", {
      transform: `translate(${x3} ${y3}) rotate(${angle}) translate(0 ${-height * 0.22})`,
      "font-size": height * 0.75, textLength: width, lengthAdjust: "spacingAndGlyphs",
    });
    text.textContent = line.text;
    svg.append(text);
  }
}

function listOf(page) {
  const list = element("ol");
  page.lines.forEach((line, index) => {
    const item = element("li", {}, element("span", { textContent: line.text, dir: "auto" }),
      element("data", { value: line.score, textContent: `${(100 * line.score).toFixed(1)} %` }));
    item.dataset.line = index;
    item.classList.toggle("unsure", line.score < UNSURE);
    list.append(item);
  });
  if (!page.lines.length) list.append(element("li", { textContent: "No text was found." }));
  return list;
}

async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
  if (rest) throw new Error("the answer was cut off");
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

async function send(file) {
  if (running) running.abort();
  const mine = (running = new AbortController());
  last = file;
  results = [];
  if (picture) URL.revokeObjectURL(picture);
  const pdf = file.type === "application/pdf" || file.name.toLowerCase().endsWith(".pdf");
  picture = pdf ? null : URL.createObjectURL(file);
  $("pages").replaceChildren();
  $("copy").hidden = $("save").hidden = true;
  $("stop").hidden = false;
  say(`Reading ${file.name} …`);
  const start = performance.now();
  try {
    const form = new FormData();
    form.append("file", file);
    const query = new URLSearchParams({ format: "jsonl" });
    if ($("lang").value) query.set("lang", $("lang").value);
    const headers = $("token").value ? { Authorization: `Bearer ${$("token").value}` } : {};
    const response = await fetch(`ocr?${query}`, { method: "POST", body: form, headers, signal: mine.signal });
    if (!response.ok) {
      if (response.status === 401) $("asked").hidden = false;
      throw new Error(await messageOf(response));
    }
    for await (const line of linesOf(response)) {
      const page = JSON.parse(line);
      results.push(page);
      show(page, page.pages === 1 ? picture : null);
      if (page.pages > 1) say(`Reading ${file.name}: page ${page.page} of ${page.pages} …`);
    }
    const read = results.filter((page) => !page.error);
    const lines = read.reduce((sum, page) => sum + page.lines.length, 0);
    const failed = results.length - read.length;
    const pages = read.length === 1 ? "1 page" : `${read.length} pages`;
    const seconds = ((performance.now() - start) / 1000).toFixed(2);
    say(`${lines} lines on ${pages} in ${seconds} s${failed ? `; not read: ${failed}` : ""}`, failed > 0);
    $("copy").hidden = $("save").hidden = !read.length;
  } catch (error) {
    if (mine !== running) return; // another file took its place
    say(error.name === "AbortError" ? "Stopped." : `Not read: ${error.message}`, true);
  } finally {
    if (mine === running) {
      running = null;
      $("stop").hidden = true;
    }
  }
}

const drop = $("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) send(event.clipboardData.files[0]);
});
$("form").addEventListener("submit", (event) => event.preventDefault());
$("file").addEventListener("change", () => { if ($("file").files.length) send($("file").files[0]); });
$("lang").addEventListener("change", () => { if (last) send(last); });
$("token").addEventListener("change", () => { if (last) send(last); });
$("stop").addEventListener("click", () => running && running.abort());
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(results.filter((page) => !page.error).map(textOf).join("\n\n"));
  say("The text is in the clipboard.");
});
$("save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob(results.map((page) => JSON.stringify(page) + "\n"), { type: "application/x-ndjson" }));
  element("a", { href: url, download: `${last.name}.jsonl` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});

fetch("health").then((response) => response.json()).then(({ languages }) => {
  $("lang").append(...languages.map((name) => element("option", { value: name, textContent: name })));
  $("languages").hidden = languages.length < 2;
});
