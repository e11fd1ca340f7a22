//! Makes the VM of a recipe. This is a security control, so it has exactly one definition: [`recipe_vm`] builds it and
//! [`GLOBALS`] lists all that a recipe sees.

use std::rc::Rc;

use mlua::{
    FromLuaMulti, Function, IntoLua, IntoLuaMulti, Lua, LuaOptions, LuaSerdeExt, MultiValue, StdLib, Table, Value,
};
use serde::Serialize;

use super::host::Host;
use super::{
    attach, budget, exit, handle, launch, ledger, manifest, meter, modules, on, plan, rehearse, tasks, ui, values,
};
use crate::error::{Error, Result, nearest};

/// Every global name of a recipe.
pub const GLOBALS: [&str; 30] = [
    "_G",
    "_VERSION",
    "assert",
    "bb",
    "bit32",
    "buffer",
    "error",
    "getmetatable",
    "ipairs",
    "math",
    "next",
    "pairs",
    "pcall",
    "print",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "require",
    "select",
    "setmetatable",
    "string",
    "table",
    "tonumber",
    "tostring",
    "type",
    "typeof",
    "unpack",
    "utf8",
    "xpcall",
];

/// The most memory that a recipe may use.
const MEMORY: usize = 256 << 20;

/// The Lua half of the `bb` table, in the order in which it is loaded. Each part is called with the host's primitives, the debug
/// and the coroutine libraries (recipes do not see them) and the parts before it by name; what the last returns is the prelude.
const PRELUDE: [(&str, &str); 5] = [
    ("errors", include_str!("../../lua/prelude/errors.lua")),
    ("handles", include_str!("../../lua/prelude/handles.lua")),
    ("tasks", include_str!("../../lua/prelude/tasks.lua")),
    ("text", include_str!("../../lua/prelude/text.lua")),
    ("bb", include_str!("../../lua/prelude/bb.lua")),
];

/// The VM and the parts of the prelude that the host calls.
pub(super) struct Vm {
    pub lua: Lua,
    /// `protected(f, ...)`: runs `f` and answers `true, results...` or `false, error`.
    pub protected: Function,
    /// The methods of handles, for the test that compares them with their documentation.
    #[cfg(test)]
    pub prelude: Table,
}

/// Makes a VM for `host`.
///
/// # Errors
/// An error of the VM; it means that bb itself is broken.
pub(super) fn recipe_vm(host: &Rc<Host>) -> mlua::Result<Vm> {
    let libs = StdLib::TABLE
        | StdLib::STRING
        | StdLib::MATH
        | StdLib::UTF8
        | StdLib::BIT
        | StdLib::BUFFER
        | StdLib::DEBUG
        | StdLib::COROUTINE;
    let lua = Lua::new_with(libs, LuaOptions::default())?;
    lua.set_memory_limit(MEMORY)?;
    let stop = host.stop.clone();
    lua.set_interrupt(move |_| match stop.reason() {
        None => Ok(mlua::VmState::Continue),
        Some(_) => Err(mlua::Error::runtime("the recipe was stopped")),
    });

    let primitives = primitives(&lua, host)?;
    let globals = lua.globals();
    let (debug, coroutine): (Table, Table) = (globals.get("debug")?, globals.get("coroutine")?);
    let parts = lua.create_table()?;
    for (name, text) in PRELUDE {
        // One name for all: frames of it are left out of what an error tells of the recipe.
        let load = lua.load(text).set_name("=[bb]");
        parts.set(name, load.call::<Table>((&primitives, &debug, &coroutine, &parts))?)?;
    }
    let prelude: Table = parts.get("bb")?;
    for name in ["bb", "require", "print"] {
        globals.set(name, prelude.get::<Value>(name)?)?;
    }
    // Whatever a library or a later version of the VM puts there: what is not listed is not there.
    let names: Vec<Value> =
        globals.pairs::<Value, Value>().map(|pair| pair.map(|(k, _)| k)).collect::<mlua::Result<_>>()?;
    for name in names {
        let listed = name.as_string().is_some_and(|n| GLOBALS.iter().any(|g| *n == *g));
        if !listed {
            globals.set(name, Value::Nil)?;
        }
    }
    host.pump.set_dispatch(prelude.get("dispatch")?, prelude.get("protected")?);
    let protected = prelude.get("protected")?;
    lua.sandbox(true)?;
    Ok(Vm {
        lua,
        protected,
        #[cfg(test)]
        prelude,
    })
}

