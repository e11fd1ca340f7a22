-- Claude Code, headless.
--
-- A provider file returns one table. It runs in a VM without input or output and may use only plain Lua.
--
--   name         the file's own name
--   exe          what must be on the machine: looked up in PATH, "{bb}" = bb itself
--   install      how to get it, said when it is missing
--   argv         a list, in which the word "{prompt}" stands for the prompt and "{exe}" for the path of exe;
--                or a function(ctx) that returns one; ctx has exe, prompt, args, output ("text" | "json"), command
--   env, files   put into the bottle: never a secret, the agent can read all of it
--   credentials  by name: alternatives { env, placeholder, scheme = "header" | "Bearer" | "token", header, set }. The
--                first whose `env` the host has is used; the bottle gets only the placeholder, in the variables of `set`
--   routes       the allow-list; `credential` names one of the above, `api` makes a route a metered one, `server_tools`
--                lets features through by which the provider reaches out for the agent, `quiet` refuses paths silently
--   quiet_hosts  hosts that its CLI looks up by itself and that it does without: refused silently
--   budget_key   what its usage is charged to; the name when absent

-- Claude Code asks before it uses a key that it does not know; it remembers the last twenty characters.
local KEY = "sk-ant-api03-" .. string.rep("bottle", 13) .. "-placeholder00AA"

return {
  name = "claude",
  exe = "claude",
  install = "install Claude Code: npm install -g @anthropic-ai/claude-code",

  argv = function(ctx)
    if not ctx.prompt then
      error("provider claude needs a prompt", 0)
    end
    local argv = { "claude", "-p", "--output-format", ctx.output, "--dangerously-skip-permissions" }
    for _, arg in ipairs(ctx.args) do
      argv[#argv + 1] = arg
    end
    -- Behind "--" a prompt is a prompt, also if it begins with "-".
    argv[#argv + 1] = "--"
    argv[#argv + 1] = ctx.prompt
    return argv
  end,

  env = {
    -- Everything that is neither the model nor the user's work stays off the wire.
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC = "1",
    DISABLE_TELEMETRY = "1",
    DISABLE_ERROR_REPORTING = "1",
    DISABLE_AUTOUPDATER = "1",
    DISABLE_BUG_COMMAND = "1",
    -- It refuses to skip permissions as root unless it is told that it sits in a sandbox.
    IS_SANDBOX = "1",
  },

  files = {
    {
      path = "~/.claude.json",
      text = '{"hasCompletedOnboarding":true,"bypassPermissionsModeAccepted":true,"autoUpdates":false,'
        .. '"customApiKeyResponses":{"approved":["'
        .. string.sub(KEY, -20)
        .. '"],"rejected":[]}}\n',
    },
    {
      path = "~/.claude/settings.json",
      text = '{"skipDangerousModePermissionPrompt":true,"includeCoAuthoredBy":false}\n',
    },
  },

  credentials = {
    anthropic = {
      { env = "ANTHROPIC_API_KEY", placeholder = KEY, scheme = "header", header = "x-api-key" },
      {
        env = "CLAUDE_CODE_OAUTH_TOKEN",
        placeholder = "sk-ant-oat01-" .. string.rep("bottle", 13) .. "-placeholder00AA",
        scheme = "Bearer",
      },
    },
  },

  routes = {
    {
      host = "api.anthropic.com",
      api = "anthropic",
      credential = "anthropic",
      quiet = { "/api/" },
    },
  },
}
