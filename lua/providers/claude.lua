-- Claude Code.
--
-- A provider file returns one table. It runs in a VM without input or output and may use only plain Lua, and
-- append(list, ...), which puts words and lists of words at the end of a list. docs/providers.md says how to write one.
--
--   name         the file's own name
--   exe          what must be on the machine: looked up in PATH, "{bb}" = bb itself
--   install      how to get it, said when it is missing
--   argv         a list, in which the word "{prompt}" stands for the prompt and "{exe}" for the path of exe;
--                or a function(ctx) that returns one; ctx has exe, prompt, args, output ("text" | "json"), command,
--                interactive (its own interface at a terminal; a prompt is the first message there, and may be absent),
--                instructions (standing ones, beside its own system prompt), resume (continue the session of before)
--   env, files   put into the bottle: never a secret, the agent can read all of it. "{workspace}" in a file's path and
--                text stands for the path of the workspace
--   instructions the file that the CLI reads standing instructions from, where argv does not hand them over
--   skills       the directory that it looks for skills in; absent where it knows none
--   transcript   what has to be kept for a session to be continued
--   resumes      true: argv heeds ctx.resume
--   mcp          { file, key }: where it is told of MCP servers
--   credentials  by name: alternatives { env, placeholder, scheme = "header" | "Bearer" | "token", header, set, prefix }
--                and { login = "claude" | "codex" }, each with `files` and `routes` of its own where it needs some.
--                The first whose `env` the host has is used, else the first whose login its CLI keeps on the host, or,
--                where a manifest's `auth_token` names a variable, the one whose `prefix` its value begins with; the
--                bottle gets only the placeholder, in the variables of `set`, or in files, where {access_token},
--                {refresh_token}, {id_token} and {account} stand for those of a login
--   routes       the allow-list; `credential` names one of the above, `api` makes a route a metered one, `server_tools`
--                lets features through by which the provider reaches out for the agent, `quiet` refuses paths silently,
--                `oauth` makes a route the token endpoint of a login, which bb answers by itself
--   quiet_hosts  hosts that its CLI looks up by itself and that it does without: refused silently
--   budget_key   what its usage is charged to; the name when absent
--   count_tokens who counts a request's tokens before it leaves: "estimate", or the API that has an endpoint for it

-- Claude Code asks before it uses a key that it does not know; it remembers the last twenty characters.
local KEY = "sk-ant-api03-" .. string.rep("bottle", 13) .. "-placeholder00AA"

-- What stands where the host's login would. It ends in the year 2100, so that Claude Code has no reason to renew it.
local LOGIN = '{"claudeAiOauth":{"accessToken":"{access_token}","refreshToken":"{refresh_token}",'
  .. '"expiresAt":4102444800000,"scopes":["user:inference"],"subscriptionType":null}}\n'

-- A repository's own settings may name another API, a proxy or another vendor. The plane refuses where that leads, and
-- Claude Code would try again for minutes. What an administrator sets stands above them.
local PINNED = '{"env":{"ANTHROPIC_BASE_URL":"https://api.anthropic.com","CLAUDE_CODE_USE_BEDROCK":"",'
  .. '"CLAUDE_CODE_USE_VERTEX":"","CLAUDE_CODE_USE_FOUNDRY":"","HTTPS_PROXY":"","HTTP_PROXY":"","ALL_PROXY":"",'
  .. '"https_proxy":"","http_proxy":"","all_proxy":""}}\n'

return {
  name = "claude",
  exe = "claude",
  install = "install Claude Code: npm install -g @anthropic-ai/claude-code",

  argv = function(ctx)
    if not ctx.prompt and not ctx.interactive then
      error("provider claude needs a prompt", 0)
    end
    local argv = { "claude", "--dangerously-skip-permissions" }
    if not ctx.interactive then
      append(argv, "-p", "--output-format", ctx.output)
    end
    if ctx.resume then
      append(argv, "--continue")
    end
    if ctx.instructions then
      append(argv, "--append-system-prompt", ctx.instructions)
    end
    append(argv, ctx.args)
    if ctx.prompt then
      -- Behind "--" a prompt is a prompt, also if it begins with "-".
      append(argv, "--", ctx.prompt)
    end
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
      -- Onboarding, trust in the folder and use of the key are what it asks about before it begins.
      text = '{"hasCompletedOnboarding":true,"bypassPermissionsModeAccepted":true,"autoUpdates":false,'
        .. '"customApiKeyResponses":{"approved":["'
        .. string.sub(KEY, -20)
        .. '"],"rejected":[]},'
        .. '"projects":{"{workspace}":{"hasTrustDialogAccepted":true,"hasCompletedProjectOnboarding":true}}}\n',
    },
    {
      path = "~/.claude/settings.json",
      text = '{"skipDangerousModePermissionPrompt":true,"includeCoAuthoredBy":false}\n',
    },
    { path = "/etc/claude-code/managed-settings.json", text = PINNED, mode = 420 },
  },

  skills = "~/.claude/skills",
  transcript = { "~/.claude/projects" },
  resumes = true,
  mcp = { file = "~/.claude.json", key = "mcpServers" },
  count_tokens = "anthropic",

  credentials = {
    anthropic = {
      { env = "ANTHROPIC_API_KEY", placeholder = KEY, scheme = "header", header = "x-api-key" },
      {
        env = "CLAUDE_CODE_OAUTH_TOKEN",
        prefix = "sk-ant-oat",
        placeholder = "sk-ant-oat01-" .. string.rep("bottle", 13) .. "-placeholder00AA",
        scheme = "Bearer",
      },
      -- A subscription: the host keeps the login and renews it.
      {
        login = "claude",
        files = { { path = "~/.claude/.credentials.json", text = LOGIN } },
        routes = {
          {
            host = "platform.claude.com",
            matches = { { methods = { "POST" }, paths = { { type = "exact", value = "/v1/oauth/token" } } } },
            oauth = "anthropic",
          },
        },
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
