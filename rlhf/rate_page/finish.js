// The end: what the answers amount to, and what comes next.

import { get } from "./requests.js";

const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

export class Finish {
  constructor(byId) {
    this.byId = byId;
    byId("copy").addEventListener("click", () => this.copy());
  }

  hide() {
    this.asked = null;
    this.byId("finish").hidden = true;
  }

  // The promise is rejected if the server does not answer.
  async show(rater) {
    const asked = (this.asked = get("/api/summary", { rater }));
    const { own, agreement, missing, command } = await asked;
    if (asked !== this.asked) return; // A question is shown again.
    this.byId("command").textContent = command;
    this.byId("copied").textContent = "";
    const lines = [
      ...(missing ? [`${plural(missing, "performance")} may still be recorded: come back later.`] : []),
      ...(own ? results(own) : []),
      agreementOf(agreement),
    ].map((words) => {
      const line = document.createElement("li");
      line.textContent = words;
      return line;
    });
    this.byId("results").replaceChildren(...lines);
    this.byId("finish").hidden = false;
  }

  async copy() {
    const command = this.byId("command");
    try {
      await navigator.clipboard.writeText(command.textContent);
      this.byId("copied").textContent = "Copied.";
    } catch {
      // Only this machine's own address may write to the clipboard.
      getSelection().selectAllChildren(command);
      this.byId("copied").textContent = "Press Ctrl+C, or Cmd+C, to copy the selected command.";
    }
  }
}

export function agreementOf(found) {
  if (!found) return "Agreement is shown as soon as two people have rated three of the same performances.";
  const value = (number) => (number === null ? "not defined" : number.toFixed(2));
  return (
    `${found.people} people share ${found.segments} performances. Krippendorff's alpha: ` +
    `${value(found.alpha)}. Spearman's rank correlation: ${value(found.spearman)}. ` +
    "1 is perfect agreement, 0 is chance."
  );
}

function results({ ratings, comparisons, ties, consistency }) {
  const lines = [];
  if (ratings) lines.push(`You have scored ${plural(ratings, "performance")}.`);
  if (comparisons) {
    const untold = ties ? ` In ${ties} you could not tell.` : "";
    lines.push(`You have compared ${plural(comparisons, "pair")}.${untold}`);
  }
  if (consistency?.scores) {
    const between = consistency.difference_between_segments;
    lines.push(
      `${plural(consistency.scores, "performance")} came twice: your two scores differ by ` +
        `${points(consistency.difference)} on average` +
        (between === null ? "." : `, scores of different performances by ${points(between)}.`),
    );
  }
  if (consistency?.pairs) {
    const alike = Math.round(consistency.alike * consistency.pairs);
    lines.push(`${plural(consistency.pairs, "pair")} came twice: you answered ${alike} alike.`);
  }
  return lines;
}

function points(number) {
  return plural(Number(number.toFixed(1)), "point");
}
