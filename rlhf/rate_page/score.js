// The score being given: by slider, by typing, by steps. Null until the rater has chosen one.

const LOWEST = 1;
const HIGHEST = 100;

export class Score {
  constructor(slider, field) {
    this.slider = slider;
    this.field = field;
    this.middle = slider.value; // The slider stands there before anything is chosen.
    slider.addEventListener("input", () => this.set(Number(slider.value)));
    field.addEventListener("input", () => {
      const typed = Number(field.value.replace(/\D/g, ""));
      this.set(typed ? Math.min(typed, HIGHEST) : null);
    });
    this.set(null);
  }

  set(value) {
    this.value = value;
    this.field.value = value ?? "";
    this.slider.value = value ?? this.middle;
    this.slider.dataset.chosen = this.field.dataset.chosen = String(value !== null);
    this.slider.setAttribute("aria-valuetext", value === null ? "none chosen yet" : String(value));
    this.typing = false;
  }

  step(difference) {
    const from = this.value ?? Number(this.middle);
    this.set(Math.min(Math.max(from + difference, LOWEST), HIGHEST));
  }

  // Digits typed one after the other; one too many begins a new number.
  type(digit) {
    const longer = Number(`${this.typing ? this.value : ""}${digit}`);
    const value = longer <= HIGHEST ? longer : Number(digit);
    if (value < LOWEST) return;
    this.set(value);
    this.typing = true;
  }

  // Takes the last digit away; false if there is none.
  rubOut() {
    if (this.value === null) return false;
    this.set(Number(String(this.value).slice(0, -1)) || null);
    this.typing = this.value !== null;
    return true;
  }
}
