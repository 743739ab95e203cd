// One performance: its pictures and sound, and the piano roll that moves with them.

import { get } from "./requests.js";
import { Roll } from "./roll.js";

export class Player {
  // `begun` and `ended` are called with this player when it begins to play and has come to its end.
  constructor(template, parent, begun, ended) {
    this.root = template.content.firstElementChild.cloneNode(true);
    parent.append(this.root);
    this.begun = begun;
    this.ended = ended;
    this.part = (selector) => this.root.querySelector(selector);
    this.roll = new Roll(this.part("canvas"));
    this.media = null;
    this.part(".play").addEventListener("click", () => this.toggle());
    this.part(".replay").addEventListener("click", () => this.replay());
    this.part(".screen").addEventListener("click", () => this.toggle());
    this.part("canvas").addEventListener("pointerdown", (event) => {
      if (!this.media) return;
      this.media.currentTime = this.roll.secondsAt(event.offsetX);
      this.show();
    });
  }

  // Shows a segment; the promise is fulfilled when it can be played.
  async load(name, heading) {
    this.unload();
    this.name = name;
    this.part("h3").textContent = heading;
    this.say("Loading …");
    let notes;
    try {
      notes = await get(`/api/segments/${name}`);
    } catch (error) {
      if (this.name === name) this.say(`This performance cannot be shown. ${error.message}`);
      return;
    }
    if (this.name !== name) return; // Another one has been asked for meanwhile.
    this.roll.load(notes, !notes.media);
    this.say(notes.media ? "" : `Only the notes can be shown: ${notes.reason}.`);
    if (notes.media) this.attach(notes.media);
    this.show();
  }

  unload() {
    this.name = null;
    this.media?.pause();
    this.media?.removeAttribute("src");
    this.media = null;
    this.roll.clear();
    this.part(".screen").replaceChildren();
    this.root.dataset.media = "none";
    this.show();
  }

  attach(address) {
    const kind = address.endsWith(".mp4") ? "video" : "audio";
    const media = document.createElement(kind);
    media.playsInline = true;
    media.preload = "auto";
    media.src = address;
    media.addEventListener("play", () => this.follow(media));
    media.addEventListener("pause", () => this.show());
    media.addEventListener("seeked", () => this.show());
    media.addEventListener("ended", () => this.ended(this));
    media.addEventListener("error", () => this.replace(media));
    this.part(".screen").replaceChildren(media);
    this.root.dataset.media = kind;
    this.media = media;
  }

  // Where a video cannot be played, its sound may.
  replace(broken) {
    if (broken !== this.media) return;
    if (broken.localName === "video") {
      this.say("The video cannot be played here: this is its sound.");
      this.attach(`/media/${this.name}.wav`);
    } else {
      this.say("Sound cannot be played here: only the notes are shown.");
      this.media = null;
      this.root.dataset.media = "none";
    }
    this.show();
  }

  async play() {
    const media = this.media;
    if (!media) return;
    try {
      await media.play();
    } catch (error) {
      // Browsers play no sound before a page has been touched.
      if (error.name === "NotAllowedError" && media === this.media) this.say("Press Space or Play.");
    }
  }

  toggle() {
    if (this.playing) this.media.pause();
    else this.play();
  }

  replay() {
    if (!this.media) return;
    this.media.currentTime = 0;
    this.play();
  }

  get playing() {
    return this.media !== null && !this.media.paused && !this.media.ended;
  }

  follow(media) {
    this.say("");
    this.begun(this);
    const step = () => {
      if (media !== this.media) return;
      this.show();
      if (this.playing) requestAnimationFrame(step);
    };
    step();
  }

  show() {
    const seconds = this.media?.currentTime ?? 0;
    this.roll.move(seconds);
    this.root.dataset.playing = String(this.playing);
    this.part(".play").textContent = this.playing ? "Pause" : "Play";
    this.part(".play").disabled = this.part(".replay").disabled = !this.media;
    const length = this.roll.notes?.seconds ?? 0;
    this.part(".time").textContent =
      `${Math.min(seconds, length).toFixed(1)} of ${length.toFixed(1)} s`;
  }

  say(words) {
    this.part(".note").textContent = words;
    this.part(".note").hidden = !words;
  }
}
