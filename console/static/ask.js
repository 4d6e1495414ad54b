// Asks the console, with a time limit, and raises an Error whose text is for people.

const TIMEOUT_MS = 35000;

export async function ask(path, body) {
  const headers = { accept: "application/json" };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    headers["x-csrf-token"] = document.querySelector("meta[name=csrf]").content;
  }
  let answer;
  try {
    answer = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
      redirect: "error",
    });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "The console did not answer in time." : "The console does not answer: is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error || "The console answered with status " + answer.status + ".");
  return content;
}

// Calls `show(answer)` with a fresh answer each `everyMs`, one request at a time, while the page can be seen.
export function repeat(path, everyMs, show, fail) {
  let timer = 0;
  async function turn() {
    if (!document.hidden) {
      try {
        show(await ask(path));
      } catch (error) {
        fail(error);
      }
    }
    timer = setTimeout(turn, everyMs);
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    clearTimeout(timer);
    timer = setTimeout(turn, 0);
  });
  turn();
}
