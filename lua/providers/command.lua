-- The user's own command line, the same at a terminal: no routes, no credentials, nothing but what the launch names. What
-- the keys mean stands at the head of claude.lua.

return {
  name = "command",
  instructions = "~/INSTRUCTIONS.md",

  argv = function(ctx)
    -- bb.launch{command = {...}}, or what stands behind `--` of bb start.
    local command, more = ctx.command, ctx.args
    if #command == 0 then
      command, more = ctx.args, {}
    end
    if #command == 0 then
      error("provider command needs a command: bb start AGENT -- make test, or bb.launch{command = {\"make\", \"test\"}}", 0)
    end
    local argv, put = {}, false
    for i, word in ipairs(command) do
      if word == "{prompt}" and ctx.prompt then
        word, put = ctx.prompt, true
      end
      argv[i] = word
    end
    if ctx.prompt and not put then
      error("the command has no word {prompt} for the prompt", 0)
    end
    append(argv, more)
    return argv
  end,
}
