// One cell of the grid at full size, over the page, in the viewer of the comparison's own report: nothing of the viewer
// is here. data: {stamp, report, words: {…}}; the report's text comes once somebody has asked for it (trigger "wanted").
// A cell is [epoch, strength's place, prompt's place, seed], as its button says it in data-cell.

const CELL = ".grid-of-epochs button[data-cell]";
const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export default function ({ data, parentElement, setTriggerValue }) {
  const dialog = parentElement.querySelector("dialog"), waiting = dialog.querySelector("p");
  const memory = dialog.memory ??= {};
  dialog.setAttribute("aria-label", data.words.title);
  waiting.textContent = data.words.waiting;

  const ask = () => {
    memory.frame.focus();  // first: a frame without it cannot give it to a part of itself
    memory.frame.contentWindow.postMessage({ open: memory.wanted }, "*");
  };
  const shut = () => { memory.wanted = null; dialog.close(); };
  if (memory.stamp !== data.stamp) {  // rendered anew: what was shown is not there any more
    memory.frame?.remove();
    Object.assign(memory, { stamp: data.stamp, frame: null, ready: false });
    if (dialog.open) shut();
  }
  if (data.report && !memory.frame) {
    memory.frame = document.createElement("iframe");
    memory.frame.title = data.words.title;
    memory.frame.sandbox = "allow-scripts";  // somebody else's comparison cannot reach into the page
    memory.frame.allow = "clipboard-write";
    memory.frame.srcdoc = data.report;
    dialog.append(memory.frame);
  }

  const click = event => {
    const cell = event.target.closest?.(CELL);
    if (!cell) return;
    memory.wanted = JSON.parse(cell.dataset.cell);
    dialog.classList.remove("shown");
    dialog.showModal();
    if (memory.ready) ask();
    else if (!memory.frame) setTriggerValue("wanted", true);
  };
  const told = event => {
    if (!memory.frame || event.source !== memory.frame.contentWindow) return;
    if (event.data.ready) memory.ready = true;
    if (event.data.ready && memory.wanted) ask();
    if (event.data.opened && memory.wanted) dialog.classList.add("shown");
    if (event.data.closed) {
      shut();
      document.querySelector(`${CELL}[data-cell="${JSON.stringify(event.data.closed)}"]`)?.focus();
    }
  };
  const move = event => {
    const cell = event.target.closest?.(CELL), step = steps[event.key];
    if (!cell || !step || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...cell.closest("table").rows], column = cell.closest("td").cellIndex;
    let x = column, y = rows.indexOf(cell.closest("tr")), next;
    do { x += step[0]; y += step[1]; next = rows[y]?.cells[x]?.querySelector("button"); } while (rows[y]?.cells[x] && !next);
    if (next) { event.preventDefault(); next.focus(); }
  };
  dialog.onclose = () => { memory.wanted = null; };
  // Streamlit ends only the last of the calls for one element; what the earlier ones listen to is ended here.
  parentElement.listening?.abort();
  const { signal } = parentElement.listening = new AbortController();
  document.addEventListener("click", click, { signal });
  document.addEventListener("keydown", move, { signal });
  window.addEventListener("message", told, { signal });
  return () => parentElement.listening.abort();
}
