// Real clients against hadal's server over the scripted stand-in (tests/support/scripted_decoder.h): each does a chat,
// a thinking chat, a tool loop, an error and an abort, streamed and not.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { createDeepSeek } from "@ai-sdk/deepseek";
import { generateText, stepCountIs, streamText, tool as aiTool } from "ai";
import { ChatDeepSeek } from "@langchain/deepseek";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { z } from "zod";

const root = fileURLToPath(new URL("../../", import.meta.url));
const model = "deepseek-v4-flash";
let server, url;

before(async () => {
  server = spawn(`${root}build/release/tests/stand_in`, [`${root}models/hadal-nano/tokenizer.json`], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const port = await new Promise((resolve, reject) => {
    server.stdout.once("data", (data) => resolve(Number(data)));
    server.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  url = `http://127.0.0.1:${port}`;
});
after(() => server.stdin.end());

const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city"],
};
const line = 'CALL weather {"city": "Zürich \\"x\\"", "days": 2} THEN CALL weather {"city": "Bern"}';
const first = { city: 'Zürich "x"', days: 2 };

// ---- openai

const openai = () => new OpenAI({ baseURL: url, apiKey: "local", maxRetries: 0 });
const tools = [{ type: "function", function: { name: "weather", description: "Weather.", parameters } }];

test("openai: chat, streamed and not, with and without thinking", async () => {
  for (const thinking of ["enabled", "disabled"]) {
    const body = { model, messages: [{ role: "user", content: "SAY grüß dich 漢字 😀" }], thinking: { type: thinking } };
    const whole = await openai().chat.completions.create(body);
    const message = whole.choices[0].message;
    assert.equal(message.content, "grüß dich 漢字 😀");
    assert.equal(message.reasoning_content, thinking === "enabled" ? "Let me see." : undefined);
    assert.equal(whole.choices[0].finish_reason, "stop");
    const stream = await openai().chat.completions.create({ ...body, stream: true });
    let content = "", reasoning = "", usage;
    for await (const chunk of stream) {
      content += chunk.choices[0].delta.content ?? "";
      reasoning += chunk.choices[0].delta.reasoning_content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(content, message.content);
    assert.equal(reasoning, message.reasoning_content ?? "");
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
    assert.equal(usage.prompt_tokens, whole.usage.prompt_tokens);
  }
});

test("openai: the stream's accumulator gives the plain answer", async () => {
  const body = { model, tools, messages: [{ role: "user", content: line }] };
  const whole = (await openai().chat.completions.create(body)).choices[0];
  const streamed = (await openai().chat.completions.stream(body).finalChatCompletion()).choices[0];
  assert.equal(streamed.finish_reason, "tool_calls");
  assert.equal(streamed.message.content, whole.message.content);
  const told = (choice) => choice.message.tool_calls.map((call) => [call.type, call.function.name, call.function.arguments]);
  assert.deepEqual(told(streamed), told(whole));
  assert.deepEqual(JSON.parse(whole.message.tool_calls[0].function.arguments), first);
});

test("openai: runTools goes twice around", async () => {
  const seen = [];
  const runner = openai().chat.completions.runTools({
    model,
    messages: [{ role: "user", content: line }],
    tools: [{
      type: "function",
      function: { ...tools[0].function, parse: JSON.parse, function: (args) => (seen.push(args), `${args.city}: sun`) },
    }],
  });
  assert.equal(await runner.finalContent(), "Done: Bern: sun");
  assert.deepEqual(seen, [first, { city: "Bern" }]);
});

test("openai: several calls at once keep their order", async () => {
  const body = { model, tools, messages: [{ role: "user", content: 'CALL weather {"city":"A"} AND CALL weather {"city":"B"}' }] };
  const message = (await openai().chat.completions.create(body)).choices[0].message;
  assert.deepEqual(message.tool_calls.map((call) => JSON.parse(call.function.arguments).city), ["A", "B"]);
  const results = message.tool_calls.toReversed().map((call, i) => ({ role: "tool", tool_call_id: call.id, content: `r${i}` }));
  const next = await openai().chat.completions.create({ ...body, messages: [...body.messages, message, ...results] });
  assert.equal(next.choices[0].message.content, "Done: r0");  // results in the order of the calls
});

test("openai: stop, max_tokens, logprobs", async () => {
  const ask = (more) => openai().chat.completions.create({ model, thinking: { type: "disabled" },
    messages: [{ role: "user", content: "COUNT 50" }], ...more });
  assert.equal((await ask({ stop: [" 7"] })).choices[0].message.content, "1 2 3 4 5 6");
  const cut = await ask({ max_tokens: 5 });
  assert.equal(cut.choices[0].finish_reason, "length");
  assert.equal(cut.usage.completion_tokens, 5);
  const scored = await ask({ max_tokens: 3, logprobs: true, top_logprobs: 2 });
  assert.equal(scored.choices[0].logprobs.content.length, 3);
  assert.equal(scored.choices[0].logprobs.content[0].top_logprobs.length, 2);
});

test("openai: structured output and strict tools", async () => {
  const said = 'SAY {"city": "Bern", "days": 2}';
  const schema = { ...parameters, required: ["city", "days"], additionalProperties: false };
  const parsed = await openai().chat.completions.parse({ model, messages: [{ role: "user", content: said }],
    response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema } } });
  assert.deepEqual(parsed.choices[0].message.parsed, { city: "Bern", days: 2 });
  const object = await openai().chat.completions.create({ model, messages: [{ role: "user", content: said }],
    response_format: { type: "json_object" } });
  assert.deepEqual(JSON.parse(object.choices[0].message.content), { city: "Bern", days: 2 });
  const strict = [{ type: "function", function: { name: "weather", strict: true, parameters: schema } }];
  const called = await openai().chat.completions.create({ model, tools: strict,
    messages: [{ role: "user", content: 'CALL weather {"city": "Bern", "days": 2}' }] });
  assert.deepEqual(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments), { city: "Bern", days: 2 });
  const response = await openai().responses.create({ model, input: said,
    text: { format: { type: "json_schema", name: "x", strict: true, schema } } });
  assert.deepEqual(JSON.parse(response.output_text), { city: "Bern", days: 2 });
  await assert.rejects(openai().chat.completions.create({ model, messages: [{ role: "user", content: said }],
    response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema: { not: {} } } } }),
    (e) => e instanceof OpenAI.BadRequestError && /not/.test(e.message));
});

