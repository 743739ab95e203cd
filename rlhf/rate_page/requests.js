// Talks to the server; whatever goes wrong becomes an Error with one clear sentence.

const LONGEST_WAIT = 45_000; // Milliseconds; the server's own limit is below that.

export function get(path, values = {}) {
  const query = new URLSearchParams(values).toString();
  return exchange(query ? `${path}?${query}` : path, {});
}

export function post(path, values) {
  return exchange(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(values),
  });
}

async function exchange(address, options) {
  let response;
  try {
    response = await fetch(address, { ...options, signal: AbortSignal.timeout(LONGEST_WAIT) });
  } catch {
    throw new Error("The server does not answer. Is pianist rate still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `The server failed (${response.status}).`);
  return answer;
}
