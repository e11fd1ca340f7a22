//! Terminals of an agent and of commands: the bottle's own, followed, left and joined, and hung up with whoever had them. What is
//! written there acts on nobody outside.

use serde_json::json;

use crate::support::desk::Desk;
use crate::support::person::DETACH;

pub fn are_the_bottles_own(desk: &Desk<'_>) {
    desk.shelf();
    let kill = format!("kill -9 $(cat {}/run/controller.lock)", desk.bb_home.display());
    desk.does(
        &["start", "worker", "--bottle", "box", "--label", "shell", "--color", "green", "--backend", desk.backend()],
        &[
            json!(["expect", "Bottles"]),
            json!(["type", "\r"]),
            json!(["expect", "Start it? [y/N]"]),
            json!(["type", "y\r"]),
            json!(["expect", "bottle shell"]),
            json!(["expect", "ready> "]),
            json!(["type", "tty; echo term=$TERM user=$(id -u)\r"]),
            json!(["expect", "/dev/pts/"]),
            json!(["expect", "term=xterm-256color user="]),
            json!(["resize", 40, 100]),
            json!(["insist", "stty size\r", "40 100"]),
            json!(["type", "echo sta\"\"rted; sleep 654\r"]),
            json!(["expect", "started"]),
            json!(["insist", "\u{3}", "ready> "]),
            json!(["type", "echo before-$((1 + 9))\r"]),
            json!(["expect", "before-10\r\n"]),
            json!(["run", kill, 0]),
            json!(["type", "echo after-$((1 + 10))\r"]),
            json!(["expect", "after-11\r\n"]),
            json!(["type", DETACH]),
            json!(["expect", "bb attach shell"]),
            json!(["end", 0]),
        ],
    );
    let shell = ["exec", "-it", "shell", "--", "env", "PS1=inner> ", "sh", "-i"];
    desk.does(
        &shell,
        &[
            json!(["expect", "inner> "]),
            json!(["type", "stty size; pgrep -f '[s]leep 654' | wc -l\r"]),
            json!(["expect", "24 80"]),
            json!(["expect", "0\r\n"]),
            json!([
                "type",
                "sh -c 'trap \"echo cau\"\"ght; exit\" INT; echo sta\"\"rted; while :; do sleep 0.05; done'\r"
            ]),
            json!(["expect", "started"]),
            json!(["type", "\u{3}"]),
            json!(["expect", "caught"]),
            json!(["expect", "inner> "]),
            json!(["type", "exit 7\r"]),
            json!(["end", 7]),
        ],
    );
    // One whose terminal is taken away ends.
    let steps = [json!(["expect", "here"]), json!(["hang up"])];
    desk.does(&["exec", "-it", "shell", "--", "sh", "-c", "echo here; sleep 543; echo over"], &steps);
    let gone = "timeout 100 sh -c 'while pgrep -f \"[s]leep 543\" >/dev/null; do sleep 0.1; done' && echo gone";
    let said = desk.bb(&["exec", "shell", "--", "sh", "-c", gone]);
    assert_eq!(said.expect(0).stdout, "gone\n", "it goes on for nobody");
    // Whoever comes back finds the screen as it is, and its end is theirs.
    desk.does(
        &["attach", "shell"],
        &[
            json!(["expect", "after-11"]),
            json!(["expect", "ready> "]),
            json!(["type", "exit 3\r"]),
            json!(["expect", "session ended (exit 3)"]),
            json!(["end", 3]),
        ],
    );
    desk.assert_empty();
}

/// What an agent writes for the terminal of whoever looks is taken out where it would act on them; what it asks its own terminal is
/// answered there. Plain colours and titles pass.
pub fn act_on_nobody(desk: &Desk<'_>) {
    let shell = "{'env', 'PS1=ready> ', 'sh', '-i'}";
    desk.launch("shown", shell, "terminal = true");
    let seen = desk.does(
        &["attach", "shown"],
        &[
            json!(["answer", "\u{1b}[6n", "\u{1b}[1;1R"]),
            json!(["expect", "ready> "]),
            json!(["type", "printf '\\033]%d;c;aGVsbG8=\\a\\033]%d;c;?\\a\\033_Gx\\033\\\\ov%s\\n' 52 52 er\r"]),
            json!(["expect", "over\r\n"]),
            json!(["type", "printf '\\033]%d;its title\\a\\033[%dmbold\\033[0m\\n' 2 1\r"]),
            json!(["raw", "\u{1b}]2;its title\u{1b}\\\u{1b}[1mbold"]),
            // It stands where its own terminal says, not where the person's would.
            json!(["type", "stty raw -echo; printf '\\033[2J\\033[4;7H\\033[6%s' n; x=; \
                while c=$(dd bs=1 count=1 2>/dev/null); x=$x$c; [ \"$c\" != R ]; do :; done; stty sane; echo \"told ${x#?}\"\r"]),
            json!(["expect", "told [4;7R"]),
            json!(["type", DETACH]),
            json!(["expect", "detached"]),
            json!(["end", 0]),
            json!(["never", "\u{1b}]52"]),
            json!(["never", "\u{1b}_G"]),
            json!(["never", "\u{1b}[6n"]),
        ],
    );
    assert!(seen.contains("its title"), "{seen:?}");
    // In the log it is text.
    let steps = [json!(["expect", "over"]), json!(["end", 0]), json!(["never", "\u{1b}]"])];
    let logs = desk.does(&["logs", "shown"], &steps);
    assert!(logs.contains("\\x1b]52;"), "{logs:?}");
    desk.bb(&["kill", "shown"]).expect(0);
    desk.assert_empty();
}
