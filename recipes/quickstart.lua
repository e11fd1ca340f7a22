-- Quickstart: one agent in one bottle, and everything the plane does about it, as it happens.
--
-- Needs nothing: no key, no network, no cost. The model API is a rehearsal, a stand-in on this machine; the agent, the
-- sandbox, the allow-list, the meter and the budget are the real ones.
--
--   bb run recipes/quickstart.lua                     with the demo agent
--   bb run recipes/quickstart.lua -- --agent claude   with a real agent CLI, still in rehearsal
--
--- @bb needs launch, egress:docs.example

for option in pairs(bb.args) do
  if option ~= "agent" then
    error("quickstart knows no " .. (type(option) == "number" and bb.args[option] or "--" .. option) .. "; write -- --agent claude", 0)
  end
end
local agent = bb.args.agent or "demo"

-- Where the agents' model APIs are; Anthropic's, where nothing else is said.
local API = { codex = "api.openai.com", gemini = "generativelanguage.googleapis.com" }

-- The real CLIs send long instructions with every request, so with them everything is larger.
local SCALE = agent == "demo" and 1 or 5
local BUDGET = 12000 * SCALE

-- The allow-list. Take an entry out and run it again. (A changed copy is a recipe of your own: bb asks before it runs it.)
local ALLOWED = {
  API[agent] or "api.anthropic.com", -- the agent's model API
  "docs.example", -- a page that the task is about
}

-- What the model's API reports as used.
local function used(tokens)
  for class, n in pairs(tokens) do
    tokens[class] = n * SCALE
  end
  return tokens
end

-- What the model says and does, turn by turn.
bb.rehearse({
  seed = 1,
  loop = true, -- it never stops by itself: the budget has to
  pages = { ["docs.example"] = "Greet people by their name.\n" },
  turns = {
    {
      text = "I'll read the style guide first.",
      fetch = { url = "https://docs.example/style" },
      usage = used({ input = 1800, cache_write = 900, output = 60 }),
    },
    {
      text = "Now the file itself.",
      edit = { path = "greet.sh", content = '#!/bin/sh\necho "hello, ${1:-world}"\n' },
      usage = used({ input = 240, cache_read = 2700, output = 150, reasoning = 40 }),
    },
    {
      text = "Let me send a copy to a friend.",
      fetch = { url = "https://paste.example/upload" },
      usage = used({ input = 310, cache_read = 2900, output = 70 }),
    },
    {
      text = "No? Then over a raw connection.",
      connect = { host = "198.51.100.7", port = 22 },
      usage = used({ input = 290, cache_read = 3200, output = 60 }),
    },
    {
      text = "Fine. I'll think about it some more.",
      run = { argv = { "cat", "greet.sh" } },
      usage = used({ input = 2600, cache_read = 3400, output = 900, reasoning = 700 }),
    },
  },
})

-- One line for each event ---------------------------------------------------------------------------------------------

local style, number, pad = bb.text.style, bb.text.number, bb.text.pad

local function short(text, width)
  return #text > width and string.sub(text, 1, width - 2) .. ".." or text
end

local function line(event, mark, colour, what, more)
  local seq = pad(style("dim", "#" .. event.seq), 6, "right")
  print(seq .. "  " .. style(colour, pad(mark, 8)) .. pad(what, 46) .. "  " .. style("dim", more or ""))
end

-- A bar of 20 columns.
local function bar(used, limit)
  local full = math.min(20, math.floor(used * 20 / math.max(1, limit)))
  local colour = full >= 20 and "red" or full >= 14 and "yellow" or "green"
  return style(colour, string.rep("█", full)) .. style("dim", string.rep("░", 20 - full))
end

local show = {}

show["bottle.running"] = function(event)
  line(event, "start", "cyan", "bottle " .. event.bottle .. " runs " .. event.data.provider, "workspace: a scratch directory")
end

