-- Pi, with Anthropic's models. What the keys mean stands at the head of claude.lua.

local FILL = "-placeholder00AA"

-- Pi takes a message that begins with "-" for an option and one that begins with "@" for a file, and nothing ends its
-- options. Such a message goes behind a mark, which an extension takes away again.
local MARK = "bb:prompt "

return {
  name = "pi",
  exe = "pi",
  install = "install Pi: npm install -g @mariozechner/pi-coding-agent",

  argv = function(ctx)
    if not ctx.prompt and not ctx.interactive then
      error("provider pi needs a prompt", 0)
    end
    local argv = { "pi" }
    if ctx.output == "json" and not ctx.interactive then
      append(argv, "--mode", "json")
    end
    if ctx.resume then
      append(argv, "--continue")
    end
    if ctx.instructions then
      append(argv, "--append-system-prompt", ctx.instructions)
    end
    append(argv, ctx.args)
    local prompt = ctx.prompt
    if prompt and string.find(prompt, "^[-@]") then
      prompt = MARK .. prompt
    end
    if not ctx.interactive then
      append(argv, "-p")
    end
    append(argv, prompt)
    return argv
  end,

  env = {
    -- No update check, no telemetry, no download of programs.
    PI_OFFLINE = "1",
    PI_SKIP_VERSION_CHECK = "1",
    PI_TELEMETRY = "0",
  },

  files = {
    {
      path = "~/.pi/agent/settings.json",
      -- A spent budget looks like a limit of rate to it, which it tries again: soon and twice, not for minutes. What
      -- fails before an answer begins is the API's own client's to try again, and that heeds "do not".
      text = '{"enableInstallTelemetry":false,"quietStartup":true,'
        .. '"retry":{"maxRetries":2,"baseDelayMs":1000,"provider":{"maxRetries":4}}}\n',
    },
    {
      path = "~/.pi/agent/extensions/bb-prompt.js",
      text = 'const MARK = "'
        .. MARK
        .. '";\nexport default function (pi) {\n'
        .. '  pi.on("input", (event) =>\n'
        .. "    event.text.startsWith(MARK)\n"
        .. '      ? { action: "transform", text: event.text.slice(MARK.length) }\n'
        .. '      : { action: "continue" });\n'
        .. "}\n",
    },
  },

  skills = "~/.pi/agent/skills",
  transcript = { "~/.pi/agent/sessions" },
  resumes = true,
  count_tokens = "anthropic",

  credentials = {
    anthropic = {
      {
        env = "ANTHROPIC_API_KEY",
        placeholder = "sk-ant-api03-" .. string.rep("bottle", 13) .. FILL,
        scheme = "header",
        header = "x-api-key",
      },
      {
        env = "ANTHROPIC_OAUTH_TOKEN",
        placeholder = "sk-ant-oat01-" .. string.rep("bottle", 13) .. FILL,
        prefix = "sk-ant-oat",
        scheme = "Bearer",
      },
    },
  },

  routes = {
    { host = "api.anthropic.com", api = "anthropic", credential = "anthropic" },
  },

  -- Updates and statistics: switched off above, and needed for nothing.
  quiet_hosts = { "pi.dev", "registry.npmjs.org" },
}
