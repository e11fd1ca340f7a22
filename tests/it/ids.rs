//! A server that gives every answer the same id, also to a bottle that is taken up again: nothing of it is free.

use bb::rehearse::Scenario;
use serde_json::json;

use crate::support::{World, have_tools};

const KEEPER: &str = "return { name = 'keeper', transcript = { '~/.keeper' }, resumes = true,
  argv = function(ctx) return { 'sh', '-c', 'mkdir -p ~/.keeper; date > ~/.keeper/s; ' .. ctx.prompt } end }";

const ASKS: &str = "curl -sS -H 'content-type: application/json' https://api.anthropic.com/v1/messages \
    -d '{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'; ";

#[test]
fn ids_that_come_again_after_a_resume_are_charged_again_to_the_same_account() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let same = json!({"id": "msg_always", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "hello"}], "usage": {"input_tokens": 1100, "output_tokens": 700}});
        let turn = json!({"replay": {"text": same.to_string(), "content_type": "application/json"}});
        let server = world.rehearsal(Scenario::from_value(json!({"loop": true, "turns": [turn]})).unwrap());
        let home = world.bb_home();
        world.write(home.join("upstream.pem"), server.ca_pem());
        world.settings(&format!(
            "upstreams: {{api.anthropic.com: {{address: \"{}\", ca: upstream.pem}}}}\nbudget: {{keeper: 9k}}\n",
            server.address()
        ));
        world.write(home.join("providers/keeper.lua"), KEEPER);
        let front = "---\nagent_provider: {template: keeper}\negress: {routes: [{host: api.anthropic.com, api: anthropic, auth: {scheme: Bearer, token_ref: MODEL}}]}\n---\n";
        world.write(home.join("bottles/dev.md"), front);
        world.write(home.join("agents/worker.md"), "---\nbottle: dev\n---\n");
        world.make_dir("project");
        let bb = |args: &[&str]| world.command(args).env("MODEL", "sk-x").cwd(world.home().join("project")).run();
        // It fails, so it is kept; and taken up twice.
        let (fails, ends) = (format!("{ASKS}{ASKS}exit 4"), format!("{ASKS}exit 0"));
        bb(&["start", "worker", "--headless", "--budget", "100k", "--prompt", &fails]).expect(1);
        bb(&["resume", "worker", "--headless", "--prompt", &fails]).expect(1);
        let last = bb(&["resume", "worker", "--headless", "--prompt", &ends]).expect(0);
        assert!(last.stdout.contains("msg_always"), "{last}");
        let ledger = rusqlite::Connection::open(home.join("bot-bottle.db")).unwrap();
        let mut read = ledger.prepare("SELECT response_id, how, counted, duplicate FROM usage ORDER BY id").unwrap();
        let rows: Vec<(String, String, u32, bool)> = read
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let row = |duplicate| ("msg_always".to_owned(), "exact".to_owned(), 1800, duplicate);
        assert_eq!(rows, [row(false), row(true), row(true), row(true), row(true)]);
        let used = "SELECT used FROM accounts WHERE node LIKE 'bottle:%' OR node = 'global'";
        let mut read = ledger.prepare(used).unwrap();
        let used: Vec<u32> = read.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert!(used.len() >= 2 && used.iter().all(|used| *used == 5 * 1800), "one bottle, taken up twice: {used:?}");
        assert_eq!(server.stats().total, 5);
    }
}
