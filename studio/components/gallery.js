// Pictures with their captions as tag chips or as free text. All texts are set as text, never as markup.
// data: {items: [{id, name, src, text, tags, tokens, limit, marks}], vocabulary: [[tag, count], …], exact, words: {…}}
// Trigger "edit": {id, before, tags} or {id, before, text}; trigger "open": {id}, to crop and mask the picture.

const SUGGESTED = 7;

const make = (tag, cls, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  if (cls) node.className = cls;
  node.append(...children);
  return node;
};

// Two corners that frame a picture.
function corners() {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  drawing.setAttribute("viewBox", "0 0 20 20");
  drawing.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M5 1v14h14M1 5h14v14");
  drawing.append(path);
  return drawing;
}

const short = count => count < 10_000 ? String(count) : count < 1e6 ? `${Math.round(count / 1e3)}k` : `${(count / 1e6).toFixed(1)}M`;

const key = tag => tag.replaceAll("\\(", "(").replaceAll("\\)", ")").replaceAll("_", " ").trim().toLowerCase();

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector("#gallery");
  const memory = root.memory ??= { free: new Set(), drafts: new Map(), typed: new Map(), known: { asked: "", matches: [] }, cards: new Map() };
  const { items, words } = data;
  const active = root.getRootNode().activeElement;
  const focused = active?.closest?.(".card")?.dataset.id;
  const inside = active?.dataset?.part;

  // A card that has not changed is kept, picture and all; what it does goes through the memory to what is there now.
  Object.assign(memory, { send: setTriggerValue, draw, vocabulary: data.vocabulary });
  const edit = (item, change) => memory.send("edit", { id: item.id, before: item.text, ...change });

  function suggestions(item, typed) {
    const have = new Set(item.tags.map(key)), wanted = key(typed);
    const fits = memory.vocabulary.filter(([tag]) => !have.has(key(tag)) && key(tag).includes(wanted));
    // What begins with the letters comes before what merely holds them; within each, the more frequent first.
    const own = fits.sort((a, b) => key(b[0]).startsWith(wanted) - key(a[0]).startsWith(wanted)).slice(0, SUGGESTED);
    const there = new Set([...have, ...own.map(([tag]) => key(tag))]);
    const known = memory.known.asked === typed ? memory.known.matches.filter(([tag]) => !there.has(key(tag))) : [];
    return [...own, ...known].slice(0, SUGGESTED);
  }

  function adder(item) {
    const half = memory.typed.get(item.id) ?? "";  // typed before the card was drawn again
    const input = make("input", "", { value: half, placeholder: words.add, autocomplete: "off", spellcheck: false });
    input.dataset.part = "add";
    input.setAttribute("aria-label", `${words.add} ${item.name}`);
    const box = make("div", "add", {}, input);
    let list = null, at = -1;
    const close = () => { list?.remove(); list = null; at = -1; };
    const take = tag => {
      const added = tag.split(",").map(one => one.trim()).filter(Boolean);
      input.value = "";
      memory.typed.delete(item.id);
      if (added.length) edit(item, { tags: [...item.tags, ...added] });
      close();
    };
    const offer = () => {
      const typed = input.value.trim();
      const found = typed ? suggestions(item, typed) : [];
      if (typed && memory.known.asked !== typed) document.dispatchEvent(new CustomEvent("lora-studio-ask", { detail: typed }));
      list?.remove();
      list = null;
      at = Math.min(at, found.length - 1);
      if (!found.length) return;
      list = make("ul", "list", {});
      list.setAttribute("role", "listbox");
      list.setAttribute("aria-label", words.tags);
      for (const [tag, count, alias] of found) {
        const name = make("span", "", { textContent: tag });
        if (alias) name.append(make("em", "", { textContent: ` ← ${alias}` }));
        const row = make("li", "", { title: tag }, name, make("span", "count", { textContent: short(count) }));
        row.dataset.tag = tag;
        row.setAttribute("role", "option");
        row.setAttribute("aria-selected", String(list.children.length === at));
        row.onmousedown = event => { event.preventDefault(); take(tag); };
        list.append(row);
      }
      box.append(list);
    };
    const mark = to => {
      const rows = [...(list?.children ?? [])];
      if (!rows.length) return;
      at = (to + rows.length) % rows.length;
      rows.forEach((row, place) => row.setAttribute("aria-selected", String(place === at)));
    };
    input.oninput = () => { at = -1; memory.typed.set(item.id, input.value); offer(); };
    input.onfocus = () => { memory.offer = offer; if (input.value) offer(); };
    input.onblur = close;
    input.onkeydown = event => {
      if (event.key === "ArrowDown" && list) { event.preventDefault(); event.stopPropagation(); mark(at + 1); }
      else if (event.key === "ArrowUp" && list) { event.preventDefault(); event.stopPropagation(); mark(at - 1); }
      else if (event.key === "Enter" || (event.key === "Tab" && at >= 0) || (event.key === "s" && (event.ctrlKey || event.metaKey))) {
        event.preventDefault();
        take(at >= 0 && list ? list.children[at].dataset.tag : input.value);
      } else if (event.key === "Escape") { close(); input.closest(".card").focus(); }
      else if (event.key === "Backspace" && !input.value && item.tags.length) {
        event.preventDefault();
        edit(item, { tags: item.tags.slice(0, -1) });
      }
    };
    return box;
  }

  function chips(item) {
    const row = make("div", "chips");
    item.tags.forEach((tag, place) => {
      const away = make("button", "", { textContent: "✕", title: words.remove });
      away.setAttribute("aria-label", `${words.remove} ${tag}`);
      away.onclick = () => edit(item, { tags: item.tags.filter((_, other) => other !== place) });
      const chip = make("span", "chip", { title: tag, draggable: true }, make("span", "", { textContent: tag }), away);
      chip.ondragstart = event => event.dataTransfer.setData("text/plain", `${item.id}\n${place}`);
      chip.ondragover = event => event.preventDefault();
      chip.ondrop = event => {
        event.preventDefault();
        const [id, from] = event.dataTransfer.getData("text/plain").split("\n");
        if (id !== item.id || Number(from) === place) return;
        const tags = [...item.tags];
        tags.splice(place, 0, ...tags.splice(Number(from), 1));
        edit(item, { tags });
      };
      row.append(chip);
    });
    return row;
  }

  function freeText(item) {
    const area = make("textarea", "", { value: memory.drafts.get(item.id) ?? item.text, spellcheck: false });
    area.dataset.part = "text";
    area.setAttribute("aria-label", `${words.caption} ${item.name}`);
    const save = () => {
      memory.drafts.delete(item.id);
      if (area.value.trim() !== item.text) edit(item, { text: area.value });
    };
    area.oninput = () => memory.drafts.set(item.id, area.value);
    area.onchange = save;
    area.onkeydown = event => {
      if ((event.ctrlKey || event.metaKey) && (event.key === "s" || event.key === "Enter")) { event.preventDefault(); save(); }
      if (event.key === "Escape") area.closest(".card").focus();
    };
    return area;
  }

  function card(item) {
    const picture = item.src
      ? make("img", "", { src: item.src, alt: item.name })
      : make("span", "broken", { textContent: words.broken });
    const tokens = make("span", "tokens" + (item.tokens > item.limit ? " over" : ""), {
      textContent: `${data.exact ? "" : "≈ "}${item.tokens}/${item.limit}`, title: words.tokens });
    const frame = make("div", "frame", {}, picture);
    if (item.src) {
      const open = make("button", "open", { title: `${words.open} (C)`, onclick: () => memory.send("open", { id: item.id }) });
      open.append(corners());
      open.setAttribute("aria-label", `${words.open} ${item.name}`);
      frame.append(open);
    }
    if (item.marks.length) frame.append(make("div", "marks", {}, ...item.marks.map(mark => make("span", "", { textContent: mark }))));
    const node = make("div", "card", { tabIndex: 0 },
      frame,
      make("div", "head", {}, make("span", "name", { textContent: item.name, title: item.name }), tokens));
    node.dataset.id = item.id;
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", item.name);
    if (item.text === null) {
      node.append(make("span", "broken", { textContent: words.unreadable }));
      return node;
    }
    const free = memory.free.has(item.id);
    const mode = make("button", "mode", { textContent: free ? words.chips : words.text });
    mode.onclick = () => { free ? memory.free.delete(item.id) : memory.free.add(item.id); memory.draw(item.id, free ? "add" : "text"); };
    if (free) node.append(freeText(item), make("div", "foot", {}, mode));
    else node.append(chips(item), make("div", "foot", {}, adder(item), mode));
    return node;
  }

  function kept(item) {
    const look = JSON.stringify([item, data.exact, words, memory.free.has(item.id)]), known = memory.cards.get(item.id);
    return known?.look === look ? known : { look, node: card(item) };
  }

  function draw(focus, part) {
    memory.cards = new Map(items.map(item => [item.id, kept(item)]));
    [...memory.cards.values()].forEach(({ node }, at) => {
      const there = root.children[at];
      if (!there) root.append(node);
      else if (there !== node) there.replaceWith(node);
    });
    while (root.children.length > items.length) root.lastElementChild.remove();
    const target = [...root.children].find(node => node.dataset.id === focus);
    (target?.querySelector(`[data-part="${part}"]`) ?? target)?.focus({ preventScroll: true });
  }

  root.onkeydown = event => {
    const cards = [...root.children], place = cards.indexOf(event.target);
    if (place < 0) return;  // someone types into a card
    const across = Math.max(1, getComputedStyle(root).gridTemplateColumns.split(" ").length);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    if (step) { event.preventDefault(); cards[place + step]?.focus(); }
    if (event.key === "c" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      event.stopPropagation();  // Streamlit's own C
      event.target.querySelector(".open")?.click();
    }
    if (event.key === "Enter") { event.preventDefault(); event.target.querySelector("[data-part]")?.focus(); }
  };

  // What is typed into a card must not reach the page's shortcuts: Ctrl-Z there is the text field's own.
  const typing = event => { if (event.target.matches("input, textarea")) event.stopPropagation(); };
  // Streamlit ends only the last of the calls for one element; what the earlier ones listen to is ended here.
  parentElement.listening?.abort();
  const { signal } = parentElement.listening = new AbortController();
  root.addEventListener("keydown", typing, { signal });
  const told = event => { memory.known = event.detail; memory.offer?.(); };
  document.addEventListener("lora-studio-tags", told, { signal });
  draw(focused, inside);
  return () => parentElement.listening.abort();
}
