// One performance: its pictures and sound, and the piano roll that moves with them.

import { get } from "./requests.js";
import { Roll } from "./roll.js";

const DRAG = 8; // Pixels by which a pointer moves before it marks.
const TOLERANCE = 0.05; // Seconds by which a browser may land before the place it was sent to.

export class Player {
  // `begun` and `ended` are called with this player when it begins to play and has come to its end.
  constructor(template, parent, begun, ended = () => {}) {
    this.root = template.content.firstElementChild.cloneNode(true);
    parent.append(this.root);
    this.begun = begun;
    this.ended = ended;
    this.marked = null; // Called with two times in seconds when a part has been marked.
    this.region = null;
    this.speed = this.volume = 1;
    this.part = (selector) => this.root.querySelector(selector);
    this.roll = new Roll(this.part("canvas"));
    this.media = null;
    this.part(".play").addEventListener("click", () => this.toggle());
    this.part(".replay").addEventListener("click", () => this.replay());
    this.part(".screen").addEventListener("click", () => this.toggle());
    this.part("canvas").addEventListener("pointerdown", (event) => this.point(event));
  }

  // Pressing on the notes goes there; dragging across them marks a part.
  point(down) {
    if (!this.media) return;
    const canvas = this.part("canvas");
    const begin = this.roll.secondsAt(down.offsetX);
    const end = new AbortController();
    const listen = (name, act) => canvas.addEventListener(name, act, { signal: end.signal });
    canvas.setPointerCapture(down.pointerId);
    let drags = false;
    listen("pointermove", (event) => {
      drags ||= this.marked !== null && Math.abs(event.offsetX - down.offsetX) > DRAG;
      if (drags) this.marked(begin, this.roll.secondsAt(event.offsetX));
    });
    listen("pointerup", () => {
      end.abort();
      if (!drags) this.media.currentTime = begin;
      this.show();
    });
    listen("pointercancel", () => end.abort());
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
    media.volume = this.volume;
    media.playbackRate = media.defaultPlaybackRate = this.speed;
    media.addEventListener("play", () => this.follow(media));
    media.addEventListener("pause", () => this.show());
    media.addEventListener("seeked", () => this.show());
    media.addEventListener("ended", () => (this.region ? this.play() : this.ended(this)));
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
    this.returnToRegion();
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
    this.media.currentTime = this.region?.from ?? 0;
    this.play();
  }

  // Plays a part again and again; null ends that.
  loop(region) {
    this.region = region;
    this.roll.mark(region);
    if (this.playing) this.returnToRegion();
  }

  returnToRegion() {
    const { media, region } = this;
    if (!media || !region) return;
    const { currentTime: now, ended } = media;
    if (ended || now < region.from - TOLERANCE || now >= region.to) {
      media.currentTime = region.from;
    }
  }

  setSpeed(speed) {
    this.speed = speed;
    if (this.media) this.media.playbackRate = this.media.defaultPlaybackRate = speed;
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.media) this.media.volume = volume;
  }

  get now() {
    return Math.min(this.media?.currentTime ?? 0, this.seconds);
  }

  get seconds() {
    return this.roll.notes?.seconds ?? 0;
  }

  get playing() {
    return this.media !== null && !this.media.paused && !this.media.ended;
  }

  follow(media) {
    this.say("");
    this.begun(this);
    const step = () => {
      if (media !== this.media) return;
      this.returnToRegion();
      this.show();
      if (this.playing) requestAnimationFrame(step);
    };
    step();
  }

  show() {
    this.roll.move(this.now);
    this.root.dataset.playing = String(this.playing);
    this.part(".play").textContent = this.playing ? "Pause" : "Play";
    this.part(".play").disabled = this.part(".replay").disabled = !this.media;
    this.part(".time").textContent = `${this.now.toFixed(1)} of ${this.seconds.toFixed(1)} s`;
    const leadIn = this.roll.notes?.lead_in ?? 0;
    this.part(".phase").hidden = !leadIn;
    this.part(".phase").dataset.over = String(this.now >= leadIn);
  }

  say(words) {
    this.part(".note").textContent = words;
    this.part(".note").hidden = !words;
  }
}