/// The table of primitives that the prelude builds `bb` from.
fn primitives(lua: &Lua, host: &Rc<Host>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("version", env!("CARGO_PKG_VERSION"))?;
    table.set("run_id", host.run_id.as_str())?;
    table.set("recipe", host.recipe.as_str())?;
    table.set("args", host.args.table(lua)?)?;
    table.set(
        "unknown",
        lua.create_function(|lua, (what, name, known): (String, String, Vec<String>)| {
            error_table(lua, &unknown(&what, &name, &known))
        })?,
    )?;
    table.set(
        "freeze",
        lua.create_function(|_, table: Table| {
            table.set_readonly(true);
            Ok(table)
        })?,
    )?;
    let out = host.out.clone();
    table.set(
        "print",
        lua.create_function(move |_, text: mlua::LuaString| {
            out.print(&text.to_string_lossy());
            Ok(())
        })?,
    )?;
    let out = host.out.clone();
    table.set(
        "log",
        lua.create_function(move |_, (level, text): (String, mlua::LuaString)| {
            out.log(&level, &text.to_string_lossy());
            Ok(())
        })?,
    )?;

    let bind = Bind { lua, table: &table, host };
    bind.later("launch", launch::launch)?;
    bind.now("providers", launch::providers)?;
    bind.later("attach", attach::attach)?;
    bind.later("wait", handle::wait)?;
    bind.later("exec", handle::exec)?;
    bind.later("events", handle::events)?;
    bind.later("logs", handle::logs)?;
    bind.later("next", handle::next)?;
    bind.later("cut", handle::cut)?;
    bind.later("kill", handle::kill)?;
    bind.later("pause", handle::pause)?;
    bind.later("thaw", handle::thaw)?;
    bind.later("freeze_bottle", handle::freeze)?;
    bind.later("commit_bottle", handle::commit)?;
    bind.later("meter_of", meter::of)?;
    bind.now("meter_parse", meter::parse)?;
    bind.later("ledger_query", ledger::query)?;
    bind.later("budget_set", budget::set)?;
    bind.later("budget_get", budget::get)?;
    bind.now("spawn", tasks::spawn)?;
    bind.later("join", tasks::join)?;
    bind.later("first", tasks::first)?;
    bind.now("cancel", tasks::cancel)?;
    bind.later("sleep", tasks::sleep)?;
    bind.now("on", on::on)?;
    bind.now("module", modules::load)?;
    bind.now("rehearse", rehearse::rehearse)?;
    bind.now("rehearsing", rehearse::rehearsing)?;
    bind.now("manifest_agent", manifest::agent)?;
    bind.now("manifest_agents", manifest::agents)?;
    bind.now("manifest_bottles", manifest::bottles)?;
    bind.later("plan", plan::plan)?;
    bind.later("plan_preflight", plan::preflight)?;
    bind.now("plan_ready", plan::ready)?;
    bind.later("plan_launch", plan::launch_plan)?;
    bind.now("ui_terminal", ui::terminal)?;
    bind.later("ui_pick", ui::pick)?;
    bind.later("ui_choose", ui::choose)?;
    bind.later("ui_ask", ui::line)?;
    bind.later("ui_confirm", ui::confirm)?;
    bind.now("ui_note", ui::note)?;
    bind.now("ui_rows", ui::rows)?;
    bind.later("exit", exit::exit)?;
    Ok(table)
}

fn unknown(what: &str, name: &str, known: &[String]) -> Error {
    let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
    known.sort_unstable();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("it has: {}", known.join(", ")),
    };
    Error::new(crate::error::Kind::Usage, format!("{what} has no '{name}'")).hint(hint)
}

/// Puts primitives into a table, each in the form that the prelude expects.
struct Bind<'a> {
    lua: &'a Lua,
    table: &'a Table,
    host: &'a Rc<Host>,
}

impl Bind<'_> {
    /// Adds a primitive that answers at once.
    fn now<A, R>(&self, name: &'static str, f: fn(&Lua, &Rc<Host>, A) -> Result<R>) -> mlua::Result<()>
    where
        A: FromLuaMulti + 'static,
        R: IntoLuaMulti + 'static,
    {
        let host = self.host.clone();
        let function = self.lua.create_function(move |lua, args: MultiValue| {
            let answer = read::<A>(lua, name, args).and_then(|args| f(lua, &host, args));
            answered(lua, answer)
        })?;
        self.table.set(name, function)
    }

    /// Adds a primitive that may have to wait.
    fn later<A, R, F>(&self, name: &'static str, f: fn(Lua, Rc<Host>, A) -> F) -> mlua::Result<()>
    where
        A: FromLuaMulti + 'static,
        R: IntoLuaMulti + 'static,
        F: Future<Output = Result<R>> + 'static,
    {
        let host = self.host.clone();
        let function = self.lua.create_async_function(move |lua, args: MultiValue| {
            let host = host.clone();
            async move {
                let answer = match read::<A>(&lua, name, args) {
                    Ok(args) => f(lua.clone(), host, args).await,
                    Err(error) => Err(error),
                };
                answered(&lua, answer)
            }
        })?;
        self.table.set(name, function)
    }
}

fn read<A: FromLuaMulti>(lua: &Lua, name: &str, args: MultiValue) -> Result<A> {
    A::from_lua_multi(args, lua).map_err(|e| values::from_lua(&format!("bb.{}", name.replace('_', ".")), &e))
}

fn answered<R: IntoLuaMulti>(lua: &Lua, answer: Result<R>) -> mlua::Result<MultiValue> {
    match answer {
        Ok(value) => {
            let mut values = value.into_lua_multi(lua)?;
            values.push_front(Value::Boolean(true));
            Ok(values)
        }
        Err(error) => (false, error_table(lua, &error)?).into_lua_multi(lua),
    }
}

/// Makes the table of an error; the prelude gives it its metatable.
fn error_table(lua: &Lua, error: &Error) -> mlua::Result<Value> {
    to_lua(lua, error)
}

/// Turns plain data into a Lua value; what is absent is nil.
pub(super) fn to_lua<T: Serialize + ?Sized>(lua: &Lua, value: &T) -> mlua::Result<Value> {
    let options = mlua::serde::ser::Options::new()
        .serialize_none_to_null(false)
        .serialize_unit_to_null(false)
        .set_array_metatable(false);
    lua.to_value_with(value, options)
}

/// Plain data as an answer of a primitive.
pub(super) struct Plain<T>(pub T);

impl<T: Serialize> IntoLua for Plain<T> {
    fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        to_lua(lua, &self.0)
    }
}
