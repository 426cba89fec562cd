// `@modelcontextprotocol/ext-tasks` over the TypeScript SDK: `ext_tasks.mjs SERVER modern|auto|legacy`.
// Legacy is declared as Inspector does it: the extension stands in the `initialize` too.
import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { createTaskSessionFromClient, resultFromTaskOutcome } from "@modelcontextprotocol/ext-tasks/client";

const server = JSON.parse(process.argv[2]);
const era = process.argv[3];
const MODERN = "2026-07-28";
const clientInfo = { name: "ext-tasks-test", version: "1" };
const capabilities = { elicitation: { form: {} }, extensions: { "io.modelcontextprotocol/tasks": {} } };
const version = JSON.parse(
  readFileSync(new URL("../package.json", import.meta.resolve("@modelcontextprotocol/ext-tasks/core").replace("/core/", "/")), "utf8"),
).version;

const mode = era === "modern" ? { pin: MODERN } : era;
const client = new Client(clientInfo, { capabilities, versionNegotiation: { mode } });
const transport = server.url
  ? new StreamableHTTPClientTransport(new URL(server.url))
  : new StdioClientTransport({ command: server.command[0], args: server.command.slice(1), env: server.env, cwd: server.cwd });
await client.connect(transport);

// The host's own way to send a request as it stands: the SDK's codecs know no task results.
const waiting = new Map();
let next = 1;
if (!server.url) {
  const received = transport.onmessage;
  transport.onmessage = (message, extra) => {
    const answered = waiting.get(message.id);
    if (answered === undefined) return received?.(message, extra);
    waiting.delete(message.id);
    answered(message);
  };
}
async function rawDispatch(request) {
  const id = `raw-${next++}`;
  const message = { jsonrpc: "2.0", id, ...request };
  let answer;
  if (server.url) {
    const name = request.params?.name ?? request.params?.taskId;
    const response = await fetch(server.url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": request.method,
        ...(name === undefined ? {} : { "mcp-name": name }),
      },
      body: JSON.stringify(message),
    });
    answer = await response.json();
  } else {
    answer = await new Promise((resolve, reject) => {
      waiting.set(id, resolve);
      transport.send(message).catch(reject);
    });
  }
  return answer.error ? { kind: "error", error: answer.error } : { kind: "result", result: answer.result };
}

const modern = client.getProtocolEra() === "modern";
const session = createTaskSessionFromClient(client, {
  endpointId: "office",
  onInputRequest: async () => ({ action: "accept", content: { sure: true } }),
  ...(modern
    ? { rawDispatch, v2RequestFraming: { protocolVersion: MODERN, clientInfo, clientCapabilities: capabilities } }
    : {}),
});

const listed = (await client.listTools()).tools;
const seen = { version, protocol: client.getNegotiatedProtocolVersion?.(), era: client.getProtocolEra(), tools: listed.map((tool) => tool.name) };
const declared = new Map(listed.map((tool) => [tool.name, tool]));
const prefer = (name) => ({
  task: { preference: "prefer" },
  declaration: { name, inputSchema: declared.get(name).inputSchema, taskSupport: declared.get(name).execution?.taskSupport },
});

const slow = await session.callTool("slow", { word: "rain" }, prefer("slow"));
seen.kind = slow.kind;
seen.slow = resultFromTaskOutcome((await slow.settle()).outcome).structuredContent;

const endless = await session.callTool("endless", {}, prefer("endless"));
await endless.cancel();
seen.cancelled = (await endless.result()).status;

// In 2025-11-25 it asks for the result only once a task is settled, and so never hears the question.
if (modern) {
  const confirm = await session.callTool("confirm", {}, prefer("confirm"));
  seen.answered = resultFromTaskOutcome((await confirm.settle()).outcome).content[0].text;
}

// Without a word about tasks, on a legacy connection: an ordinary result, whatever `initialize` declared.
if (!modern) {
  const plain = await client.request({ method: "tools/call", params: { name: "slow", arguments: { word: "sun" } } });
  seen.plain = plain.structuredContent?.status;
}
await session.close();
await client.close();
console.log(JSON.stringify(seen));
process.exit(0);
