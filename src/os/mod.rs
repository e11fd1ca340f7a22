//! What bb asks of the operating system outside of its sandboxes, a function for each thing.
//!
//! With `bottle/linux` and the keeper the only place that knows that the system is Linux: another one is another version of
//! these functions. Nothing here decides anything.

pub mod attribute;
pub mod beneath;
pub mod datagram;
pub mod file_system;
pub mod memory;
pub mod own_file;
pub mod process;
pub mod ready;
pub mod sealed;

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// Gets the path of the running executable; of its image, where it was replaced or removed meanwhile.
pub fn own_executable() -> PathBuf {
    std::env::current_exe().ok().filter(|p| p.exists()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// Gets how long the host has been up. `Duration::MAX` where that cannot be found out.
pub fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|s| s.parse().ok());
    seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(Duration::MAX)
}

/// Has a TCP connection find out that nobody is at its other end: after 30 s of silence it asks three times in 10 s, and what
/// was sent is to be acknowledged within `unanswered`.
///
/// # Errors
/// Those of setsockopt(2).
pub fn notice_silence(stream: &impl AsFd, unanswered: Duration) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &30)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)?;
    let millis = u32::try_from(unanswered.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &millis)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_up_and_this_executable_exists() {
        assert!(uptime() > Duration::ZERO && uptime() < Duration::MAX);
        assert!(own_executable().exists());
    }

    #[test]
    fn a_connection_that_nobody_answers_is_to_be_noticed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        notice_silence(&stream, Duration::from_secs(7)).unwrap();
        assert_eq!(nix::sys::socket::getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(), 7000);
        assert!(nix::sys::socket::getsockopt(&stream, sockopt::KeepAlive).unwrap());
    }
}