test("openai: errors have their classes", async () => {
  const ask = (more) => openai().chat.completions.create({ model, messages: [{ role: "user", content: "x" }], ...more });
  await assert.rejects(ask({ model: "gpt-9" }), (e) => e instanceof OpenAI.BadRequestError && /Model Not Exist/.test(e.message));
  await assert.rejects(ask({ temperature: 3 }), /valid range of temperature is \[0, 2\]/);
  await assert.rejects(ask({ messages: [{ role: "user", content: "y ".repeat(1 << 21) }] }),
    (e) => e.code === "context_length_exceeded" && /maximum context length is 1048576 tokens/.test(e.message));
  await assert.rejects(openai().models.retrieve("nothing"), (e) => e instanceof OpenAI.NotFoundError);
});

test("openai: an abort ends the answer", async () => {
  const stream = await openai().chat.completions.create({ model, stream: true, messages: [{ role: "user", content: "COUNT 100000" }] });
  let n = 0;
  for await (const _ of stream) if (++n === 20) break;
  assert.equal(n, 20);
  const again = await openai().chat.completions.create({ model, messages: [{ role: "user", content: "SAY still here" }] });
  assert.equal(again.choices[0].message.content, "still here");
});

test("openai: responses, streamed and not", async () => {
  const body = { model, input: "SAY hello", reasoning: { effort: "high" } };
  const whole = await openai().responses.create(body);
  assert.equal(whole.output_text, "hello");
  assert.equal(whole.output[0].content[0].text, "Let me see.");
  const streamed = await openai().responses.stream(body).finalResponse();
  assert.equal(streamed.output_text, "hello");
  const texts = (items) => items.map((item) => [item.type, item.status, item.content[0].type, item.content[0].text]);
  assert.deepEqual(texts(streamed.output), texts(whole.output));
  assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
});

