//! Terminals of an agent and of commands: the bottle's own, followed, left and joined, and hung up with whoever had them.

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
