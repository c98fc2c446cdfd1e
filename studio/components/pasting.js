// Files that are pasted into the page, outside of its text fields. data: {most}, bytes of one file.
// Trigger "pasted": [[name, base64], …].

const stamp = () => new Date().toISOString().slice(0, 19).replaceAll(":", "").replace("T", "-");

function encoded(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = reject;
    reader.readAsDataURL(file);
  });
}

export default function ({ data, parentElement, setTriggerValue }) {
  const paste = async event => {
    const files = [...(event.clipboardData?.files ?? [])].filter(file => file.type.startsWith("image/") && file.size <= data.most);
    if (!files.length || event.composedPath()[0].closest?.("input, textarea, [contenteditable]")) return;
    event.preventDefault();
    // A picture that was copied, not a file, is always called image.png.
    const named = (file, place) => file.name && file.name !== "image.png" ? file.name : `pasted-${stamp()}${place ? `-${place}` : ""}.png`;
    setTriggerValue("pasted", await Promise.all(files.map(async (file, place) => [named(file, place), await encoded(file)])));
  };
  // Streamlit ends only the last of the calls for one element; what the earlier ones listen to is ended here.
  parentElement.listening?.abort();
  const { signal } = parentElement.listening = new AbortController();
  document.addEventListener("paste", paste, { signal });
  return () => parentElement.listening.abort();
}