test("openai: a tool loop of responses", async () => {
  const flat = [{ type: "function", name: "weather", parameters, strict: false }];
  const input = [{ role: "user", content: line }];
  for (const city of [first.city, "Bern"]) {
    const response = await openai().responses.stream({ model, input, tools: flat }).finalResponse();
    const call = response.output.find((item) => item.type === "function_call");
    assert.equal(JSON.parse(call.arguments).city, city);
    input.push(...response.output, { type: "function_call_output", call_id: call.call_id, output: `${city}: rain` });
  }
  const end = await openai().responses.create({ model, input, tools: flat });
  assert.equal(end.output_text, "Done: Bern: rain");
});

test("openai: fill in the middle, and the list of models", async () => {
  const list = await openai().models.list();
  assert.equal(list.data[0].id, "stand-in");
  const done = await openai().completions.create({ model, prompt: "a", suffix: "b", max_tokens: 4 });
  assert.equal(done.object, "text_completion");
});

// ---- anthropic

const anthropic = () => new Anthropic({ baseURL: `${url}/anthropic`, apiKey: "local", maxRetries: 0 });
const blocks = [{ name: "weather", description: "Weather.", input_schema: parameters }];

test("anthropic: messages, streamed and not", async () => {
  for (const thinking of ["enabled", "disabled"]) {
    const body = { model, max_tokens: 1000, thinking: { type: thinking, budget_tokens: 1024 },
                   messages: [{ role: "user", content: "SAY grüß dich 😀" }] };
    const whole = await anthropic().messages.create(body);
    assert.deepEqual(whole.content.map((block) => block.type), thinking === "enabled" ? ["thinking", "text"] : ["text"]);
    assert.equal(whole.content.at(-1).text, "grüß dich 😀");
    assert.equal(whole.stop_reason, "end_turn");
    const streamed = await anthropic().messages.stream(body).finalMessage();
    assert.deepEqual(streamed.content, whole.content);
    assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
  }
});

test("anthropic: a tool loop", async () => {
  for (const stream of [false, true]) {
    const messages = [{ role: "user", content: line }];
    const ask = async () => {
      const body = { model, max_tokens: 1000, tools: blocks, messages };
      return stream ? anthropic().messages.stream(body).finalMessage() : anthropic().messages.create(body);
    };
    for (const city of [first.city, "Bern"]) {
      const message = await ask();
      assert.equal(message.stop_reason, "tool_use");
      const use = message.content.find((block) => block.type === "tool_use");
      assert.equal(use.input.city, city);
      messages.push({ role: "assistant", content: message.content },
        { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: `${city}: snow` }] });
    }
    const end = await ask();
    assert.equal(end.content.at(-1).text, "Done: Bern: snow");
  }
});

test("anthropic: structured output", async () => {
  const message = await anthropic().messages.create({ model, max_tokens: 1000,
    messages: [{ role: "user", content: 'SAY {"city": "Bern"}' }],
    output_config: { format: { type: "json_schema", schema: parameters } } });
  assert.deepEqual(JSON.parse(message.content.at(-1).text), { city: "Bern" });
});

