// The instruction before the first question, with two examples that show how the scale is meant.

import { remember, remembered } from "./memory.js";
import { Player } from "./player.js";
import { get } from "./requests.js";

const HEADINGS = { low: "About a 20", high: "About an 80" };

export class Instruction {
  // `closed` is called when the rater goes on to the questions.
  constructor(byId, closed) {
    this.byId = byId;
    this.dialog = byId("instruction");
    this.players = Object.keys(HEADINGS).map(
      () => new Player(byId("player"), byId("example-players"), (one) => this.pauseOthers(one)),
    );
    byId("understood").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => {
      for (const player of this.players) player.unload();
      remember(this.key, "read");
      closed();
    });
  }

  get open() {
    return this.dialog.open;
  }

  pauseOthers(playing) {
    for (const player of this.players) if (player !== playing) player.media?.pause();
  }

  // Each rater reads it once for each kind of question.
  openOnce(rater, mode, attribute) {
    if (remembered(keyOf(rater, mode, attribute), "") !== "read") this.show(rater, mode, attribute);
    return this.open;
  }

  show(rater, mode, attribute) {
    if (this.open) return;
    this.key = keyOf(rater, mode, attribute);
    const lines = advice(mode, attribute).map((words) => {
      const line = document.createElement("li");
      line.textContent = words;
      return line;
    });
    this.byId("advice").replaceChildren(...lines);
    this.byId("examples").hidden = true;
    this.dialog.showModal();
    if (mode === "single") this.showExamples();
  }

  async showExamples() {
    let examples = null;
    try {
      ({ examples } = await get("/api/examples"));
    } catch {
      return; // The question behind says what is wrong with the server.
    }
    if (!examples || !this.open) return;
    this.byId("examples").hidden = false;
    Object.entries(HEADINGS).forEach(([which, heading], index) => {
      this.players[index].load(examples[which], heading);
    });
  }
}

function keyOf(rater, mode, attribute) {
  return `instruction ${mode} ${attribute} ${rater}`;
}

function advice(mode, attribute) {
  const pairs = [
    "You hear two performances of the same passage.",
    attribute
      ? `Choose the one that is more ${attribute}. Leave everything else aside.`
      : "Choose the one that is played better. Whatever you hear counts.",
    "If you cannot tell, say so: that is an answer, too.",
  ];
  const single = [
    "You hear performances one at a time, those of the same passage one after another.",
    attribute
      ? `Give each a score from 1 to 100 for how ${attribute} it is. Leave everything else aside.`
      : "Give each a score from 1 to 100 for how well it is played. Whatever you hear counts.",
    "Use the whole scale for the differences that you hear here.",
  ];
  return [
    ...(mode === "pairs" ? pairs : single),
    "Where the beginning is shaded, it only leads in: judge what comes after the line.",
    "To listen closely, mark a part by dragging across the notes. It is played again and again, " +
      "at half speed if you like.",
    "Every answer is kept at once. You can correct answers, and stop and come back at any time.",
  ];
}
