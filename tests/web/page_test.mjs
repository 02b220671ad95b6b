// Drives the web page in Debian's Chromium against a server that is really there (make test-web). Answers of hostile or
// scripted content are put in the place of the server's by the browser.
//   node page_test.mjs HADAL MODEL [SCREENSHOTS]
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { chromium } from "playwright-core";

const [program, model, pictures] = process.argv.slice(2);
const kFlags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync"];

function startServer(port = 0, more = []) {
  const server = spawn(program, ["serve", "-m", model, "--port", String(port), "--threads", "1", ...more], { stdio: ["ignore", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    let text = "";
    server.stdout.on("data", (data) => {
      text += data;
      const found = text.match(/http:\/\/127\.0\.0\.1:(\d+) serves/);
      if (found) resolve({ server, url: `http://127.0.0.1:${found[1]}/`, port: Number(found[1]) });
    });
    server.on("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
}

let { server, url, port } = await startServer();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", headless: true, args: kFlags });
const complaints = [];  // of the browser: scripts refused, errors of the page
const outside = [];     // requests that leave the server

async function newPage(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20000);
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => !request.url().startsWith(url) && !request.url().startsWith("blob:") && outside.push(request.url()));
  return page;
}
async function visit(page) {
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector("#model").value !== "");
}
const ask = async (page, text) => {
  await page.fill("#input", text);
  await page.press("#input", "Enter");
};
const idle = (page) => page.waitForSelector("#send[aria-label=Send]");
const effort = (page, name) => page.check(`#effort input[value=${name}]`, { force: true });
const picture = async (page, name) => {
  if (!pictures) return;
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: `${pictures}/${name}.png` });
};

// In the place of the next answers: whole streams, or other replies.
const event = (delta, more = {}) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: null, ...more }] })}\n\n`;
const finish = (reason, usage) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: "" }, finish_reason: reason }], usage })}\n\ndata: [DONE]\n\n`;
async function scripted(page, ...replies) {
  const bodies = [];
  await page.route("**/v1/chat/completions", (route) => {
    const reply = replies.shift();
    if (reply === undefined) return route.continue();
    bodies.push(route.request().postDataJSON());
    if (typeof reply === "string") return route.fulfill({ status: 200, contentType: "text/event-stream", body: reply });
    return route.fulfill({ contentType: "application/json", ...reply });
  });
  return bodies;
}

