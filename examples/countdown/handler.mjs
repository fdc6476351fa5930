// A countdown as server-sent events: GET /?seconds=30&every=1
// https://html.spec.whatwg.org/multipage/server-sent-events.html
import { setTimeout as sleep } from "node:timers/promises";

// Proxies, and Hearth after 60 s, end a stream that is silent; so something is said before.
const HEARTBEAT = Number(process.env.HEARTBEAT ?? 15) * 1000;
const HEADERS = {
  "Content-Type": "text/event-stream; charset=utf-8",
  "Cache-Control": "no-store",
  "X-Accel-Buffering": "no", // nginx, if there is one, passes events on as they come
  "Access-Control-Allow-Origin": "*", // any page may listen
};

export default {
  fetch(request) {
    if (request.method !== "GET") {
      return problem(405, "send a GET", { Allow: "GET" });
    }
    const query = new URL(request.url).searchParams;
    const seconds = number(query.get("seconds"), 10, 1, 600);
    const every = number(query.get("every"), 1, 0.1, 60);
    if (seconds === null || every === null) {
      return problem(400, "seconds is a number from 1 to 600, every one from 0.1 to 60");
    }
    // Every event's id is the time at which it will be over. A browser that lost the connection sends the last id that
    // it saw; so whichever instance answers goes on with the same countdown, and nobody has to remember anything.
    const seen = number(request.headers.get("last-event-id"), null, 0, Date.now() + 600_000);
    const end = seen ?? Date.now() + seconds * 1000;
    if (end <= Date.now()) {
      return new Response(null, { status: 204, headers: HEADERS }); // a browser does not come again after this
    }
    return new Response(ReadableStream.from(countdown(end, every * 1000, request.signal)), { headers: HEADERS });
  },
};

async function* countdown(end, every, signal) {
  let told = 0;
  try {
    yield bytes("retry: 2000\n\n"); // milliseconds until the browser comes again
    for (let now = Date.now(); now < end; now = Date.now()) {
      yield event("tick", end, { left: Math.ceil((end - now) / 1000) });
      told += 1;
      yield* silence(Math.min(end, now + every), signal);
    }
    yield event("done", end, {});
    console.log(`told to the end, ${told} ticks`);
  } catch (error) {
    // The signal tells that the listener has left. Without it this would go on until the end, for nobody.
    if (!signal.aborted) throw error;
    console.log(`the listener left after ${told} ticks`);
  }
}

// Waits until a time, with a comment now and then, which browsers pass over.
async function* silence(until, signal) {
  for (let rest = until - Date.now(); rest > 0; rest = until - Date.now()) {
    await sleep(Math.min(rest, HEARTBEAT), undefined, { signal });
    if (rest > HEARTBEAT) yield bytes(": still here\n\n");
  }
}

function event(name, id, data) {
  return bytes(`event: ${name}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`);
}

const encoder = new TextEncoder();

function bytes(text) {
  return encoder.encode(text);
}

// The number in a text; `missing` when there is no text, null when it is none or out of bounds.
function number(text, missing, least, most) {
  if (text === null) return missing;
  const value = Number(text);
  return text.trim() !== "" && value >= least && value <= most ? value : null;
}

function problem(status, message, headers = {}) {
  return Response.json({ error: message }, { status, headers });
}
