// The official JavaScript client against the API at API.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.API}/v1`, apiKey: "none", maxRetries: 8 });
const ask = {
  model: "chat-demo",
  messages: [{ role: "user", content: "Tell me a short story about a fox." }],
  max_tokens: 60,
  temperature: 0,
};
const checks = {
  "a chat is answered": async () => {
    const answer = await client.chat.completions.create(ask);
    assert.ok(answer.choices[0].message.content.trim());
    assert.ok(answer.usage.completion_tokens > 0);
  },
  "a stream is read to its end": async () => {
    const stream = await client.chat.completions.create({
      ...ask,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.ok(text.trim());
    assert.ok(usage.completion_tokens > 0);
  },
  "calls are collected from a stream": async () => {
    const parameters = { type: "object", properties: { color: { enum: ["red", "blue"] } }, required: ["color"], additionalProperties: false };
    const stream = client.chat.completions.stream({
      ...ask,
      tools: [{ type: "function", function: { name: "paint", parameters } }],
      tool_choice: "required",
    });
    const answer = await stream.finalChatCompletion();
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
    assert.equal(answer.choices[0].message.tool_calls[0].function.name, "paint");
  },
  "mistakes have the errors that the client knows": async () => {
    await assert.rejects(client.chat.completions.create({ ...ask, model: "gpt-9" }), OpenAI.NotFoundError);
    await assert.rejects(client.chat.completions.create({ ...ask, top_p: 2 }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, "top_p");
      return true;
    });
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${error}`);
  }
}
console.log(`JavaScript client: ${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
