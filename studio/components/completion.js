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
  document.addEventListener("lora-studio-ask", ask);
  if (data.asked) document.dispatchEvent(new CustomEvent("lora-studio-tags", { detail: data }));
  return () => document.removeEventListener("lora-studio-ask", ask);
}
