//! `bb exec`: runs a command in a bottle, under everything that binds its agent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::signal::unix::SignalKind;

use crate::api::{Exec, ExecFrame, Signal, SignalName};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::terminal::feed::Feeder;
use crate::terminal::streams::Source;
use crate::terminal::{self, Attached};

use super::out::{self, AgentOutput};

/// Run a command in a bottle; its output and exit code are this command's.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which.
    #[command(flatten)]
    pub bottle: super::slugs::One,
    /// Pass standard input on, as it comes and to its end
    #[arg(short = 'i', long, visible_alias = "interactive")]
    pub stdin: bool,
    /// Run it in a terminal: this one, with its size and keys (-it and -t are the same)
    #[arg(short = 't', long, visible_alias = "tty")]
    pub terminal: bool,
    /// The command and its arguments, with or without a -- before them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "ARGV")]
    pub argv: Vec<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    if args.terminal {
        terminal::need_terminal("`-t`", "leave it out: `bb exec -i SLUG -- COMMAND` passes standard input on")?;
    }
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let id = uuid::Uuid::now_v7().to_string();
    let exec = Exec { id, argv: args.argv, input: args.stdin, ..Exec::default() };
    if !args.terminal {
        return piped(&client, &args.bottle.slug, exec).await;
    }
    match terminal::exec(&client, &args.bottle.slug, exec).await? {
        Attached::Ended(code) => Ok(u8::try_from(code).unwrap_or(1)),
        Attached::Detached | Attached::Lost => Err(Error::internal("the bottle is gone, and the command with it")),
    }
}

/// Runs it with its streams as pipes.
async fn piped(client: &Client, slug: &str, exec: Exec) -> Result<u8> {
    let mut frames = client.exec_raw(slug, &exec).await?;
    let mut output = AgentOutput::of_process();
    let signal = |name| client.signal(slug, Signal { exec: exec.id.clone(), signal: name });
    let on = |kind| tokio::signal::unix::signal(kind).map_err(|e| Error::internal(format!("signals: {e}")));
    let (mut interrupts, mut terms) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let mut harder = [SignalName::Int, SignalName::Term].into_iter();
    let source = || Source::stdin().map_err(|e| Error::internal(format!("standard input: {e}")));
    let mut source = if exec.input { Some(source()?) } else { None };
    let mut feeder = Feeder::start(client, slug, &exec.id);
    let code = loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            chunk = Source::next_of(&mut source), if feeder.has_room() => {
                match chunk {
                    Some(chunk) => drop(feeder.bytes(chunk)),
                    None => {
                        source = None;
                        feeder.end();
                    }
                }
                continue;
            }
            // More may be read when some of it has been sent.
            () = tokio::time::sleep(std::time::Duration::from_millis(10)), if !feeder.has_room() => continue,
            error = feeder.failed() => return Err(error),
            // As in a shell: what is pressed goes to the command, which may end as it likes; pressed again, it must.
            _ = interrupts.recv() => {
                signal(harder.next().unwrap_or(SignalName::Kill)).await?;
                continue;
            }
            _ = terms.recv() => {
                signal(SignalName::Term).await?;
                continue;
            }
        };
        match frame {
            Some(frame) => match frame? {
                ExecFrame::Output { stream, text, raw, .. } => {
                    let bytes = raw.and_then(|raw| BASE64.decode(raw).ok());
                    if !output.write_bytes(&stream, &text, bytes.as_deref())? {
                        // `bb exec x -- yes | head` has got what it wanted; the command must not go on for nobody.
                        signal(SignalName::Hup).await?;
                        return Ok(0);
                    }
                }
                ExecFrame::Exit { code, .. } => break code,
            },
            None => return Err(Error::internal("the controller did not say how the command ended")),
        }
    };
    output.finish()?;
    Ok(u8::try_from(code).unwrap_or(1))
}
