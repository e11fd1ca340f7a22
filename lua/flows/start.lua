--- @bb needs start
-- What `bb start` and `bb resume` do, step by step. A copy of this file at $BB_HOME/flows/start.lua (flows/resume.lua) is
-- run in its place: take out a question, add a check, choose your own defaults.
--
-- bb.args has what stood on the command line: agent, bottles, label, color, prompt, budget, timeout, backend, copy,
-- args, headless, dry_run; of `bb resume`: resume, prompt, budget, timeout, uncut, headless, dry_run.

local given = bb.args
local asks = not given.headless and not given.dry_run
local picks = asks and not given.resume

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

local agents = bb.manifest.agents()
local bottles = bb.manifest.bottles()

local agent = given.agent
if not agent and picks then
  if #agents == 0 then
    error({ kind = "usage", message = "there is no agent yet", hint = "bb setup writes a first one" }, 0)
  end
  agent = bb.ui.pick({ title = "Agent", items = items(agents) })
end

-- What the command line names is chosen first; else the agent's own bottle is.
local chosen = given.bottles or {}
if picks and #bottles > 0 then
  local own = chosen
  for _, known in ipairs(#chosen == 0 and agents or {}) do
    if known.name == agent and known.bottle then
      own = { known.bottle }
    end
  end
  chosen = bb.ui.choose({ title = "Bottles", items = items(bottles), chosen = own })
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
local code = outcome.exit_code and " (exit " .. outcome.exit_code .. ")" or ""
-- Of one that was frozen the code says only how its agent was asked to end.
bb.ui.note(outcome.ended == "frozen" and "session frozen" or "session ended" .. code)
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

if outcome.cut or outcome.ended == "policy" then
  bb.exit(3)
elseif outcome.ended == "frozen" then
  bb.exit(0)
elseif outcome.ended == "timeout" then
  bb.exit(124)
end
bb.exit(outcome.ok and 0 or 1)
