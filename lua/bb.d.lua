---@meta bb
-- The API of bb recipes, for editors and checkers (LuaCATS). This file is the API's source of truth: a test holds it
-- equal to what a recipe really sees.
--
-- A recipe is plain Lua. It looks blocking and yields underneath; several tasks take turns on one thread. It says in the
-- comment that it begins with what it needs:
--
--   --- @bb needs launch, budget, ledger:read
--
--   launch            bottles of its own, and everything on their handles
--   start             launching what the home's manifests allow, where the user stands (bb.manifest, bb.plan)
--   budget            setting the budget of its run
--   ledger:read       usage beyond its own run
--   egress:HOST       routes to a host that no provider file names; `*.example.com` = those below it, `*` = any
--   credential:NAME   putting that variable of the host's environment into a route
--   write:PATH        a workspace at or below that path; `args` = paths that the user wrote as arguments
--   image             pulling the image, and building the Dockerfile, that a launch of its own names
--   read:PATH, run:NAME   reserved
--
-- Recipes that came with bb and those in $BB_HOME/recipes run as declared. Others ask once at a terminal; without one
-- they need `--grant LIST` (or `--grant all`, or BB_GRANT).
--
-- Durations are written "90s", "30m", "1h30m"; amounts of tokens 200000, "200k", "1.5M", or "unlimited".
--
-- Errors. What goes wrong is raised as a bb.Error; uncaught, it ends the recipe with the exit code of its kind. bb.try
-- turns it into `nil, error`. Expected absence (a wait's timeout) is `nil, why` and not raised.
--
-- The end. However a recipe ends - it returned and so did its tasks, an error, bb.exit, Ctrl-C, --timeout - its bottles
-- end with it, unless they were launched with `detach = true`.
--
-- Exit codes: 0 ok, 1 the recipe failed, 2 usage or syntax, 3 cut by a budget or a policy, 4 not granted, 5 the
-- environment lacks something, 124 --timeout, 130 Ctrl-C; 10 to 99 are the recipe's own (bb.exit).
--
-- Cuts. A recipe whose bottle was cut by a budget ends with 3, unless it handled the cut. It handles it by one of:
-- `bottle:wait{check = false}` (or `allow = {"budget"}`), catching what `bottle:wait()` raises (bb.try), a handler
-- bb.on("crossed", ...) or bb.on("enforced", ...), or bb.exit. Reading a bottle's events alone does not handle a cut.

---@class bb
---@field version string The version of bb.
---@field args bb.Args What stands after `--` on the command line.
---@field run bb.Run This run.
bb = {}

---@class bb.Args
---Options by name (`--max-time 5m` is `bb.args.max_time == "5m"`, a flag is `true`), other words as a list.
---`--key value` and `--key=value` are options; `--key` before another option or at the end is a flag.
---@field [integer] string
---@field [string] string|true|nil

---@class bb.Run
---@field id string The run's id: the budget node `run:ID`, and `run` in events and in bb.ledger.query.
---@field recipe string The recipe's name as it was called.

---An error as recipes see it. `tostring` gives kind, message and hint.
---@class bb.Error
---@field kind string `usage`, `unknown_key`, `not_granted`, `credential_missing`, `budget`, `timeout`, ... (docs/errors.md); `recipe` for errors of the recipe's own.
---@field message string What happened.
---@field hint? string One thing to do about it.
---@field place? string Where, when it is not the recipe's own line.
---@field trace {file: string, line: integer, name?: string}[] The recipe's own lines that led to it, innermost first.

---@alias bb.Duration string
---@alias bb.Size integer|string
---@alias bb.Tokens integer|string
---A limit with its terms: `gate` says what may refuse a request before it leaves, `on_cross` what becomes of a stream that crosses it.
---@alias bb.Limit {tokens: bb.Tokens, hard?: boolean, gate?: "off"|"estimate"|"exact", on_cross?: "finish"|"cut", wrap_up?: bb.Tokens, warn?: integer[], tell?: boolean}
---`per` and `lifetime`, which count by name over launches, are for manifests and settings.yml (docs/budgets.md); a recipe that says them is refused.
---@alias bb.Budget bb.Tokens|bb.Limit|table<string, bb.Tokens|bb.Limit>

-- Bottles ------------------------------------------------------------------------------------------------------------

---@class bb.Route
---@field host string The exact name, or `*.example.com` for every name below example.com. Without port.
---@field ports? integer[] 443 and 80 when absent.
---@field matches? bb.Match[] What of the host; everything when absent.
---@field deny? bb.Match[] What of the host is refused, whatever any route allows.
---@field auth? {scheme: "Bearer"|"token"|"header", header?: string, credential: string} A variable of the host's environment, else one of `credentials` in settings.yml, that the plane writes into requests. Needs `credential:NAME`.
---@field api? "anthropic"|"openai"|"openai_responses"|"openai_chat"|"gemini"|"code_assist"|"vertex"|"bedrock" Makes it a metered route.
---@field server_tools? string[] Features let through by which the provider reaches out for the agent.
---@field estimate? integer What a request to a path that the meter does not know is charged, in tokens; such paths are refused without.
---@field quiet? string[] Path prefixes that are refused silently.
---@field tls? "intercept"|"passthrough" `passthrough`: only the server name is checked; for clients that pin certificates.
---@field allow_private? string[] Ranges such as `10.1.0.0/16` in which the host's address may lie. Each needs a grant `egress:RANGE`.
---@field max_request? integer Largest request body, bytes.
---@field max_response? integer Largest answer, bytes.
---@field keep_headers? string[] Headers about the account, such as `set-cookie`, that answers keep although `auth` is put in.
---@field websocket? boolean WebSockets pass although `matches` names methods.
---@field oauth? string Of a provider alone, and refused here: it is the token endpoint of this login.

---What of a host a rule is for. Each list that is absent holds for everything.
---@class bb.Match
---@field methods? string[] Upper case.
---@field paths? {type: "exact"|"prefix"|"regex", value: string}[] An expression has to match the whole path.
---@field headers? {name: string, type?: "exact"|"regex", value: string}[] All of them have to be there, each once.

---@class bb.LaunchOptions
---@field provider? string `claude`, `codex`, `gemini`, `pi`, `demo`, `command` or one of $BB_HOME/providers. This or `command`.
---@field command? string[] The command line of provider `command`.
---@field prompt? string The task; it reaches the agent word for word. In a `command` the word `{prompt}` stands for it.
---@field instructions? string Standing instructions beside the agent's own system prompt, delivered as its CLI knows best.
---@field args? string[] More arguments for the agent's CLI.
---@field output? "text"|"json" What the agent prints at its end, where its CLI has a choice.
---@field label? string Wanted name; the slug is made from it and made unique.
---@field agent? string The agent's name in reports.
---@field workspace? string A directory of the host, mounted read-write at its own path. Needs `write:PATH`. A scratch directory when absent.
---@field workspace_mode? "mount"|"overlay"|"copy" `overlay`: the directory lies below, what the agent writes in a layer of its own (`bb diff`, `bb apply`). `copy`: a copy of it. `mount` when absent.
---@field limits? {memory?: bb.Size, cpus?: number, pids?: integer, disk?: bb.Size, best_effort?: boolean} What it may use of the machine. What cannot be enforced here refuses the launch, unless `best_effort`.
---@field budget? bb.Budget Limits of this bottle.
---@field shutdown? "cutoff"|"pause"|"freeze"|"kill" What happens when a budget is spent; the host's setting when absent.
---@field cutoff_scope? "all"|"metered" What a cut takes away.
---@field timeout? bb.Duration The bottle is killed after this long.
---@field routes? (string|bb.Route)[] More of the allow-list. A host of the provider's own means the provider's own route.
---@field routes_only? boolean `routes` is the whole allow-list; the provider's routes count only where it names their hosts.
---@field proxy? boolean An explicit proxy listens at 198.18.0.3:3128 and `HTTPS_PROXY` and its like are set, for clients that insist; none needs it.
---@field env? table<string, string> Variables. Never a secret: the agent can read them.
---@field files? {path: string, text: string, base64?: boolean, mode?: integer, fill?: boolean}[] Files (`base64`: `text` is that of their bytes), at an absolute path or one beginning with `~/`. With `fill`, `{workspace}` in path and text stands for the workspace's path.
---@field detach? boolean It lives on after the recipe.
---@field terminal? boolean Its agent gets a terminal, for `bb attach`; of this terminal's size, else of 24 rows and 80 columns.
---@field backend? "linux"|"docker" What makes the bottle; BOT_BOTTLE_BACKEND or the host's setting when absent.
---@field image? string The image of backend `docker`; the host's setting when absent, else one that is built of the provider's Dockerfile. Pulled where it is missing and the recipe has the grant `image`.
---@field dockerfile? string Or the Dockerfile that it is built of: absolute, below `~/`, or counted from $BB_HOME. Needs `image`.
---@field build_args? table<string, string> What `ARG` lines of the Dockerfile are given; no secrets. Needs `image`.

---Launches a bottle; returns when its agent runs. Needs the grant `launch`.
---
---Where it has a route to a model API, no budget holds for its provider on the bottle, the run or the host, and nobody is at a
---terminal, it needs `budget = "unlimited"` said aloud; so in a rehearsal, whose book has no budget of the host. A command that no
---model API can charge needs none.
---```lua
---local b = bb.launch{provider = "claude", prompt = "Fix the failing test", workspace = ".", budget = "200k", timeout = "30m"}
---```
---@param options bb.LaunchOptions
---@return bb.Bottle
function bb.launch(options) end

---Lists the providers, and what they run if it is on this machine.
---@return {name: string, path?: string}[]
function bb.providers() end

-- Manifests and plans ------------------------------------------------------------------------------------------------

---The agents and bottles that there are (docs/manifests.md). Needs the grant `start`.
bb.manifest = {}

---@class bb.Manifest
---@field name string
---@field origin "home"|"repository" Whose file it is.
---@field path string
---@field about string The first line of its text.
---@field bottle? string The bottle that an agent names.
---@field fault? bb.Error What is wrong with the file.

---@return bb.Manifest[]
function bb.manifest.agents() end

---One agent; raises where there is none of that name, and where its file has a fault.
---@param name string
---@return bb.Manifest
function bb.manifest.agent(name) end

---@return bb.Manifest[]
function bb.manifest.bottles() end

---@class bb.PlanOptions
---@field agent? string The agent's manifest.
---@field bottles? string[] Bottle manifests in merge order; the agent's own when absent.
---@field label? string Wanted name; the agent's when absent.
---@field color? string One of the sixteen ANSI colours: how it is shown in lists.
---@field prompt? string The task, word for word.
---@field args? string[] More arguments for the agent's CLI.
---@field output? "text"|"json" What the agent prints at its end.
---@field interactive? boolean The agent's own interface at a terminal, in place of one task.
---@field budget? bb.Budget Limits of this bottle.
---@field timeout? bb.Duration The bottle is killed after this long.
---@field copy? boolean Works on a copy of the directory.
---@field backend? string What makes the sandbox, over what manifests and settings say.
---@field workspace_mode? "mount"|"overlay"|"copy" How the directory comes in, over what manifests say.
---@field answers? table<string, string> Answers to the plan's questions, by variable.
---@field resume? string The kept bottle that is taken up: agent, bottles and directory are its own, and its
---budgets count on: a `budget` that is given begins anew.
---@field uncut? boolean With `resume`: a cut that a person or a recipe made does not stand any more.

---Drafts a launch by manifests: they are merged, references are resolved, nothing is started. Needs the grant `start`.
---The agent works in the directory that the user stands in.
---@param options bb.PlanOptions
---@return bb.Plan
function bb.plan(options) end

---A launch that was drafted.
---@class bb.Plan
---@field label string
---@field provider string Its budget key.
---@field bottles string[] The bottle manifests, in merge order.
---@field questions {name: string, text: string, place: string}[] What manifests want to be asked: draft again with `answers`.
---@field warnings string[] What is said in a manifest and does nothing.
---@field changes {key: string, before?: string, now?: string}[] What is different from when the kept bottle was started.
---@field interactive boolean The agent has its own interface.
local Plan = {}

---Everything that would hold, as rows: never a secret.
---@return {key: string, value: string}[]
function Plan:preflight() end

---Raises where it cannot be launched as it is. `told`: somebody at the terminal has seen the preflight.
---@param told? boolean
function Plan:ready(told) end

---Launches it; returns when its agent runs. On backend `docker` its image is built or pulled first, where the engine has none.
---`input`: bottle:attach() passes standard input on to the agent, to its end.
---@param options? {detach?: boolean, told?: boolean, input?: boolean}
---@return bb.Bottle
function Plan:launch(options) end

-- The terminal -------------------------------------------------------------------------------------------------------

---Questions to whoever sits at the terminal. Without a terminal they raise `approval`; Esc and Ctrl-C raise `interrupted`.
bb.ui = {}

---Tells whether somebody can be asked.
---@return boolean
function bb.ui.terminal() end

---Lets somebody pick one of a list, narrowed by what is typed; gets its name.
---@param options {title: string, items: {name: string, note?: string}[], start?: string}
---@return string
function bb.ui.pick(options) end

---Lets somebody choose any number of a list; gets their names in the order in which they were chosen. `none` is what is said
---where none is.
---@param options {title: string, items: {name: string, note?: string}[], chosen?: string[], none?: string}
---@return string[]
function bb.ui.choose(options) end

---Asks for a line; an empty one is the default.
---@param question string
---@param default? string
---@return string
function bb.ui.ask(question, default) end

---Yes or no; no unless it is said.
---@param question string
---@return boolean
function bb.ui.confirm(question) end

---Says something to people, on standard error.
---@param ... any
function bb.ui.note(...) end

---Shows keys and values to people, on standard error, as wide as their terminal is.
---@param rows {key: string, value: string}[]
function bb.ui.rows(rows) end

-- Handles ------------------------------------------------------------------------------------------------------------

---A bottle that this recipe launched.
---@class bb.Bottle
---@field slug string Its name.
---@field label string The wanted name.
---@field provider string Its budget key.
---@field workspace string The path of its workspace, on the host and inside.
local Bottle = {}

---@class bb.Outcome
---@field slug string
---@field ok boolean The agent came to its own end with code 0, and nothing was cut.
---@field ended string `exited`, `killed`, `budget`, `policy`, `timeout`, `lease_lost`, `start_failed`, `oom`, `lost`, `host_restart` or `frozen`.
---@field exit_code? integer 128 + signal when killed by one.
---@field cut? string Why a budget cut it.
---@field reason? string One sentence about the end.
---@field kept boolean What its agent changed, or its session, is kept.
---@field resumable boolean Its session can be taken up again.
---@field ms? integer From start to end.

---Waits for the bottle's end. Returns `nil, "timeout"` if that takes longer than `timeout`.
---
---Raises an error of kind `budget` (or `policy`) if that is what ended its work, unless `check = false`, the kind is in
---`allow`, or the recipe has a handler for `crossed` or `enforced`.
---@param options? {timeout?: bb.Duration, check?: boolean, allow?: string[]}
---@return bb.Outcome?, string?
function Bottle:wait(options) end

---This process's standard streams become the agent's, until it ends. At a terminal, where the bottle has one, the
---terminal is the agent's, and ctrl-p ctrl-q leaves it running, unless `detach` is false.
---@param options? {detach?: boolean}
---@return {detached: boolean, exit_code?: integer}
function Bottle:attach(options) end

---Ends it and keeps its session, its transcript and what it changed; `bb resume` takes it up again.
---@param options? {reason?: string}
function Bottle:freeze(options) end

---Keeps its session, whatever end it comes to, and of a container what the agent has put into its home; it goes on.
function Bottle:commit() end

---Runs a command in the bottle and waits for its end: a string for the shell, or a list with options beside it.
---```lua
---local r = b:exec{"make", "test", timeout = "5m"}
---```
---@param command string|{[integer]: string, argv?: string[], env?: table<string, string>, cwd?: string, stdin?: string, timeout?: bb.Duration}
---@return {ok: boolean, code: integer, stdout: string, stderr: string, truncated: boolean}
function Bottle:exec(command) end

---Iterates over the bottle's events from its launch to `bottle.ended`, waiting for each.
---```lua
---for event in b:events() do print(event.seq, event.type) end
---```
---@return fun(): bb.Event?
function Bottle:events() end

---Gets what the bottle has used. The same as bb.meter.of.
---@return bb.Usage
function Bottle:usage() end

---Cuts the bottle off: its routes are gone and its streams closed; the agent goes on running.
---@param options? {reason?: string, scope?: "all"|"metered"}
function Bottle:cut(options) end

---Stops every process of the bottle; what it asks for meanwhile waits.
---@param options? {reason?: string}
function Bottle:pause(options) end

---Lets a paused bottle go on.
---@param options? {reason?: string}
function Bottle:thaw(options) end

---Kills the bottle's whole process tree.
---@param options? {reason?: string}
function Bottle:kill(options) end

---Iterates over what the agent and execs wrote, as frames. With `follow` it waits for more until the bottle ends.
---@param options? {since?: integer, follow?: boolean}
---@return fun(): bb.Frame?
function Bottle:logs(options) end

---@class bb.Frame
---@field type "output"
---@field n integer Position in the log; `since` takes it.
---@field ts integer Milliseconds since the epoch.
---@field exec integer 0 = the agent, then every exec.
---@field stream "stdout"|"stderr"
---@field text string Invalid UTF-8 is replaced.

-- Events -------------------------------------------------------------------------------------------------------------

---@class bb.Event
---@field v integer 1
---@field seq integer Position in the book; grows.
---@field ts integer Milliseconds since the epoch.
---@field type string
---@field bottle? string
---@field run? string
---@field data table By type; docs/controller-api.md.

---@alias bb.EventName
---| "*"
---| "bottle.running"
---| "bottle.ended"
---| "bottle.adopted"
---| "request"
---| "request.ended"
---| "usage"
---| "denied"
---| "threshold"
---| "crossed"
---| "enforced"
---| "budget"
---| "routes"
---| "login"
---| "gap"

---Calls `handler` for each event of that type in this run, one after the other in order of `seq`; `"*"` = every event. The
---handler may wait. What it raises ends the recipe.
---@param name bb.EventName
---@param handler fun(event: bb.Event, bottle?: bb.Bottle)
function bb.on(name, handler) end

-- Usage and budgets --------------------------------------------------------------------------------------------------

---@class bb.UsageTotal
---@field requests integer
---@field input integer Uncached input.
---@field cache_read integer
---@field cache_write integer
---@field output integer Reasoning included.
---@field reasoning integer
---@field counted integer What budgets were charged, by weights.
---@field estimated integer Requests whose figures are not exact.

---@class bb.Usage: bb.UsageTotal
---@field budget? {used: integer, held: integer, limit: integer, left: integer} The bottle's own limit.

---@class bb.UsageRow: bb.UsageTotal
---@field bottle string
---@field agent string
---@field provider string
---@field model string
---@field recipe? string Where the rows are of recipes; what they are not of is empty.
---@field run? string Where the rows are of runs.
---@field span? table<string, integer> With `period`: `start`, `end`, and the first and the last use, `first`, `last`. Milliseconds since the epoch.

bb.meter = {}

---Gets what a bottle has used and how its own budget stands.
---@param bottle bb.Bottle
---@return bb.Usage
function bb.meter.of(bottle) end

---Reads the usage out of a whole answer of a model API, JSON or SSE, as the plane does.
---@param options {api: "anthropic"|"openai_responses"|"openai_chat"|"gemini"|"bedrock_converse"|"bedrock_invoke", body: string}
---@return {tokens?: {input: integer, cache_read: integer, cache_write: integer, cache_write_long: integer, output: integer, reasoning: integer}, model?: string, response_id?: string, terminal: boolean}
function bb.meter.parse(options) end

bb.ledger = {}

---Sums usage by bottle, agent, provider and model, or by what `by` names; with `period` a row for each stretch of time as well
---(`session`: for each bottle; `block`: five hours). A list of rows, with the sum as its field `total`. The other options narrow.
---`run = bb.run.id` needs no grant, everything else `ledger:read`.
---@param options? {book?: "real"|"rehearsal", run?: string, bottle?: string, provider?: string, last?: bb.Duration, since?: integer, until?: integer, by?: ("bottle"|"agent"|"provider"|"model"|"recipe"|"run")[], period?: "day"|"week"|"month"|"session"|"block"}
---@return bb.UsageRow[]|{total: bb.UsageTotal}
function bb.ledger.query(options) end

bb.budget = {}

---Sets the common budget of this run, replacing an earlier one. The nearest limit governs a bottle; one that is `hard`
---binds as well, however near another one is. Needs the grant `budget`.
---```lua
---bb.budget.set{tokens = "2M", hard = true}
---bb.budget.set{claude = "1M", codex = "500k"}
---```
---@param budget bb.Budget
function bb.budget.set(budget) end

---Gets the accounts of this run.
---@return {node: string, provider: string, limit?: integer, set: boolean, hard: boolean, used: integer, held: integer, terms?: {warn?: integer[]}, warned?: integer}[]
function bb.budget.get() end

-- Tasks --------------------------------------------------------------------------------------------------------------

---@class bb.Task
local Task = {}

---Waits for the task; returns what its function returned, or raises what it raised.
---@return any ...
function Task:wait() end

---Stops the task where it stands. Bottles that it launched live on until the recipe ends.
function Task:cancel() end

---Runs a function beside the others. The recipe ends when its tasks have; a fault that nobody waits for fails it.
---@param f function
---@param ... any
---@return bb.Task
function bb.spawn(f, ...) end

---Waits for all: tasks, or functions that it spawns. Returns their first results in order. If one fails, the others are
---cancelled and its error is raised.
---@param list (bb.Task|function)[]
---@return any[]
function bb.all(list) end

---Waits for the first of them, cancels the others; returns its place in the list and its results.
---@param list (bb.Task|function)[]
---@return integer, any ...
function bb.race(list) end

---Waits.
---@param duration bb.Duration
function bb.sleep(duration) end

---Calls `f`; returns its results, or `nil` and the bb.Error that it raised.
---@param f function
---@param ... any
---@return any, bb.Error?
function bb.try(f, ...) end

-- Output -------------------------------------------------------------------------------------------------------------

---@class bb.Log
---@overload fun(...: any)
bb.log = {}

---Writes a line for people, on stderr; `bb.log(...)` is the same. `print` is for results, on stdout. Both escape control
---characters: text of an agent is safe to pass on.
---@param ... any
function bb.log.info(...) end

---Writes a warning, on stderr.
---@param ... any
function bb.log.warn(...) end

---Writes an error, on stderr. The recipe goes on.
---@param ... any
function bb.log.error(...) end

bb.text = {}

---Colours text on a terminal; elsewhere the colour is dropped when it is printed.
---@param style "bold"|"dim"|"red"|"green"|"yellow"|"blue"|"magenta"|"cyan"
---@param text any
---@return string
function bb.text.style(style, text) end

---Fills text with blanks up to a width; colours do not count.
---@param text any
---@param width integer
---@param align? "left"|"right"
---@return string
function bb.text.pad(text, width, align) end

---Writes a number with commas: 12345 is "12,345".
---@param n number
---@return string
function bb.text.number(n) end

---Lays rows out in columns; columns of numbers are aligned to the right.
---@param rows any[][]
---@param header? string[]
---@return string
function bb.text.table(rows, header) end

-- The run itself -----------------------------------------------------------------------------------------------------

---@class bb.Scenario
---@field turns? bb.Turn[] What the model does, turn by turn; behind the last one it says `Done.`
---@field loop? boolean After the last turn comes the first.
---@field cases? bb.Case[] Other turns for other prompts; the first that fits is played.
---@field pages? table<string, string> More hosts, each answering every GET with its text.
---@field hosts? string[] More hosts that speak the APIs, each by its path.
---@field key? string Any other credential is answered 401.
---@field seed? integer Ids the same in every run; fresh ones without.
---@field gzip? boolean Answers are gzip-coded.

---@class bb.Case
---@field contains? string Text that the user's part of the conversation contains.
---@field told? string Text that the agent tells the model beside or in the user's part: its standing instructions.
---@field turns? bb.Turn[]
---@field loop? boolean

---@class bb.Turn
---@field text? string What the model says.
---@field tool? {name: string, input?: table} A tool by its own name, for one known agent.
---@field edit? {path: string, content: string} Writes a file.
---@field run? {argv: string[]} Runs a command.
---@field fetch? {url: string} Fetches a URL.
---@field connect? {host: string, port: integer} Opens a raw connection.
---@field replay? {text?: string, base64?: string, content_type?: string, content_encoding?: string, piece?: integer} A recorded answer, given as it was; `piece` bytes at once.
---@field usage? {input?: integer, cache_read?: integer, cache_write?: integer, cache_write_long?: integer, output?: integer, reasoning?: integer} What the API says was used; made from lengths when absent.
---@field delay_ms? integer Pause before the answer.
---@field chunk_ms? integer Pause between its events.
---@field error? integer|"broken" A fault in place of the answer: a status, or a stream that ends in the middle.
---@field times? integer How often a conversation gets the fault; once when absent.

---Makes this run a rehearsal: stand-ins of the model APIs on this machine, no key, no network, no cost, a book of its own.
---Comes before the first launch. Returns the hosts that are stood in for. `bb run --rehearse` does the same without a
---scenario of the recipe's own.
---
---Each turn of the model says `text` and does at most one of `edit`, `run`, `fetch`, `connect` (with whatever tool the
---agent has) or `tool` (by its name); `usage` scripts what the API reports.
---```lua
---bb.rehearse{turns = {
---  {text = "I'll write it.", edit = {path = "hello.txt", content = "hi\n"}, usage = {input = 1200, output = 80}},
---  {error = 529},
---  {text = "Done."},
---}}
---```
---@param scenario bb.Scenario
---@return string[]
function bb.rehearse(scenario) end

---Tells whether this run is a rehearsal.
---@return boolean
function bb.rehearsing() end

---Ends the recipe with an exit code: 0 to 5, 124 and 130 as in the table above, 10 to 99 for meanings of its own. It cannot
---be caught.
---@param code? integer
function bb.exit(code) end
