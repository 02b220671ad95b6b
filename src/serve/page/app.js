// The page of `hadal serve`: conversations kept in this browser, answers streamed from /v1/chat/completions.
// Whatever a model wrote reaches the page as text nodes or through markdown-it and DOMPurify, never as markup.

const $ = (id) => document.getElementById(id);

// h("button", {class: "x", onclick: f}, "text", child)
function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", "#i-" + name);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const seconds = (ms) => (ms < 995 ? Math.round(ms) + " ms" : (ms / 1000).toFixed(ms < 9950 ? 1 : 0) + " s");
const figure = (n) => n.toLocaleString("en", { maximumFractionDigits: n < 100 ? 1 : 0 });
function bytes(n) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (n >= size) return (n / size).toFixed(n < 10 * size ? 1 : 0) + " " + unit;
  return n + " B";
}
function duration(s) {
  const [d, hours, m] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  return d ? `${d} d ${hours} h` : hours ? `${hours} h ${m} min` : m ? `${m} min` : `${Math.floor(s)} s`;
}

let toastTimer = 0;
function toast(text, action, call) {
  clearTimeout(toastTimer);
  const button = action && h("button", { type: "button", onclick: () => (clearToast(), call()) }, action);
  $("toast").replaceChildren(h("span", {}, text), button || "");
  $("toast").classList.add("shown");
  toastTimer = setTimeout(clearToast, 8000);
}
function clearToast() {
  $("toast").classList.remove("shown");
}

// ---- What the browser keeps ----

// A browser may refuse to keep anything, or be full: the page works on without.
const store = {
  get(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(key, value);
      return true;
    } catch {
      return false;
    }
  },
  remove(key) {
    try {
      localStorage.removeItem(key);
    } catch {
      // it was not kept either
    }
  },
  keys() {
    try {
      return Object.keys(localStorage);
    } catch {
      return [];
    }
  },
};

const kPrefix = "hadal.chat.";
const conversations = new Map();  // id → conversation
const running = new Map();        // id of a conversation → its answer on the way
let current = null;

function read(key) {
  try {
    const chat = JSON.parse(store.get(key));
    if (!chat || typeof chat.id !== "string" || !Array.isArray(chat.messages)) return null;
    for (const message of chat.messages)
      if (message.pending) {
        delete message.pending;
        message.error = "The page was closed before the answer was complete.";
      }
    return chat;
  } catch {
    return null;  // not ours, or broken: left where it is
  }
}
function save(chat) {
  if (!chat.messages.length && !store.get(kPrefix + chat.id)) return;
  if (!store.set(kPrefix + chat.id, JSON.stringify(chat)))
    toast("The browser’s storage is full: this conversation is not kept. Delete others, or export it.");
}
function fresh() {
  const { model, effort, system, tools, temperature, max_tokens } = current || {};
  return {
    id: crypto.getRandomValues(new Uint32Array(3)).join("-"),
    title: "",
    updated: Date.now(),
    model: model || "",
    effort: effort || store.get("hadal.effort") || "high",
    system: system || "",
    tools: tools || "",
    temperature,
    max_tokens,
    messages: [],
  };
}

// ---- Markdown ----

