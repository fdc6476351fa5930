// Markdown in, HTML out: POST a text.
import { marked } from "marked";

export const handler = async (event) => {
  const text = event.isBase64Encoded ? Buffer.from(event.body, "base64").toString() : (event.body ?? "# Hello");
  console.log(`rendering ${text.length} characters`);
  return { statusCode: 200, headers: { "content-type": "text/html; charset=utf-8" }, body: marked.parse(text) };
};
