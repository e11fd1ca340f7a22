//! The kinds of attack that the battery knows, numbered once and for all: escapes and leaks that others have tested for, or that
//! were found in sandboxes of agents. Data only; whether each is covered is [`super::table`]'s to say.

/// Where a kind stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Rows or tests have to cover it.
    Tested,
    /// It belongs to what is not there yet: why.
    NotYet(&'static str),
    /// It cannot be tried: why. At most five.
    Cannot(&'static str),
}

use Standing::{Cannot, NotYet, Tested};

/// One kind.
pub struct Kind {
    /// Its number.
    pub number: u8,
    /// What it is.
    pub what: &'static str,
    /// Where it stands.
    pub standing: Standing,
}

const fn kind(number: u8, what: &'static str) -> Kind {
    Kind { number, what, standing: Tested }
}

const fn later(number: u8, what: &'static str, why: &'static str) -> Kind {
    Kind { number, what, standing: NotYet(why) }
}

/// Groups of kinds: name, and the numbers up to which it goes.
pub const GROUPS: &[(&str, u8)] = &[
    ("Names and DNS", 10),
    ("Addresses and transports", 22),
    ("TLS and HTTP", 34),
    ("Credentials and content", 43),
    ("Kernel and processes", 54),
    ("Files, git and configuration", 64),
    ("Control plane, budget and lifecycle", 75),
];

const INSPECTION: &str = "bodies are not searched for secrets yet";
const GATE: &str = "there is no git gate yet";
const PROPOSALS: &str = "there are no proposals yet";

/// All of them.
pub const KINDS: &[Kind] = &[
    kind(1, "A secret in a name that the system's resolver is asked for"),
    kind(2, "A resolver elsewhere, over UDP and TCP"),
    kind(3, "DNS over HTTPS, TLS or QUIC; mDNS, LLMNR"),
    kind(4, "A look-up before the verdict"),
    kind(5, "A name that leads to a private address, at once, later, or by another name"),
    kind(6, "One name in several spellings"),
    kind(7, "NUL bytes in names"),
    kind(8, "Addresses written as something else"),
    kind(9, "Names that begin or end like a listed one"),
    kind(10, "DNS queries that carry data or confuse"),
    kind(11, "TLS and CONNECT to an address"),
    kind(12, "Other ports of a listed host"),
    kind(13, "The metadata services of clouds"),
    kind(14, "Private networks, the host's own addresses"),
    kind(15, "Services on the host's loopback"),
    kind(16, "IPv6, and IPv4 within it"),
    kind(17, "UDP, QUIC, raw sockets"),
    kind(18, "Any host on a port that is served"),
    kind(19, "Client settings that go past a proxy"),
    kind(20, "A relay inside the bottle"),
    kind(21, "Plain HTTP"),
    kind(22, "The plane is dead or being started again"),
    kind(23, "The TLS server name: another, none, hidden, in pieces"),
    kind(24, "An address in the request line that is not `Host`"),
    kind(25, "A second request on a connection, to another host"),
    kind(26, "HTTP/2: `:authority`, coalescing, h2c"),
    kind(27, "Request smuggling"),
    kind(28, "WebSockets where none may be"),
    kind(29, "Redirects"),
    kind(30, "A credential that is given back"),
    kind(31, "Paths and methods in other spellings"),
    Kind {
        number: 32,
        what: "GraphQL: several operations in one request",
        standing: Cannot(
            "routes know host, port, path, method and headers; there is no rule about an operation that could be evaded",
        ),
    },
    kind(33, "Exhaustion of the plane"),
    kind(34, "Servers whose certificate is not theirs"),
    kind(35, "A placeholder or credential sent elsewhere"),
    later(
        36,
        "A placeholder in pieces or encoded",
        "placeholders are never replaced in what is sent, so this is about searching bodies; bodies are not searched yet",
    ),
    later(37, "A secret in a compressed body", INSPECTION),
    later(38, "A secret encoded, or one character a request", INSPECTION),
    kind(39, "A credential that was taken back"),
    kind(40, "A login's tokens in an answer"),
    kind(41, "Settings of a repository that lead an API elsewhere"),
    later(
        42,
        "A listed host as a drop",
        "what a listed host stores is its own affair; another account's key is replaced where a route has a credential",
    ),
    kind(43, "Credential files of the host"),
    kind(44, "io_uring"),
    kind(45, "Sockets of the host; odd socket families"),
    kind(46, "Looking into other processes by system calls"),
    kind(47, "Looking into other processes by /proc"),
    kind(48, "New namespaces and mounts"),
    kind(49, "Riskier corners of the kernel"),
    kind(50, "Other system call tables"),
    kind(51, "Typing into a terminal; escape sequences"),
    kind(52, "More privileges by running something"),
    kind(53, "Processes that outlive their end, or are too many"),
    kind(54, "Memory of who holds credentials"),
    kind(55, "Links in a workspace that lead out of it"),
    kind(56, "A protected file by way of its parents, or before it exists"),
    kind(57, "Names of files that are nearly another's"),
    kind(58, "Files copied out through a link"),
    kind(59, "Devices and pipes where the host reads"),
    later(
        60,
        "What the host's git would execute: every key",
        "the files are guarded; that git is not run on them belongs to the git gate",
    ),
    later(61, "Repositories that point elsewhere", GATE),
    later(62, "Secrets in what is pushed", GATE),
    later(63, "Pushes to where none may be", GATE),
    later(64, "What other host tools would execute", "known files are guarded; a list for every tool is not promised"),
    kind(65, "The control plane, from inside"),
    kind(66, "The private key of the bottle's authority"),
    kind(67, "A policy that is lost on a way in"),
    kind(68, "An empty or unreadable policy"),
    kind(69, "A repository that loosens its own bottle"),
    later(70, "Tricks with proposals", PROPOSALS),
    later(71, "An agent that is talked into a bad proposal", PROPOSALS),
    later(72, "Forged attribution", "a bottle is known by its listener; bottles with several agents do not exist yet"),
    later(
        73,
        "Evading a budget",
        "the tests of the meter and the ledger have most of it; it becomes rows with the budget's own battery",
    ),
    later(74, "A counter that begins anew", "as the one before"),
    later(75, "An audit that loses or leaks", "the egress log and its rows come with it"),
];