const markdown = markdownit({ html: false, linkify: true, maxNesting: 40 });
// Nothing is loaded from elsewhere: an image is a link to it.
markdown.renderer.rules.image = (tokens, i) => {
  const escape = markdown.utils.escapeHtml;
  const source = tokens[i].attrGet("src") || "";
  return `<a href="${escape(source)}">${escape(tokens[i].content || source)}</a>`;
};
// The alignment of a table's cells is a style, which the policy of the page forbids.
markdown.core.ruler.push("alignment", (state) => {
  for (const token of state.tokens) {
    const style = token.attrGet("style");
    if (!style) continue;
    token.attrs = token.attrs.filter(([name]) => name !== "style");
    token.attrSet("class", style.replace("text-align:", "to-"));
  }
});
const kAllowed = {
  ALLOWED_TAGS: ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "s", "code", "pre", "blockquote",
                 "ul", "ol", "li", "a", "table", "thead", "tbody", "tr", "th", "td"],
  ALLOWED_ATTR: ["href", "title", "class", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

// breaks: a single line break is one, as in what models write; texts wrapped by hand mean none by it.
function render(text, breaks = true) {
  markdown.set({ breaks });
  const fragment = DOMPurify.sanitize(markdown.render(text), kAllowed);
  for (const link of fragment.querySelectorAll("a")) {
    const target = link.getAttribute("href") || "";
    if (!/^(https?:|mailto:)/i.test(target)) {
      link.replaceWith(...link.childNodes);
      continue;
    }
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    link.title = target;  // where it leads, whatever it says
  }
  for (const pre of fragment.querySelectorAll("pre")) {
    const language = (pre.firstElementChild?.className || "").replace("language-", "");
    const copy = h("button", { type: "button", class: "copy" }, "Copy");
    const frame = h("div", { class: "code" }, h("div", { class: "head" }, h("span", {}, language), copy));
    pre.replaceWith(frame);
    pre.tabIndex = 0;  // scrolled by keys
    frame.append(pre);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", { class: "wide", tabindex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}
// Puts the new in the place of the old from the first difference on: a selection in what stays survives the stream.
function replaceChanged(target, fragment) {
  const next = [...fragment.childNodes];
  let same = 0;
  while (same < next.length && target.childNodes[same]?.isEqualNode(next[same])) ++same;
  while (target.childNodes.length > same) target.lastChild.remove();
  target.append(...next.slice(same));
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // not over plain HTTP from another machine
    const area = h("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const label = button.querySelector("span") || button;
  const before = label.textContent;
  if (before === "Copied") return;
  label.textContent = "Copied";
  setTimeout(() => (label.textContent = before), 1500);
}

// ---- The server ----

class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  const key = store.get("hadal.key");
  if (key) headers.authorization = "Bearer " + key;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached. It may have been stopped.");
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let message = "";
  try {
    message = JSON.parse(text).error.message;
  } catch {
    message = text.slice(0, 300);
  }
  if (response.status === 401) message = "The server asks for an API key" + (key ? " and does not know this one." : ".");
  const wait = response.headers.get("retry-after");
  if (wait && /^\d+$/.test(wait)) message += ` (in ${count(Number(wait), "second")})`;
  throw new Failure(message || `The server answered with status ${response.status}.`, response.status);
}

// The data of server-sent events. Comments, which only keep the connection alive, call alive() as all else does.
async function* events(response, alive) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

// The history as the API takes it. What was cut short counts as far as it is text: half a call is no call.
function history(chat, until) {
  const messages = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  for (const message of chat.messages) {
    if (message === until) break;
    if (message.role !== "assistant") {
      const { role, content, tool_call_id } = message;
      messages.push(tool_call_id ? { role, content, tool_call_id } : { role, content });
      continue;
    }
    const calls = isCalling(message) ? message.tool_calls : [];
    if (!message.content && !calls.length) continue;
    const out = { role: "assistant", content: message.content };
    if (message.reasoning) out.reasoning_content = message.reasoning;
    if (calls.length) out.tool_calls = calls;
    messages.push(out);
  }
  return messages;
}
function bodyOf(chat, until) {
  const body = {
    model: chat.model,
    messages: history(chat, until),
    stream: true,
    stream_options: { include_usage: true },
    usage: { include: true },
    thinking: { type: chat.effort === "off" ? "disabled" : "enabled" },
  };
  if (chat.effort !== "off") body.reasoning_effort = chat.effort;
  if (chat.tools.trim()) body.tools = JSON.parse(chat.tools);
  if (Number.isFinite(chat.temperature)) body.temperature = chat.temperature;
  if (Number.isFinite(chat.max_tokens)) body.max_tokens = chat.max_tokens;
  return body;
}

const isCalling = (message) => message.finish === "tool_calls" && message.tool_calls?.length > 0;

// Takes one event of a stream into the answer. true: it is the last.
function take(answer, data) {
  if (data === "[DONE]") return true;
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Failure("The server sent something that is no part of an answer.");
  }
  if (chunk.error) throw new Failure(chunk.error.message || "The server failed in the middle of the answer.");
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  const { content, reasoning_content, tool_calls } = choice.delta || {};
  if (reasoning_content) answer.reasoning += reasoning_content;
  if (content) answer.content += content;
  for (const piece of tool_calls || []) {
    const call = (answer.tool_calls[piece.index] ||= { id: "", type: "function", function: { name: "", arguments: "" } });
    if (piece.id) call.id = piece.id;
    if (piece.function?.name) call.function.name += piece.function.name;
    if (piece.function?.arguments) call.function.arguments += piece.function.arguments;
  }
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  return false;
}

async function generate(chat) {
  const answer = { role: "assistant", content: "", reasoning: "", tool_calls: [], model: chat.model, pending: true };
  chat.messages.push(answer);
  chat.updated = Date.now();
  const run = { answer, abort: new AbortController(), began: performance.now(), heard: performance.now(), timer: 0 };
  running.set(chat.id, run);
  save(chat);
  if (chat === current) {
    showConversation();
    scrollDown(true);
  }
  showList();
  $("spoken").textContent = "Answering";

  // Redrawing takes at most a fifth of the time, however long the answer.
  let pause = 40;
  const redraw = () => {
    run.timer = 0;
    if (chat !== current) return;
    const from = performance.now();
    updateAnswer(answer);
    scrollDown(false);
    pause = Math.max(40, 4 * (performance.now() - from));
  };
  const clock = setInterval(() => {
    if (chat === current) updateAnswer(answer);
    if (conversations.has(chat.id) && performance.now() - (run.saved || run.began) > 1000) {
      run.saved = performance.now();
      save(chat);
    }
  }, 500);

  try {
    if (!chat.model) await loadModels();
    answer.model = chat.model ||= models[0] || "";
    const response = await request("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(bodyOf(chat, answer)),
      signal: run.abort.signal,
    });
    let last = false;
    for await (const data of events(response, () => (run.heard = performance.now()))) {
      const time = performance.now();
      last = take(answer, data);
      const says = answer.reasoning || answer.content || answer.tool_calls.length;
      if (says) run.first ??= time;
      if (!last && says) run.last = time;
      if (answer.reasoning && !answer.content && !answer.tool_calls.length) answer.thinkMs = time - run.first;
      if (last) break;
      run.timer ||= setTimeout(redraw, pause);
    }
    if (!last) throw new TypeError("the stream ended early");
  } catch (error) {
    if (run.abort.signal.aborted) answer.stopped = true;
    else if (error instanceof Failure) answer.error = error.message;
    else if (error instanceof TypeError)
      answer.error = "The connection broke before the answer was complete. What arrived is kept.";
    else answer.error = "This page failed: " + error.message;
    if (error.status === 401) openSettings(true);
  }
  clearTimeout(run.timer);
  clearInterval(clock);
  if (run.first) {
    answer.firstMs = run.first - run.began;
    answer.streamMs = run.last - run.first;
  }
  delete answer.pending;
  running.delete(chat.id);
  if (conversations.has(chat.id)) save(chat);
  $("spoken").textContent = answer.error || (answer.stopped ? "Stopped" : "Answer complete");
  if (chat === current) {
    showConversation();
    scrollDown(false);
  }
  showList();
}

// ---- Actions ----

function send(text) {
  if (running.has(current.id) || !text.trim()) return false;
  if (openCalls(current).length) {
    document.querySelector(".result textarea")?.focus();
    toast("The model waits for the results of its calls.");
    return false;
  }
  if (!current.title) current.title = text.trim().replace(/\s+/g, " ").slice(0, 60);
  current.messages.push({ role: "user", content: text });
  conversations.set(current.id, current);
  generate(current);
  return true;
}
function stop() {
  running.get(current.id)?.abort.abort();
}
// The answer and the calls and results it came from stay; what follows the last question or result goes.
function regenerate(message) {
  if (running.has(current.id)) return;
  current.messages.length = current.messages.indexOf(message);
  generate(current);
}
function edit(message, text) {
  const at = current.messages.indexOf(message);
  if (running.has(current.id) || at < 0 || !text.trim()) return;
  current.messages.length = at;
  current.messages.push({ role: "user", content: text });
  if (at === 0) current.title = text.trim().replace(/\s+/g, " ").slice(0, 60);
  generate(current);
}
// Calls of the last answer that have no result yet.
function openCalls(chat) {
  const at = chat.messages.findLastIndex((message) => message.role === "assistant");
  if (at < 0 || !isCalling(chat.messages[at])) return [];
  const answered = new Set(chat.messages.slice(at + 1).map((message) => message.tool_call_id));
  return chat.messages[at].tool_calls.filter((call) => !answered.has(call.id));
}
function sendResults(calls, texts) {
  if (running.has(current.id)) return;
  calls.forEach((call, i) => current.messages.push({ role: "tool", tool_call_id: call.id, content: texts[i] }));
  generate(current);
}

function open(chat) {
  current = chat;
  try {
    sessionStorage.setItem("hadal.current", chat.id);
  } catch {
    // the most recent one is opened next time
  }
  if (models.length && !models.includes(chat.model)) chat.model = models[0];
  showConversation();
  showList();
  showControls();
  scrollDown(true);
}
function remove(chat) {
  running.get(chat.id)?.abort.abort();
  conversations.delete(chat.id);
  store.remove(kPrefix + chat.id);
  if (chat === current) open(latest() || fresh());
  showList();
  toast("Deleted.", "Undo", () => {
    conversations.set(chat.id, chat);
    save(chat);
    open(chat);
  });
}
const latest = () => [...conversations.values()].sort((a, b) => b.updated - a.updated)[0];

function exportJson(chat) {
  const file = new Blob([JSON.stringify(chat, null, 2) + "\n"], { type: "application/json" });
  const url = URL.createObjectURL(file);
  const name = (chat.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
  h("a", { href: url, download: `${name || "conversation"}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// ---- Drawing ----

const elements = new WeakMap();  // answer → its parts

let sticks = true;  // the end is in view, and stays there
$("scroll").addEventListener("scroll", () => {
  const box = $("scroll");
  sticks = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
});
function scrollDown(always) {
  if (always) sticks = true;
  if (sticks) $("scroll").scrollTop = $("scroll").scrollHeight;
}

function button(label, name, call) {
  return h("button", { type: "button", onclick: (event) => call(event.currentTarget) }, icon(name), h("span", {}, label));
}

function showConversation() {
  const list = $("messages");
  const { messages } = current;
  $("title").textContent = current.title || "New conversation";
  document.title = current.title ? current.title + " – hadal" : "hadal";
  if (!messages.length) {
    list.replaceChildren(welcome());
  } else {
    const last = messages.findLast((message) => message.role === "assistant");
    list.replaceChildren(
      ...messages.filter((message) => message.role !== "tool").map((message) =>
        message.role === "user" ? userElement(message) : answerElement(message, message === last)));
    // A page that closed at the wrong moment.
    if (messages.at(-1).role !== "assistant" && !running.has(current.id))
      list.append(h("p", { class: "notice" }, "No answer yet. ",
                    h("button", { type: "button", class: "link", onclick: () => generate(current) }, "Ask for it")));
  }
  const busy = running.has(current.id);
  $("send").replaceChildren(icon(busy ? "stop" : "send"));
  $("send").setAttribute("aria-label", busy ? "Stop" : "Send");
  $("send").title = busy ? "Stop (Esc)" : "Send (Enter)";
  $("send").classList.toggle("stop", busy);
  showFlags();
}

function welcome() {
  const ideas = ["Who are you?", "Tell me a short story.", "What is 12 + 30?"];
  return h("div", { class: "welcome" },
    h("img", { src: "icon.svg", alt: "", width: 44, height: 44 }),
    h("h2", {}, "What is on your mind?"),
    h("p", {}, "The model runs on the machine that serves this page. Conversations stay in this browser."),
    h("div", { class: "ideas" },
      ...ideas.map((idea) => h("button", { type: "button", onclick: () => send(idea) }, idea))));
}

function userElement(message) {
  const element = h("article", { class: "user", "aria-label": "You" });
  const show = () =>
    element.replaceChildren(
      h("div", { class: "bubble" }, message.content),
      h("div", { class: "actions" },
        button("Edit", "edit", change),
        button("Copy", "copy", (target) => copy(message.content, target))));
  const change = () => {
    if (running.has(current.id)) return toast("Stop the answer first.");
    const area = h("textarea", { "aria-label": "Edit the message", rows: 1 });
    area.value = message.content;
    const close = () => {
      show();
      element.querySelector("button").focus();
    };
    const form = h("form", { class: "edit" }, area,
      h("div", { class: "buttons" },
        h("span", {}, "What follows is replaced."),
        h("button", { type: "button", class: "plain", onclick: close }, "Cancel"),
        h("button", { type: "submit", class: "primary" }, "Send")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      edit(message, area.value);
    });
    area.addEventListener("keydown", (event) => {
      if (sends(event)) {
        event.preventDefault();
        edit(message, area.value);
      }
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      }
    });
    area.addEventListener("input", () => grow(area));
    element.replaceChildren(form);
    grow(area);
    area.focus();
  };
  show();
  return element;
}

function answerElement(message, isLast) {
  const parts = {
    summary: h("summary", {}),
    reasoning: h("div", { class: "text" }),
    content: h("div", { class: "markdown" }),
    calls: h("div", { class: "calls" }),
    notice: h("div", { class: "state" }),
    foot: h("div", { class: "foot" }),
    isLast,
  };
  parts.fold = h("details", { class: "reasoning" }, parts.summary, parts.reasoning);
  const old = elements.get(message);
  if (old) parts.fold.open = old.fold.open;
  elements.set(message, parts);
  const element = h("article", { class: "assistant", "aria-label": "Answer" }, parts.fold, parts.content, parts.calls,
                    parts.notice, parts.foot);
  updateAnswer(message);
  return element;
}

function updateAnswer(message) {
  const parts = elements.get(message);
  if (!parts) return;
  const run = running.get(current.id);
  const live = run?.answer === message;
  const now = performance.now();
  const thinks = live && !message.content && !message.tool_calls?.length;

  parts.fold.hidden = !message.reasoning;
  const time = thinks && run.first ? now - run.first : message.thinkMs;
  parts.summary.textContent =
    (thinks ? "Thinking" : "Thought") + (time >= 1000 ? ` for ${seconds(time)}` : thinks ? "" : " for a moment");
  parts.summary.classList.toggle("busy", Boolean(thinks));
  if (parts.reasoning.textContent !== message.reasoning) parts.reasoning.textContent = message.reasoning;

  if (parts.shown !== message.content) {
    replaceChanged(parts.content, render(message.content));
    parts.shown = message.content;
  }
  showCalls(message, parts, live);
  showState(message, parts, live && run, now);
  if (!live && !parts.foot.hasChildNodes()) showFoot(message, parts);
}

function showState(message, parts, run, now) {
  let text = "";
  let kind = "wait";
  if (run && !run.first) text = now - run.began < 1000 ? "Waiting" : `Waiting for ${seconds(now - run.began)}`;
  if (run && now - run.heard > 30000) text = `No sign of life from the server for ${seconds(now - run.heard)}`;
  if (!run && message.error) [text, kind] = [message.error, "bad"];
  else if (!run && message.pending) text = "Being written in another tab";
  else if (!run && message.stopped) [text, kind] = ["Stopped.", "note"];
  else if (!run && message.finish === "length") [text, kind] = ["Cut at the limit of tokens.", "note"];
  else if (!run && message.finish && message.finish !== "stop" && message.finish !== "tool_calls")
    [text, kind] = [`Ended early: ${message.finish}.`, "note"];
  else if (!run && !message.content && !message.tool_calls?.length) [text, kind] = ["The answer is empty.", "note"];
  if (parts.notice.dataset.text === text) return;
  parts.notice.dataset.text = text;
  parts.notice.className = "state " + kind;
  parts.notice.replaceChildren(text);
  if (kind === "bad" && parts.isLast)
    parts.notice.append(h("button", { type: "button", class: "link", onclick: () => regenerate(message) }, "Try again"));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function showCalls(message, parts, live) {
  const calls = message.tool_calls || [];
  const state = JSON.stringify(calls) + live;
  if (parts.callState === state) return;
  parts.callState = state;
  const open = !live && parts.isLast ? openCalls(current) : [];
  const at = current.messages.indexOf(message);
  const following = current.messages.slice(at + 1);
  const end = following.findIndex((next) => next.role !== "tool");
  const results = end < 0 ? following : following.slice(0, end);
  const boxes = [];
  const cards = calls.map((call) => {
    const card = h("div", { class: "call" },
      h("div", { class: "head" }, h("span", {}, live || isCalling(message) ? "Calls" : "Call, cut off"),
        h("code", {}, call.function.name)),
      h("pre", { tabindex: 0 }, live ? call.function.arguments : pretty(call.function.arguments)));
    const result = results.find((next) => next.tool_call_id === call.id);
    if (result) card.append(h("details", { class: "result" }, h("summary", {}, "Result"), h("pre", { tabindex: 0 }, pretty(result.content))));
    if (open.includes(call)) {
      const area = h("textarea", { rows: 2, class: "mono", spellcheck: "false", placeholder: "Result", "aria-label": `Result of ${call.function.name}` });
      area.addEventListener("input", () => grow(area));
      area.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) give();
      });
      boxes.push(area);
      card.append(h("div", { class: "result" }, area));
    }
    return card;
  });
  const give = () => sendResults(open, boxes.map((box) => box.value));
  parts.calls.replaceChildren(...cards);
  if (boxes.length)
    parts.calls.append(h("div", { class: "buttons" },
      h("button", { type: "button", class: "primary", onclick: give }, boxes.length > 1 ? "Send results" : "Send result")));
}

function showFoot(message, parts) {
  const { usage } = message;
  const facts = [];
  if (usage) {
    const tokens = usage.completion_tokens;
    // A short answer arrives in one piece: then its rate is that of the whole, the prompt included.
    const [n, ms] = message.streamMs > 50 ? [tokens - 1, message.streamMs] : [tokens, message.firstMs + message.streamMs];
    if (n > 0 && ms > 0) facts.push(`${figure(n / ms * 1000)} tokens/s`);
    facts.push(count(tokens, "token"));
    const thought = usage.completion_tokens_details?.reasoning_tokens;
    if (thought) facts.push(`${thought.toLocaleString("en")} of thought`);
  }
  if (message.firstMs !== undefined) facts.push(`first one after ${seconds(message.firstMs)}`);
  if (usage) {
    const cached = usage.prompt_cache_hit_tokens ?? usage.prompt_tokens_details?.cached_tokens ?? 0;
    facts.push(`${cached.toLocaleString("en")} of ${count(usage.prompt_tokens, "prompt token")} cached`);
    const cost = usage.cost_usd ?? usage.cost;
    if (Number.isFinite(cost)) facts.push("$" + Number(cost.toPrecision(2)));
  }
  parts.foot.replaceChildren(
    h("div", { class: "actions" },
      message.content && button("Copy", "copy", (target) => copy(message.content, target)),
      parts.isLast && !message.error && button("Regenerate", "again", () => regenerate(message))),
    h("div", { class: "facts" }, ...facts.map((fact) => h("span", {}, fact))));
}

function showList() {
  const chats = [...conversations.values()].sort((a, b) => b.updated - a.updated);
  $("list").replaceChildren(...chats.map((chat) =>
    h("li", {}, h("button", { type: "button", "aria-current": chat === current ? "page" : undefined,
                              class: running.has(chat.id) ? "busy" : undefined,
                              onclick: () => (closeSidebar(), open(chat), $("input").focus()) }, chat.title || "New conversation"))));
}

function showControls() {
  for (const input of document.querySelectorAll("#effort input")) input.checked = input.value === current.effort;
  $("model").value = current.model;
}
function showFlags() {
  const flags = [];
  if (current.system.trim()) flags.push("System prompt");
  if (current.tools.trim()) flags.push("Tools");
  $("flags").replaceChildren(...flags.map((flag) => h("button", { type: "button", onclick: () => openSettings() }, flag)));
}

// ---- Controls ----

const sends = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;
function grow(area) {
  area.rows = 1;
  const line = parseFloat(getComputedStyle(area).lineHeight);
  const padding = area.offsetHeight - line;
  area.rows = Math.min(12, Math.max(1, Math.round((area.scrollHeight - Math.max(0, padding)) / line)));
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running.has(current.id)) return stop();
  if (send($("input").value)) $("input").value = "";
  grow($("input"));
});
$("input").addEventListener("keydown", (event) => {
  if (!sends(event)) return;
  event.preventDefault();
  if (!running.has(current.id)) $("composer").requestSubmit();
});
$("input").addEventListener("input", () => grow($("input")));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (!$("menu").hidden) return closeMenu(true);
  if (document.body.classList.contains("sidebar-shown")) return closeSidebar(true);
  stop();
});
document.addEventListener("click", (event) => {
  const target = event.target.closest?.(".code .copy");
  if (target) copy(target.closest(".code").querySelector("code").textContent, target);
  if (!event.target.closest?.(".menu")) closeMenu(false);
});

$("effort").addEventListener("change", (event) => {
  current.effort = event.target.value;
  store.set("hadal.effort", current.effort);
  save(current);
});
$("model").addEventListener("change", () => {
  current.model = $("model").value;
  save(current);
});
$("new").addEventListener("click", () => {
  closeSidebar();
  open(fresh());
  $("input").focus();
});

function closeMenu(focus) {
  $("menu").hidden = true;
  $("more").setAttribute("aria-expanded", "false");
  if (focus) $("more").focus();
}
$("more").addEventListener("click", () => {
  const shown = !$("menu").hidden;
  if (shown) return closeMenu(false);
  const kept = conversations.has(current.id);
  for (const id of ["rename", "export", "delete"]) $(id).disabled = !kept;
  $("menu").hidden = false;
  $("more").setAttribute("aria-expanded", "true");
  $("menu").querySelector("button:enabled").focus();
});
$("rename").addEventListener("click", () => {
  closeMenu(false);
  const chat = current;
  const field = h("input", { class: "rename", "aria-label": "Title", maxlength: 120 });
  field.value = chat.title;
  let over = false;
  const end = (keep) => {
    if (over) return;
    over = true;
    if (keep && field.value.trim()) {
      chat.title = field.value.trim();
      save(chat);
    }
    showConversation();
    showList();
  };
  field.addEventListener("blur", () => end(true));
  field.addEventListener("keydown", (event) => {
    if (sends(event)) end(true);
    if (event.key === "Escape") {
      event.stopPropagation();
      end(false);
    }
  });
  $("title").replaceChildren(field);
  field.select();
});
$("export").addEventListener("click", () => (closeMenu(true), exportJson(current)));
$("delete").addEventListener("click", () => (closeMenu(true), remove(current)));

const narrow = matchMedia("(max-width: 760px)");
function closeSidebar(focus) {
  document.body.classList.remove("sidebar-shown");
  $("sidebar").inert = narrow.matches;
  $("sidebar-open").setAttribute("aria-expanded", "false");
  if (focus) $("sidebar-open").focus();
}
$("sidebar-open").addEventListener("click", () => {
  document.body.classList.add("sidebar-shown");
  $("sidebar").inert = false;
  $("sidebar-open").setAttribute("aria-expanded", "true");
  $("new").focus();
});
$("sidebar-close").addEventListener("click", () => closeSidebar(true));
$("backdrop").addEventListener("click", () => closeSidebar(true));
narrow.addEventListener("change", () => closeSidebar());

function showTheme() {
  const theme = document.documentElement.dataset.theme || "auto";
  $("theme").replaceChildren(icon(theme));
  const label = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" }[theme];
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
}
$("theme").addEventListener("click", () => {
  const next = { auto: "light", light: "dark", dark: "" }[document.documentElement.dataset.theme || "auto"];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  if (next) store.set("hadal.theme", next);
  else store.remove("hadal.theme");
  showTheme();
});

function openSettings(forKey = false) {
  closeMenu(false);
  $("key").value = store.get("hadal.key") || "";
  $("key-row").hidden = !forKey && !$("key").value;
  $("key-said").textContent = forKey && $("key").value ? "This server does not know this one." : "This server asks for one.";
  $("system").value = current.system;
  $("tools").value = current.tools;
  $("temperature").value = current.temperature ?? "";
  $("max-tokens").value = current.max_tokens ?? "";
  $("tools-error").textContent = "";
  if (!$("settings").open) $("settings").showModal();
  (forKey ? $("key") : $("system")).focus();
}
function saveSettings() {
  const tools = $("tools").value.trim();
  if (tools) {
    try {
      if (!Array.isArray(JSON.parse(tools))) throw new Error("it is no array");
    } catch (error) {
      $("tools-error").textContent = "Not a JSON array: " + error.message;
      $("tools").focus();
      return;
    }
  }
  for (const field of [$("temperature"), $("max-tokens")]) if (!field.reportValidity()) return;
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  Object.assign(current, {
    system: $("system").value, tools, temperature: number("temperature"), max_tokens: number("max-tokens"),
  });
  const key = $("key").value.trim();
  if (key !== (store.get("hadal.key") || "")) {
    if (key) store.set("hadal.key", key);
    else store.remove("hadal.key");
    loadModels();
  }
  save(current);
  showFlags();
  $("settings").close();
}
$("settings-open").addEventListener("click", () => openSettings());
$("settings-save").addEventListener("click", saveSettings);

// ---- The live view ----

let models = [];
async function loadModels() {
  try {
    const { data } = await (await request("v1/models")).json();
    models = data.map((model) => model.id);
  } catch (error) {
    if (error.status === 401) openSettings(true);
    return;  // the live view says that the server is not there, and asks again
  }
  $("model").replaceChildren(...models.map((id) => h("option", { value: id }, id)));
  $("model").parentElement.classList.toggle("single", models.length < 2);
  if (!models.includes(current.model)) current.model = models[0] || "";
  $("model").value = current.model;
}

const rates = [];  // tokens per second, of the last two minutes
const kLook = 2000;
let stats = null;
async function look() {
  if (document.hidden) return;
  try {
    stats = await (await request("stats", { signal: AbortSignal.timeout(5000) })).json();
    if (!models.length) loadModels();
  } catch (error) {
    stats = null;
    if (error.status === 401) stats = undefined;
  }
  rates.push(stats ? stats.tokens_per_second : 0);
  if (rates.length > 60) rates.shift();
  showLive();
}
function showLive() {
  const dot = document.querySelector("#live .dot");
  if (!stats) {
    dot.dataset.state = "gone";
    $("live-state").textContent = stats === undefined ? "An API key is needed" : "The server is not there";
    $("live-figures").textContent = "";
  } else {
    const { running: runs, waiting } = stats;
    dot.dataset.state = runs || waiting ? "busy" : "idle";
    $("live-state").textContent = runs || waiting ? `${runs} running` + (waiting ? `, ${waiting} waiting` : "") : "Idle";
    $("live-figures").textContent =
      (runs ? figure(stats.tokens_per_second) + " tokens/s · " : "") + bytes(stats.resident_bytes);
  }
  if ($("server").open) showServer();
}
function showServer() {
  const most = Math.max(...rates, 1);
  const points = rates.map((rate, i) => `${300 - (rates.length - 1 - i) * 300 / 59},${46 - rate / most * 42}`);
  document.querySelector("#spark path").setAttribute("d", points.length ? "M" + points.join("L") : "");
  if (!stats) return $("facts").replaceChildren(h("dt", {}, "Server"), h("dd", {}, "not reachable"));
  const number = (n) => n.toLocaleString("en");
  const facts = {
    Model: stats.model,
    Window: `${number(stats.context_length)} tokens`,
    "Prompt encoding": stats.encoding,
    Now: `${stats.running} running, ${stats.waiting} waiting, ${figure(stats.tokens_per_second)} tokens/s`,
    "Tokens written": `${number(stats.tokens)} in ${count(stats.finished, "answer")}`,
    "Tokens read": `${number(stats.prompt_tokens)}, of them ${number(stats.cached_tokens)} from memory`,
    Memory: `${bytes(stats.resident_bytes)} in all`,
    Conversations: `${bytes(stats.conversation_bytes)} of ${bytes(stats.conversation_bytes_limit)}`,
    "Up for": duration(stats.uptime_seconds),
    Version: stats.version,
  };
  $("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
async function openServer() {
  closeMenu(false);
  closeSidebar();
  $("server").showModal();
  showServer();
  try {
    const text = await (await request("card")).text();
    $("card").replaceChildren(render(text.replace(/^---\n[^]*?\n---\n/, ""), false));
  } catch {
    $("card").replaceChildren();  // a model without a card
  }
}
$("live").addEventListener("click", openServer);
$("card-open").addEventListener("click", openServer);
for (const dialog of document.querySelectorAll("dialog"))
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.id === "server" && dialog.close());

// ---- Start ----

for (const key of store.keys()) {
  if (!key.startsWith(kPrefix)) continue;
  const chat = read(key);
  if (chat) conversations.set(chat.id, { ...fresh(), ...chat });
}
let wanted = null;
try {
  wanted = sessionStorage.getItem("hadal.current");
} catch {
  // none
}
// Another tab wrote: what is not being answered here is read again.
addEventListener("storage", (event) => {
  if (!event.key?.startsWith(kPrefix)) return;
  const id = event.key.slice(kPrefix.length);
  if (running.has(id)) return;
  const chat = event.newValue && JSON.parse(event.newValue);
  if (chat) conversations.set(id, { ...fresh(), ...chat });
  else conversations.delete(id);
  if (current.id === id && chat) open(conversations.get(id));
  showList();
});
addEventListener("pagehide", () => {
  for (const id of running.keys()) save(conversations.get(id));
});
document.addEventListener("visibilitychange", look);

showTheme();
closeSidebar();
open(conversations.get(wanted) || fresh());
loadModels();
look();
setInterval(look, kLook);
