// OpenAI's own client, unmodified: asks the server at argv[2] and writes what it got, as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const given = {
  model: process.argv[3],
  messages: [{ role: "user", content: "What is a store path?" }],
  temperature: 0,
};
const failure = async (promise) => {
  try {
    await promise;
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
};

const models = [];
for await (const model of client.models.list()) models.push(model.id);

const answer = await client.chat.completions.create(given);

let streamed = "";
let finished = null;
let usage = null;
const roles = [];
const stream = await client.chat.completions.create({
  ...given,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  usage = chunk.usage ?? usage;
  for (const choice of chunk.choices) {
    if (choice.delta.role) roles.push(choice.delta.role);
    streamed += choice.delta.content ?? "";
    finished = choice.finish_reason ?? finished;
  }
}

const helped = await client.chat.completions.stream(given).finalContent();

const aborted = await client.chat.completions.create({ ...given, stream: true, min_tokens: 1500, max_tokens: 1500 });
for await (const chunk of aborted) {
  if (chunk.choices[0].delta.content) break; // which closes the connection
}

const completion = await client.completions.create({ model: given.model, prompt: "A store path is", max_tokens: 4 });

const errors = {
  temperature: await failure(client.chat.completions.create({ ...given, temperature: 3 })),
  model: await failure(client.chat.completions.create({ ...given, model: "gpt-4" })),
  embeddings: await failure(client.embeddings.create({ model: given.model, input: "a" })),
};

console.log(
  JSON.stringify({
    models,
    answer: answer.choices[0],
    used: answer.usage,
    streamed,
    finished,
    usage,
    roles,
    helped,
    completion: completion.usage.completion_tokens,
    errors,
  }),
);
