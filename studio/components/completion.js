// Carries what is typed into the gallery to Python and the matches back; draws nothing itself.
// data: {asked, matches: [[tag, count, alias], …]}. Trigger "ask": the text.

const PAUSE = 90;  // ms without a key before the list is asked

export default function ({ data, parentElement, setTriggerValue }) {
  // What is about to be asked outlives a redraw in between: nobody would ask it again.
  const memory = parentElement.memory ??= { wait: 0 };
  memory.send = setTriggerValue;
  const ask = event => {
    clearTimeout(memory.wait);
    memory.wait = setTimeout(() => memory.send("ask", event.detail), PAUSE);
  };
  // Streamlit ends only the last of the calls for one element; what the earlier ones listen to is ended here.
  parentElement.listening?.abort();
  const { signal } = parentElement.listening = new AbortController();
  document.addEventListener("lora-studio-ask", ask, { signal });
  if (data.asked) document.dispatchEvent(new CustomEvent("lora-studio-tags", { detail: data }));
  return () => parentElement.listening.abort();
}
