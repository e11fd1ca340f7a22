// What the vendors' own SDKs for Node make of a budget that is spent, with the retries that they have by themselves: as spent.py.
const fs = require("fs");

const USER = [{ role: "user", content: "hi" }];

async function all(stream) {
  for await (const _ of await stream) {
  }
}

const CONVERSE = { modelId: "us.anthropic.claude-v1:0", messages: [{ role: "user", content: [{ text: "hi" }] }] };
const CLAUDE = JSON.stringify({ anthropic_version: "bedrock-2023-05-31", max_tokens: 9, messages: USER });
const INVOKE = { modelId: "anthropic.claude-x", contentType: "application/json", body: CLAUDE };

const cases = (A, O, C, G, V, B) => [
  ["anthropic", () => A.messages.create({ model: "claude-x", max_tokens: 9, messages: USER })],
  ["anthropic, streamed", () => all(A.messages.create({ model: "claude-x", max_tokens: 9, messages: USER, stream: true }))],
  ["openai responses", () => O.responses.create({ model: "gpt-x", input: "hi" })],
  ["openai responses, streamed", () => all(O.responses.create({ model: "gpt-x", input: "hi", stream: true }))],
  ["openai chat", () => C.chat.completions.create({ model: "gpt-x", messages: USER })],
  ["openai chat, streamed", () => all(C.chat.completions.create({ model: "gpt-x", messages: USER, stream: true }))],
  ["google", () => G.models.generateContent({ model: "gemini-x", contents: "hi" })],
  ["google, streamed", () => all(G.models.generateContentStream({ model: "gemini-x", contents: "hi" }))],
  ["vertex", () => V.models.generateContent({ model: "gemini-x", contents: "hi" })],
  ["bedrock converse", () => B("Converse", CONVERSE)],
  ["bedrock converse, streamed", async () => all((await B("ConverseStream", CONVERSE)).stream)],
  ["bedrock invoke", () => B("InvokeModel", INVOKE)],
  ["bedrock invoke, streamed", async () => all((await B("InvokeModelWithResponseStream", INVOKE)).body)],
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

async function play() {
  const Anthropic = of("@anthropic-ai/sdk");
  const OpenAI = of("openai");
  const { GoogleGenAI } = of("@google/genai");
  const apiKey = "placeholder";
  const table = cases(
    new Anthropic({ apiKey }),
    new OpenAI({ apiKey }),
    new OpenAI({ apiKey, baseURL: "https://chat.example/v1" }),
    new GoogleGenAI({ apiKey }),
    new GoogleGenAI({ apiKey, vertexai: true }),
    bedrock(),
  );
  await table[0][1]();
  // The answer that spent it was the last one.
  for (let spent = false; !spent; ) {
    await table[0][1]().catch((error) => {
      spent = error.status === 429;
    });
  }
  const got = [];
  for (const [name, call] of table) {
    const begun = performance.now();
    const one = { name, status: 200, kinds: [], text: "" };
    try {
      await call();
    } catch (error) {
      const { httpStatusCode = 0, attempts } = error.$metadata || {};
      Object.assign(one, { status: error.status || httpStatusCode, attempts, kinds: kinds(error), text: `${error.message} ${error.cause || ""}` });
    }
    got.push({ ...one, ms: Math.round(performance.now() - begun) });
  }
  fs.writeFileSync("spent.json", JSON.stringify(got));
}

if (process.argv[2] === "list") {
  console.log(JSON.stringify(cases().map(([name]) => ({ name }))));
} else {
  play();
}
