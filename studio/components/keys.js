// "/" goes to the page's filter, as in the tools that people come from.
export default function () {
  const slash = event => {
    const typing = event.composedPath()[0].closest?.("input, textarea, [contenteditable]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = document.querySelector(".st-key-filter input");
    if (box) { event.preventDefault(); box.focus(); box.select(); }
  };
  document.addEventListener("keydown", slash);
  return () => document.removeEventListener("keydown", slash);
}
