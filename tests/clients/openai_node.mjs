// Run by openai_node.py, which says where the server and the packages are.
import assert from "node:assert";
import { createRequire } from "node:module";

const require = createRequire(process.env.QUERN_NODE_MODULES + "/");
const OpenAI = require("openai");
const client = new OpenAI({ baseURL: process.env.QUERN_URL + "/v1", apiKey: "none", maxRetries: 0 });
const ask = {
  model: "tiny",
  messages: [{ role: "user", content: "What is 17 + 25?" }],
  temperature: 0,
  chat_template_kwargs: { enable_thinking: false },
};

const whole = await client.chat.completions.create(ask);
assert.match(whole.choices[0].message.content, /42/);
assert.strictEqual(whole.choices[0].finish_reason, "stop");

let text = "";
let usage = null;
const stream = await client.chat.completions.create({
  ...ask,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.strictEqual(text, whole.choices[0].message.content);
assert.strictEqual(usage.completion_tokens, whole.usage.completion_tokens);

const continued = await client.completions.create({ model: "tiny", prompt: [1, 2, 3], max_tokens: 3 });
assert.strictEqual(continued.usage.prompt_tokens, 3);

const models = [];
for await (const model of client.models.list()) models.push(model.id);
assert.deepStrictEqual(models, ["tiny"]);
await assert.rejects(client.models.retrieve("other"), OpenAI.NotFoundError);

// A stream that is given up: the server ends its request.
const long = await client.chat.completions.create({ ...ask, stream: true, ignore_eos: true, max_tokens: 1000 });
for await (const chunk of long) if (chunk.choices.length > 0) break;
for (let tries = 0; ; ++tries) {
  const load = await (await fetch(process.env.QUERN_URL + "/load")).json();
  if (load.server_load === 0) break;
  assert.ok(tries < 200, "the request goes on");
  await new Promise((resolve) => setTimeout(resolve, 50));
}
