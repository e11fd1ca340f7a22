--- @bb needs start
-- What `bb start` and `bb resume` do, step by step. A copy of this file at $BB_HOME/flows/start.lua (flows/resume.lua) is
-- run in its place: take out a question, add a check, choose your own defaults. What has to be given on the command line is
-- decided here as well, so a flow with defaults of its own needs less.
--
-- bb.args has what stood on the command line: agent, bottles, label, color, prompt, budget, timeout, backend, copy,
-- args, headless, dry_run, json, and redirected: standard output is no terminal, or with --json for programs; of
-- `bb resume`: resume, prompt, budget, timeout, uncut, headless, dry_run, json, redirected.

local given = bb.args
local somebody = bb.ui.terminal()
-- A dry run asks as well: what it shows is what would be started.
local asks = somebody and not given.headless and not (given.dry_run and given.json)
local picks = asks and not given.resume

local agents = bb.manifest.agents()
local bottles = bb.manifest.bottles()

-- What has to be given ------------------------------------------------------------------------------------------------

local function refuse(message, hint)
  error({ kind = "usage", message = message, hint = hint }, 0)
end

-- Lists the agents for whoever named none.
local function known()
  if given.agent then
    return ""
  end
  if #agents == 0 then
    return "; there is no agent yet: bb setup writes a first one"
  end
  local names = {}
  for i, manifest in ipairs(agents) do
    names[i] = manifest.name
  end
  return "; agents: " .. table.concat(names, ", ")
end

if given.agent then
  -- What is wrong with it is said before anything is asked.
  bb.manifest.agent(given.agent)
