-- Gemini CLI, with an API key. What the keys mean stands at the head of claude.lua.

local KEY = "AIzaSy" .. string.sub(string.rep("bottle", 3), 1, 17) .. "-placeholder00AA"

return {
  name = "gemini",
  exe = "gemini",
  install = "install Gemini CLI: npm install -g @google/gemini-cli",

  argv = function(ctx)
    if not ctx.prompt and not ctx.interactive then
      error("provider gemini needs a prompt", 0)
    end
    local argv = { "gemini", "--approval-mode=yolo" }
    if not ctx.interactive then
      append(argv, "--output-format=" .. ctx.output)
    end
    if ctx.resume then
      append(argv, "--resume=latest")
    end
    append(argv, ctx.args)
    if ctx.prompt then
      -- Behind "=" a prompt is a prompt, also if it begins with "-".
      append(argv, (ctx.interactive and "--prompt-interactive=" or "--prompt=") .. ctx.prompt)
    end
    return argv
  end,

  env = {
    GEMINI_SANDBOX = "false",
    GEMINI_TELEMETRY_ENABLED = "false",
    -- A repository's .env may name another API or a proxy. The plane refuses where that leads; what is set already, be it
    -- to nothing, such a file does not set, so that the task is done all the same.
    GOOGLE_GEMINI_BASE_URL = "",
    GOOGLE_GENAI_USE_GCA = "",
    GOOGLE_GENAI_USE_VERTEXAI = "",
    HTTPS_PROXY = "",
    HTTP_PROXY = "",
    https_proxy = "",
    http_proxy = "",
  },

  files = {
    {
      path = "~/.gemini/settings.json",
      text = '{"security":{"auth":{"selectedType":"gemini-api-key"},"folderTrust":{"enabled":false}},'
        .. '"general":{"enableAutoUpdate":false,"enableAutoUpdateNotification":false},'
        .. '"privacy":{"usageStatisticsEnabled":false},"telemetry":{"enabled":false},'
        .. '"ide":{"enabled":false,"hasSeenNudge":true}}\n',
    },
  },

  instructions = "~/.gemini/GEMINI.md",
  skills = "~/.gemini/skills",
  -- All of it: which project has which session stands in a file beside them.
  transcript = { "~/.gemini" },
  resumes = true,
  mcp = { file = "~/.gemini/settings.json", key = "mcpServers" },
  count_tokens = "estimate",

  credentials = {
    gemini = {
      { env = "GEMINI_API_KEY", placeholder = KEY, scheme = "header", header = "x-goog-api-key" },
      {
        env = "GOOGLE_API_KEY",
        placeholder = KEY,
        scheme = "header",
        header = "x-goog-api-key",
        set = { "GEMINI_API_KEY" },
      },
    },
  },

  routes = {
    { host = "generativelanguage.googleapis.com", api = "gemini", credential = "gemini" },
  },

  -- Updates and statistics: switched off above, and needed for nothing.
  quiet_hosts = { "registry.npmjs.org", "play.googleapis.com" },
}
