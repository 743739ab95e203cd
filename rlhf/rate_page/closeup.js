// Listening closely: a marked part that is played again and again, half speed, and the volume. In a
// pair both players have the same, so that the same music is compared.

import { remember, remembered } from "./memory.js";

const SHORTEST = 0.2; // Seconds that a mark has at least.
const HALF = 0.5;
const VOLUME_STEP = 5;

export class Closeup {
  // `others` have the same volume; `current` gives the player that buttons and keys are for.
  constructor(byId, players, others, current) {
    this.byId = byId;
    this.players = players;
    this.others = others;
    this.current = current;
    this.volume = byId("volume");
    this.volume.value = remembered("volume", "100");
    this.volume.addEventListener("input", () => this.setVolume(this.volume.value));
    for (const player of players) {
      player.marked = (from, to) => this.mark(from, to);
    }
    byId("mark-begin").addEventListener("click", () => this.markBegin());
    byId("mark-end").addEventListener("click", () => this.markEnd());
    byId("unmark").addEventListener("click", () => this.clear());
    byId("half").addEventListener("click", () => this.toggleHalf());
    this.setVolume(this.volume.value);
    this.reset();
  }

  // Every question begins unmarked, and at full speed.
  reset() {
    this.clear();
    this.setSpeed(1);
  }

  // The end stays where it is, if it lies behind the new beginning.
  markBegin() {
    const { now, seconds } = this.current();
    const end = this.region && this.region.to > now ? this.region.to : seconds;
    this.mark(now, end);
  }

  markEnd() {
    const { now } = this.current();
    const begin = this.region && this.region.from < now ? this.region.from : 0;
    this.mark(begin, now);
  }

  mark(from, to) {
    const { media, seconds } = this.current();
    if (!media) return;
    let [begin, end] = [Math.min(from, to), Math.max(from, to)];
    if (end - begin < SHORTEST) {
      begin = Math.max(0, Math.min(begin, seconds - SHORTEST));
      end = Math.min(seconds, begin + SHORTEST);
    }
    this.show({ from: begin, to: end });
  }

  clear() {
    this.show(null);
  }

  show(region) {
    this.region = region;
    for (const player of this.players) player.loop(region);
    this.byId("unmark").disabled = !region;
    this.byId("marked").textContent = region
      ? `${region.from.toFixed(1)} to ${region.to.toFixed(1)} s are played again and again.`
      : "";
  }

  toggleHalf() {
    this.setSpeed(this.speed === 1 ? HALF : 1);
  }

  setSpeed(speed) {
    this.speed = speed;
    for (const player of this.players) player.setSpeed(speed);
    this.byId("half").setAttribute("aria-pressed", String(speed !== 1));
  }

  stepVolume(direction) {
    this.setVolume(Number(this.volume.value) + direction * VOLUME_STEP);
  }

  setVolume(value) {
    this.volume.value = value; // Which keeps it in its range.
    this.volume.setAttribute("aria-valuetext", `${this.volume.value} per cent`);
    remember("volume", this.volume.value);
    for (const player of [...this.players, ...this.others]) player.setVolume(this.volume.value / 100);
  }
}
