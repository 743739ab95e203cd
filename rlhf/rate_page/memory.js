// What the browser keeps: the rater's name, the volume, which instructions have been read. Browsers
// can be set to keep nothing: then it is asked for, or said, each time.

export function remembered(key, otherwise) {
  try {
    return localStorage.getItem(key) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Nothing is lost but a memory.
  }
}

// The name given to the command holds until it is changed on the page, and again as soon as the
// command is given another one.
export function rememberedName(given) {
  const kept = remembered("rater", null);
  return kept !== null && remembered("given", null) === given ? kept : given;
}

export function rememberName(rater, given) {
  remember("rater", rater);
  remember("given", given);
}
