// Which key does what. Letters and digits are for the page as long as nothing is being written.

// What a held key may do again and again; anything else would be done to the next question, too.
const REPEATED = new Set(["ArrowUp", "ArrowDown", "PageUp", "PageDown", "-", "+", "="]);

// `tableOf()` gives what each key does now, or null when the page has no use for keys; `isBusy()`
// tells whether nothing may be done yet. `comment` is the field in which people write, and `leave`
// takes the focus out of it.
export function listenToKeys(tableOf, isBusy, comment, leave) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const table = tableOf();
    if (!table) return;
    const { key, target } = event;
    if (target === comment) {
      if (key === "Escape") leave();
      return;
    }
    if (target.matches("button, summary") && (key === "Enter" || key === " ")) return;
    if (isForSlider(target, key)) return;
    const act = table[key.length === 1 ? key.toLowerCase() : key];
    if (!act) return;
    event.preventDefault();
    if (!isBusy() && (!event.repeat || REPEATED.has(key))) act();
  });
}

// The score's slider leaves the keys that change a score to the page.
function isForSlider(target, key) {
  if (target.id === "slider") return key === "ArrowLeft" || key === "ArrowRight";
  return target.type === "range" && /^(Arrow|Page)|^(Home|End)$/.test(key);
}
