-- Nightly: several tasks in parallel, each in a bottle of its own with a budget, a deadline and retries, all under one
-- hard budget. Every try is a new bottle. Copy it and put your own tasks in.
--
--   bb run recipes/nightly.lua -- --workspace .                    in a checkout of yours; all tasks share it
--   bb run recipes/nightly.lua -- --workspace . --agent codex      with another agent
--   bb run recipes/nightly.lua --rehearse                          no key, no network, no cost; scratch directories
--
-- Exit codes: 0 every task is done; 10 some failed; 3 a budget stopped some.
--
--- @bb needs launch, budget, write:args

local TASKS = {
  { name = "changelog", prompt = "Bring CHANGELOG.md up to date with what is in this directory.", budget = "150k" },
  { name = "typos", prompt = "Find and fix typos in comments and documentation.", budget = "100k" },
  { name = "links", prompt = "Check every link between the Markdown files here; list the broken ones in links.md.", budget = "100k" },
}
local TOGETHER = "300k" -- tokens, hard: whatever the tasks' own budgets, which are for each try, add up to
local DEADLINE = "30m" -- for each try
local TRIES = 2
local PAUSE = bb.rehearsing() and "100ms" or "30s" -- between two tries

for option in pairs(bb.args) do
  if option ~= "agent" and option ~= "workspace" then
    error("nightly knows no " .. (type(option) == "number" and bb.args[option] or "--" .. option) .. "; there are --workspace DIR and --agent NAME", 0)
  end
end

-- The tasks are about files. A rehearsal's edits would be real ones, so it has scratch directories.
local workspace = bb.args.workspace
if bb.rehearsing() then
  if workspace then bb.log("warn", "a rehearsal leaves " .. workspace .. " alone: its tasks work in scratch directories") end
  workspace = nil
elseif not workspace then
  error("nightly needs a checkout to work in: bb run recipes/nightly.lua -- --workspace DIR", 0)
end

local agent = bb.args.agent or (bb.rehearsing() and "demo" or "claude")

-- With --rehearse the model is a stand-in, and the night has everything that a night can have: one task is done at its
-- second try, one never, and one spends more than it may.
if bb.rehearsing() then
  TASKS[3].budget = 9000
  local function write(path)
    return {
      { text = "I'll look around.", run = { argv = { "ls" } }, usage = { input = 2100, cache_write = 600, output = 90 } },
      { text = "Writing.", edit = { path = path, content = "done\n" }, usage = { input = 300, cache_read = 2700, output = 400 } },
      { text = "Done.", usage = { input = 200, cache_read = 3000, output = 30 } },
    }
  end
  local changelog, typos = write("CHANGELOG.md"), write("typos.txt")
  changelog[1].error = 400 -- ends the agent; the recipe tries again
  changelog[2].error = 529 -- the agent itself tries again
  typos[2].error, typos[2].times = 400, 1000000
  bb.rehearse({
    seed = 1,
    cases = {
      { contains = "CHANGELOG", turns = changelog },
      { contains = "typos", turns = typos },
      {
        contains = "link",
        loop = true,
        turns = { { text = "More.", run = { argv = { "ls" } }, usage = { input = 2500, output = 300 } } },
      },
    },
  })
end

bb.budget.set({ tokens = TOGETHER, hard = true })

-- Runs one task until it is done, its budget is spent, or its tries are used up.
local function run(task)
  local result = { name = task.name, state = "failed", tries = 0, bottles = {} }
  for try = 1, TRIES do
    result.tries = try
    local bottle, fault = bb.try(bb.launch, {
      provider = agent,
      label = task.name,
      prompt = task.prompt,
      workspace = workspace,
      budget = task.budget,
      timeout = DEADLINE,
    })
    if not bottle then
      -- A spent budget and a missing key get no better by trying again.
      result.note = fault.message
      result.state = fault.kind == "budget" and "cut" or "failed"
      return result
    end
    table.insert(result.bottles, bottle.slug)
    local outcome = bottle:wait({ check = false })
    if outcome.ok then
      result.state, result.note = "done", nil
      return result
    end
    if outcome.cut then
      result.state, result.note = "cut", outcome.cut
      return result
    end
    result.note = outcome.ended == "timeout" and "not done within " .. DEADLINE or "exit code " .. tostring(outcome.exit_code)
    bb.log.warn(task.name .. ": " .. result.note .. (try < TRIES and ", trying again" or ""))
    if try < TRIES then
      bb.sleep(PAUSE)
    end
  end
  return result
end

local jobs = {}
for i, task in ipairs(TASKS) do
  jobs[i] = bb.spawn(run, task)
end
local results = bb.all(jobs)

-- The report ----------------------------------------------------------------------------------------------------------

local style = bb.text.style
local colours = { done = "green", cut = "yellow", failed = "red" }
local used = {}
local usage = bb.ledger.query({ run = bb.run.id })
for _, row in ipairs(usage) do
  local sum = used[row.bottle] or { requests = 0, counted = 0 }
  sum.requests = sum.requests + row.requests
  sum.counted = sum.counted + row.counted
  used[row.bottle] = sum
end

local rows, worst = {}, 0
for _, result in ipairs(results) do
  local requests, counted = 0, 0
  for _, slug in ipairs(result.bottles) do
    local sum = used[slug] or { requests = 0, counted = 0 }
    requests, counted = requests + sum.requests, counted + sum.counted
  end
  rows[#rows + 1] =
    { result.name, style(colours[result.state], result.state), result.tries, requests, counted, result.note or "" }
  if result.state == "cut" then
    worst = 3
  elseif result.state == "failed" and worst == 0 then
    worst = 10
  end
end
print(style("bold", "Nightly, with " .. agent) .. (bb.rehearsing() and style("dim", "  (a rehearsal)") or ""))
print(bb.text.table(rows, { "task", "state", "tries", "requests", "counted", "note" }))
for _, account in ipairs(bb.budget.get()) do
  if account.limit then
    print("Together " .. bb.text.number(account.used) .. " of " .. bb.text.number(account.limit) .. " tokens.")
  end
end

bb.exit(worst)
