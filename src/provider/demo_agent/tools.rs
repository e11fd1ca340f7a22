//! The demo agent's tools: files, a command, a fetch, a raw connection. Each at most ten seconds and a few kilobytes.
//!
//! What goes wrong is an answer for the model, never an end of the agent; a refusal by the way out is handed on with its
//! status, its `X-BB-Deny` and its reason.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::api::{Client, read};

/// Longest time of one tool.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a result that the model gets.
const MAX_RESULT: usize = 16 << 10;

/// Largest file written or read, and largest page. Unit: bytes.
const MAX_FILE: usize = 1 << 20;

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// For the transcript.
    pub(super) short: String,
    /// For the model.
    pub(super) full: String,
    /// Whether the model shall take it as an error.
    pub(super) failed: bool,
}

impl Outcome {
    fn ok(short: impl Into<String>, full: impl Into<String>) -> Outcome {
        Outcome { short: short.into(), full: full.into(), failed: false }
    }

    fn failed(why: &str) -> Outcome {
        let text = format!("failed: {why}");
        Outcome { short: text.clone(), full: text, failed: true }
    }
}

/// Gets the tools as the API wants them described.
pub(super) fn definitions() -> Value {
    let tool = |name: &str, description: &str, properties: Value| {
        let required: Vec<&String> = properties.as_object().into_iter().flat_map(|p| p.keys()).collect();
        let schema = json!({"type": "object", "properties": properties, "required": required});
        json!({"name": name, "description": description, "input_schema": schema})
    };
    let text = || json!({"type": "string"});
    json!([
        tool("write_file", "Writes a text file, replacing an earlier one.", json!({"path": text(), "content": text()})),
        tool("read_file", "Reads a text file.", json!({"path": text()})),
        tool("http_get", "Fetches a URL with GET; shows status and body.", json!({"url": text()})),
        tool(
            "tcp_connect",
            "Opens a TCP connection and closes it again.",
            json!({"host": text(), "port": {"type": "integer"}})
        ),
        tool(
            "run_command",
            "Runs a program, without a shell, for at most ten seconds.",
            json!({"argv": {"type": "array", "items": text()}})
        ),
    ])
}

/// Runs the tool `name`.
pub(super) async fn run(client: &Client, name: &str, input: &Value) -> Outcome {
    let work = async {
        let text = |key: &str| input[key].as_str().ok_or(format!("{key} must be a string"));
        match name {
            "write_file" => write_file(text("path")?, text("content")?),
            "read_file" => read_file(text("path")?),
            "http_get" => http_get(client, text("url")?).await,
            "tcp_connect" => {
                let port = input["port"].as_u64().and_then(|port| u16::try_from(port).ok());
                tcp_connect(text("host")?, port.ok_or("port must be a number below 65536")?).await
            }
            "run_command" => {
                let words = input["argv"].as_array().and_then(|argv| argv.iter().map(Value::as_str).collect());
                run_command(words.ok_or("argv must be a list of strings")?).await
            }
            _ => Err("there is no such tool".to_owned()),
        }
    };
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(why)) => Outcome::failed(&why),
        Err(_) => Outcome::failed("no end after ten seconds"),
    }
}

fn write_file(path: &str, content: &str) -> Result<Outcome, String> {
    if content.len() > MAX_FILE {
        return Err(format!("a file has at most {MAX_FILE} bytes"));
    }
    if let Some(dir) = Path::new(path).parent() {
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    }
    std::fs::write(path, content).map_err(|error| error.to_string())?;
    let text = format!("wrote {} bytes", content.len());
    Ok(Outcome::ok(text.clone(), text))
}

