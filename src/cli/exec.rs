//! `bb exec`: runs a command in a bottle, under everything that binds its agent.

use std::io::Read;

use tokio::signal::unix::SignalKind;

use crate::api::{Exec, ExecFrame, Signal, SignalName};
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;

use super::out::{self, AgentOutput};

/// Most standard input that travels with an exec; the keeper's packets hold no more. Unit: bytes.
const STDIN_MAX: u64 = 60 * 1024;

/// Run a command in a bottle; its output and exit code are this command's.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Slug, or a unique beginning of one
    #[arg(value_name = "SLUG", add = super::completions::slugs())]
    pub slug: String,
    /// Pass standard input on (UTF-8 text, at most 60 KiB, read to its end first)
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// The command and its arguments, with or without a -- before them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "ARGV")]
    pub argv: Vec<String>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let stdin = if args.stdin { Some(input(std::io::stdin().lock())?) } else { None };
    let exec = Exec { id: uuid::Uuid::now_v7().to_string(), argv: args.argv, stdin, ..Exec::default() };
    let mut frames = client.exec(&args.slug, &exec).await?;
    let mut output = AgentOutput::of_process();
    let signal = |name| client.signal(&args.slug, Signal { exec: exec.id.clone(), signal: name });
    let on = |kind| tokio::signal::unix::signal(kind).map_err(|e| Error::internal(format!("signals: {e}")));
    let (mut interrupts, mut terms) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let mut harder = [SignalName::Int, SignalName::Term].into_iter();
    let code = loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
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
                ExecFrame::Output { stream, text, .. } if !output.write(&stream, &text)? => {
                    // `bb exec x -- yes | head` has got what it wanted; the command must not go on for nobody.
                    signal(SignalName::Hup).await?;
                    return Ok(0);
                }
                ExecFrame::Output { .. } => {}
                ExecFrame::Exit { code, .. } => break code,
            },
            None => return Err(Error::internal("the controller did not say how the command ended")),
        }
    };
    output.finish()?;
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Reads the text that is passed on.
fn input(from: impl Read) -> Result<String> {
    let refused = |what: String| {
        Error::new(Kind::Usage, what).at("standard input").hint("put the input into a file of the workspace")
    };
    let mut text = String::new();
    from.take(STDIN_MAX + 1).read_to_string(&mut text).map_err(|e| refused(format!("it cannot be read: {e}")))?;
    if text.len() as u64 > STDIN_MAX {
        return Err(refused(format!("it is longer than {} KiB", STDIN_MAX / 1024)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_bounded_and_text() {
        assert_eq!(input(&b"hello"[..]).unwrap(), "hello");
        assert_eq!(input(&vec![b'x'; STDIN_MAX as usize + 1][..]).unwrap_err().kind, Kind::Usage);
        assert_eq!(input(&[0xff, 0xfe][..]).unwrap_err().kind, Kind::Usage);
    }
}
