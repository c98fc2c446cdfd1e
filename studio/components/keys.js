// "/" goes to the page's filter, as in the tools that people come from; a pasted picture goes where it could be dropped.
export default function () {
  const typing = event => event.composedPath()[0].closest?.("input, textarea, [contenteditable]");
  const slash = event => {
    if (event.key !== "/" || typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = document.querySelector(".st-key-filter input");
    if (box) { event.preventDefault(); box.focus(); box.select(); }
  };
  const paste = event => {
    const files = event.clipboardData?.files;
    const box = document.querySelector("[data-testid=stFileUploader] input[type=file]");
    if (!files?.length || !box || typing(event)) return;
    event.preventDefault();
    box.files = files;
    box.dispatchEvent(new Event("change", { bubbles: true }));
  };
  document.addEventListener("keydown", slash);
  document.addEventListener("paste", paste);
  return () => {
    document.removeEventListener("keydown", slash);
    document.removeEventListener("paste", paste);
  };
}
