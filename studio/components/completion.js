// Carries what is typed into the gallery to Python and the matches back; draws nothing itself.
// data: {asked, matches: [[tag, count, alias], …]}. Trigger "ask": the text.

const PAUSE = 90;  // ms without a key before the list is asked

export default function ({ data, setTriggerValue }) {
  let wait = 0;
  const ask = event => {
    clearTimeout(wait);
    wait = setTimeout(() => setTriggerValue("ask", event.detail), PAUSE);
  };
  document.addEventListener("lora-studio-ask", ask);
  if (data.asked) document.dispatchEvent(new CustomEvent("lora-studio-tags", { detail: data }));
  return () => { clearTimeout(wait); document.removeEventListener("lora-studio-ask", ask); };
}