fn read_file(path: &str) -> Result<Outcome, String> {
    let meta = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() > MAX_FILE as u64 {
        return Err(format!("not a file of at most {MAX_FILE} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Ok(Outcome::ok(format!("read {} bytes", bytes.len()), clip(&bytes)))
}

async fn http_get(client: &Client, url: &str) -> Result<Outcome, String> {
    let answer = client.get(url).await?;
    let status = answer.status();
    match answer.headers().get("x-bb-deny").and_then(|kind| kind.to_str().ok()).map(str::to_owned) {
        Some(kind) => Ok(refused(status, &kind, answer).await),
        None => {
            let body = read(answer.into_body(), MAX_FILE).await?;
            let short = format!("{} ({} bytes)", status.as_u16(), body.len());
            Ok(Outcome::ok(short, format!("HTTP {status}\n\n{}", clip(&body))))
        }
    }
}

/// Hands on a refusal: what was refused and why, for people; all of it for the model.
async fn refused(status: StatusCode, kind: &str, answer: Response<Incoming>) -> Outcome {
    let body = read(answer.into_body(), MAX_RESULT).await.unwrap_or_default();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let reason = [&json["reason"], &json["error"]["message"], &json["message"]].into_iter().find_map(Value::as_str);
    let short = match reason {
        Some(reason) => format!("refused ({} {kind}): {reason}", status.as_u16()),
        None => format!("refused ({} {kind})", status.as_u16()),
    };
    let full = format!("HTTP {status}\nX-BB-Deny: {kind}\n\n{}", clip(&body));
    Outcome { short, full, failed: true }
}

async fn tcp_connect(host: &str, port: u16) -> Result<Outcome, String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let peer = stream.peer_addr().map_err(|error| error.to_string())?;
    Ok(Outcome::ok("connected", format!("connected to {peer}")))
}

async fn run_command(argv: Vec<&str>) -> Result<Outcome, String> {
    let (program, arguments) = argv.split_first().ok_or("argv must not be empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (out, err) = tokio::join!(drain(stdout), drain(stderr));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    let code = status.code().map_or_else(|| "killed by a signal".to_owned(), |code| format!("exit code {code}"));
    let output = format!("{}{}", clip(&out), clip(&err));
    let first = output.lines().next().unwrap_or_default();
    let short = if first.is_empty() { code.clone() } else { format!("{code}: {first}") };
    Ok(Outcome { short, full: format!("{code}\n{output}"), failed: !status.success() })
}

/// Reads a pipe to its end, keeps its beginning: a program must not hang on a full pipe.
async fn drain(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        let room = (MAX_RESULT + 1).saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
    }
    kept
}

/// Gets the beginning of `bytes` as text.
fn clip(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_RESULT)]);
    if bytes.len() > MAX_RESULT { format!("{text}\n[cut after {MAX_RESULT} bytes]") } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_refusal_reaches_people_and_model_with_its_reason() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let plane = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let body = r#"{"reason":"example.com is not on the list"}"#;
            let head =
                format!("HTTP/1.1 403 Forbidden\r\nX-BB-Deny: route_missing\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).unwrap();
        });
        let client = Client::new("https://unused.invalid", "k".into(), Some(b"")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(run(&client, "http_get", &json!({"url": url})));
        plane.join().unwrap();
        assert_eq!(outcome.short, "refused (403 route_missing): example.com is not on the list");
        assert!(
            outcome.failed && outcome.full.contains("X-BB-Deny: route_missing") && outcome.full.contains("\"reason\"")
        );
    }

    #[test]
    fn a_command_that_writes_without_end_is_stopped_and_its_output_cut() {
        let client = Client::new("https://unused.invalid", "k".into(), Some(b"")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let argv = json!({"argv": ["head", "-c", "300000", "/dev/zero"]});
        let outcome = runtime.block_on(run(&client, "run_command", &argv));
        assert!(!outcome.failed && outcome.full.len() < MAX_RESULT + 100 && outcome.full.contains("[cut after"));
        let missing = runtime.block_on(run(&client, "run_command", &json!({"argv": ["/no/such/program"]})));
        assert!(missing.failed);
    }
}
