// What AWS's own SDK reads of answers of Bedrock that come whole: the text, and what the answer says was used.
const fs = require("fs");

const HI = { role: "user", content: [{ text: "hi" }] };
const CONVERSE = { modelId: "us.anthropic.claude-v1:0", messages: [HI] };
const CLAUDE = { anthropic_version: "bedrock-2023-05-31", max_tokens: 900, messages: [{ role: "user", content: "hi" }] };
const INVOKE = { modelId: "anthropic.claude-x", contentType: "application/json", body: JSON.stringify(CLAUDE) };

const read = (bytes) => JSON.parse(Buffer.from(bytes));
const bySdk = (u) => ({ input: u.inputTokens, output: u.outputTokens, cache_read: u.cacheReadInputTokens, cache_write: u.cacheWriteInputTokens });
const byClaude = (u) => ({ input: u.input_tokens, output: u.output_tokens, cache_read: u.cache_read_input_tokens, cache_write: u.cache_creation_input_tokens });
const byMetrics = (u) => ({ input: u.inputTokenCount, output: u.outputTokenCount, cache_read: u.cacheReadInputTokenCount, cache_write: u.cacheWriteInputTokenCount });

const cases = (ask) => [
  ["bedrock_converse", async () => {
    const answer = await ask("Converse", CONVERSE);
    return { text: answer.output.message.content[0].text, usage: bySdk(answer.usage) };
  }],
  ["bedrock_converse", async () => {
    const got = { text: "" };
    for await (const event of (await ask("ConverseStream", CONVERSE)).stream) {
      got.text += event.contentBlockDelta?.delta?.text || "";
      if (event.metadata) got.usage = bySdk(event.metadata.usage);
    }
    return got;
  }],
  ["bedrock_invoke", async () => {
    const answer = read((await ask("InvokeModel", INVOKE)).body);
    return { text: answer.content[0].text, usage: byClaude(answer.usage) };
  }],
  ["bedrock_invoke", async () => {
    const got = { text: "" };
    for await (const event of (await ask("InvokeModelWithResponseStream", INVOKE)).body) {
      const inner = read(event.chunk.bytes);
      got.text += inner.delta?.text || "";
      const metrics = inner["amazon-bedrock-invocationMetrics"];
      if (metrics) got.usage = byMetrics(metrics);
    }
    return got;
  }],
];

async function play() {
  // The SDK is beside the agents, whose programs are on the PATH. It is asked by one of Bedrock's API keys.
  process.env.AWS_BEARER_TOKEN_BEDROCK = "placeholder";
  const name = "@aws-sdk/client-bedrock-runtime";
  const beside = process.env.PATH.split(":").find((dir) => fs.existsSync(`${dir}/../${name}/package.json`));
  const aws = require("module").createRequire(fs.realpathSync(`${beside}/..`) + "/x.js")(name);
  const client = new aws.BedrockRuntimeClient({ region: "us-east-1" });
  const got = [];
  for (const [api, call] of cases((command, input) => client.send(new aws[`${command}Command`](input)))) {
    got.push({ api, ...(await call().catch((error) => ({ error: `${error}` }))) });
  }
  fs.writeFileSync("whole.json", JSON.stringify(got));
}

if (process.argv[2] === "list") {
  console.log(JSON.stringify(cases().map(([name]) => ({ name }))));
} else {
  play();
}
