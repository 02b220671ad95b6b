// Coding agents against hadal's server over the scripted stand-in: each runs a two-step tool loop on files of a scratch
// folder. AGENTS: the folder in which their npm packages are installed (make test-agents).

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";

const root = fileURLToPath(new URL("../../", import.meta.url));
const bin = (name) => join(process.env.AGENTS, "node_modules/.bin", name);
const model = "deepseek-v4-flash";
let server, url, home;

before(async () => {
  home = mkdtempSync(join(tmpdir(), "hadal-agents-"));
  server = spawn(`${root}build/release/tests/stand_in`, [`${root}models/hadal-nano/tokenizer.json`], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const port = await new Promise((resolve, reject) => {
    server.stdout.once("data", (data) => resolve(Number(data)));
    server.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  url = `http://127.0.0.1:${port}`;
});
after(() => {
  server.stdin.end();
  rmSync(home, { recursive: true, force: true });
});

// What the agent printed, in a folder of its own.
async function run(name, args, env, input = "") {
  const folder = join(home, name);
  mkdirSync(folder, { recursive: true });
  const agent = spawn(bin(name), args, { cwd: folder, env: { PATH: process.env.PATH, HOME: home, ...env } });
  let said = "";
  agent.stdout.on("data", (data) => (said += data));
  agent.stderr.on("data", (data) => (said += data));
  agent.stdin.end(input);
  const timer = setTimeout(() => agent.kill(), 120000);
  await new Promise((resolve) => agent.once("exit", resolve));
  clearTimeout(timer);
  return { said, file: () => readFileSync(join(folder, "a.txt"), "utf8") };
}

const steps = (tool, key, more = {}) =>
  [`echo hello from hadal > a.txt`, `cat a.txt`]
    .map((command) => `CALL ${tool} ${JSON.stringify({ [key]: command, ...more })}`)
    .join(" THEN ");

test("Claude Code", async () => {
  const { said, file } = await run(
    "claude",
    ["-p", steps("Bash", "command", { description: "a step" }), "--model", model, "--allowedTools", "Bash",
     "--dangerously-skip-permissions"],
    { ANTHROPIC_BASE_URL: `${url}/anthropic`, ANTHROPIC_AUTH_TOKEN: "local", IS_SANDBOX: "1",
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1" });
  assert.match(said, /Done: hello from hadal/);
  assert.equal(file(), "hello from hadal\n");
});

test("Codex", async () => {
  mkdirSync(join(home, ".codex"), { recursive: true });
  writeFileSync(join(home, ".codex/config.toml"),
    `model = "${model}"\nmodel_provider = "hadal"\n[model_providers.hadal]\nname = "hadal"\nbase_url = "${url}/v1"\n` +
      `wire_api = "responses"\nenv_key = "HADAL_KEY"\n`);
  const { said, file } = await run(
    "codex", ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", steps("exec_command", "cmd")],
    { HADAL_KEY: "local" });
  assert.match(said, /Done: [\s\S]*hello from hadal/);
  assert.equal(file(), "hello from hadal\n");
});

test("opencode", async () => {
  mkdirSync(join(home, "opencode"), { recursive: true });
  writeFileSync(join(home, "opencode/opencode.json"), JSON.stringify({
    provider: { hadal: { npm: "@ai-sdk/openai-compatible", name: "hadal",
                         options: { baseURL: `${url}/v1`, apiKey: "local" }, models: { [model]: { name: "V4" } } } },
    model: `hadal/${model}`,
    permission: { bash: "allow" },
  }));
  const { said, file } = await run("opencode", ["run"], {}, steps("bash", "command", { description: "a step" }));
  assert.match(said, /Done: hello from hadal/);
  assert.equal(file(), "hello from hadal\n");
});