show["request"] = function(event)
  local d = event.data
  line(event, "allowed", "green", short(d.method .. " " .. d.host .. d.path, 46), "status " .. d.status)
end

show["usage"] = function(event)
  local d = event.data
  local t = d.tokens
  local input = t.input + t.cache_read + t.cache_write + t.cache_write_long
  line(event, "allowed", "green", short(d.method .. " " .. d.host .. d.path, 46), number(input) .. " tokens in, " .. number(t.output) .. " out")
  if d.budget then
    local b = d.budget
    line(event, "budget", "blue", bar(b.used, b.limit) .. " " .. number(b.used) .. " of " .. number(b.limit), "counts " .. number(d.counted) .. " (cache reads a tenth)")
  end
end

show["denied"] = function(event)
  local d = event.data
  if d.quiet then
    return
  end
  local what = (d.method and d.method .. " " or "connect ") .. d.host
  if d.path then
    what = what .. d.path
  elseif d.port then
    what = what .. ":" .. d.port
  end
  line(event, "refused", "red", short(what, 46), d.kind)
end

show["crossed"] = function(event)
  local d = event.data
  line(event, "spent", "yellow", "the budget: " .. number(d.used) .. " of " .. number(d.limit) .. " tokens", "no further request fits")
end

show["enforced"] = function(event)
  local d = event.data
  line(event, "cut", "red", d.action .. " by " .. d.by, d.reason)
end

show["bottle.ended"] = function(event)
  local d = event.data
  line(event, "end", "cyan", "the agent " .. d.ended .. (d.exit_code and ", exit code " .. d.exit_code or ""), "its last words:")
  local last = {}
  for text in string.gmatch(d.tail or "", "[^\n]+") do
    last[#last + 1] = text
  end
  for i = math.max(1, #last - 2), #last do
    print("          " .. style("dim", "│ ") .. short(last[i], 240))
  end
end

-- The run -------------------------------------------------------------------------------------------------------------

print(style("bold", "bb quickstart") .. style("dim", "  rehearsal: no key, no network, no cost"))
print()

local bottle = bb.launch({
  provider = agent,
  label = "quickstart",
  prompt = "Write greet.sh, a script that greets its first argument. Follow https://docs.example/style.",
  routes = ALLOWED,
  routes_only = true,
  budget = { tokens = BUDGET, hard = true }, -- hard: what may not fit is refused before it leaves
  timeout = "2m",
})

for event in bottle:events() do
  local f = show[event.type]
  if f then
    f(event)
  end
end

-- The cut is what this recipe is about, so it is no failure of it.
local outcome = bottle:wait({ check = false })

-- The closing table, from the ledger.
local rows = {}
local usage = bb.ledger.query({ run = bb.run.id })
for _, row in ipairs(usage) do
  rows[#rows + 1] = { row.bottle, row.model, row.requests, row.input, row.cache_read, row.cache_write, row.output, row.counted }
end
print()
print(style("bold", "The ledger says"))
print(bb.text.table(rows, { "bottle", "model", "requests", "input", "cache read", "cache write", "output", "counted" }))

print()
local nexts = {
  { "  bb usage --rehearsal", "the same figures, at any time" },
  { "  bb ps --all", outcome.slug .. " and every other bottle" },
  { "  bb run nightly --rehearse", "several tasks at once, under one hard budget" },
}
local found = false
for _, provider in ipairs(bb.providers()) do
  if provider.path and provider.name ~= "demo" and provider.name ~= agent then
    found = true
    nexts[#nexts + 1] =
      { "  bb run " .. bb.run.recipe .. " -- --agent " .. provider.name, "the same with " .. provider.name .. ", found on this machine" }
  end
end
print(style("bold", "What to try next"))
print(bb.text.table(nexts))
if not found and agent == "demo" then
  print(style("dim", "  With claude, codex, gemini or pi in PATH, `-- --agent claude` runs the same recipe with it."))
end
