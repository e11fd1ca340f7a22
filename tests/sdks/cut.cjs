// What the vendors' own SDKs for Node make of an answer that its budget cuts while it streams: as cut.py.
const fs = require("fs");

const USER = [{ role: "user", content: "hi" }];
const CLAUDE = { model: "claude-x", max_tokens: 9000, messages: USER };
const CHAT = { model: "gpt-x", messages: USER, stream: true };
const came = { heard: 0, kinds: [], text: "", last: "" };

async function listen(stream, text) {
  for await (const event of await stream) {
    came.last = JSON.stringify(event).slice(0, 4000);
    came.heard += (text(event) || "").length;
  }
}

const words = (event) => event.delta?.text;
const said = (event) => (typeof event.delta === "string" ? event.delta : "");
const choice = (event) => event.choices[0]?.delta?.content;
const part = (event) => event.text;
const block = (event) => event.contentBlockDelta?.delta?.text;
const wrapped = (event) => words(JSON.parse(Buffer.from(event.chunk.bytes)));

const CONVERSE = { modelId: "us.anthropic.claude-v1:0", messages: [{ role: "user", content: [{ text: "hi" }] }] };
const INVOKED = JSON.stringify({ anthropic_version: "bedrock-2023-05-31", max_tokens: 9000, messages: USER });
const INVOKE = { modelId: "anthropic.claude-x", contentType: "application/json", body: INVOKED };

const cases = (A, O, C, G, V, K, B) => [
  ["anthropic", () => listen(A.messages.create({ ...CLAUDE, stream: true }), words)],
  ["anthropic, by its helper", () => listen(A.messages.stream(CLAUDE), words)],
  ["openai responses", () => listen(O.responses.create({ model: "gpt-x", input: "hi", stream: true }), said)],
  ["openai responses, by its helper", () => listen(O.responses.stream({ model: "gpt-x", input: "hi" }), said)],
  ["openai chat", () => listen(C.chat.completions.create(CHAT), choice)],
  ["openai chat, with usage", () => listen(C.chat.completions.create({ ...CHAT, stream_options: { include_usage: true } }), choice)],
  ["google", () => listen(G.models.generateContentStream({ model: "gemini-x", contents: "hi" }), part)],
  ["vertex", () => listen(V.models.generateContentStream({ model: "gemini-x", contents: "hi" }), part)],
  ["vertex, by a key", () => listen(K.models.generateContentStream({ model: "gemini-x", contents: "hi" }), part)],
  ["bedrock converse", async () => listen((await B("ConverseStream", CONVERSE)).stream, block)],
  ["bedrock invoke", async () => listen((await B("InvokeModelWithResponseStream", INVOKE)).body, wrapped)],
];

function kinds(error) {
  const names = [];
  for (let proto = Object.getPrototypeOf(error); proto?.constructor && proto.constructor !== Object; proto = Object.getPrototypeOf(proto)) {
    names.push(proto.constructor.name);
  }
  return names;
}

// The programs beside the packages are on the PATH; AWS's SDK is beside the agents, one of which brings it.
function of(name) {
  const beside = process.env.PATH.split(":").find((dir) => fs.existsSync(`${dir}/../${name}/package.json`));
  return require("module").createRequire(fs.realpathSync(`${beside}/..`) + "/x.js")(name);
}

// By one of Bedrock's API keys.
function bedrock() {
  process.env.AWS_BEARER_TOKEN_BEDROCK = "placeholder";
  const aws = of("@aws-sdk/client-bedrock-runtime");
  const client = new aws.BedrockRuntimeClient({ region: "us-east-1" });
  return (command, input) => client.send(new aws[`${command}Command`](input));
}

async function play(number) {
  const Anthropic = of("@anthropic-ai/sdk");
  const OpenAI = of("openai");
  const { GoogleGenAI } = of("@google/genai");
  const { OAuth2Client } = of("google-auth-library");
  const apiKey = "placeholder";
  const authClient = new OAuth2Client();
  authClient.setCredentials({ access_token: apiKey, expiry_date: Date.now() + 3600000 });
  const table = cases(
    new Anthropic({ apiKey }),
    new OpenAI({ apiKey }),
    new OpenAI({ apiKey, baseURL: "https://chat.example/v1" }),
    new GoogleGenAI({ apiKey }),
    new GoogleGenAI({ vertexai: true, project: "p", location: "global", googleAuthOptions: { authClient } }),
    new GoogleGenAI({ vertexai: true, apiKey }),
    bedrock(),
  );
  const [name, call] = table[number];
  const begun = performance.now();
  try {
    await call();
  } catch (error) {
    Object.assign(came, { kinds: kinds(error), text: `${error.message} ${error.cause || ""}` });
  }
  fs.writeFileSync(`cut-${number}.json`, JSON.stringify({ name, ...came, ms: Math.round(performance.now() - begun) }));
}

if (process.argv[2] === "list") {
  console.log(JSON.stringify(cases().map(([name]) => ({ name }))));
} else {
  play(Number(process.argv[2]));
}