test("anthropic: stop sequences, limits, counting, models", async () => {
  const body = { model, max_tokens: 1000, thinking: { type: "disabled" }, messages: [{ role: "user", content: "COUNT 50" }] };
  const stopped = await anthropic().messages.create({ ...body, stop_sequences: [" 7"] });
  assert.deepEqual([stopped.stop_reason, stopped.stop_sequence], ["stop_sequence", " 7"]);
  const cut = await anthropic().messages.create({ ...body, max_tokens: 5 });
  assert.equal(cut.stop_reason, "max_tokens");
  const { max_tokens: _, ...counted } = body;
  const count = await anthropic().messages.countTokens(counted);
  assert.equal(count.input_tokens, cut.usage.input_tokens + cut.usage.cache_read_input_tokens);
  assert.equal((await anthropic().models.list()).data[0].id, "stand-in");
});

test("anthropic: errors have their classes, and agents can read the sizes", async () => {
  const ask = (more) => anthropic().messages.create({ model, max_tokens: 5, messages: [{ role: "user", content: "x" }], ...more });
  await assert.rejects(ask({ model: "gpt-9" }), (e) => e instanceof Anthropic.BadRequestError && /Model Not Exist/.test(e.message));
  await assert.rejects(ask({ messages: [{ role: "user", content: "y ".repeat(1 << 21) }] }),
    /prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)/);
});

test("anthropic: an abort ends the answer", async () => {
  const stream = anthropic().messages.stream({ model, max_tokens: 300000, messages: [{ role: "user", content: "COUNT 100000" }] });
  let n = 0;
  await assert.rejects(async () => {
    for await (const _ of stream) if (++n === 20) stream.abort();
  }, Anthropic.APIUserAbortError);
  assert.ok(n < 10000);  // what the client had read already
});

// ---- Vercel's ai

const deepseek = () => createDeepSeek({ baseURL: url, apiKey: "local" });
const aiTools = {
  weather: aiTool({
    description: "Weather.",
    inputSchema: z.object({ city: z.string(), days: z.number().optional() }),
    execute: async ({ city }) => `${city}: fog`,
  }),
};

test("ai-sdk: text, reasoning, a tool loop, streamed and not", async () => {
  const plain = await generateText({ model: deepseek()(model), prompt: "SAY hello" });
  assert.equal(plain.text, "hello");
  assert.equal(plain.reasoningText, "Let me see.");
  const looped = await generateText({ model: deepseek()(model), prompt: line, tools: aiTools, stopWhen: stepCountIs(5) });
  assert.equal(looped.text, "Done: Bern: fog");
  assert.equal(looped.steps.length, 3);
  const stream = streamText({ model: deepseek()(model), prompt: line, tools: aiTools, stopWhen: stepCountIs(5) });
  assert.equal(await stream.text, "Done: Bern: fog");
  await assert.rejects(generateText({ model: deepseek()("gpt-9"), prompt: "x", maxRetries: 0 }), /Model Not Exist/);
});

test("ai-sdk: an abort ends the answer", async () => {
  const control = new AbortController();
  const stream = streamText({ model: deepseek()(model), prompt: "COUNT 100000", abortSignal: control.signal, onError() {} });
  let n = 0;
  for await (const _ of stream.textStream) if (++n === 5) control.abort();
  assert.ok(n >= 5);
});

// ---- LangChain

test("langchain: chat, stream and a tool loop", async () => {
  const chat = new ChatDeepSeek({ model, apiKey: "local", configuration: { baseURL: url }, maxRetries: 0 });
  const whole = await chat.invoke("SAY hello");
  assert.equal(whole.content, "hello");
  assert.equal(whole.additional_kwargs.reasoning_content, "Let me see.");
  let text = "";
  for await (const chunk of await chat.stream("SAY hello again")) text += chunk.content;
  assert.equal(text, "hello again");
  const bound = chat.bindTools(tools);
  const messages = [new HumanMessage(line)];
  for (const city of [first.city, "Bern"]) {
    const answer = await bound.invoke(messages);
    assert.equal(answer.tool_calls[0].args.city, city);
    messages.push(answer, new ToolMessage({ tool_call_id: answer.tool_calls[0].id, content: `${city}: hail` }));
  }
  assert.equal((await bound.invoke(messages)).content, "Done: Bern: hail");
});
