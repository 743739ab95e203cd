// The piano roll: notes that are due as pale bars, notes played as narrower solid ones.

const GUTTER = 30; // Pixels of the keyboard on the left.
const FOOT = 15; // Pixels of the seconds below.
const HEAD = 16; // Pixels above, where it says from where on is judged.
const SECONDS_SHOWN = 8;
const NOW = 0.35; // Where the playhead stands while a long roll moves, as a share of the width.
const BLACK = new Set([1, 4, 6, 9, 11]); // Of the twelve keys from A on.
const C = 3;
const F = 8;
const IVORY = "#fdfdfd";
const EBONY = "#2a2d33";

export class Roll {
  constructor(canvas) {
    this.canvas = canvas;
    this.notes = null;
    this.seconds = 0;
    this.region = null;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Notes as the server describes them; `still` shows the whole length, since nothing will move.
  load(notes, still) {
    this.notes = notes;
    this.span = still ? notes.seconds : Math.min(notes.seconds, SECONDS_SHOWN);
    this.move(0);
    this.canvas.setAttribute(
      "aria-label",
      `Piano roll: ${notes.due.length} notes due, ${notes.played.length} played, ` +
        `in ${notes.seconds.toFixed(1)} seconds` +
        (notes.lead_in ? `; the first ${notes.lead_in.toFixed(1)} are not judged` : ""),
    );
  }

  // Shows which part is played again and again; null for none.
  mark(region) {
    this.region = region;
    this.draw();
  }

  clear() {
    this.notes = null;
    this.canvas.width = this.canvas.width; // Which wipes it.
  }

  move(seconds) {
    this.seconds = Math.min(seconds, this.notes?.seconds ?? 0);
    this.canvas.dataset.seconds = this.seconds.toFixed(2);
    this.draw();
  }

  // The time at a horizontal place in the canvas, both in their own units.
  secondsAt(x) {
    const share = (x - GUTTER) / (this.canvas.clientWidth - GUTTER);
    return Math.min(Math.max(this.start() + share * this.span, 0), this.notes.seconds);
  }

  start() {
    const last = this.notes.seconds - this.span;
    return Math.min(Math.max(this.seconds - NOW * this.span, 0), last);
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!this.notes || !width || !height) return;
    const scale = devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(`--${name}`);
    const [low, high] = this.notes.keys;
    const head = this.notes.lead_in ? HEAD : 0;
    const lane = (height - head - FOOT) / (high - low + 1);
    const view = {
      pen, color, lane, low, high, width,
      bottom: height - FOOT,
      x: (seconds) => GUTTER + ((seconds - this.start()) / this.span) * (width - GUTTER),
      y: (key) => head + (high - key) * lane,
    };
    drawLanes(view);
    drawSeconds(view, this.notes.seconds);
    if (this.region) drawRegion(view, this.region);
    drawBars(view, this.notes.due, Math.max(0.88 * lane, 7), "due-fill", "due");
    drawBars(view, this.notes.played, Math.max(0.5 * lane, 3.5), "played", null);
    if (this.notes.lead_in) drawLeadIn(view, this.notes.lead_in);
    const down = this.notes.played.filter(
      ([onset, offset]) => onset <= this.seconds && this.seconds < offset,
    );
    drawKeyboard(view, new Set(down.map(([, , key]) => key)));
    pen.fillStyle = color("ink");
    pen.fillRect(view.x(this.seconds) - 1, 0, 2, view.bottom);
  }
}

function drawLanes({ pen, color, lane, low, high, width, y }) {
  pen.fillStyle = color("stripe");
  for (let key = low; key <= high; key += 1) {
    if (BLACK.has(key % 12)) pen.fillRect(GUTTER, y(key), width - GUTTER, lane);
  }
}

function drawSeconds({ pen, color, x, width, bottom }, seconds) {
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  const every = seconds > 20 ? 5 : 1;
  for (let second = 0; second <= seconds; second += every) {
    const place = x(second);
    if (place < GUTTER - 1 || place > width + 1) continue;
    pen.fillStyle = color("line");
    pen.fillRect(place, 0, 1, bottom);
    pen.fillStyle = color("muted");
    pen.fillText(`${second} s`, Math.min(Math.max(place, GUTTER), width - 12), bottom + FOOT - 3);
  }
}

function drawRegion({ pen, color, x, bottom }, { from, to }) {
  pen.fillStyle = color("marked");
  pen.fillRect(x(from), 0, x(to) - x(from), bottom);
  pen.fillStyle = color("accent");
  for (const edge of [from, to]) pen.fillRect(x(edge) - 1, 0, 2, bottom);
}

// Pales what is not judged, and marks where judging begins.
function drawLeadIn({ pen, color, x, bottom }, seconds) {
  const end = x(seconds);
  if (end <= GUTTER) return;
  pen.globalAlpha = 0.65;
  pen.fillStyle = color("line");
  pen.fillRect(GUTTER, 0, end - GUTTER, bottom);
  pen.globalAlpha = 1;
  pen.strokeStyle = color("ink");
  pen.lineWidth = 1.5;
  pen.setLineDash([5, 4]);
  pen.beginPath();
  pen.moveTo(end, 0);
  pen.lineTo(end, bottom);
  pen.stroke();
  pen.setLineDash([]);
  pen.fillStyle = color("ink");
  pen.font = "600 11px system-ui, sans-serif";
  pen.textAlign = "left";
  pen.textBaseline = "top";
  pen.fillText("judged from here →", end + 5, 2);
}

function drawBars({ pen, color, lane, x, y }, notes, height, fill, outline) {
  pen.fillStyle = color(fill);
  if (outline) pen.strokeStyle = color(outline);
  pen.lineWidth = 1.5;
  for (const [onset, offset, key] of notes) {
    pen.beginPath();
    const top = y(key) + (lane - height) / 2;
    pen.roundRect(x(onset), top, Math.max(2, x(offset) - x(onset)), height, 2);
    pen.fill();
    if (outline) pen.stroke();
  }
}

// Covers what has moved out to the left.
function drawKeyboard({ pen, color, lane, low, high, y, bottom }, down) {
  pen.fillStyle = color("paper");
  pen.fillRect(0, 0, GUTTER, bottom);
  pen.fillStyle = IVORY;
  pen.fillRect(0, 0, GUTTER - 3, bottom);
  pen.strokeStyle = "#9aa0ab";
  pen.lineWidth = 1;
  pen.strokeRect(0.5, 0.5, GUTTER - 4, bottom - 1);
  for (let key = low; key <= high; key += 1) {
    const black = BLACK.has(key % 12);
    pen.fillStyle = down.has(key) ? color("played") : black ? EBONY : IVORY;
    if (black || down.has(key)) pen.fillRect(0, y(key), (black ? 0.62 : 1) * (GUTTER - 3), lane);
    // White keys touch behind a black one, or where there is none between them.
    if (lane < 6) pen.lineWidth = 0.25;
    if (black) pen.strokeRect(0.6 * GUTTER, y(key) + lane / 2, 0.3 * GUTTER, 0);
    else if (key % 12 === C || key % 12 === F) pen.strokeRect(0, y(key) + lane, GUTTER - 3, 0);
    if (key % 12 === C) {
      pen.fillStyle = "#555b66";
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      pen.font = `${Math.min(Math.max(lane, 8), 10)}px system-ui, sans-serif`;
      pen.fillText(`C${Math.floor((key - C) / 12) + 1}`, GUTTER - 5, y(key) + lane / 2);
    }
  }
}
