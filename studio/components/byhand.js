// One picture under a crop box with handles and a mask under a brush. All texts are set as text, never as markup.
// data: {id, name, src, width, height, box, mask, version, buckets, place, words}
//   width, height   of the upright picture, px; src and mask may be smaller
//   box             [left, top, right, bottom] in those pixels, or null for all of it
//   mask            a grey PNG, white is learned, or ""; version says which one
// Trigger "done": {id, go, version, box, mask?}: what was drawn, mask only if it was painted on, and where to go then.

const RED = "rgb(224, 32, 32)";

const make = (tag, cls, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  if (cls) node.className = cls;
  node.append(...children);
  return node;
};

function loaded(src) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = src;
  });
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector("#byhand");
  const { id, width, height, words, buckets } = data;
  if (root.memory?.id !== id) {
    const [left, top, right, bottom] = data.box ?? [0, 0, width, height];
    // Each step since the picture was opened; drawing them again from the start is what undo does.
    root.memory = { id, steps: [], undone: [], painted: false, start: { x: left, y: top, w: right - left, h: bottom - top } };
  }
  const memory = root.memory;
  // Only another version says that what was painted has arrived.
  if (memory.sent && memory.sent.version !== data.version) memory.painted = memory.steps.length !== memory.sent.steps;
  memory.sent = null;
  const saved = memory.then;
  memory.then = null;
  // Streamlit ends only the last of the calls for one element; what the earlier ones listen to is ended here.
  parentElement.listening?.abort();
  const { signal } = parentElement.listening = new AbortController();
  const choice = root.choice ??= { tool: "crop", locked: "free", size: 0.06 };  // the brush, as a share of the longer side

  const stage = make("div", "stage", { tabIndex: 0 });
  const picture = make("img", "", { src: data.src, alt: data.name, draggable: false });
  const canvas = make("canvas", "mask");
  const frame = make("div", "box");
  const ring = make("div", "ring");
  stage.append(picture, canvas, frame, ring);
  stage.style.width = `min(100%, calc(68vh * ${width} / ${height}))`;
  stage.style.aspectRatio = `${width} / ${height}`;
  stage.setAttribute("role", "application");
  stage.setAttribute("aria-label", `${data.name}. ${words.keys}`);
  const brush = canvas.getContext("2d");
  const across = () => choice.size * Math.max(canvas.width, canvas.height);
  let ground = null;  // the mask as it was opened, in red

  // ── steps ────────────────────────────────────────────────────────────────────────────────────────────

  const box = () => memory.steps.findLast(step => step.box)?.box ?? memory.start;
  const isWhole = ({ x, y, w, h }) => x < 0.5 && y < 0.5 && w > width - 0.5 && h > height - 0.5;

  function stroke({ erase, size, points }, from = 0) {
    brush.globalCompositeOperation = erase ? "destination-out" : "source-over";
    brush.strokeStyle = RED;
    brush.lineWidth = size;
    brush.lineCap = brush.lineJoin = "round";
    brush.beginPath();
    brush.moveTo(...points[Math.max(0, from - 1)]);
    for (const point of points.slice(from)) brush.lineTo(...point);
    brush.stroke();
  }

  const acts = {
    stroke,
    clear: () => brush.clearRect(0, 0, canvas.width, canvas.height),
    invert: () => {
      brush.globalCompositeOperation = "xor";
      brush.fillStyle = RED;
      brush.fillRect(0, 0, canvas.width, canvas.height);
    },
  };

  function redraw() {
    brush.globalCompositeOperation = "source-over";
    brush.clearRect(0, 0, canvas.width, canvas.height);
    if (ground) brush.drawImage(ground, 0, 0);
    for (const step of memory.steps) acts[step.act]?.(step);
    show();
  }

  function did(step) {
    memory.steps.push(step);
    memory.undone = [];
    if (step.act) memory.painted = true;
    show();
  }

  function act(name) {
    acts[name]();
    did({ act: name });
  }

  function back(from, to) {
    if (!memory[from].length) return;
    const step = memory[from].pop();
    memory[to].push(step);
    if (step.act) memory.painted = true;
    redraw();
  }

  const undo = () => back("steps", "undone"), redo = () => back("undone", "steps");

  // ── what is seen ─────────────────────────────────────────────────────────────────────────────────────

  function whole({ x, y, w, h }) {
    const left = Math.round(clamp(x, 0, width - LEAST)), top = Math.round(clamp(y, 0, height - LEAST));
    return { x: left, y: top, w: Math.round(clamp(w, LEAST, width - left)), h: Math.round(clamp(h, LEAST, height - top)) };
  }

  function show(now = box()) {
    const { x, y, w, h } = now;
    Object.assign(frame.style, {
      left: `${100 * x / width}%`, top: `${100 * y / height}%`, width: `${100 * w / width}%`, height: `${100 * h / height}%` });
    stage.dataset.tool = choice.tool;
    stage.classList.toggle("whole", isWhole(now));
    frame.classList.toggle("all", isWhole(now));
    const at = whole(now);
    for (const [name, field] of Object.entries(fields)) if (field !== root.getRootNode().activeElement) field.value = at[name];
    said.textContent = choice.tool === "crop"
      ? `${at.w}×${at.h} ${words.of} ${width}×${height}${choice.locked === "bucket" ? ` · ${words.bucket} ${bucketOf(at)}` : ""}`
      : words.red;
    undoing.disabled = !memory.steps.length;
    redoing.disabled = !memory.undone.length;
    for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === choice.tool));
    for (const node of root.querySelectorAll("[data-for]")) node.hidden = node.dataset.for !== (choice.tool === "crop" ? "crop" : "mask");
    if (choice.tool === "crop") ring.style.display = "none";
  }

  function bucketOf({ w, h }) {
    const distance = ([wide, high]) => Math.abs(Math.log(w / h * high / wide));
    return buckets.reduce((best, one) => distance(one) < distance(best) ? one : best).join("×");
  }

  // ── pointer ──────────────────────────────────────────────────────────────────────────────────────────

  const place = event => {
    const area = stage.getBoundingClientRect();
    return { x: (event.clientX - area.left) / area.width, y: (event.clientY - area.top) / area.height };
  };
  const pixel = event => {
    const { x, y } = place(event);
    return { x: clamp(x * width, 0, width), y: clamp(y * height, 0, height) };
  };
  const dot = event => {
    const { x, y } = place(event);
    return [x * canvas.width, y * canvas.height];
  };

  let drag = null;

  function begin(event) {
    if (event.button > 0 || drag) return;
    stage.setPointerCapture(event.pointerId);
    if (choice.tool !== "crop") {
      const erase = (choice.tool === "erase") !== event.altKey;
      drag = { step: { act: "stroke", erase, size: across(), points: [dot(event)] } };
      stroke(drag.step);
      return;
    }
    const start = box(), point = pixel(event), grip = event.target.dataset?.grip;
    const inside = point.x >= start.x && point.x <= start.x + start.w && point.y >= start.y && point.y <= start.y + start.h;
    if (grip) drag = { start, grip };
    else if (inside && !isWhole(start)) drag = { start, from: point };
    else drag = { start: { x: point.x, y: point.y, w: 0, h: 0 }, fresh: point };
  }

  function moved(event) {
    if (choice.tool !== "crop") hover(event);
    if (!drag) return;
    if (drag.step) {
      const from = drag.step.points.length;
      const events = event.getCoalescedEvents?.() ?? [];
      drag.step.points.push(...(events.length ? events : [event]).map(dot));
      stroke(drag.step, from);
      return;
    }
    const point = pixel(event), { start } = drag;
    if (drag.from) {
      drag.now = { ...start, x: clamp(start.x + point.x - drag.from.x, 0, width - start.w),
        y: clamp(start.y + point.y - drag.from.y, 0, height - start.h) };
    } else {
      const grip = drag.grip ?? (point.y < drag.fresh.y ? "n" : "s") + (point.x < drag.fresh.x ? "w" : "e");
      const want = drag.grip?.length === 1 ? start.w / start.h
        : Math.max(1, grip.includes("w") ? start.x + start.w - point.x : point.x - start.x)
          / Math.max(1, grip.includes("n") ? start.y + start.h - point.y : point.y - start.y);
      drag.now = pulled(start, grip, point, shaped(want, choice.locked, buckets), width, height);
    }
    show(drag.now);
  }

  function end() {
    const done = drag;
    drag = null;
    if (!done) return;
    if (done.step) did(done.step);
    else if (done.now && !(done.fresh && (done.now.w <= LEAST || done.now.h <= LEAST))) did({ box: whole(done.now) });
    else show();
  }

  function hover(event) {
    const { x, y } = place(event), side = across() / canvas.width * stage.clientWidth;
    Object.assign(ring.style, { display: "block", left: `${100 * x}%`, top: `${100 * y}%`, width: `${side}px`, height: `${side}px` });
  }

  stage.onpointerdown = begin;
  stage.onpointermove = moved;
  stage.onpointerup = stage.onpointercancel = end;
  // No long-press menu, and no fling after a stroke that would swallow the next tap.
  stage.addEventListener("touchstart", event => event.preventDefault(), { passive: false });
  stage.onpointerleave = () => { ring.style.display = "none"; };

  // ── controls ─────────────────────────────────────────────────────────────────────────────────────────

  const button = (label, onclick, props = {}) => make("button", "", { type: "button", textContent: label, onclick, ...props });
  const pick = tool => { choice.tool = tool; show(); };
  const sizer = make("input", "", { type: "range", min: 0.5, max: 40, step: 0.5, value: choice.size * 100 });
  sizer.setAttribute("aria-label", words.size);
  sizer.oninput = () => { choice.size = Number(sizer.value) / 100; };
  const resize = factor => {
    choice.size = clamp(choice.size * factor, 0.005, 0.4);
    sizer.value = choice.size * 100;
    ring.style.width = ring.style.height = `${across() / canvas.width * stage.clientWidth}px`;
  };
  const lock = make("select", "", {}, ...Object.entries({ free: words.free, "1:1": "1:1", "2:3": "2:3", "3:2": "3:2", bucket: words.buckets })
    .map(([value, label]) => make("option", "", { value, textContent: label, selected: value === choice.locked })));
  lock.setAttribute("aria-label", words.shape);
  lock.onchange = () => {
    choice.locked = lock.value;
    const now = box();
    const next = fitted(now, shaped(now.w / now.h, choice.locked, buckets));
    next.w === now.w && next.h === now.h ? show() : did({ box: whole(next) });
  };
  const fields = Object.fromEntries(["x", "y", "w", "h"].map(name => {
    const field = make("input", "", { type: "number", min: name === "x" || name === "y" ? 0 : LEAST, step: 1 });
    field.setAttribute("aria-label", words[name]);
    field.onchange = () => {
      if (!Number.isFinite(field.valueAsNumber)) return show();
      did({ box: whole({ ...whole(box()), [name]: field.valueAsNumber }) });
      field.value = whole(box())[name];
    };
    return [name, field];
  }));
  const said = make("span", "said");
  said.setAttribute("role", "status");
  const undoing = button(words.undo, undo, { title: "Ctrl Z" }), redoing = button(words.redo, redo, { title: "Ctrl Shift Z" });
  const tools = [["crop", words.crop, "C"], ["paint", words.paint, "B"], ["erase", words.erase, "E"]].map(([tool, label, hint]) => {
    const one = button(label, () => { pick(tool); stage.focus({ preventScroll: true }); }, { title: hint });
    one.dataset.tool = tool;
    return one;
  });
  const group = (use, ...children) => {
    const node = make("div", "group", {}, ...children);
    if (use) node.dataset.for = use;
    return node;
  };
  const bar = make("div", "bar", {},
    group("", ...tools),
    group("", undoing, redoing),
    group("crop", lock, button(words.all, () => did({ box: { x: 0, y: 0, w: width, h: height } }))),
    group("mask", make("label", "sizer", {}, words.size, sizer), button(words.invert, () => act("invert"), { title: "I" }),
      button(words.clear, () => act("clear"), { title: "X" })),
    make("div", "group end", {},
      button("‹", () => leave("previous"), { title: words.previous, ariaLabel: words.previous, disabled: data.place[0] <= 1 }),
      make("span", "place", { textContent: data.place.join("/") }),
      button("›", () => leave("next"), { title: words.next, ariaLabel: words.next, disabled: data.place[0] >= data.place[1] }),
      button(words.save, () => leave("")), button(words.done, () => leave("back"), { className: "main" })));
  const foot = make("div", "foot", {}, said, group("crop", ...Object.entries(fields).map(([name, field]) =>
    make("label", "", {}, make("span", "", { textContent: { x: "X", y: "Y", w: words.wide, h: words.high }[name] }), field))));

  for (const grip of ["nw", "n", "ne", "e", "se", "s", "sw", "w"]) {
    const node = make("div", `grip ${grip}`);
    node.dataset.grip = grip;
    frame.append(node);
  }

  // ── keyboard ─────────────────────────────────────────────────────────────────────────────────────────

  const nudge = event => {
    const far = event.shiftKey ? 10 : 1, now = whole(box());
    const dx = { ArrowLeft: -far, ArrowRight: far }[event.key] ?? 0, dy = { ArrowUp: -far, ArrowDown: far }[event.key] ?? 0;
    did({ box: event.altKey ? whole({ ...now, w: now.w + dx, h: now.h + dy })
      : { ...now, x: clamp(now.x + dx, 0, width - now.w), y: clamp(now.y + dy, 0, height - now.h) } });
  };
  const keys = {
    c: () => pick("crop"), b: () => pick("paint"), e: () => pick("erase"), i: () => choice.tool !== "crop" && act("invert"),
    x: () => choice.tool !== "crop" && act("clear"), "[": () => resize(0.8), "]": () => resize(1.25),
    PageUp: () => data.place[0] > 1 && leave("previous"), PageDown: () => data.place[0] < data.place[1] && leave("next"),
  };
  const typed = event => {
    event.stopPropagation();  // the page's own keys stay out of this
    const held = event.ctrlKey || event.metaKey, letter = event.key.toLowerCase();
    const field = event.target.matches("input[type=number], select");
    let run = null;
    if (held && letter === "s") run = () => leave("");
    else if (held && (letter === "y" || (letter === "z" && event.shiftKey))) run = redo;
    else if (held && letter === "z" && !field) run = undo;
    else if (!held && !field) {
      run = keys[event.key] ?? keys[letter];
      if (!run && event.key.startsWith("Arrow") && choice.tool === "crop" && event.target === stage) run = () => nudge(event);
    }
    if (run) { event.preventDefault(); run(); }
  };
  root.addEventListener("keydown", typed, { signal });

  // ── out ──────────────────────────────────────────────────────────────────────────────────────────────

  function grey() {
    const black = make("canvas", "", { width: canvas.width, height: canvas.height }), pen = black.getContext("2d");
    pen.drawImage(canvas, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillRect(0, 0, black.width, black.height);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "white";
    pen.fillRect(0, 0, black.width, black.height);
    return black.toDataURL("image/png");
  }

  function drawn() {
    const { x, y, w, h } = whole(box());
    return isWhole(box()) ? null : [x, y, x + w, y + h];
  }

  function leave(go, then = null) {
    const found = { id, go, version: data.version, box: drawn() };
    if (memory.painted) found.mask = grey();
    memory.sent = { version: data.version, steps: memory.steps.length };
    Object.assign(memory, { tried: memory.steps.length, then });
    setTriggerValue("done", found);
  }

  // What leads away from here takes along what was drawn, as Previous and Next do. A link waits until it is saved; after
  // the browser's Back the address is the new one already, and the answer shows what lies there. A second try goes on
  // without what could not be saved, and so does a closed tab, which asks.
  const unsaved = () => memory.painted || String(drawn()) !== String(data.box);
  const untried = () => unsaved() && memory.tried !== memory.steps.length;
  const clicked = event => {
    const link = event.composedPath().find(node => node.matches?.("a[href]"));
    if (!link || !untried()) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    leave("", () => link.click());
  };
  const popped = event => {
    if (!untried()) return;
    event.stopImmediatePropagation();
    leave("", () => dispatchEvent(new PopStateEvent("popstate", { state: event.state })));
  };
  const page = { capture: true, signal };
  addEventListener("click", clicked, page);
  addEventListener("popstate", popped, page);
  addEventListener("beforeunload", event => { if (unsaved()) event.preventDefault(); }, page);

  async function open() {
    const image = await loaded(data.src);
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    if (memory.ground === undefined) {
      memory.ground = null;
      if (data.mask) {
        const red = make("canvas", "", { width: canvas.width, height: canvas.height }), pen = red.getContext("2d");
        pen.drawImage(await loaded(data.mask), 0, 0, red.width, red.height);
        const dots = pen.getImageData(0, 0, red.width, red.height);
        for (let at = 0; at < dots.data.length; at += 4) {
          dots.data.set([224, 32, 32, 255 - dots.data[at]], at);
        }
        pen.putImageData(dots, 0, 0);
        memory.ground = red;
      }
    }
    ground = memory.ground;
    redraw();
    root.dataset.ready = "true";
  }

  root.dataset.ready = "false";
  root.replaceChildren(bar, stage, foot);
  open();
  stage.focus({ preventScroll: true });
  if (saved && !unsaved()) saved();
  return () => parentElement.listening.abort();
}
