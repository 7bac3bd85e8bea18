"use strict";
/* Filters, list and detail of the samples. Text of the model only ever becomes text nodes; nothing is fetched. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { groups, answers, pictures } = data;
  const form = document.querySelector("form.filters");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  const detail = document.getElementById("detail");
  const PAGE = 100;
  const ANCHOR = [230, 159, 0], STATEMENT = [0, 114, 178], BOTH = [0, 158, 115];
  const OUTCOMES = { right: ["✓", "right"], wrong: ["✗", "wrong"], failed: ["!", "failed"] };

  function make(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") node.className = value;
      else if (name in node && name !== "list") node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const short = (value) =>
    value === null || value === undefined ? "–" : typeof value === "number" ? Number(value.toPrecision(4)).toString() : String(value);
  const exact = (value) => (value === null || value === undefined ? "" : String(value));

  /* ---- filters ---- */
  const field = (answer, name) => groups[answer.group][name];
  const choices = [
    ["run", "Run", (a) => field(a, "run")],
    ["set", "Set", (a) => field(a, "set")],
    ["source", "Data source", (a) => field(a, "source")],
    ["modality", "Modality", (a) => field(a, "modality")],
    ["phase", "Phase", (a) => field(a, "phase")],
    ["type", "Answer type", (a) => field(a, "type")],
    ["outcome", "Outcome", (a) => a.outcome],
    ["attention", "Policy's attention", (a) => (a.attention ? "measured" : "not measured")],
  ];
  const controls = {};

  function addControl(name, label, control) {
    controls[name] = control;
    control.name = name;
    form.append(make("label", {}, label, control));
  }

  for (const [name, label, of] of choices) {
    const values = [...new Set(answers.map(of).filter((value) => value !== null && value !== ""))].sort();
    if (values.length < 2) continue;
    addControl(name, label, make("select", {}, make("option", { value: "" }, "all"),
      ...values.map((value) => make("option", { value }, value))));
  }
  const names = [...new Set(answers.flatMap((answer) => Object.keys(answer.components)))].sort();
  const paid = make("select", {}, make("option", { value: "" }, "all"));
  for (const name of names) {
    paid.append(make("option", { value: `+${name}` }, `${name}: paid`), make("option", { value: `-${name}` }, `${name}: nothing`));
  }
  addControl("paid", "Component", paid);
  addControl("least", "Reward from", make("input", { type: "number", step: "any" }));
  addControl("most", "Reward to", make("input", { type: "number", step: "any" }));
  addControl("words", "Words", make("input", { type: "search", placeholder: "/ to search" }));
  const orders = {
    "as recorded": null,
    "highest reward": (a, b) => order(b.reward, a.reward),
    "lowest reward": (a, b) => order(a.reward, b.reward),
    "largest advantage": (a, b) => order(Math.abs(b.advantage), Math.abs(a.advantage)),
    "highest IoU": (a, b) => order(b.iou, a.iou),
    "lowest IoU": (a, b) => order(a.iou, b.iou),
  };
  const order = (a, b) => (Number.isFinite(a) ? (Number.isFinite(b) ? a - b : -1) : Number.isFinite(b) ? 1 : 0);
  addControl("order", "Order", make("select", {}, ...Object.keys(orders).map((value) => make("option", { value }, value))));

  function chosen() {
    const value = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.value]));
    const words = value.words.trim().toLowerCase();
    let found = answers.filter((answer) => {
      for (const [name, , of] of choices) if (value[name] && of(answer) !== value[name]) return false;
      if (value.paid) {
        const score = answer.components[value.paid.slice(1)];
        const is = Boolean(score && score.applies && score.score > 0);
        if (!score || is !== value.paid.startsWith("+")) return false;
      }
      if (value.least !== "" && !(answer.reward >= Number(value.least))) return false;
      if (value.most !== "" && !(answer.reward <= Number(value.most))) return false;
      const group = groups[answer.group];
      return !words || [answer.id, answer.completion, answer.statement, group.question, group.answer, group.id, group.anchor]
        .some((text) => text && text.toLowerCase().includes(words));
    });
    const by = orders[value.order];
    if (by) found = found.slice().sort(by);
    return found;
  }

  /* ---- list ---- */
  let found = [], shown = 0, current = null;

  function row(answer) {
    const group = groups[answer.group];
    const [sign, word] = OUTCOMES[answer.outcome];
    const button = make("button", { type: "button" },
      make("span", { class: answer.outcome === "right" ? "is-right" : "is-wrong", title: word, "aria-label": word }, sign),
      make("span", { class: "question" }, group.question),
      make("span", { class: "reward" }, short(answer.reward)),
      make("span", { class: "answer" }, `${answer.parsed ?? "no answer"} · ${answer.id}`));
    button.addEventListener("click", () => open(answer, true));
    answer.button = button;
    return make("li", {}, button);
  }

  function extend() {
    const next = found.slice(shown, shown + PAGE);
    list.append(...next.map(row));
    shown += next.length;
    more.hidden = shown >= found.length;
    mark();
  }

  function refresh() {
    found = chosen();
    shown = 0;
    list.replaceChildren();
    for (const answer of answers) answer.button = null;
    const wrong = found.filter((answer) => answer.outcome === "wrong").length;
    count.textContent = `${found.length} of ${answers.length} samples, ${wrong} of them wrong.`;
    extend();
    if (!found.includes(current)) found.length ? open(found[0], false) : close();
  }

  function mark() {
    for (const answer of found) answer.button?.setAttribute("aria-current", String(answer === current));
  }

  function close() {
    current = null;
    detail.replaceChildren(make("p", {}, answers.length ? "No sample fits these filters." : "No evidence was recorded."));
  }

  /* ---- maps ---- */
  function decode(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  function cells(mask, [height, width]) {
    const bytes = decode(mask);
    return Array.from({ length: height * width }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
  }

  function scaled(values) {
    const low = Math.min(...values), span = Math.max(...values) - low || 1;
    return values.map((value) => (value - low) / span);
  }

  /** One small map over the picture. `paint(i)` gives [red, green, blue, alpha 0..1, hatched?] of a cell, or null. */
  function map(label, picture, [height, width], paint) {
    const side = 224, canvas = make("canvas", { width: side, height: side, role: "img", "aria-label": label });
    const context = canvas.getContext("2d");
    const draw = () => {
      context.fillStyle = "#9aa0a8";
      context.fillRect(0, 0, side, side);
      if (picture?.complete && picture.naturalWidth) context.drawImage(picture, 0, 0, side, side);
      for (let i = 0; i < height * width; i++) {
        const colour = paint(i);
        if (!colour) continue;
        const [red, green, blue, alpha, hatched] = colour;
        const x = Math.round(((i % width) * side) / width), y = Math.round((Math.floor(i / width) * side) / height);
        const w = Math.round(((i % width) + 1) * side / width) - x, h = Math.round((Math.floor(i / width) + 1) * side / height) - y;
        context.fillStyle = `rgba(${red},${green},${blue},${alpha})`;
        context.fillRect(x, y, w, h);
        if (hatched) {
          context.strokeStyle = "rgba(255,255,255,0.9)";
          context.beginPath();
          context.moveTo(x, y + h);
          context.lineTo(x + w, y);
          context.stroke();
        }
      }
    };
    draw();
    picture?.addEventListener("load", draw);
    return make("figure", {}, canvas, make("figcaption", {}, label));
  }

  function pictureOf(group) {
    const source = group.picture && pictures[group.picture];
    return source ? make("img", { src: source }) : null;
  }

  function heat(label, picture, shape, values) {
    const share = scaled(values);
    return map(label, picture, shape, (i) => [255, 225, 60, 0.75 * share[i]]);
  }

  function maps(group, answer) {
    const picture = pictureOf(group), found = [];
    if (picture) found.push(map("what the judge sees", picture, [1, 1], () => null));
    const [height, width] = data.grid[group.run];
    const shape = [height, width];
    if (group.mask) {
      const anchor = cells(group.mask, shape);
      found.push(map("anchor: where the data set's answer looks", picture, shape, (i) => (anchor[i] ? [...ANCHOR, 0.6] : null)));
      if (answer.mask) {
        const own = cells(answer.mask, shape);
        found.push(map("statement: where this answer looks", picture, shape, (i) => (own[i] ? [...STATEMENT, 0.6] : null)));
        found.push(map("both; hatched: overlap", picture, shape, (i) =>
          own[i] && anchor[i] ? [...BOTH, 0.75, true] : own[i] ? [...STATEMENT, 0.5] : anchor[i] ? [...ANCHOR, 0.5] : null));
      }
    }
    if (group.map) found.push(heat("anchor: saliency", picture, shape, group.map));
    if (answer.map) found.push(heat("statement: saliency", picture, shape, answer.map));
    for (const [label, seen] of Object.entries(answer.attention ?? {})) {
      found.push(heat(`policy's attention, ${label}`, picture, [seen.length, seen[0].length], seen.flat()));
    }
    return found.length ? make("div", { class: "maps" }, ...found) : null;
  }

  /* ---- detail ---- */
  function table(caption, columns, rows) {
    return make("div", { class: "scroll" }, make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...columns.map((name, i) => make("th", { scope: "col", class: i ? "number" : "" }, name)))),
      make("tbody", {}, ...rows.map(([name, ...values]) => make("tr", {}, make("th", { scope: "row" }, name),
        ...values.map((value) => make("td", { class: "number", title: exact(value), "data-value": exact(value) }, short(value))))))));
  }

  function facts(pairs) {
    return make("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
  }

  function scores(group, answer) {
    const weights = data.weights[group.run];
    const rows = Object.entries(answer.components).map(([name, { score, applies, margins }]) => [
      name, applies ? score : "does not apply", weights[name] ?? null,
      Object.entries(margins).map(([threshold, margin]) => `${threshold} ${short(margin)}`).join("; ") || null,
    ]);
    rows.push(["reward", answer.reward, null, null], ["advantage in its group", answer.advantage, null, null]);
    return table("What was paid; a margin is a value minus its threshold", ["component", "score", "weight", "margins"], rows);
  }

  function judged(answer) {
    if (answer.iou === null) return null;
    return table("What the judge found", ["number", "value"], [
      ["IoU of both masks", answer.iou], ["IoU beyond chance", answer.chance], ["s_tt, statement and anchor", answer.stt],
      ["s_it, picture and statement", answer.sit], ["LoopTight", answer.loop], ["cells tied at the cut", answer.tied],
      ["map cannot be cut", answer.degenerate],
    ]);
  }

  function siblings(group, answer) {
    const same = answers.filter((other) => other.group === answer.group);
    if (same.length < 2) return null;
    return make("div", {}, make("h3", {}, "Its group"), make("ol", { class: "siblings" }, ...same.map((other) => {
      const button = make("button", { type: "button", "aria-current": String(other === answer) },
        `${OUTCOMES[other.outcome][0]} ${short(other.reward)}, A ${short(other.advantage)}`);
      button.addEventListener("click", () => open(other, true));
      return make("li", {}, button);
    })));
  }

  function words(title, text, note) {
    return text === null ? null : make("div", {}, make("h3", {}, title), make("div", { class: "words", dir: "auto", tabIndex: 0 }, text),
      note ? make("p", { class: "quiet" }, note) : null);
  }

  function step(by) {
    const at = found.indexOf(current), next = found[at + by];
    if (!next) return;
    while (at + by >= shown) extend();
    open(next, false);
    next.button?.scrollIntoView({ block: "nearest" });
  }

  function open(answer, moves) {
    current = answer;
    const group = groups[answer.group], [sign, word] = OUTCOMES[answer.outcome];
    const previous = make("button", { type: "button" }, "← previous"), next = make("button", { type: "button" }, "next →");
    previous.addEventListener("click", () => step(-1));
    next.addEventListener("click", () => step(1));
    detail.replaceChildren(...[
      make("div", { class: "steps" }, previous, next),
      make("h3", {}, make("span", { class: answer.outcome === "right" ? "is-right" : "is-wrong" }, `${sign} ${word} `), answer.id),
      answer.failure ? make("p", {}, `Failed: ${answer.failure}`) : null,
      words("Question", group.question),
      facts([["data set's answer", group.answer], ["answer read", answer.parsed ?? "none"], ["options", group.options?.join(" | ")],
        ["question", group.id], ["set", group.set], ["source", group.source], ["modality", group.modality], ["organ", group.organ],
        ["kind", group.category], ["answer type", group.type], ["step", group.step], ["phase", group.phase], ["run", group.run],
        ["tokens", answer.tokens]]),
      maps(group, answer),
      words("Statement of this answer", answer.statement),
      words("Anchor: statement of the data set's answer", group.anchor),
      scores(group, answer), judged(answer), siblings(group, answer),
      words("Completion", answer.completion, answer.cut ? `Cut here; it has ${answer.cut} characters.` : null),
      make("h3", {}, "Compute it again"), make("pre", {}, answer.replay),
    ].filter(Boolean));
    detail.dataset.answer = answer.id;
    mark();
    try {
      history.replaceState(null, "", `#answer=${encodeURIComponent(answer.id)}`);
    } catch { /* a page inside of a frame may not */ }
    if (moves) detail.focus({ preventScroll: matchMedia("(min-width: 48rem)").matches });
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", refresh);
  more.addEventListener("click", extend);
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches?.("input, select, textarea");
    if (event.key === "Escape" && isTyping) event.target.blur();
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); controls.words.focus(); }
    const inside = event.target === document.body || event.target.closest?.("#samples");
    if (inside && (event.key === "j" || event.key === "ArrowRight")) { event.preventDefault(); step(1); }
    if (inside && (event.key === "k" || event.key === "ArrowLeft")) { event.preventDefault(); step(-1); }
  });

  const wanted = /^#answer=(.*)$/.exec(location.hash);
  const linked = wanted && answers.find((answer) => answer.id === decodeURIComponent(wanted[1]));
  if (linked) current = linked;
  refresh();
  if (linked) open(linked, true);
  document.documentElement.dataset.ready = "true";
})();
