// The rater's name, kept by the browser. Browsers can be set to keep nothing: then it is asked for
// each time.

// The name given to the command holds until it is changed on the page, and again as soon as the
// command is given another one.
export function rememberedName(given) {
  try {
    const [kept, before] = [localStorage.getItem("rater"), localStorage.getItem("given")];
    return kept !== null && before === given ? kept : given;
  } catch {
    return given;
  }
}

export function rememberName(rater, given) {
  try {
    localStorage.setItem("rater", rater);
    localStorage.setItem("given", given);
  } catch {
    // Nothing is lost but the memory of a name.
  }
}
