// Markdown in, HTML out: POST a text. What comes out can be put into a page, whoever wrote the text.
import { Marked } from "marked";
import sanitize from "sanitize-html";

const LONGEST = 256 * 1024; // bytes
const TYPES = ["text/markdown", "text/plain"];

const marked = new Marked({ gfm: true });

// Markdown may contain HTML, and with it scripts. What is not named here is taken out, its text stays.
const ALLOWED: sanitize.IOptions = {
  allowedTags: [...sanitize.defaults.allowedTags, "img", "del", "input"],
  allowedAttributes: {
    a: ["href", "title", "rel"],
    img: ["src", "alt", "title"],
    ol: ["start"],
    th: ["align"],
    td: ["align"],
    input: ["type", "checked", "disabled"],
  },
  allowedClasses: { code: ["language-*"] },
  allowedSchemes: ["http", "https", "mailto"], // no javascript:, no data:
  transformTags: {
    a: sanitize.simpleTransform("a", { rel: "nofollow noopener" }),
    // The boxes of a list of tasks, and no other kind of field.
    input: (_, { checked }) => ({
      tagName: "input",
      attribs: { type: "checkbox", disabled: "", ...(checked === undefined ? {} : { checked: "" }) },
    }),
  },
};

export default {
  async fetch(request: Request): Promise<Response> {
    if (request.method !== "POST") {
      return problem(405, "send a POST with Markdown as its body", { Allow: "POST" });
    }
    const type = (request.headers.get("content-type") ?? TYPES[0]).split(";")[0].trim().toLowerCase();
    if (!TYPES.includes(type)) {
      return problem(415, `send it as Content-Type: ${TYPES[0]}`, { Accept: TYPES.join(", ") });
    }
    const body = await request.arrayBuffer();
    if (body.byteLength > LONGEST) {
      return problem(413, `the text is longer than ${LONGEST / 1024} KiB`);
    }
    let text: string;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(body);
    } catch {
      return problem(400, "the text is not UTF-8");
    }
    return new Response(render(text), {
      headers: {
        "Content-Type": "text/html; charset=utf-8",
        // A second net, for who opens the answer itself: nothing in it runs.
        "Content-Security-Policy": "default-src 'none'; img-src http: https:",
        "X-Content-Type-Options": "nosniff",
      },
    });
  },
};

function render(text: string): string {
  return sanitize(marked.parse(text, { async: false }), ALLOWED);
}

function problem(status: number, message: string, headers: Record<string, string> = {}): Response {
  return Response.json({ error: message }, { status, headers });
}