const tests = {
  async "a question is sent and its answer streamed"() {
    const page = await newPage();
    await visit(page);
    await picture(page, "welcome-light");
    await effort(page, "off");
    await ask(page, "Who are you?");
    await idle(page);
    assert.ok((await page.textContent(".assistant .markdown")).trim().length > 5);
    const facts = await page.textContent(".assistant .facts");
    assert.match(facts, /tokens\/s/);
    assert.match(facts, /of \d+ prompt tokens? cached/);
    assert.equal(await page.textContent("#title"), "Who are you?");
    assert.equal(await page.locator(".reasoning:visible").count(), 0);
    await picture(page, "answer-light");
  },

  async "reasoning is folded"() {
    const page = await newPage();
    await visit(page);
    await effort(page, "high");
    await ask(page, "What is 12 + 30?");
    await idle(page);
    const fold = page.locator(".assistant details.reasoning");
    assert.equal(await fold.evaluate((element) => element.open), false);
    assert.match(await fold.locator("summary").textContent(), /^Thought/);
    await fold.locator("summary").click();
    assert.ok(await fold.locator(".text").isVisible());
    await picture(page, "reasoning-light");
  },

  async "Escape stops, and what came stays"() {
    const page = await newPage();
    await visit(page);
    await effort(page, "off");
    await page.click("#settings-open");
    await page.fill("#temperature", "2");  // it goes on for long
    await page.fill("#system", "Tell a very long story and never stop.");
    await page.click("#settings-save");
    await page.evaluate(() => {
      // Slower than the model: every piece of the answer takes its time.
      const real = window.fetch;
      window.fetch = async (path, options) => {
        const response = await real(path, options);
        if (!String(path).includes("completions")) return response;
        const slow = new TransformStream({ transform: async (chunk, out) => {
          await new Promise((done) => setTimeout(done, 60));
          out.enqueue(chunk);
        } });
        return new Response(response.body.pipeThrough(slow), { headers: response.headers });
      };
    });
    await ask(page, "Tell me a tiny story.");
    await page.waitForFunction(() => document.querySelector(".assistant .markdown")?.textContent.length > 8);
    await picture(page, "streaming-light");
    await page.keyboard.press("Escape");
    await idle(page);
    assert.ok((await page.textContent(".assistant .markdown")).length > 8);
    assert.match(await page.textContent(".assistant .state"), /Stopped/);
  },

  async "regenerating replaces the last answer, editing what follows"() {
    const page = await newPage();
    await visit(page);
    const bodies = await scripted(page,
      event({ content: "one" }) + finish("stop"), event({ content: "two" }) + finish("stop"),
      event({ content: "three" }) + finish("stop"), event({ content: "four" }) + finish("stop"));
    await ask(page, "first");
    await page.getByText("one", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Regenerate" }).click();
    await page.getByText("two", { exact: true }).waitFor();
    assert.equal(await page.locator(".assistant").count(), 1);
    await ask(page, "second");
    await page.getByText("three", { exact: true }).waitFor();
    assert.deepEqual(bodies[2].messages.map((message) => message.content), ["first", "two", "second"]);
    await page.locator(".user").first().hover();
    await page.locator(".user").first().getByRole("button", { name: "Edit" }).click();
    await page.fill(".edit textarea", "changed");
    await page.press(".edit textarea", "Enter");
    await page.getByText("four", { exact: true }).waitFor();
    assert.deepEqual(bodies[3].messages.map((message) => message.content), ["changed"]);
    assert.equal(await page.locator(".assistant").count(), 1);
    assert.equal(await page.textContent("#title"), "changed");
  },

  async "effort, system prompt and limits are sent as the API takes them"() {
    const page = await newPage();
    await visit(page);
    const bodies = await scripted(page, event({ content: "a" }) + finish("stop"), event({ content: "b" }) + finish("stop"));
    await effort(page, "max");
    await page.click("#settings-open");
    await page.fill("#system", "Be brief.");
    await page.fill("#temperature", "0.5");
    await page.fill("#max-tokens", "77");
    await picture(page, "settings-light");
    await page.click("#settings-save");
    await ask(page, "x");
    await page.getByText("a", { exact: true }).waitFor();
    await effort(page, "off");
    await ask(page, "y");
    await page.getByText("b", { exact: true }).waitFor();
    const [first, second] = bodies;
    assert.deepEqual(first.messages[0], { role: "system", content: "Be brief." });
    assert.equal(first.reasoning_effort, "max");
    assert.deepEqual(first.thinking, { type: "enabled" });
    assert.equal(first.temperature, 0.5);
    assert.equal(first.max_tokens, 77);
    assert.deepEqual(second.thinking, { type: "disabled" });
    assert.equal(second.reasoning_effort, undefined);
  },

  async "hostile content is text"() {
    const page = await newPage();
    await visit(page);
    const hostile = [
      "<script>window.bad = 1</script><img src=x onerror='window.bad = 2'>",
      "[click](javascript:window.bad=3) [data](data:text/html,<script>window.bad=4</script>) [home](/v1/models)",
      "![picture](https://example.invalid/p.png) [site](https://example.invalid/ \"t\")",
      "<svg onload=window.bad=5> <iframe src=//example.invalid></iframe> <style>body{display:none}</style>",
      "```\"><img src=x onerror=window.bad=6>\n<b>code</b>\n```",
      "| a | b |\n|---|--:|\n| <i>x</i> | 1 |",
    ].join("\n\n");
    await scripted(page, ": keep-alive\n\n" + event({ reasoning_content: "<img src=x onerror='window.bad = 7'>" }) +
      event({ content: hostile }) + finish("stop", { prompt_tokens: 5, completion_tokens: 9, prompt_cache_hit_tokens: 0, cost_usd: 0.00123 }));
    await ask(page, "<img src=x onerror='window.bad = 8'>");
    await page.getByText("$0.0012").waitFor();
    await page.waitForTimeout(300);
    assert.equal(await page.evaluate(() => window.bad), undefined);
    assert.equal(await page.locator(".assistant :is(script, img, svg:not(button svg), iframe, style, i, b)").count(), 0);
    const links = await page.locator(".assistant a").evaluateAll((all) => all.map((link) => [link.getAttribute("href"), link.rel, link.target]));
    assert.deepEqual(links.map(([href]) => href), ["https://example.invalid/p.png", "https://example.invalid/"]);
    for (const [, rel, target] of links) assert.ok(rel.includes("noopener") && target === "_blank");
    assert.match(await page.textContent(".assistant .markdown"), /<script>window\.bad = 1<\/script>/);
    assert.equal(await page.textContent(".assistant .code pre"), "<b>code</b>\n");
    assert.equal(await page.locator(".assistant td.to-right").count(), 1);
    assert.match(await page.textContent("#list"), /<img src=x/);
  },

  async "code is copied"() {
    const page = await newPage({ permissions: ["clipboard-read", "clipboard-write"] });
    await visit(page);
    await scripted(page, event({ content: "Look:\n\n```python\nprint('hi')\n```\n" }) + finish("stop"));
    await ask(page, "code");
    await page.locator(".code .copy").click();
    await page.getByText("Copied").waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "print('hi')\n");
  },

  async "calls of tools are shown and their results go back"() {
    const page = await newPage();
    await visit(page);
    await page.click("#settings-open");
    await page.fill("#tools", "{");
    await page.click("#settings-save");
    assert.match(await page.textContent("#tools-error"), /Not a JSON array/);
    await page.fill("#tools", '[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]');
    await page.click("#settings-save");
    const call = (id, delta) => event({ tool_calls: [{ index: id, ...delta }] });
    const bodies = await scripted(page,
      event({ reasoning_content: "I need the weather." }) +
        call(0, { id: "call_a", type: "function", function: { name: "weather", arguments: "" } }) +
        call(0, { function: { arguments: '{"city": "Os' } }) + call(0, { function: { arguments: 'lo"}' } }) +
        call(1, { id: "call_b", type: "function", function: { name: "weather", arguments: '{"city": "Rome"}' } }) + finish("tool_calls"),
      event({ content: "Cold there, warm here." }) + finish("stop"));
    await ask(page, "Weather in Oslo and Rome?");
    await page.getByRole("button", { name: "Send results" }).waitFor();
    assert.match(await page.locator(".call pre").first().textContent(), /"city": "Oslo"/);
    await ask(page, "too early");
    assert.equal(bodies.length, 1);
    const boxes = page.locator(".result textarea");
    await boxes.nth(0).fill('{"celsius": -3}');
    await boxes.nth(1).fill("19 degrees");
    await picture(page, "calls-light");
    await page.getByRole("button", { name: "Send results" }).click();
    await page.getByText("Cold there, warm here.").waitFor();
    const [, asked, ...results] = bodies[1].messages;
    assert.equal(bodies[1].tools[0].function.name, "weather");
    assert.equal(asked.reasoning_content, "I need the weather.");
    assert.deepEqual(asked.tool_calls.map((one) => [one.id, one.function.arguments]), [["call_a", '{"city": "Oslo"}'], ["call_b", '{"city": "Rome"}']]);
    assert.deepEqual(results, [{ role: "tool", content: '{"celsius": -3}', tool_call_id: "call_a" }, { role: "tool", content: "19 degrees", tool_call_id: "call_b" }]);
    assert.equal(await page.locator(".call details.result").count(), 2);
  },

  async "conversations are kept, renamed, exported, deleted and brought back"() {
    const page = await newPage();
    await visit(page);
    await scripted(page, event({ content: "kept" }) + finish("stop"));
    await ask(page, "remember me");
    await page.getByText("kept", { exact: true }).waitFor();
    await idle(page);
    await page.reload();
    await page.getByText("kept", { exact: true }).waitFor();
    await page.click("#more");
    await page.click("#rename");
    await page.fill("#title input", "A better name");
    await page.press("#title input", "Enter");
    await page.reload();
    assert.equal(await page.textContent("#title"), "A better name");
    await page.click("#more");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export")]);
    assert.equal(download.suggestedFilename(), "A-better-name.json");
    const exported = JSON.parse(readFileSync(await download.path(), "utf8"));
    assert.deepEqual(exported.messages.map((message) => message.content), ["remember me", "kept"]);
    await page.click("#more");
    await page.click("#delete");
    assert.equal(await page.locator("#list li").count(), 0);
    await page.getByRole("button", { name: "Undo" }).click();
    await page.getByText("kept", { exact: true }).waitFor();
    assert.equal(await page.locator("#list li").count(), 1);
  },

  async "a second tab shows what the first wrote"() {
    const page = await newPage();
    await visit(page);
    const second = await page.context().newPage();
    await second.goto(url);
    await scripted(page, event({ content: "seen twice" }) + finish("stop"));
    await ask(page, "two tabs");
    await second.locator("#list button").getByText("two tabs").click();
    await second.getByText("seen twice", { exact: true }).waitFor();
    await page.click("#more");
    await page.click("#delete");
    await second.waitForFunction(() => !document.querySelector("#list li"));
  },

  async "a full storage is said, and the page works on"() {
    const page = await newPage();
    await visit(page);
    await page.evaluate(() => (Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); }));
    await scripted(page, event({ content: "still here" }) + finish("stop"));
    await ask(page, "x");
    await page.getByText("still here", { exact: true }).waitFor();
    await page.getByText("storage is full").waitFor();
  },

  async "every failure is said in words"() {
    const page = await newPage();
    await visit(page);
    await scripted(page,
      { status: 400, body: JSON.stringify({ error: { message: "Too long by far" } }) },
      { status: 503, headers: { "retry-after": "5" }, body: JSON.stringify({ error: { message: "The server is overloaded" } }) },
      event({ content: "half an" }) + `data: ${JSON.stringify({ error: { message: "the engine failed" } })}\n\n`,
      event({ content: "no end" }),
      "data: {nonsense\n\n",
      event({ content: "long" }) + finish("length"),
      { status: 401, body: JSON.stringify({ error: { message: "no" } }) });
    const state = page.locator(".assistant .state");
    await ask(page, "x");
    await state.getByText("Too long by far").waitFor();
    const again = () => page.getByRole("button", { name: /Try again|Regenerate/ }).first().click();
    await again();
    await state.getByText("The server is overloaded (in 5 seconds)").waitFor();
    await again();
    await state.getByText("the engine failed").waitFor();
    assert.equal(await page.textContent(".assistant .markdown"), "half an\n");
    await again();
    await state.getByText("The connection broke").waitFor();
    assert.equal(await page.textContent(".assistant .markdown"), "no end\n");
    await picture(page, "error-light");
    await again();
    await state.getByText("no part of an answer").waitFor();
    await again();
    await state.getByText("Cut at the limit").waitFor();
    await again();
    await page.waitForSelector("#settings[open] #key:visible");
    await page.fill("#key", "secret");
    const [request] = await Promise.all([page.waitForRequest("**/v1/models"), page.click("#settings-save")]);
    assert.equal(request.headers().authorization, "Bearer secret");
    await state.getByText("asks for an API key").waitFor();
  },

  async "a server with keys is given one"() {
    const folder = mkdtempSync(tmpdir() + "/hadal-keys-");
    const key = execFileSync(program, ["key", "add", folder + "/keys", "me"], { encoding: "utf8" }).trim();
    const keyed = await startServer(0, ["--keys", folder + "/keys"]);
    const unkeyed = url;
    url = keyed.url;  // what counts as outside
    try {
      const page = await newPage();
      await page.goto(url);
      await page.waitForSelector("#settings[open] #key:visible");
      await page.getByText("This server asks for one.").waitFor();
      await picture(page, "key-light");
      await page.fill("#key", "sk-0123456789abcdef");
      await page.click("#settings-save");
      await page.getByText("This server does not know this one.").waitFor();
      await page.fill("#key", key);
      await page.click("#settings-save");
      await page.waitForFunction(() => document.querySelector("#model").value !== "");
      await ask(page, "hello");
      await page.waitForSelector(".assistant");
      await idle(page);
      assert.equal(await page.locator(".assistant .state").getByText("API key").count(), 0);
      await page.reload();  // it is kept
      await page.waitForFunction(() => document.querySelector("#model").value !== "");
      assert.equal(await page.locator("#settings[open]").count(), 0);
    } finally {
      url = unkeyed;
      keyed.server.removeAllListeners("exit");
      const ended = new Promise((resolve) => keyed.server.on("exit", resolve));
      keyed.server.kill("SIGTERM");
      await ended;
      rmSync(folder, { recursive: true });
    }
  },

  async "dark by the system and by choice"() {
    const page = await newPage({ colorScheme: "dark" });
    await visit(page);
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await ground();
    await picture(page, "welcome-dark");
    await page.click("#theme");
    const light = await ground();
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await ground(), light);
    await page.click("#theme");
    assert.equal(await ground(), dark);
    await scripted(page, event({ reasoning_content: "First the sea, then the salt." }) + event({ content: sample }) +
      finish("stop", { prompt_tokens: 212, completion_tokens: 168, prompt_cache_hit_tokens: 128 }));
    await ask(page, "Why is the sea salty?\nAnswer with a table and some code.");
    await page.getByText("168 tokens").waitFor();
    await picture(page, "markdown-dark");
    await page.click("#theme");
    await page.click("#theme");
    await picture(page, "markdown-light");
  },

  async "a phone"() {
    const page = await newPage({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
    await visit(page);
    await picture(page, "phone-welcome");
    await scripted(page, event({ reasoning_content: "Hm." }) + event({ content: sample }) +
      finish("stop", { prompt_tokens: 212, completion_tokens: 168, prompt_cache_hit_tokens: 128 }));
    await ask(page, "Why is the sea salty?");
    await page.getByText("168 tokens").waitFor();
    const wide = await page.evaluate(() => [...document.querySelectorAll("main *")].filter((element) =>
      !element.closest(".wide, .code pre") && element.getBoundingClientRect().right > 390.5).map((element) => element.outerHTML.slice(0, 80)));
    assert.deepEqual(wide, []);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
    await picture(page, "phone-answer");
    await page.click("#sidebar-open");
    await page.locator("#live").waitFor({ state: "visible" });
    await page.waitForTimeout(400);
    await picture(page, "phone-sidebar");
    await page.keyboard.press("Escape");
    await page.locator("#live").waitFor({ state: "hidden" });
  },

  async "by keyboard alone"() {
    const page = await newPage();
    await visit(page);
    await scripted(page, event({ content: "by keys" }) + finish("stop"));
    await page.keyboard.type("two");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("lines");
    await page.keyboard.press("Enter");
    await page.getByText("by keys", { exact: true }).waitFor();
    assert.equal(await page.textContent(".bubble"), "two\nlines");
    const seen = new Set();
    for (let i = 0; i < 40; ++i) {
      await page.keyboard.press("Tab");
      seen.add(await page.evaluate(() => {
        const element = document.activeElement;
        return element.id || element.getAttribute("aria-label") || element.textContent.trim();
      }));
    }
    for (const name of ["new", "theme", "settings-open", "more", "model", "live", "Regenerate", "Edit", "input"])
      assert.ok(seen.has(name), `${name} is not reached: ${[...seen]}`);
    const nameless = await page.locator("button, input, textarea, select").evaluateAll((all) =>
      all.filter((element) => !element.getAttribute("aria-label") && !element.textContent.trim() && !element.labels?.length).map((element) => element.outerHTML));
    assert.deepEqual(nameless, []);
  },

  async "the live view and the model's card"() {
    const page = await newPage();
    await visit(page);
    await page.click("#live");
    await page.locator("#facts").getByText("hadal-nano").waitFor();
    await page.locator("#card h1").waitFor();
    assert.match(await page.textContent("#facts"), /Window[\d,]+ tokens/);
    await picture(page, "server-light");
    const stats = await (await page.request.get(url + "stats")).json();
    assert.ok(stats.resident_bytes > 1e6 && stats.tokens > 0 && stats.running === 0, JSON.stringify(stats));
  },

  async "a server that is gone is said, and found again"() {
    const page = await newPage();
    await visit(page);
    server.removeAllListeners("exit");
    const ended = new Promise((resolve) => server.on("exit", resolve));
    server.kill("SIGTERM");
    await ended;
    const before = complaints.length;
    await ask(page, "Anybody there?");
    await page.locator(".state").getByText("The server cannot be reached").waitFor();
    await page.locator("#live-state").getByText("The server is not there").waitFor();
    await picture(page, "gone-light");
    ({ server } = await startServer(port));
    await effort(page, "off");
    await page.getByRole("button", { name: "Try again" }).click();
    await page.waitForSelector(".assistant .facts span");
    await page.locator("#live-state").getByText(/Idle|running/).waitFor();
    complaints.length = before;  // refused connections
  },
};

const sample = `The sea is salty because **rivers** carry it there. Rain is slightly acid; it dissolves a little rock on its way.

## Where it comes from

| Source | Share | Note |
|---|--:|---|
| Rivers | 85 % | weathered rock |
| Vents | 15 % | hot water at the ridges |

1. Water evaporates, salt does not.
2. So the sea keeps what arrives, for *millions* of years.

\`\`\`python
def salinity(salt_kg, water_kg):
    """Grams of salt in a kilogram of sea water."""
    return 1000 * salt_kg / (salt_kg + water_kg)
\`\`\`

> About 35 grams in every kilogram, nearly everywhere.

Read on at https://example.invalid/sea, or ask for \`salinity\` of a place.`;

let failed = 0;
const only = process.env.ONLY;
for (const [name, test] of Object.entries(tests)) {
  if (only && !name.includes(only)) continue;
  complaints.length = 0;
  try {
    await Promise.race([test(), new Promise((_, reject) => setTimeout(reject, 120000, new Error("too slow")).unref())]);
    const own = complaints.filter((text) => !/status of (4|5)\d\d/.test(text));
    assert.deepEqual(own, [], "the browser complains");
    assert.deepEqual(outside, [], "something is loaded from outside");
    console.log("ok    " + name);
  } catch (error) {
    ++failed;
    console.log("FAIL  " + name + "\n" + (error.stack || error) + "\n" + complaints.join("\n"));
    for (const context of browser.contexts())
      for (const page of context.pages()) await picture(page, "failed");
  }
  for (const context of browser.contexts()) await context.close();
}
await browser.close();
server.removeAllListeners("exit");
server.kill("SIGTERM");
console.log(failed ? `${failed} failed` : "all passed");
process.exit(failed ? 1 : 0);