end
local again = given.resume and "bb resume " .. given.resume .. " --headless"
local headless = again or "bb start " .. (given.agent or "AGENT") .. " --headless --prompt \"the task\""
if given.headless and not given.resume then
  -- Both are said at once, and before anything has an effect.
  local missing = {}
  if not given.agent then
    missing[#missing + 1] = "an agent's name"
  end
  if not (given.prompt and given.prompt:find("%S")) then
    missing[#missing + 1] = "--prompt"
  end
  if #missing > 0 then
    refuse(
      "--headless needs " .. table.concat(missing, " and "),
      "write bb start AGENT --headless --prompt \"the task\"" .. known()
    )
  end
elseif given.dry_run then
  if not asks and not given.resume and not given.agent and #given.bottles == 0 then
    refuse("a dry run asks nothing, and no agent is named", "write bb start AGENT --dry-run" .. known())
  end
elseif not given.headless then
  if not somebody then
    if given.resume then
      -- Whether there is anything to take up comes first.
      bb.plan({ resume = given.resume })
    end
    local more = given.resume and "" or known()
    refuse("nobody is at a terminal to be asked", "write " .. headless .. ", or run it at a terminal" .. more)
  elseif given.redirected then
    refuse(
      "the agent's own interface needs this terminal, and its output goes elsewhere",
      "leave --json and the redirection out, or write " .. headless
    )
  end
end

-- Which agent, in which bottles, under which name ---------------------------------------------------------------------

local function about(manifest)
  if manifest.fault then
    return "has a fault: bb manifest check"
  end
  local from = manifest.origin == "repository" and " (from this repository)" or ""
  return manifest.about .. from
end

local function items(manifests)
  local list = {}
  for i, manifest in ipairs(manifests) do
    list[i] = { name = manifest.name, note = about(manifest) }
  end
  return list
end

local agent = given.agent
if not agent and picks then
  if #agents == 0 then
    refuse("there is no agent yet", "bb setup writes a first one")
  end
  agent = bb.ui.pick({ title = "Agent", items = items(agents) })
  bb.manifest.agent(agent)
end

-- What the command line names is chosen first; else the agent's own bottle is. Whoever takes every bottle back gets the
-- agent's own, and is told so; where it has none, one has to be chosen.
local chosen = given.bottles or {}
if picks and #bottles > 0 then
  local own, first = nil, chosen
  for _, manifest in ipairs(agents) do
    if manifest.name == agent then
      own = manifest.bottle
    end
  end
  if #first == 0 and own then
    first = { own }
  end
  local none = own and "none chosen: the agent's own, " .. own or "none chosen, and the agent has none of its own: choose one"
  repeat
    chosen = bb.ui.choose({ title = "Bottles", items = items(bottles), chosen = first, none = none })
  until own or #chosen > 0
end

local label, color = given.label, given.color
if picks and not label then
  label = bb.ui.ask("Name", agent or "bottle")
end
if picks and not color then
  local colors = { { name = "none" } }
  for _, name in ipairs(given.colors) do
    colors[#colors + 1] = { name = name }
  end
  color = bb.ui.pick({ title = "Colour", items = colors })
end
if color == "none" then
  color = nil
end

-- What would hold -----------------------------------------------------------------------------------------------------

local choice = {
  agent = agent,
  bottles = chosen,
  label = label,
  color = color,
  prompt = given.prompt,
  args = given.args,
  budget = given.budget,
  timeout = given.timeout,
  backend = given.backend,
  copy = given.copy,
  interactive = not given.headless,
  answers = {},
  resume = given.resume,
  uncut = given.uncut,
}

local plan = bb.plan(choice)
if asks and #plan.questions > 0 then
  for _, question in ipairs(plan.questions) do
    choice.answers[question.name] = bb.ui.ask(question.text)
  end
  plan = bb.plan(choice)
end

for _, warning in ipairs(plan.warnings) do
  bb.log.warn(warning)
end
-- A kept bottle is held to what the manifests say today.
for _, change in ipairs(plan.changes) do
  bb.log.warn("since it was started, " .. change.key .. ": " .. (change.before and "no longer " .. change.before or "now " .. change.now))
end
if asks or given.dry_run then
  bb.ui.note("")
  local rows = plan:preflight()
  if asks and bb.rehearsing() then
    rows[#rows + 1] = { key = "rehearsal", value = "its model ends with this command, also when you detach" }
  end
  bb.ui.rows(rows)
  bb.ui.note("")
end
if given.dry_run then
  bb.exit(0)
end
if asks and not bb.ui.confirm("Start it?") then
  bb.ui.note("nothing was started")
  bb.exit(4)
end

-- The bottle ----------------------------------------------------------------------------------------------------------

local bottle = plan:launch({ told = asks, detach = not given.headless, input = given.headless })
bb.ui.note("bottle " .. bottle.slug)

-- Whoever starts it headless waits for its end: no keys lead away from it.
local left = bottle:attach({ detach = not given.headless })
if left.detached then
  bb.ui.note("detached; bb attach " .. bottle.slug .. " takes it up again")
  if bb.rehearsing() then
    bb.ui.note("the stand-ins of this rehearsal are gone: its agent has no model any more; bb kill " .. bottle.slug)
  end
  bb.exit(0)
end

local outcome = bottle:wait({ check = false })
local ends = outcome.ok and 0 or 1
if outcome.cut or outcome.ended == "policy" then
  ends = 3
elseif outcome.ended == "frozen" then
  ends = 0
elseif outcome.ended == "timeout" then
  ends = 124
end
-- Of one that was frozen its agent's code says only how it was asked to end: what counts is this command's.
local code = outcome.ended ~= "frozen" and outcome.exit_code or ends
if outcome.ended == "frozen" then
  bb.ui.note("session frozen")
end
bb.ui.note("session ended (exit " .. code .. ")")
if outcome.ended ~= "exited" or outcome.cut then
  bb.ui.note(bb.text.style("yellow", outcome.ended) .. ": " .. (outcome.cut or outcome.reason or "no reason was given"))
elseif outcome.reason then
  bb.ui.note(outcome.reason)
end

if outcome.resumable then
  bb.ui.note("to take it up again: bb resume " .. bottle.slug)
end
if outcome.kept and not outcome.resumable then
  bb.ui.note("its changes are kept: bb diff " .. bottle.slug .. ", bb apply " .. bottle.slug .. ", bb rm " .. bottle.slug)
elseif outcome.kept then
  bb.ui.note("what it changed: bb diff " .. bottle.slug .. "; to forget it: bb rm " .. bottle.slug)
end

bb.exit(ends)
